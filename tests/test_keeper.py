"""The keeper's thread, and what else there is once per process: dial threads, dispatcher, forks."""

from __future__ import annotations

import gc
import logging
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resilient_ws import process
from resilient_ws.attempts import Attempts
from resilient_ws.dispatcher import Dispatcher
from resilient_ws.driver import USER_IDLE
from resilient_ws.frames import Batch, Hello, Ping, Pong
from resilient_ws.keeper import Keeper, Waiter, Waiters, Waker, Watch
from resilient_ws.testing import FakeClock, ScriptedDialer

SOON = 5.0


def until(condition: Callable[[], bool], timeout: float = SOON) -> None:
    """Wait for something that has no event."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        threading.Event().wait(0.001)


class Socket:
    """One end of a socket pair that can be watched."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.watchers: set[Any] = set()
        self.is_released = False

    def fileno(self) -> int:
        return self.ours.fileno()

    def unwatched(self) -> None:
        self.is_released = True

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


class Kept:
    """Something to be kept: reads one byte when its socket is ready, notes when it was attended."""

    def __init__(self, sock: Socket | None = None) -> None:
        self.sock = sock
        self.attended: list[float] = []
        self.read = b""
        self.next_at: list[float | None] = []
        self.errors: list[Exception] = []
        self.raises: Exception | None = None
        self.changed = threading.Event()

    def attend(self, watch: Watch, ready: list[Any], now: float) -> float | None:
        self.attended.append(now)
        if self.raises is not None:
            raise self.raises
        for sock in ready:
            self.read += sock.ours.recv(1)
        watch.sync({} if self.sock is None else {self.sock: selectors.EVENT_READ})
        self.changed.set()
        return self.next_at.pop(0) if self.next_at else None

    def fail(self, error: Exception) -> None:
        self.errors.append(error)
        self.changed.set()

    def leave_behind(self) -> None:
        pass


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    """A keeper of its own."""
    keeper = Keeper()
    keeper.start()
    yield keeper
    keeper.stop()
    until(lambda: not keeper.is_running)
    keeper.leave_behind()


@pytest.fixture
def sock() -> Iterator[Socket]:
    """A socket pair."""
    sock = Socket()
    yield sock
    sock.close()


def wait(kept: Kept) -> None:
    """Wait until it was attended (again)."""
    assert kept.changed.wait(SOON)
    kept.changed.clear()


# -- keeper -----------------------------------------------------------------------------------------------------------


def test_a_ready_socket_is_attended(keeper: Keeper, sock: Socket) -> None:
    """Whoever asked once is attended whenever its socket is ready, in the keeper's thread."""
    kept = Kept(sock)
    keeper.ask(kept)
    wait(kept)
    for byte in (b"a", b"b"):
        sock.theirs.send(byte)
        wait(kept)
    assert kept.read == b"ab"
    kept.sock = None
    keeper.ask(kept)
    wait(kept)
    assert (sock.watchers, sock.is_released) == (set(), True)


def test_deadlines_are_kept(keeper: Keeper) -> None:
    """An attendance comes at the time that the one before named, not earlier, and none without a time."""
    kept = Kept()
    start = time.monotonic()
    kept.next_at = [start + 0.05, None]
    keeper.ask(kept)
    until(lambda: len(kept.attended) == 2)
    assert kept.attended[1] >= start + 0.05
    assert not threading.Event().wait(0.05)
    assert len(kept.attended) == 2


def test_asking_for_later(keeper: Keeper) -> None:
    """The earliest time counts, whoever named it."""
    kept = Kept()
    start = time.monotonic()
    keeper.ask(kept, start + 60)
    keeper.ask(kept, start + 0.02)
    wait(kept)
    assert time.monotonic() - start >= 0.02


def test_many_are_kept_by_one_thread(keeper: Keeper) -> None:
    """Hundreds of sockets need no thread each."""
    threads = threading.active_count()
    socks = [Socket() for _ in range(200)]
    all_kept = [Kept(sock) for sock in socks]
    for kept in all_kept:
        keeper.ask(kept)
    for sock in socks:
        sock.theirs.send(b"x")
    until(lambda: all(kept.read == b"x" for kept in all_kept))
    assert threading.active_count() == threads
    for kept in all_kept:
        kept.sock = None
        keeper.ask(kept)
    until(lambda: all(sock.is_released for sock in socks))
    for sock in socks:
        sock.close()


