"""A Client with a journal over scripted transports: when a call returns, what a disk may do to it, and its restarts."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tenacity
from journal_tools import Clock, copied, run_python
from session_tools import session

import resilient_ws
from resilient_ws import attempts, events
from resilient_ws.arguments import check_arguments
from resilient_ws.client import Client
from resilient_ws.config import Inbox, Outbox, Retry
from resilient_ws.exceptions import (
    JournalFailed,
    JournalFull,
    JournalLocked,
    OutboxFull,
    Rejected,
    SessionClosed,
    Undelivered,
)
from resilient_ws.frames import (
    Ack,
    Batch,
    Bye,
    Held,
    Hello,
    Position,
    Ready,
    SeqMark,
    StreamAnswer,
    Subscribe,
    Subscribed,
)
from resilient_ws.journal import Journal, open_journal
from resilient_ws.ledger import Group
from resilient_ws.records import Accepted, Forgotten, Handled, Record, SessionOver, Void, Welcomed
from resilient_ws.testing import FakeClock, Peer, ScriptedDialer
from server_fixture.backplane import Tick, bucket_of
from server_fixture.backplane.memory import MemoryBackplane
from server_fixture.pair import SessionPair

SOON = 5.0
NEVER = 0.1
"""Seconds for which something is seen not to happen."""
FAST = Retry(wait=tenacity.wait_fixed(0.01), budget=None)
ONE = "ws://127.0.0.1:1/"


class Disk:
    """
    A journal that notes what it has, and that can be held up and broken.

    Attributes:
        writes: What was written, a list of records and whether it was durable, for each transaction.
        gate: Writes wait until it is set.
        arrived: How many writes have come to the gate.
        before, after: Called in each write, before and after the journal has it; what they raise the Client gets.
    """

    def __init__(self) -> None:
        self.writes: list[tuple[list[Record], bool]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.arrived = threading.Semaphore(0)
        self.before: Callable[[], object] = lambda: None
        self.after: Callable[[], object] = lambda: None
        self.journal: Any = None

    def open(self, path: str, **settings: Any) -> Any:
        """Stand for ``open_journal``."""
        self.journal = open_journal(path, **settings)
        return self

    def write(self, records: Any, *, durable: bool) -> None:
        self.arrived.release()
        assert self.gate.wait(SOON)
        self.before()
        self.journal.write(records, durable=durable)
        self.writes.append((list(records), durable))
        self.after()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.journal, name)

    def kept(self, kind: type) -> list[Any]:
        """Return the records of a kind that survive a kill."""
        return [record for records, _ in self.writes for record in records if isinstance(record, kind)]

    def safe(self, kind: type) -> list[Any]:
        """Return those that survive a power loss: a durable write covers all before it."""
        last = max((at for at, (_, is_durable) in enumerate(self.writes) if is_durable), default=-1)
        return [record for records, _ in self.writes[: last + 1] for record in records if isinstance(record, kind)]

    def handled(self) -> int:
        """Return how far stream ``s`` was handled, as a kill would leave it."""
        return int(self.kept(Handled)[-1].position.offset)

    def payloads(self) -> list[Any]:
        """Return what is written of messages."""
        return [payload for record in self.kept(Accepted) for payload in record.payloads]

    def hold(self) -> None:
        """Let no write through from now on."""
        self.gate.clear()
        self.arrived = threading.Semaphore(0)

    def wait_for_a_write(self) -> None:
        """Return when one more write waits at the gate."""
        assert self.arrived.acquire(timeout=SOON)


def failing(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.fixture
def dialer() -> Iterator[ScriptedDialer]:
    """A dialer whose connections are all cut in the end."""
    dialer = ScriptedDialer()
    yield dialer
    dialer.close()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """The disk of the next Client."""
    disk = Disk()
    monkeypatch.setattr("resilient_ws.journal.open_journal", disk.open)
    return disk


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads for what blocks."""
    with ThreadPoolExecutor(20) as pool:
        yield pool


Opening = Callable[..., "tuple[Client, Peer]"]


@pytest.fixture
def life(
    dialer: ScriptedDialer, pool: ThreadPoolExecutor, path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Opening]:
    """Open Clients on the journal that are welcomed and have said ready, and close them in the end."""
    monkeypatch.setattr("resilient_ws.performing.LEAVE_TIMEOUT", 0.05)  # the test seldom answers a close frame
    clients: list[Client] = []

    def open_one(*, outbox: dict[str, Any] | None = None, **settings: Any) -> tuple[Client, Peer]:
        box = Outbox(**{"journal": path, **(outbox or {})})
        settings = {"subscribe": ["s"], "stream": "out", "retry": FAST, "outbox": box, **settings}
        answering = pool.submit(welcomed, dialer)
        client = dialer.connect(ONE, **settings)
        clients.append(client)
        return client, answering.result(SOON)

    yield open_one
    dialer.close()
    for client in clients:
        client.close()


