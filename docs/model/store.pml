/* The store: each inline is one atomic step in one slot; it leaves 0 or a close code in `answer`. */

/* Rule 3 (a), rule 5: attempt, then generation, then the new fence. */
inline enter_session(c)
{
    if
#ifndef NO_ATTEMPT                              /* bug: the attempt is not judged */
    :: c < attempts[INSTANCE(c)] -> answer = STALE; WITNESS("a delayed hello is stale")
#endif
    :: else ->
        assert(S6 || c >= attempts[INSTANCE(c)]);
        attempts[INSTANCE(c)] = c + 1;
        if
        :: conn[c].presented < confirmed ->
            assert(S9 || conn[c].client != HANDSHAKING);
            answer = BROKEN;
            WITNESS("a hello of the first life is superseded")
        :: else ->
            record = MAX(record, conn[c].presented) + 1;
            conn[c].generation = record;
#ifdef FORGETS_INSTANCES
            owner = c;
#endif
#ifdef EARLY_CONFIRM                            /* bug: the welcome itself makes the older tokens invalid */
            confirmed = record
#endif
        fi
    fi
}

/* Rule 3 (b), rule 4: the fence and `committed` in one step. A hello that names no stream does not come here. */
inline enter_stream(c)
{
    if
    :: conn[c].generation < fence -> answer = OUTRANKED; WITNESS("a hello is outranked between its steps")
    :: else ->
        newest = MAX(newest, conn[c].generation);
#ifndef NO_ENTER_FENCE                          /* bug: the hello raises no fence in the stream's slot */
        fence = conn[c].generation;
#endif
        assert(S8 || COMMITTED >= conn[c].first - 1)
    fi
}

inline store_message(c, m)
{
    assert(S6 || conn[c].generation >= newest);
    assert(S2 || m > effects);
    assert(S3 || m == effects + 1);
    newest = MAX(newest, conn[c].generation);
    effects = MAX(effects, m)
}

/* Rule 2, for one message. */
inline append(c, m)
{
    if
#ifndef NO_FENCE                                /* bug: an append is not compared with the fence */
    :: conn[c].generation < fence -> answer = OUTRANKED; WITNESS("an append is fenced off")
#endif
    :: else ->
#ifndef NO_RAISE                                /* bug: an append does not raise the fence, where no hello did */
        fence = MAX(fence, conn[c].generation);
#endif
        if
        :: SEQ(m) <= last[PRODUCER(m)] ->
            WITNESS("a resend is a duplicate");
#ifdef NO_DEDUPE                                /* bug: what was stored is stored again */
            store_message(c, m)
#endif
#ifdef ACCEPT_HOLE                              /* bug: a seq is not compared with the one before it */
        :: SEQ(m) > last[PRODUCER(m)] ->
#else
        :: SEQ(m) > last[PRODUCER(m)] + 1 -> answer = HOLE; WITNESS("an append finds a hole")
        :: SEQ(m) == last[PRODUCER(m)] + 1 ->
#endif
            last[PRODUCER(m)] = SEQ(m);
            store_message(c, m)
        fi
    fi
}

/* Rule 5: `ready` confirms its own number and needs no fence. */
inline confirm(c)
{
    conn[c].ready = false;
    if
    :: conn[c].generation < confirmed -> WITNESS("a ready comes late")
    :: conn[c].generation < record -> WITNESS("a ready is overtaken by a hello")
    :: else
    fi;
#ifdef UNFENCED_READY                           /* bug: it confirms the current generation */
    confirmed = record
#else
    confirmed = MAX(confirmed, conn[c].generation)
#endif
}

#ifdef INBOUND
/* Rule 3 (b) for the private stream, whose slot is the session's: reading begins after held, or after what is gone. */
inline enter_private(c)
{
    if
    :: conn[c].generation < record -> answer = OUTRANKED
    :: else ->
        if
        :: conn[c].sent < trimmed -> conn[c].sent = trimmed; conn[c].gap = true; WITNESS("held is trimmed")
        :: else
        fi;
        conn[c].heard = conn[c].sent
    fi
}

/* An ack trims the private stream under the fence. */
inline trim(c)
{
    if
#ifndef ACK_UNFENCED                            /* bug: an ack is not compared with the fence */
    :: conn[c].generation < record -> answer = OUTRANKED; WITNESS("an ack is fenced off")
#endif
    :: else ->
        assert(S6 || conn[c].generation >= record);
        trimmed = MAX(trimmed, conn[c].acking)
    fi
}
#endif