def test_one_that_cannot_even_fail_takes_no_turn_of_another(
    keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    """When attending and failing both raise, the others whose time has come in the same round are attended."""

    class Worse(Kept):
        def fail(self, error: Exception) -> None:
            raise ZeroDivisionError

    worse, others = Worse(), [Kept() for _ in range(5)]
    worse.raises = OSError("out of everything")
    at = time.monotonic() + 0.05
    for kept in (worse, *others):
        keeper.ask(kept, at)
    for kept in others:
        wait(kept)
    until(lambda: len(caplog.records) == 2)
    assert [record.message for record in caplog.records] == ["resilient_ws.keeper_failed"] * 2


def test_what_is_not_needed_is_not_kept(keeper: Keeper) -> None:
    """Something without sockets and deadlines is referred to by nothing of the keeper's."""
    kept = Kept()
    keeper.ask(kept)
    wait(kept)
    reference = weakref.ref(kept)
    del kept
    other = Kept()
    keeper.ask(other)  # its thread has gone round once more when this one is attended
    wait(other)
    gc.collect()
    until(lambda: reference() is None)


def test_X8_a_failure_ends_only_what_failed(keeper: Keeper, caplog: pytest.LogCaptureFixture) -> None:
    """What raises in the keeper's thread is told, logged with its traceback, and the others go on."""
    broken, fine = Kept(), Kept()
    broken.raises = ZeroDivisionError("a bug")
    keeper.ask(broken)
    wait(broken)
    assert broken.errors == [broken.raises]
    keeper.ask(fine)
    wait(fine)
    assert [record.message for record in caplog.records] == ["resilient_ws.keeper_failed"]
    assert caplog.records[0].exc_info is not None


def test_work_of_finalizers_is_done(keeper: Keeper, caplog: pytest.LogCaptureFixture) -> None:
    """What is handed over is done in the keeper's thread; a failure of it is logged and stops nothing."""
    seen: list[int] = []
    keeper.hand_over(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    keeper.hand_over(lambda: seen.append(threading.get_ident()))
    until(lambda: bool(seen))
    assert seen != [threading.get_ident()]
    assert any(record.message == "resilient_ws.keeper_failed" for record in caplog.records)


# -- watching ---------------------------------------------------------------------------------------------------------


def test_watch_follows_what_is_wanted(sock: Socket) -> None:
    """A selector has exactly the wanted sockets, each with its events; whoever leaves last is told."""
    with selectors.DefaultSelector() as one, selectors.DefaultSelector() as two:
        first, second = Watch(one), Watch(two)
        first.sync({sock: selectors.EVENT_READ})
        second.sync({sock: selectors.EVENT_READ})
        assert sock.watchers == {first, second}
        first.sync({sock: selectors.EVENT_READ | selectors.EVENT_WRITE})
        assert [events for _, events in one.select(0)] == [selectors.EVENT_WRITE]
        assert first.has({sock: selectors.EVENT_READ | selectors.EVENT_WRITE})
        first.sync({})
        assert (first.is_empty, sock.is_released) == (True, False)
        second.sync({})
        assert sock.is_released


def test_waiter_wakes(sock: Socket) -> None:
    """A waiter returns the sockets that are ready, and nothing when it was woken."""
    waiter = Waiter()
    waiter.watch.sync({sock: selectors.EVENT_READ})
    assert waiter.wait(0) == []
    threading.Timer(0.01, waiter.wake).start()
    assert waiter.wait(SOON) == []
    sock.theirs.send(b"x")
    assert waiter.wait(SOON) == [sock]
    waiter.watch.sync({})
    waiter.close()


def test_waker_without_eventfd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no eventfd a socket pair does the same; waking one that is full or closed is no error."""
    if hasattr(os, "eventfd"):
        monkeypatch.delattr(os, "eventfd")
    waker = Waker()
    with selectors.DefaultSelector() as selector:
        selector.register(waker, selectors.EVENT_READ)
        assert selector.select(0) == []
        for _ in range(100_000):
            waker.wake()
        assert len(selector.select(0)) == 1
        waker.drain()
        while selector.select(0):
            waker.drain()
        waker.drain()
    waker.close()
    waker.wake()


def test_waiters_are_used_again() -> None:
    """A free waiter is given out again; only so many are kept."""
    waiters = Waiters()
    one, two = waiters.get(), waiters.get()
    assert one is not two
    waiters.put(one)
    assert waiters.get() is one
    many = [waiters.get() for _ in range(20)]
    for waiter in (one, two, *many):
        waiters.put(waiter)
    again = {waiters.get() for _ in range(30)}
    assert len(again & {one, two, *many}) == 16
    for waiter in again:
        waiter.close()


# -- a Client and the keeper ------------------------------------------------------------------------------------------


@pytest.fixture
def dialer() -> Iterator[ScriptedDialer]:
    """A scripted dialer."""
    dialer = ScriptedDialer()
    yield dialer
    dialer.close()


def test_keeper_reads_only_when_the_user_does_not(dialer: ScriptedDialer) -> None:
    """
    A user's thread that reads is left alone; when it does something else the keeper takes over, and gives back at once.
    """
    answers: list[Any] = []

    def serve() -> None:
        peer = dialer.accept()
        peer.welcome()
        peer.expect()
        answers.append(peer)

    serving = threading.Thread(target=serve)
    serving.start()
    client = dialer.connect(subscribe=["s"])
    serving.join()
    peer, driver = answers[0], client._driver
    until(lambda: driver._is_kept)
    peer.send(Ping(echo="a"))
    assert peer.expect(Pong).echo == "a"
    got: list[Any] = []
    receiving = threading.Thread(target=lambda: got.append(client.recv(SOON).data))
    receiving.start()
    until(lambda: driver._is_sleeping and driver._reader == receiving.ident)
    until(lambda: not driver._is_armed)  # the keeper has looked, and will not look again
    peer.send(Batch("s", 1, ["x"]))
    receiving.join(SOON)
    assert got == ["x"]
    assert not driver._is_kept
    started = time.monotonic()
    until(lambda: driver._is_kept)
    assert time.monotonic() - started >= USER_IDLE / 2
    dialer.close()
    client.close()


def test_a_busy_reader_is_never_disturbed(dialer: ScriptedDialer) -> None:
    """A loop whose handlers are short keeps the sockets: the keeper has none of them in between."""
    served: list[Any] = []

    def serve() -> None:
        peer = dialer.accept()
        peer.welcome()
        served.append(peer)
        for i in range(1, 101):
            peer.send(Batch("s", i, ["x"]))
            time.sleep(0.002)

    serving = threading.Thread(target=serve)
    serving.start()
    client = dialer.connect(subscribe=["s"])
    taken_over = 0
    for message in client:
        taken_over += client._driver._is_kept
        if message.offset == 100:
            break
    serving.join()
    assert taken_over == 0
    dialer.close()
    client.close()


def test_idle_clients_share_one_thread(dialer: ScriptedDialer) -> None:
    """Connected Clients that nobody uses cost no thread, and each of them answers its pings."""
    peers: list[Any] = []
    before = {thread for thread in threading.enumerate() if thread.name == "resilient_ws-dispatcher"}

    def serve() -> None:
        for _ in range(30):
            peer = dialer.accept()
            peer.welcome()
            peer.expect()
            peers.append(peer)

    serving = threading.Thread(target=serve)
    serving.start()
    clients = [dialer.connect(subscribe=["s"]) for _ in range(30)]
    serving.join()
    until(lambda: not any(thread.name == "resilient_ws-dial" for thread in threading.enumerate()))
    # A dispatcher that another test made for itself lives until the process ends.
    names = [t.name for t in threading.enumerate() if t.name.startswith("resilient_ws") and t not in before]
    assert len(names) == len(set(names))
    assert set(names) <= {"resilient_ws-keeper", "resilient_ws-dispatcher"}
    for peer in peers:
        peer.send(Ping(echo="x"))
    for peer in peers:
        assert peer.expect(Pong).echo == "x"
    until(lambda: all(client._driver._waiter is None for client in clients))
    dialer.close()
    for client in clients:
        client.close()


# -- dial threads -----------------------------------------------------------------------------------------------------


def test_dials_are_bounded() -> None:
    """Only so many run at once, the rest wait in line and run later; then no thread is left."""
    attempts = Attempts(at_once=3)
    gate = threading.Event()
    lock = threading.Lock()
    running, most, done = 0, 0, 0

    def work() -> None:
        nonlocal running, most, done
        with lock:
            running += 1
            most = max(most, running)
        gate.wait(SOON)
        with lock:
            running -= 1
            done += 1

    for _ in range(10):
        attempts.start(work)
    until(lambda: running == 3)
    gate.set()
    until(lambda: done == 10 and attempts.running == 0)
    assert most == 3


def test_work_that_exits_costs_nobody_his_turn(caplog: pytest.LogCaptureFixture) -> None:
    """Work that wants its thread to end (a user's function may) is logged, and the next in line runs."""
    attempts = Attempts(at_once=1)
    gate, done = threading.Event(), threading.Event()

    def exits() -> None:
        gate.wait(SOON)
        raise SystemExit

    attempts.start(exits)
    attempts.start(done.set)
    gate.set()
    assert done.wait(SOON)
    until(lambda: attempts.running == 0)
    assert [record.message for record in caplog.records] == ["resilient_ws.attempt_failed"]


def test_X10_no_thread_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started the caller is told, and the next one may try."""
    attempts = Attempts(at_once=1)

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            attempts.start(lambda: None)
    done = threading.Event()
    attempts.start(done.set)
    assert done.wait(SOON)


# -- dispatcher -------------------------------------------------------------------------------------------------------


def test_calls_are_made_in_order_in_one_thread() -> None:
    """Every call comes in the order in which it was posted, one after the other."""
    dispatcher = Dispatcher()
    seen: list[tuple[int, int]] = []
    for i in range(100):
        assert dispatcher.post(lambda i: seen.append((i, threading.get_ident())), i)
    until(lambda: len(seen) == 100)
    assert [i for i, _ in seen] == list(range(100))
    assert len({thread for _, thread in seen}) == 1


def test_full_line_says_so() -> None:
    """What finds no room is refused, and what had room is called."""
    dispatcher = Dispatcher(limit=2)
    gate, started = threading.Event(), threading.Event()
    seen: list[int] = []

    def block() -> None:
        started.set()
        gate.wait(SOON)

    assert dispatcher.post(block)
    assert started.wait(SOON)
    assert [dispatcher.post(seen.append, i) for i in range(3)] == [True, True, False]
    gate.set()
    until(lambda: seen == [0, 1])


def test_what_was_promised_is_not_dropped() -> None:
    """A call that was promised finds room behind a full line, because nobody would tell of its loss."""
    dispatcher = Dispatcher(limit=1)
    gate, started = threading.Event(), threading.Event()
    seen: list[int] = []

    def block() -> None:
        started.set()
        gate.wait(SOON)

    assert dispatcher.post(block)
    assert started.wait(SOON)
    for i in range(3):
        dispatcher.promise(seen.append, i)
    assert not dispatcher.post(seen.append, 3)
    gate.set()
    until(lambda: seen == [0, 1, 2])


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
def test_failing_call_is_logged(caplog: pytest.LogCaptureFixture, error: type[BaseException]) -> None:
    """A call that raises, or wants the thread to end, is logged with its name, and the next one is made."""
    dispatcher = Dispatcher()
    done = threading.Event()

    def fails() -> None:
        raise error

    dispatcher.post(fails)
    dispatcher.post(done.set)
    assert done.wait(SOON)
    assert "fails" in caplog.records[0].getMessage()
    assert caplog.records[0].levelno == logging.ERROR


# -- clock and process ------------------------------------------------------------------------------------------------


def test_fake_clock() -> None:
    """The clock stands still until it is told, and never goes back."""
    clock = FakeClock(5.0)
    assert (clock(), clock(), clock.advance(2), clock()) == (5.0, 5.0, 7.0, 7.0)
    with pytest.raises(ValueError, match="go back"):
        clock.advance(-1)


def test_ending_is_known_at_exit() -> None:
    """Whoever asked is called when the interpreter ends, and no dial is started then."""
    code = (
        "import atexit\n"
        "def last():\n"
        "    from resilient_ws import attempts\n"
        "    try: attempts.start(print)\n"
        "    except RuntimeError as error: print(error)\n"
        "atexit.register(last)\n"
        "from resilient_ws import process\n"
        "process.at_end(lambda: print('ending', process.is_ending()))\n"
        "print(process.is_ending(), process.is_ending_for_good())\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, env=env)
    assert done.stdout.splitlines() == [
        "False False",
        "ending True",
        "the interpreter is ending: no thread is started",
    ]
    assert done.stderr == ""
    assert process.generation() == 0


def test_hello_is_one_per_connection(dialer: ScriptedDialer) -> None:
    """The scripted peer sees the hello, and only one (the control of the doubles)."""
    client = dialer.connect(wait=False)
    peer = dialer.accept()
    assert isinstance(peer.expect(), Hello)
    with pytest.raises(TimeoutError):
        peer.expect(timeout=0.05)
    dialer.close()
    client.close()