def welcomed(dialer: ScriptedDialer) -> Peer:
    """Accept a connection, welcome it and wait for ready; ``peer.hello`` is what it said."""
    peer: Any = dialer.accept()
    peer.hello = peer.expect(Hello)
    generation = 1 if peer.hello.token is None else int(peer.hello.token.removeprefix("token-")) + 1
    peer.welcome(peer.hello, token=f"token-{generation}", generation=generation)
    peer.expect(Ready)
    return peer  # type: ignore[no-any-return]


def acked(seq: int, producer: int = 0) -> Ack:
    """Make the server's ack of everything up to a seq."""
    return Ack(committed=(SeqMark(producer, "out", seq),))


def data(first: int, *payloads: str) -> Batch:
    """Make a batch of stream ``s``."""
    return Batch("s", first, list(payloads))


def got(peer: Peer, count: int) -> list[Any]:
    """Return the payloads of the next messages that the client sends."""
    found: list[Any] = []
    while len(found) < count:
        found += peer.expect(Batch).payloads
    return found


def says_nothing(peer: Peer, kind: type | None = None) -> bool:
    """Say whether nothing (of that kind) comes for a moment."""
    try:
        peer.expect(kind, NEVER)
    except TimeoutError:
        return True
    return False


def until(condition: Callable[[], bool], timeout: float = SOON) -> None:
    """Wait for something that has no event."""
    pause, end = threading.Event(), int(timeout / 0.001)
    assert any(condition() or pause.wait(0.001) for _ in range(end)), "it did not happen"


# -- when a call returns ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sync", "durable"), [("full", True), ("normal", False)])
def test_a_message_goes_nowhere_before_the_disk_has_it(
    life: Opening, disk: Disk, pool: ThreadPoolExecutor, sync: str, durable: bool
) -> None:
    """send() returns, and the message goes out, when the journal has it, as safe as ``sync`` says."""
    client, peer = life(outbox={"sync": sync})
    disk.hold()
    sending = pool.submit(client.send, "a")
    disk.wait_for_a_write()
    assert says_nothing(peer)
    assert not sending.done()
    disk.gate.set()
    receipt = sending.result(SOON)
    assert (disk.payloads(), disk.writes[-1][1]) == (["a"], durable)
    assert got(peer, 1) == ["a"]
    peer.send(acked(1))
    receipt.result(SOON)


def test_without_a_journal_a_message_waits_for_no_disk(dialer: ScriptedDialer, pool: ThreadPoolExecutor) -> None:
    """The control of the test above: what it looks at would show a message that goes out at once."""
    answering = pool.submit(welcomed, dialer)
    with dialer.connect(ONE, stream="out") as client:
        peer = answering.result(SOON)
        client.send("a")
        assert not says_nothing(peer)
        peer.send(acked(1))


def test_ready_is_not_said_before_the_token_is_on_the_disk(
    life: Opening, disk: Disk, dialer: ScriptedDialer, pool: ThreadPoolExecutor
) -> None:
    """Else a kill would leave a client that the server takes for another one."""
    disk.hold()
    opening = pool.submit(life)
    disk.wait_for_a_write()
    assert disk.kept(Welcomed) == []
    assert not opening.done()
    disk.gate.set()
    opening.result(SOON)
    (welcome,) = disk.safe(Welcomed)
    assert (welcome.identity.session, welcome.identity.token) == ("s1", "token-1")


def test_threads_share_transactions(life: Opening, disk: Disk, pool: ThreadPoolExecutor) -> None:
    """While one write is on its way seven other threads send: they have one transaction together."""
    client, peer = life()
    disk.hold()
    before = len(disk.writes)
    first = pool.submit(client.send, "0")
    disk.wait_for_a_write()
    others = [pool.submit(client.send, str(number)) for number in range(1, 8)]
    until(lambda: client.stats()["outbox"][0] == 8)
    disk.gate.set()
    for sending in (first, *others):
        sending.result(SOON)
    carrying = [records for records, _ in disk.writes[before:] if any(isinstance(r, Accepted) for r in records)]
    assert len(carrying) == 2
    assert sorted(disk.payloads()) == sorted(got(peer, 8)) == [str(number) for number in range(8)]


