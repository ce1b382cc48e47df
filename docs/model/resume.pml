/*
 * The resume handshake of `resilient.v1` (docs/protocol.md, section 6, rules 2 to 7), for spin 6.5.
 *
 * One client, as many connections as it says hellos, the nodes that serve them, and one store in which every operation
 * is one atomic step in one slot. README.md says what is abstracted, which properties are checked, how to run it.
 *
 * Parts that are there with a macro only: JOURNAL (the client's process dies once and comes back), INBOUND (the client
 * follows its private stream). Each seeded bug is a macro too, used at the places that are marked "bug".
 */

#ifndef MESSAGES
#define MESSAGES 2              /* messages that the user sends, numbered from 1 */
#endif
#ifndef OFFERED
#define OFFERED 2               /* messages of the private stream */
#endif
#ifndef FAULTS
#define FAULTS 2                /* faults of all kinds together in one run */
#endif
#ifndef HELLOS                  /* L6: more hellos than this are a livelock */
#ifdef JOURNAL
#define HELLOS (2 * FAULTS + 1)
#else
#define HELLOS (FAULTS + 1)
#endif
#endif

/* run.py compiles these in: a place that must be reached says so, once. */
#ifdef WITNESSES
#define WITNESS(what) c_code { { static int seen = 0; if (!seen) { seen = 1; printf("witness: %s\n", what); } } }
#else
#define WITNESS(what) skip
#endif

#define NONE 255                /* no connection */
#define MAX(x, y) ((x) > (y) -> (x) : (y))

/* A connection as the client sees it. */
#define HANDSHAKING 1
#define OPEN 2
#define GONE 3

/* A connection as its node sees it: hello unread; after step (a); after the private stream's part of (b); after (c). */
#define ARRIVED 1
#define ENTERED 2
#ifdef INBOUND
#define LISTED 3
#else
#define LISTED ENTERED
#endif
#define SERVING 4
#define CLOSED 5

/* Close codes. BROKEN is 1013, or no close frame at all; FOREIGN is a 4409 that the client takes for another's. */
#define OUTRANKED 1             /* 4409 */
#define STALE 2                 /* 4410 */
#define HOLE 3                  /* 1012 */
#define BROKEN 4
#define FOREIGN 5

/* A request to the store whose answer nobody will hear: it may still be executed, once, at any time. */
#define STEP_A 1
#define STEP_B 2
#define APPEND 3
#define TRIM 4

typedef Connection {
    unsigned client : 2;        /* 0, HANDSHAKING to GONE */
    unsigned node : 3;          /* 0, ARRIVED to CLOSED */
    unsigned presented : 4;     /* hello: generation of the token */
    unsigned first : 3;         /* hello: oldest unacked message; 0: none is unacked, so no stream is named */
    unsigned generation : 4;    /* of the fence, and of the token in the welcome */
    bool welcome;               /* written and not read */
    bool ready;                 /* written and not executed */
    unsigned written : 3;       /* last message that the client wrote here */
    unsigned taken : 3;         /* last one that the node took from the wire */
    unsigned swallowed : 3;     /* one that vanished on the way, 0: none */
    unsigned told : 3;          /* committed, as the node tells it: in the welcome, then in acks */
    unsigned code : 3;          /* why the node closed */
    unsigned orphan : 3;        /* STEP_A to TRIM */
#ifdef NEXT_OF_HELLO
    unsigned next : 3;          /* hello: number that the next new message will have */
#endif
#ifdef INBOUND
    unsigned sent : 3;          /* hello: held; then the last offset that the node sent */
    unsigned heard : 3;         /* the last offset that the client read here */
    unsigned missing : 3;       /* one that vanished on the way, 0: none */
    unsigned acking : 3;        /* the client's newest ack here */
    bool gap;                   /* the welcome names a gap, up to `heard` */
#endif
}

byte faults = FAULTS;           /* faults that may still happen */

/* The client. */
byte primary = NONE;            /* the connection that counts */
byte trying = NONE;             /* the one whose hello is out: at most one (rule 6) */
byte hellos;                    /* said so far; it numbers the connections, and it is the attempt */
byte token = 1;                 /* generation of the newest resume token */
byte made;                      /* messages that the user has sent */
byte acked;                     /* messages whose receipt says: stored */
bool over;                      /* the client has ended */

/* The second life of the client's process. */
byte disk = 1;                  /* generation of the token in the journal */
byte reborn = NONE;             /* the first connection of the second life */
byte lived = MESSAGES;          /* messages of the first life: they have the first producer, later ones the second */

/* The store, slot of the session. */
byte record = 1;                /* generation of the fence */
byte confirmed = 1;             /* the oldest generation that is valid */
byte attempts[2];               /* by instance: the last attempt that was judged, 0: none */

/* The store, slot of the stream. A fence is compared by its generation, see README.md. */
byte fence = 1;
byte last[2];                   /* by producer: the last seq consumed */

#ifdef INBOUND
byte position;                  /* the client: offset of the last message delivered */
byte trimmed;                   /* the store, slot of the session: what is gone from the private stream */
#endif
#ifdef FORGETS_INSTANCES
byte owner, strangers;
#endif

/* For the properties: each name stands in the text of the assertion that fails. */
hidden byte S1, S2, S3, S5, S6, S7, S8, S9, L1, L6;
byte effects;                   /* messages in the stream's log; S2 and S3 say that they are 1, 2, 3, ... */
byte newest = 1;                /* S6: the newest generation that came to the stream's slot */
hidden byte answer;             /* the store's, inside of one step: 0 or a close code */

Connection conn[HELLOS];

#define INSTANCE(c) (c >= reborn)
#define PRODUCER(m) (m > lived)
#define SEQ(m) (m > lived -> m - lived : m)
#define COMMITTED (last[0] < lived -> last[0] : lived + last[1])

/* What nobody will look at any more is forgotten, so that equal states are equal. */
inline tidy(c)
{
    if
    :: conn[c].client == GONE ->
        conn[c].welcome = false; conn[c].code = 0; conn[c].told = 0;
#ifdef INBOUND
        conn[c].heard = 0; conn[c].missing = 0; conn[c].gap = false;
#endif
    :: else
    fi;
    if
    :: conn[c].node == CLOSED && conn[c].orphan == 0 ->
        conn[c].presented = 0; conn[c].first = 0; conn[c].written = 0; conn[c].taken = 0; conn[c].swallowed = 0;
#ifdef INBOUND
        conn[c].acking = 0;
#endif
        if
        :: conn[c].client == GONE ->
#ifdef INBOUND
            conn[c].sent = 0;
#endif
            if
            :: !conn[c].ready -> conn[c].generation = 0
            :: else
            fi
        :: else
        fi
    :: else
    fi
}

inline close(c, why)
{
    conn[c].node = CLOSED;
    conn[c].code = why;
#ifdef FORGETS_INSTANCES                        /* bug: the first life's instance counts as a foreign one */
    if
    :: why == OUTRANKED && INSTANCE(owner) != INSTANCE(c) -> conn[c].code = FOREIGN
    :: else
    fi;
#endif
    tidy(c)
}

#include "store.pml"
#include "nodes.pml"
#include "client.pml"

/* Nothing can happen any more: then everything has arrived, whatever the faults were. */
active proctype Judge()
{
    timeout ->
    assert(L1 || (acked == MESSAGES && made == MESSAGES));
#ifdef INBOUND
    assert(L1 || (position == OFFERED && trimmed == OFFERED))
#endif
}
