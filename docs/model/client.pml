/* The client, and the faults that no one of the others decides. */

inline leave(c)
{
    conn[c].client = GONE;
    tidy(c)
}

inline leave_primary()
{
    leave(primary);
    primary = NONE
}

inline leave_trying()
{
    leave(trying);
    trying = NONE
}

inline say_hello()
{
    assert(L6 || hellos < HELLOS);
    trying = hellos;
    hellos++;
    conn[trying].client = HANDSHAKING;
    conn[trying].node = ARRIVED;
    conn[trying].presented = token;
    conn[trying].first = (acked < made -> acked + 1 : 0);
#ifdef NEXT_OF_HELLO
    conn[trying].next = made + 1;
#endif
#ifdef INBOUND
    conn[trying].sent = position;
    conn[trying].acking = position;             /* hello's `acked` */
#endif
}

inline settle(upto)
{
    acked = MAX(acked, upto);
    assert(S1 || acked <= effects)
}

/* Section 8, in its order. */
inline read_welcome()
{
    conn[trying].welcome = false;
    assert(S8 || conn[trying].generation > token);
    assert(S8 || conn[trying].told <= made);
#ifdef NEXT_OF_HELLO                            /* bug: `committed` is compared with the hello's `next` */
    assert(S8 || conn[trying].told < conn[trying].next);
#endif
    if
    :: primary != NONE -> leave(primary); WITNESS("a successor takes over")
    :: else
    fi;
    primary = trying;
    trying = NONE;
    conn[primary].client = OPEN;
    token = conn[primary].generation;
    settle(conn[primary].told);
    conn[primary].written = acked;
    conn[primary].taken = acked;
#ifdef INBOUND
    assert(S7 || conn[primary].heard <= position);
#ifdef GAP_AS_TOLD                              /* bug: a gap is reported although the old connection filled it */
    assert(S7 || !conn[primary].gap);
#endif
    conn[primary].gap = false;
#endif
#ifndef READY_BEFORE_DISK                       /* bug: the journal has the token some time after `ready` went out */
    disk = token;
#endif
    conn[primary].ready = true
}

#ifdef INBOUND
/* Rule 7. */
inline read_data()
{
    conn[primary].heard++;
    if
    :: conn[primary].heard == conn[primary].missing -> skip
    :: conn[primary].heard != conn[primary].missing && conn[primary].heard <= position ->
        WITNESS("a delivered message comes again");
#ifdef NO_CLIENT_DEDUPE                         /* bug: it is delivered again */
        assert(S2 || conn[primary].heard > position)
#endif
    :: conn[primary].heard != conn[primary].missing && conn[primary].heard == position + 1 -> position++
    :: conn[primary].heard != conn[primary].missing && conn[primary].heard > position + 1 ->
        WITNESS("the client finds a hole");
#ifdef CLIENT_TAKES_HOLES                       /* bug: a number is not compared with the one before it */
        assert(S5 || conn[primary].heard == position + 1);
#endif
        leave_primary()
    fi
}
#endif

#define IS_WRITABLE (primary != NONE && conn[primary].node != CLOSED && conn[primary].written < made)
#ifdef NO_TURNS                                 /* bug: a later producer does not wait for the acks of an earlier one */
#define MAY_WRITE IS_WRITABLE
#else
#define MAY_WRITE (IS_WRITABLE && (conn[primary].written != lived || acked >= lived))
#endif
/* The close is read, after what was written before it; BROKEN takes that with it, or does not. */
#define HAS_FAILED (trying != NONE && conn[trying].code != 0 && (conn[trying].code == BROKEN || !conn[trying].welcome))
#define IS_LOST (primary != NONE && conn[primary].code != 0 && \
                 (conn[primary].code == BROKEN || conn[primary].told <= acked))

active proctype Client()
{
    end: do
    :: d_step { made < MESSAGES -> made++ }
    :: d_step { MAY_WRITE -> conn[primary].written++ }
    :: d_step { MAY_WRITE && faults > 0 && conn[primary].swallowed == 0 ->  /* the frame vanishes */
        faults--;
        conn[primary].written++;
        conn[primary].swallowed = conn[primary].written }
    :: d_step { trying == NONE && primary == NONE && !over -> say_hello() }
    :: d_step { trying == NONE && primary != NONE && faults > 0 ->  /* a drain: a successor beside the primary */
        faults--;
        say_hello() }
    :: d_step { trying != NONE && conn[trying].welcome -> read_welcome() }
    :: d_step { primary != NONE && conn[primary].told > acked ->
        if
        :: trying != NONE -> WITNESS("an ack comes while a hello is out")
        :: else
        fi;
        settle(conn[primary].told) }
#ifdef READY_BEFORE_DISK
    :: d_step { disk < token -> disk = token }
#endif
    :: d_step { HAS_FAILED -> leave_trying() }   /* a failed handshake */
    :: d_step { IS_LOST ->
        if
        :: trying == NONE && conn[primary].code == OUTRANKED -> WITNESS("the primary is outranked by a lost hello");
#ifdef OWN_4409_ENDS                            /* bug: and does not come back */
            over = true
#endif
        :: trying != NONE -> WITNESS("the primary is lost while a hello is out")
        :: else
        fi;
#ifdef FORGETS_INSTANCES
        if
        :: conn[primary].code == FOREIGN -> strangers++; over = (strangers == 2)
        :: else
        fi;
#endif
        leave_primary() }
    :: d_step { trying != NONE && faults > 0 -> faults--; leave_trying() }      /* no welcome in time */
    :: d_step { primary != NONE && faults > 0 -> faults--; leave_primary() }    /* it was cut, or silent for too long */
#ifdef INBOUND
    :: d_step { primary != NONE && conn[primary].heard < conn[primary].sent -> read_data() }
    :: d_step { primary != NONE && conn[primary].acking < position && conn[primary].node != CLOSED ->
        conn[primary].acking = position }
#ifndef NO_MARKS                                /* bug: the node's ping does not say how much it sent */
    :: d_step { primary != NONE && conn[primary].heard == conn[primary].sent && position < conn[primary].heard ->
        WITNESS("a mark shows a missing tail");
        leave_primary() }
#endif
#endif
    od
}

#define IS_SERVED(c) (c != NONE && conn[c].node != CLOSED)

active proctype Nemesis()
{
    end: do
    :: d_step { faults > 0 && IS_SERVED(primary) -> faults--; die(primary) }
    :: d_step { faults > 0 && IS_SERVED(trying) -> faults--; die(trying) }
    :: d_step { faults > 0 && IS_SERVED(primary) && IS_SERVED(trying) -> faults--; die(primary); die(trying) }
#ifdef JOURNAL
    :: d_step { faults > 0 && reborn == NONE && hellos > 0 ->   /* the client's process dies and comes back */
        faults--;
        if
        :: primary != NONE -> leave_primary()
        :: else
        fi;
        if
        :: trying != NONE -> leave_trying()
        :: else
        fi;
        token = disk;
        reborn = hellos;
        lived = made;
        WITNESS("the client's process comes back") }
#endif
    od
}