def test_one_thread_has_a_transaction_for_each_message(life: Opening, disk: Disk) -> None:
    """The control of the count above: without company nothing is shared."""
    client, _ = life()
    before = len(disk.writes)
    for number in range(8):
        client.send(str(number))
    carrying = [records for records, _ in disk.writes[before:] if any(isinstance(r, Accepted) for r in records)]
    assert len(carrying) == 8


def test_an_ack_is_written_when_it_returns(life: Opening, disk: Disk) -> None:
    """A kill after ``message.ack()`` does not bring the message again."""
    client, peer = life(inbox=Inbox(ack="manual"))
    peer.send(data(1, "a", "b"))
    client.recv(SOON).ack()
    assert disk.handled() == 1
    message = client.recv(SOON)
    assert disk.handled() == 1
    message.ack()
    assert disk.handled() == 2


def test_asking_for_the_next_message_writes_the_one_before(life: Opening, disk: Disk) -> None:
    """With automatic acks a message is handled before the same thread gets another one, or waits for it."""
    client, peer = life()
    peer.send(data(1, "a"))
    client.recv(SOON)
    assert disk.handled() == 0
    with pytest.raises(TimeoutError):
        client.recv(0)
    assert disk.handled() == 1


def test_the_server_is_told_of_an_ack_when_it_is_durable(life: Opening, disk: Disk) -> None:
    """So it never throws away what a restart after a power loss would ask for."""
    client, peer = life(inbox=Inbox(ack="manual", ack_delay=0.0))
    peer.send(data(1, "a"))
    client.recv(SOON).ack()
    assert disk.safe(Handled)[-1].position.offset == 0
    while not (ack := peer.expect(Ack)).acked:
        pass
    assert (ack.acked[0].offset, disk.safe(Handled)[-1].position.offset) == (1, 1)


# -- what a disk may do -----------------------------------------------------------------------------------------------


def test_O1_a_full_disk_refuses_a_message_and_the_session_goes_on(life: Opening, disk: Disk) -> None:
    """Nothing of the message goes out, receipts of others stay true, and with room again the next send() works."""
    seen: list[Any] = []
    client, peer = life(on_event=seen.append)
    early = client.send("early")
    assert got(peer, 1) == ["early"]
    disk.before = failing(JournalFull("no room"))
    for _ in range(3):
        with pytest.raises(JournalFull, match=r"^no room$"):
            client.send("refused")
    assert (client.stats()["outbox"][0], client.stats()["sent"]) == (1, 1)
    assert not early.done()
    peer.send(data(1, "a"), acked(1))
    assert client.recv(SOON).data == "a"
    early.result(SOON)
    disk.before = lambda: None
    late = client.send("late")
    assert got(peer, 1) == ["late"]
    assert (late.seq, late.done()) == (2, False)
    peer.send(acked(2))
    late.result(SOON)
    until(lambda: any(isinstance(event, events.JournalStalled) for event in seen))
    assert disk.payloads() == ["early", "late"]


def test_O1_everybody_who_waits_for_a_full_disk_is_told(life: Opening, disk: Disk, pool: ThreadPoolExecutor) -> None:
    """Of eight threads none believes that its message was accepted, and none waits for ever."""
    client, peer = life()
    disk.hold()
    sending = [pool.submit(client.send, "refused") for _ in range(8)]
    until(lambda: client.stats()["outbox"][0] == 8)
    disk.before = failing(JournalFull("no room"))
    disk.gate.set()
    for one in sending:
        assert isinstance(one.exception(SOON), JournalFull)
    assert client.stats()["outbox"] == (0, 0)
    disk.before = lambda: None
    client.send("accepted")
    assert got(peer, 1) == ["accepted"]


