"""
What a welcome means: whether it contradicts itself, and what it settles of the messages that were sent.

Pure functions over a hello, the welcome that answers it and the outbox; which connection it came over is the session's
business.
"""

from __future__ import annotations

from collections.abc import Iterator

from resilient_ws.events import AcknowledgedLost, Event, IndefiniteResent, JournalRolledBack, MessageRejected
from resilient_ws.exceptions import RemoteProtocolError
from resilient_ws.frames import CommittedAnswer, Hello, HelloOutbound, Welcome
from resilient_ws.lane import Lane
from resilient_ws.outbox import Unacked
from resilient_ws.records import Identity


def check_welcome(hello: Hello, welcome: Welcome, known: Identity | None, outbox: Unacked) -> None:
    """
    Compare a welcome with the hello that it answers, and with what was sent since: until the welcome is read the old
    connection goes on (rule 6), and what it carried may be committed already.

    Raises:
        RemoteProtocolError: It contradicts the hello or itself; the text says where.
    """
    if hello.standby:
        raise _contradiction("it answers the hello of a spare, which only `standing` does")
    if welcome.verdict == "resumed":
        if hello.session is None:
            raise _contradiction("it resumes a session that the hello did not name")
        if welcome.session != hello.session:
            raise _contradiction("it resumes another session than the hello named")
        if known is not None and welcome.generation <= known.generation:
            raise _contradiction(f"generation {welcome.generation} is not above {known.generation}")
    elif hello.session is not None and welcome.reason is None:
        raise _contradiction("it replaces the session and gives no reason")
    asked = {(entry.producer, entry.stream): entry for entry in hello.outbound}
    for answer in welcome.committed:
        entry = asked.get((answer.producer, answer.stream))
        if entry is None:
            raise _contradiction(
                f"`committed` names producer {answer.producer} of stream {answer.stream!r}, which the hello did not"
            )
        _check_committed(_lane(outbox, hello, answer), entry, answer)
    _check_streams(hello, welcome)


def _check_streams(hello: Hello, welcome: Welcome) -> None:
    asked = {(entry.id, entry.stream) for entry in hello.streams}
    missing = asked - {(stream.id, stream.stream) for stream in welcome.streams}
    if missing:
        raise _contradiction(f"it says nothing of the subscriptions {sorted(id for id, _ in missing)}")
    for stream in welcome.streams:
        if (stream.id, stream.stream) not in asked:
            raise _contradiction(f"stream {stream.stream!r} has the id {stream.id}, which the hello did not name")
        if stream.error is None and stream.first > stream.live + 1 and stream.gap is None:
            raise _contradiction(f"stream {stream.stream!r} starts at {stream.first}, above its own end {stream.live}")


def _lane(outbox: Unacked, hello: Hello, answer: CommittedAnswer) -> Lane:
    lane = outbox.lane(hello.producers[answer.producer], answer.stream)
    assert lane is not None  # the hello was made from it
    return lane


def _check_committed(lane: Lane, entry: HelloOutbound, answer: CommittedAnswer) -> None:
    if lane.is_restored:  # a journal that is an old copy knows less than was sent
        return
    if answer.seq >= lane.next:
        raise _contradiction(
            f"stream {answer.stream!r}: seq {answer.seq} is committed, but the next new one is {lane.next}"
        )
    if any(not entry.first <= seq < lane.next for seq, _ in answer.rejected):
        raise _contradiction(f"stream {answer.stream!r}: rejected seqs outside of {entry.first} to {lane.next - 1}")


def _contradiction(what: str) -> RemoteProtocolError:
    return RemoteProtocolError(
        f"the welcome contradicts itself: {what}", hint="see docs/protocol.md, `welcome`", code=4400
    )


def settle(outbox: Unacked, hello: Hello, welcome: Welcome, *, resend: bool, now: float) -> Iterator[Event]:
    """
    Apply ``committed`` to the outbox: acks, rejects, and what rule 11 calls indefinite.

    Args:
        resend: The policy for indefinite messages: True sends them again, False fails their receipts.

    Yields:
        What has to be reported.
    """
    asked = {(entry.producer, entry.stream): entry for entry in hello.outbound}
    for answer in welcome.committed:
        entry = asked[(answer.producer, answer.stream)]
        producer = hello.producers[answer.producer]
        lane = _lane(outbox, hello, answer)
        for seq, code in answer.rejected:
            if seq < lane.next and outbox.reject(producer, answer.stream, seq, code, ""):
                yield MessageRejected(stream=answer.stream, seq=seq, code=code)
        acked = min(lane.acked, entry.first - 1)  # below first may also be what was dropped, which nobody has lost
        stored = answer.seq if answer.known else 0
        if stored < acked:
            yield AcknowledgedLost(producer=producer, stream=answer.stream, first=stored + 1, last=acked)
        if not answer.known and _is_indefinite(lane, entry, welcome, now):
            yield from _settle_indefinite(outbox, lane, resend=resend)
        elif answer.known and answer.seq >= lane.first:
            outbox.committed(producer, answer.stream, answer.seq)
        if answer.seq >= lane.next:
            yield JournalRolledBack(producer=producer, stream=answer.stream, known=lane.next - 1, committed=answer.seq)


def _is_indefinite(lane: Lane, entry: HelloOutbound, welcome: Welcome, now: float) -> bool:
    oldest = lane.oldest_write()
    if oldest is None:
        return False
    return (
        (entry.first > 1 and lane.acked > 0)
        or now - oldest.at > welcome.producer_ttl
        or oldest.incarnation != welcome.incarnation
    )


def _settle_indefinite(outbox: Unacked, lane: Lane, *, resend: bool) -> Iterator[Event]:
    first, last = lane.first, lane.written
    if resend:
        yield IndefiniteResent(producer=lane.producer, stream=lane.stream, first=first, last=last)
    else:
        outbox.give_up(lane, last, "the server does not know any more whether it has them (Outbox.indefinite)")
        for seq in range(first, last + 1):
            yield MessageRejected(stream=lane.stream, seq=seq, code="indefinite")
