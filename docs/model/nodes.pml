/* The nodes: one process for each connection. Faults decide which connections die together. */

#define C _pid

active [HELLOS] proctype Serving()
{
    end: do
    :: d_step { conn[C].node == ARRIVED ->      /* rule 3 (a) */
        enter_session(C);
        if
        :: answer == 0 && conn[C].client == GONE -> conn[C].node = ENTERED; WITNESS("a ghost takes over")
        :: answer == 0 && conn[C].client != GONE -> conn[C].node = ENTERED
        :: else -> close(C, answer)
        fi;
        answer = 0 }
#ifdef INBOUND
    :: d_step { conn[C].node == ENTERED ->      /* rule 3 (b), in the session's slot */
        enter_private(C);
        if
        :: answer == 0 -> conn[C].node = LISTED; tidy(C)
        :: else -> close(C, answer)
        fi;
        answer = 0 }
#endif
    :: d_step { conn[C].node == LISTED ->       /* rule 3 (b), in the stream's slot, and (c) */
        if
        :: conn[C].first > 0 -> enter_stream(C)
        :: else -> WITNESS("a hello names no stream")
        fi;
        if
        :: answer == 0 ->
            conn[C].node = SERVING;
            conn[C].welcome = true;
            conn[C].told = (conn[C].first > 0 -> COMMITTED : 0);
            tidy(C)
        :: else -> close(C, answer)
        fi;
        answer = 0 }
    :: d_step { conn[C].node == SERVING && conn[C].taken < conn[C].written ->   /* rule 2 */
        if
        :: conn[C].taken + 1 == conn[C].swallowed -> conn[C].taken++
        :: else ->
            append(C, conn[C].taken + 1);
            if
            :: answer == 0 -> conn[C].taken++; conn[C].told = conn[C].taken; tidy(C)
            :: else -> close(C, answer)
            fi;
            answer = 0
        fi }
#ifdef ACK_BEFORE_APPEND                        /* bug: what arrived is acked */
    :: d_step { conn[C].node == SERVING && conn[C].client == OPEN && conn[C].told < conn[C].written ->
        conn[C].told = conn[C].written }
#endif
#ifndef NO_PING                                 /* bug: the client's ping does not say how much it wrote */
    :: d_step { conn[C].node == SERVING && conn[C].taken == conn[C].written && conn[C].swallowed > 0 &&
                conn[C].told < conn[C].written ->
        WITNESS("a ping shows a swallowed tail");
        close(C, HOLE) }
#endif
    :: d_step { conn[C].node == SERVING && conn[C].generation < record ->
        close(C, OUTRANKED) }                   /* the raise was published, or the refresh found it */
    :: d_step { conn[C].ready -> confirm(C); tidy(C) }
    :: d_step { conn[C].ready && (conn[C].client == GONE || conn[C].node == CLOSED) ->
        conn[C].ready = false; tidy(C) }        /* it was lost with its connection */
    :: d_step { conn[C].client == GONE && conn[C].node != CLOSED -> close(C, 0) }
    :: d_step { conn[C].orphan != 0 ->          /* the store executes it at last */
        if
        :: conn[C].orphan == STEP_A -> enter_session(C); WITNESS("a step (a) comes late")
        :: conn[C].orphan == STEP_B -> enter_stream(C); WITNESS("a step (b) comes late")
        :: conn[C].orphan == APPEND -> append(C, conn[C].taken + 1); WITNESS("an append comes late")
#ifdef INBOUND
        :: conn[C].orphan == TRIM -> trim(C); WITNESS("an ack comes late")
#endif
        fi;
        answer = 0; conn[C].orphan = 0; tidy(C) }
    :: d_step { conn[C].orphan != 0 -> conn[C].orphan = 0; tidy(C) }
#ifdef INBOUND
    :: d_step { conn[C].node == SERVING && conn[C].client != GONE && conn[C].sent < OFFERED -> conn[C].sent++ }
    :: d_step { conn[C].node == SERVING && conn[C].client != GONE && conn[C].sent < OFFERED && conn[C].missing == 0 &&
                faults > 0 ->                   /* the frame vanishes */
        faults--;
        conn[C].sent++;
        conn[C].missing = conn[C].sent }
    :: d_step { conn[C].node == SERVING && conn[C].acking > trimmed ->
        trim(C);
        if
        :: answer != 0 -> close(C, answer)
        :: else
        fi;
        answer = 0 }
#endif
#ifdef ENDLESS                                  /* bug: an ack is repeated for ever */
    :: d_step { conn[C].node == SERVING && conn[C].told > 0 && conn[C].told == acked -> conn[C].told = acked }
#endif
    od
}

/* A node dies, or hears no answer of the store in time: it never tells, and what it asked for may be done later. */
inline die(c)
{
    if
    :: conn[c].node == ARRIVED -> conn[c].orphan = STEP_A
    :: conn[c].node == LISTED && conn[c].first > 0 -> conn[c].orphan = STEP_B
    :: conn[c].node == SERVING && conn[c].taken < conn[c].written && conn[c].taken + 1 != conn[c].swallowed ->
        conn[c].orphan = APPEND
#ifdef INBOUND
    :: conn[c].node == SERVING && conn[c].taken == conn[c].written && conn[c].acking > trimmed -> conn[c].orphan = TRIM
#endif
    :: else
    fi;
    close(c, BROKEN)
}