def test_O1_sqlite_without_a_page_to_spare(life: Opening, disk: Disk, path: Path) -> None:
    """The same with SQLite's own error; what was accepted before is there for the next life."""
    client, _ = life()
    client.send("kept")
    run = disk.journal._connection.execute
    (pages,) = run("PRAGMA page_count").fetchone()
    run(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(JournalFull):
        client.send("x" * 100_000)
    run("PRAGMA max_page_count = 1000000")
    client.send("again")
    client.close()
    assert restored(path) == ["kept", "again"]


def test_O2_a_failed_disk_ends_the_client(life: Opening, disk: Disk) -> None:
    """send(), recv(), flush() and iterating raise that error; a receipt of before says that there was no ack."""
    client, peer = life()
    early = client.send("early")
    disk.before = failing(JournalFailed("fsync said no"))
    with pytest.raises(JournalFailed, match="fsync said no"):
        client.send("lost")
    for call in (lambda: client.send("more"), client.recv, client.recv_many, client.flush, client.drain):
        with pytest.raises(JournalFailed, match="fsync said no"):
            call()
    with pytest.raises(JournalFailed):
        next(client)
    with pytest.raises(Undelivered) as caught:
        early.result(SOON)
    assert caught.value.is_kept  # it was durable before the disk failed
    with pytest.raises(EOFError):
        peer.expect(Bye)


def test_O2_a_receipt_of_what_was_never_safe_says_that_the_disk_failed(life: Opening, disk: Disk) -> None:
    """With ``sync="normal"`` the fsync that failed may have been this message's: nobody claims that it is kept."""
    client, _ = life(outbox={"sync": "normal"})
    early = client.send("early")
    disk.before = failing(JournalFailed("fsync said no"))
    with pytest.raises(JournalFailed):
        client.send("lost")
    with pytest.raises(JournalFailed, match="fsync said no"):
        early.result(SOON)


def test_a_closed_client_says_so_where_its_journal_is_closed_first(life: Opening, disk: Disk) -> None:
    """Who comes late to write is told what happened to the Client, not what a file is like."""
    client, _ = life()
    client.close()
    persister = client._persister
    assert persister is not None
    with pytest.raises(SessionClosed, match="this Client is closed"):
        persister.secure(Group(), durable=True)


def test_the_journal_is_written_while_every_dial_hangs(life: Opening, disk: Disk) -> None:
    """It has threads of its own: dials that wait for a name server hold up no write that nobody waits for."""
    client, _ = life(outbox={"sync": "normal"})
    gate = threading.Event()
    for _ in range(attempts.AT_ONCE):
        attempts.start(lambda: gate.wait() and None)
    try:
        client.send("made safe within a second")
        until(lambda: disk.safe(Accepted))
    finally:
        gate.set()


def test_O2_a_disk_that_fails_for_everybody_wakes_everybody(
    life: Opening, disk: Disk, pool: ThreadPoolExecutor
) -> None:
    """Threads that wait in recv() and flush() get the error of the write that another thread did."""
    client, _ = life()
    client.send("a")
    waiting = [pool.submit(client.recv), pool.submit(client.flush)]
    until(lambda: client._driver._reader is not None)
    disk.before = failing(JournalFailed("fsync said no"))
    with pytest.raises(JournalFailed):
        client.send("b")
    assert isinstance(waiting[0].exception(SOON), JournalFailed)
    assert isinstance(waiting[1].exception(SOON), JournalFailed)


def test_O2_a_token_that_cannot_be_written_ends_the_client(
    disk: Disk, dialer: ScriptedDialer, path: Path, pool: ThreadPoolExecutor
) -> None:
    """Whoever waits is told, and the server is never told that the token arrived."""
    disk.hold()
    disk.before = failing(JournalFailed("fsync said no"))
    answering = pool.submit(lambda: (peer := dialer.accept(), peer.welcome())[0])
    with dialer.connect(ONE, subscribe=["s"], outbox=Outbox(journal=path)) as client:
        disk.gate.set()
        with pytest.raises(JournalFailed, match="fsync said no"):
            client.recv(SOON)
        with pytest.raises(EOFError):
            answering.result(SOON).expect(Ready)


@pytest.mark.parametrize("when", ["before", "after"])
def test_ctrl_c_in_a_write_leaves_a_client_that_works(life: Opening, disk: Disk, path: Path, when: str) -> None:
    """The message that was interrupted is accepted or not, but never twice, and later ones are behind it."""
    client, peer = life()
    client.send("one")

    def interrupt() -> None:
        disk.before = disk.after = lambda: None
        raise KeyboardInterrupt

    setattr(disk, when, interrupt)
    with pytest.raises(KeyboardInterrupt):
        client.send("two")
    receipt = client.send("three")
    payloads = got(peer, 3)
    assert payloads == ["one", "two", "three"]
    peer.send(acked(receipt.seq))
    client.flush(SOON)
    client.close()
    assert restored(path) == []


def restored(path: Path) -> list[Any]:
    """Return the messages that the next life would send."""
    journal = open_journal(path, instance="reader")
    try:
        return [item for lane in journal.restored.lanes for item in lane.items]
    finally:
        journal.close()


# -- one Client at a time ---------------------------------------------------------------------------------------------


def test_O6_a_second_client_is_locked_out(life: Opening, dialer: ScriptedDialer, path: Path) -> None:
    """It dials nothing, and the first one does not notice; after that one is closed there is room for another."""
    client, peer = life()
    dials = len(dialer.dials)
    with pytest.raises(JournalLocked) as caught:
        dialer.connect(ONE, outbox=Outbox(journal=path))
    assert caught.value.retryable
    assert len(dialer.dials) == dials
    client.send("a")
    assert got(peer, 1) == ["a"]
    client.close()
    again, _ = life()
    assert again.connected


def test_O6_another_process_is_locked_out(life: Opening, path: Path) -> None:
    """The lock is for processes too."""
    life()
    script = (
        "import sys, resilient_ws\n"
        "try: resilient_ws.connect('ws://127.0.0.1:1/', outbox=resilient_ws.Outbox(journal=sys.argv[1]))\n"
        "except resilient_ws.JournalLocked: print('locked')\n"
    )
    done = run_python(script, path, env={**os.environ, "PYTHONPATH": str(Path(resilient_ws.__file__).parents[1])})
    assert (done.stdout, done.stderr) == ("locked\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_leaves_the_journal_to_its_parent(life: Opening, path: Path) -> None:
    """In the child the Client raises Forked, and the file is locked; the parent's journal is as if nothing had been."""
    script = """
import os, sys, resilient_ws
from resilient_ws import Outbox
client = resilient_ws.connect("ws://127.0.0.1:1/", stream="out", wait=False, outbox=Outbox(journal=sys.argv[1]))
client.send("before")
child = os.fork()
if child == 0:
    try: client.send("child")
    except resilient_ws.Forked: pass
    else: os._exit(1)
    try: resilient_ws.connect("ws://127.0.0.1:1/", wait=False, outbox=Outbox(journal=sys.argv[1]))
    except resilient_ws.JournalLocked: pass
    else: os._exit(2)
    client.close()
    sys.exit(7)  # with all that the interpreter does at its end
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
client.send("after")
client.close()
print(status)
"""
    root = str(Path(resilient_ws.__file__).parents[1])
    done = run_python(script, path, env={**os.environ, "PYTHONPATH": root, "PYTHONWARNINGS": "ignore"})
    assert (done.stdout, done.stderr) == ("7\n", "")
    client, peer = life()
    assert client.connected
    assert got(peer, 2) == ["before", "after"]


# -- ends -------------------------------------------------------------------------------------------------------------


def test_close_keeps_what_has_no_ack_and_says_no_bye(life: Opening, path: Path) -> None:
    """The next Client that opens the journal goes on in the session, so the server is not told to forget it."""
    client, peer = life()
    receipt = client.send("a")
    client.close()
    with pytest.raises(EOFError):
        peer.expect(Bye)
    with pytest.raises(Undelivered, match="the journal keeps them") as caught:
        receipt.result(0)
    assert caught.value.is_kept
    assert restored(path) == ["a"]


def test_without_a_journal_close_says_bye(life: Opening) -> None:
    """The control of the test above."""
    client, peer = life(outbox={"journal": None})
    receipt = client.send("a")
    client.close()
    assert peer.expect(Bye) == Bye()
    with pytest.raises(Undelivered, match="may or may not have arrived"):
        receipt.result(0)


def test_a_with_block_leaves_the_rest_to_the_journal(
    life: Opening, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for acks as ever, and then raises nothing: nothing is lost."""
    monkeypatch.setattr("resilient_ws.client.EXIT_FLUSH_TIMEOUT", 0.05)
    client, _ = life()
    with client:
        client.send("a")
    assert restored(path) == ["a"]


def test_drain_leaves_nothing(life: Opening, path: Path, pool: ThreadPoolExecutor) -> None:
    """Everything is committed, and the journal says so."""
    client, peer = life()
    client.send("a")
    draining = pool.submit(client.drain, SOON)
    assert got(peer, 1) == ["a"]
    peer.send(acked(1))
    draining.result(SOON)
    assert restored(path) == []


def test_end_session_has_the_server_forget_it(life: Opening, disk: Disk) -> None:
    """The next Client begins another session; what has no ack is sent there, streams go on where they were."""
    client, peer = life()
    client.send("a")
    peer.send(data(1, "x", "y"))
    assert [client.recv(SOON).data for _ in range(2)] == ["x", "y"]
    client.end_session()
    assert peer.expect(Bye) == Bye()
    assert disk.kept(SessionOver) == [SessionOver()]
    _, again = life()
    hello = again.hello  # type: ignore[attr-defined]
    assert (hello.session, hello.token) == (None, None)
    assert hello.streams[0].held.offset == 1
    assert got(again, 1) == ["a"]


def test_a_client_that_is_dropped_open_lets_its_journal_go(life: Opening, path: Path) -> None:
    """It warns, and the keeper closes the file: the next Client need not wait for the end of the process."""
    import resilient_ws.testing

    dialer = resilient_ws.testing.ScriptedDialer()
    client = dialer.connect(ONE, stream="out", wait=False, outbox=Outbox(journal=path))
    client.send("a")
    with pytest.warns(ResourceWarning, match="unclosed"):
        del client
    until(lambda: not is_locked(path))
    assert restored(path) == ["a"]
    dialer.close()


def is_locked(path: Path) -> bool:
    try:
        open_journal(path, instance="reader").close()
    except JournalLocked:
        return True
    return False


# -- restarts ---------------------------------------------------------------------------------------------------------


def hello_of(peer: Peer) -> Hello:
    """Return what the client said when it came."""
    return peer.hello  # type: ignore[attr-defined, no-any-return]


def killed(path: Path) -> dict[str, Any]:
    """Return the settings of a life that begins with what a kill at this moment would leave of the journal."""
    return {"outbox": {"journal": copied(path, path.with_name("after a kill"))}}


def test_a_restart_resumes_the_session(life: Opening, path: Path) -> None:
    """After a kill the next Client has session, token and messages; new ones wait until those have their acks."""
    client, peer = life()
    for payload in ("a", "b", "c"):
        client.send(payload)
    peer.send(acked(1))
    until(lambda: client.stats()["outbox"][0] == 2)
    seen: list[Any] = []
    again, peer = life(on_event=seen.append, **killed(path))
    hello = hello_of(peer)
    assert (hello.session, hello.token) == ("s1", "token-1")
    (waiting,) = hello.outbound
    assert (waiting.stream, waiting.next) == ("out", 4)
    receipt = again.send("d")
    assert got(peer, 4 - waiting.first) == ["a", "b", "c"][waiting.first - 1 :]
    assert says_nothing(peer, Batch)
    peer.send(acked(3, waiting.producer))
    assert got(peer, 1) == ["d"]
    assert (receipt.seq, receipt.producer in hello.producers) == (1, True)
    assert again.session_id == "s1"
    until(lambda: any(isinstance(event, events.Resumed) for event in seen))
    assert isinstance(seen[0], events.JournalOpened)
    assert seen[0].messages == 4 - waiting.first


def test_what_was_acked_is_not_sent_again(life: Opening) -> None:
    """An orderly end writes the acks of the server down."""
    client, peer = life()
    client.send("a")
    client.send("b")
    peer.send(acked(1))
    until(lambda: client.stats()["outbox"][0] == 1)
    client.close()
    _, again = life()
    assert [(entry.first, entry.next) for entry in hello_of(again).outbound] == [(2, 3)]
    assert got(again, 1) == ["b"]


@pytest.mark.parametrize(("ack", "upto"), [("manual", 2), ("auto", 3)])
def test_a_restarted_consumer_goes_on_behind_what_its_user_acked(
    life: Opening, path: Path, ack: Any, upto: int
) -> None:
    """Manual: behind the last ``ack()``; automatic: at the message in hand. Nothing is left out."""
    client, peer = life(inbox=Inbox(ack=ack))
    peer.send(data(1, "a", "b", "c", "d", "e"))
    messages = [client.recv(SOON) for _ in range(4)]
    if ack == "manual":
        messages[1].ack()
    again, peer = life(inbox=Inbox(ack=ack), **killed(path))
    (asked,) = hello_of(peer).streams
    assert asked.held is not None
    assert (asked.held.epoch, asked.held.offset) == ("e", upto)
    peer.send(data(upto + 1, *"abcde"[upto:]))
    assert again.recv(SOON).data == "abcde"[upto]


@pytest.mark.parametrize("start", ["now", "earliest", Position("e", 7)], ids=["now", "earliest", "position"])
def test_a_position_goes_before_the_journal_and_a_name_does_not(life: Opening, start: Any) -> None:
    """connect(subscribe=) of a stream that the journal knows."""
    consumed(life)
    _, peer = life(subscribe={"s": start})
    (asked,) = hello_of(peer).streams
    assert (asked.held is None) is isinstance(start, Position)
    assert asked.start == (start if isinstance(start, Position) else None)
    assert asked.held is None or asked.held.offset == 1


def consumed(life: Opening) -> None:
    """Have a life in which the first message of stream ``s`` was handled."""
    client, peer = life()
    peer.send(data(1, "a", "b"))
    for _ in range(2):
        client.recv(SOON)
    client.close()


@pytest.mark.parametrize("start", ["now", "earliest", Position("e", 7)], ids=["now", "earliest", "position"])
def test_subscribe_goes_on_where_the_journal_was(life: Opening, pool: ThreadPoolExecutor, start: Any) -> None:
    """The same for a stream that the next life asks for later, by subscribe(): nothing is passed over."""
    consumed(life)
    client, peer = life(subscribe=())
    answering = pool.submit(answered, peer)
    client.subscribe("s", start)
    asked = answering.result(SOON)
    assert (asked.held is None) is isinstance(start, Position)
    assert asked.start == (start if isinstance(start, Position) else None)
    first = 2 if asked.held is not None else 8
    peer.send(data(first, "next"))
    assert client.recv(SOON).offset == first


def answered(peer: Peer) -> Subscribe:
    """Answer the next subscribe; returns it."""
    asked: Subscribe = peer.expect(Subscribe)
    place = asked.held or asked.start
    first = place.offset + 1 if isinstance(place, (Held, Position)) else 1
    peer.send(Subscribed(answer=StreamAnswer(stream=asked.stream, id=asked.id, epoch="e", first=first, live=first - 1)))
    return asked


def test_a_stream_that_is_received_begins_anew(life: Opening, pool: ThreadPoolExecutor) -> None:
    """A second subscribe() in one life says that what was before is of no interest: the journal forgets it too."""
    consumed(life)
    client, peer = life()
    answering = pool.submit(answered, peer)
    client.subscribe("s", "earliest")
    assert answering.result(SOON).start == "earliest"


@pytest.mark.parametrize("is_received", [True, False])
def test_unsubscribe_forgets_a_stream(life: Opening, disk: Disk, is_received: bool) -> None:
    """For a restart too, whether this life receives the stream or an earlier one did; safe when it returns."""
    consumed(life)
    client, _ = life(subscribe=["s"] if is_received else ())
    client.unsubscribe("s")
    assert disk.safe(Forgotten) == [Forgotten("s")]
    client.close()
    _, peer = life()
    (asked,) = hello_of(peer).streams
    assert (asked.held, asked.start) == (None, "now")


# -- ages -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """Time for the Clients of a test, wall time of their journals included; stands still until it is told."""
    clock = FakeClock()

    def opened_by_it(path: str, **settings: Any) -> Journal:
        return open_journal(path, **settings, wall=lambda: 1_700_000_000.0 + clock.now)

    monkeypatch.setattr("resilient_ws.journal.open_journal", opened_by_it)
    return clock


@pytest.fixture
def aged(clock: FakeClock, path: Path, dialer: ScriptedDialer) -> Iterator[Callable[..., Client]]:
    """Open Clients by that clock that reach no server; a message waits in the journal for 90 of its 100 seconds."""
    clients: list[Client] = []

    def open_one(policy: str, on_event: Any = None) -> Client:
        box = Outbox(journal=path, max_age=100.0, policy=policy, send_timeout=0.0)  # type: ignore[arg-type]
        defaults = resilient_ws.connect.__kwdefaults__ or {}
        settings = {**defaults, "stream": "out", "outbox": box, "wait": False, "on_event": on_event}
        client = Client(check_arguments(ONE, **settings), dialer=dialer, clock=clock)
        clients.append(client)
        return client

    first = open_one("raise")
    first.send("old")
    first.close()
    clock.advance(90.0)
    yield open_one
    for client in clients:
        client.close()


@pytest.mark.parametrize("policy", ["raise", "block"])
def test_what_an_earlier_life_left_too_long_makes_the_outbox_full(
    aged: Callable[..., Client], clock: FakeClock, path: Path, policy: str
) -> None:
    """Ages count over restarts; nothing that waits is dropped, nothing new is accepted."""
    client = aged(policy)
    client.send("young")
    clock.advance(20.0)
    with pytest.raises(OutboxFull) as caught:
        client.send("refused")
    assert caught.value.age == pytest.approx(110.0, abs=1.0)
    client.close()
    assert restored(path) == ["old", "young"]


def test_drop_newest_does_not_accept_what_comes_too_late(
    aged: Callable[..., Client], clock: FakeClock, path: Path
) -> None:
    """The receipt says so, and the journal has nothing of it."""
    client = aged("drop_newest")
    clock.advance(20.0)
    with pytest.raises(Rejected) as caught:
        client.send("newest").result(0)
    assert caught.value.code == "dropped"
    client.close()
    assert restored(path) == ["old"]


def test_drop_oldest_drops_what_is_too_old_for_good(aged: Callable[..., Client], clock: FakeClock, path: Path) -> None:
    """The drop is an event with its number, and is written down: a restart does not bring the message back."""
    seen: list[Any] = []
    client = aged("drop_oldest", seen.append)
    clock.advance(20.0)
    client.send("newest")
    until(lambda: any(isinstance(event, events.MessagesDropped) for event in seen))
    (dropped,) = [event for event in seen if isinstance(event, events.MessagesDropped)]
    assert (dropped.stream, dropped.first, dropped.last) == ("out", 1, 1)
    client.close()
    assert [item for item in restored(path) if not isinstance(item, Void)] == ["newest"]


# -- a device that is offline for days --------------------------------------------------------------------------------

DAY = 86_400.0


class Lives(SessionPair):
    """A device with a real journal and the reference server, under one virtual clock; it may be killed and restart."""

    def __init__(self, path: Path, clock: Clock, store: MemoryBackplane, **client: Any) -> None:
        self.clock = clock
        wall = {"clock": lambda: self.clock.now, "wall": lambda: self.clock.wall}
        self.journal = open_journal(path, instance=f"instance-{clock.now}", **wall)
        settings = {"producer": f"{int(clock.now):032x}", "restored": self.journal.restored, "now": clock.now, **client}
        super().__init__(session(**settings), rng=random.Random(clock.now), store=store, now=clock.now, ttl=60.0)

    def _perform(self) -> None:
        self.clock.advance(self.now - self.clock.now)
        super()._perform()
        if (group := self.client.unwritten) is not None and (group.records or self.client.persist_due):
            self.journal.write(self.client.to_persist(), durable=True)
            self.client.persisted(self.now, durable=True)
            super()._perform()

    def send(self, *payloads: str) -> None:
        for payload in payloads:
            self.client.send("readings", payload, self.now)
            self.run()


def forget(store: MemoryBackplane, session_id: str, now: float) -> None:
    """Have the time to live of a session pass, as nodes that serve others see it pass."""
    for second in range(70):
        store.step(Tick(bucket=bucket_of(session_id)), now + second)


def offline_for(path: Path, days: int, *, others: int = 0, **settings: Any) -> tuple[list[bytes], list[Any]]:
    """
    Have a device lose its network, go on for some days, be restarted, and get the network back.

    Args:
        path: Of the journal.
        days: How many; it sends a message each day.
        others: Messages that somebody else publishes on the same stream meanwhile.
        settings: Of the store.

    Returns:
        What the store has in the end, and the events of the last life.
    """
    clock = Clock()
    store = MemoryBackplane(random.Random(1), **settings)
    device = Lives(path, clock, store)
    device.client.connect(device.now)
    device.run()
    device.send("before 1", "before 2")
    (link,) = device.links.values()
    link.is_held = True
    device.send("in flight")  # the server has it, and its ack is lost
    device.deliver(link.conn, down=False)
    device.is_reachable = False
    device.cut()
    forget(store, str(device.client.session_id), device.now)
    device.publish("readings", *["somebody else's"] * others)
    for day in range(days):
        device.send(f"day {day}")
        device.advance(DAY)
    device.journal.close()
    device = Lives(path, clock, store)
    device.client.connect(device.now)
    device.run()
    device.send("the last")
    device.advance(120.0)
    device.journal.close()
    return [entry.payload for entry in store.contents("readings")], device.events


def test_a_device_that_was_offline_for_three_days_sends_its_backlog_once(path: Path) -> None:
    """Its session is gone long since; the numbers of its messages are not, so what was in flight is not doubled."""
    stored, told = offline_for(path, 3)
    assert stored == [b"before 1", b"before 2", b"in flight", b"day 0", b"day 1", b"day 2", b"the last"]
    assert any(isinstance(event, events.SessionReplaced) for event in told)
    assert not any(isinstance(event, (events.IndefiniteResent, events.JournalRolledBack)) for event in told)


def test_a_server_that_forgets_numbers_meanwhile_is_reported(path: Path) -> None:
    """The control: a server that knows a producer for an hour only has what was in flight twice, and that is told."""
    stored, told = offline_for(path, 3, others=10, retention=10, producer_ttl=3600.0)
    assert stored[-5:] == [b"in flight", b"day 0", b"day 1", b"day 2", b"the last"]  # the first of it was trimmed
    assert [(e.stream, e.first, e.last) for e in told if isinstance(e, events.IndefiniteResent)] == [("readings", 3, 3)]


# -- questions --------------------------------------------------------------------------------------------------------


def test_the_guarantee_says_what_a_journal_adds(life: Opening) -> None:
    """In a sentence, and only where there is one."""
    client, _ = life()
    assert "also over restarts and power losses" in client.guarantee
    other, _ = life(outbox={"journal": None})
    assert "while this Client lives" in other.guarantee


def test_stats_count_what_the_journal_brought(life: Opening, path: Path) -> None:
    """The messages of earlier lives are in the outbox, and are not counted as sent in this one."""
    client, _ = life()
    client.send("ab")
    assert (client.stats()["sent"], client.stats()["outbox"]) == (1, (1, 2))
    again, _ = life(**killed(path))
    assert (again.stats()["sent"], again.stats()["outbox"]) == (0, (1, 2))
