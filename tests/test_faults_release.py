"""Ctrl-C and close() in every call that waits, over real TCP connections (X3)."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from resilient_ws import Client, Outbox, SessionClosed, Undelivered, connect
from resilient_ws.exceptions import ResilientWSError
from server_fixture.rude import RudeServer, upgrade_never
from tests.fault_server import Line, Model, opened
from tests.transport_tools import PATIENCE

ROOT = pathlib.Path(__file__).resolve().parent.parent

SCRIPT = """
import faulthandler, os, signal, threading, time
faulthandler.dump_traceback_later(40, exit=True)
import resilient_ws
from resilient_ws import Outbox
from server_fixture.rude import RudeServer, upgrade_never
from tests.fault_server import Model, opened
main, at = threading.get_ident(), []
def interrupt(is_waiting):
    def wait():
        while not is_waiting(): threading.Event().wait(0.001)
        at.append(time.monotonic()); os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=wait, daemon=True).start()
def interrupted(is_waiting, call):
    interrupt(is_waiting)
    try:
        call()
    except KeyboardInterrupt:
        return time.monotonic() - at[-1]
    raise SystemExit("no interrupt")
"""


def run(body: str) -> str:
    """Run a script in an interpreter of its own and give what it printed; nothing may stand on its stderr."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT + body],
        capture_output=True,
        text=True,
        timeout=55,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("call", ["client.recv()", "client.recv_many()", "client.send('b')", "client.flush()"])
def test_X3_interrupt_of_a_waiting_call(call: str) -> None:
    """Ctrl-C comes out of a call at once, and the session goes on as if nothing had been."""
    took = run(f"""
model = Model()
gate = threading.Event()
def late(line):
    gate.wait(30)
    line.say(resilient_ws.frames.Batch("s", 1, ["a"]))
    model.talk(line)
with RudeServer(model.then(late)) as server, opened(server.url, outbox=Outbox(max_messages=1)) as client:
    receipt = client.send("a")
    took = interrupted(lambda: client._driver._reader == main, lambda: {call})
    gate.set()
    assert client.recv(10).data == "a"
    receipt.result(10)
    client.send("c").result(10)
    assert model.received == ["a", "c"], model.received
    assert client.stats()["connects"] == 1
print(took)
""")
    assert float(took) < 1.0


def test_X3_interrupt_of_connect() -> None:
    """Ctrl-C comes out of connect() at once while a server does not answer the upgrade."""
    took = run("""
with RudeServer(upgrade_never) as server:
    took = interrupted(lambda: server.requests, lambda: resilient_ws.connect(server.url))
print(took)
""")
    assert float(took) < 1.0


def stuck(line: Line) -> None:
    """Store and ack nothing."""
    for _ in line.heard():
        pass


WAITS: dict[str, tuple[Callable[[Client], object], type[ResilientWSError]]] = {
    "recv": (lambda client: client.recv(), SessionClosed),
    "recv_many": (lambda client: client.recv_many(), SessionClosed),
    "send": (lambda client: client.send("second"), SessionClosed),
    "flush": (lambda client: client.flush(), Undelivered),
}


@pytest.mark.parametrize("name", WAITS)
def test_X3_close_from_another_thread(name: str) -> None:
    """A thread that waits in a call is released by close() of another one at once, with the reason."""
    call, kind = WAITS[name]
    with ThreadPoolExecutor(1) as pool, RudeServer(Model().then(stuck)) as server:
        with opened(server.url, outbox=Outbox(max_messages=1)) as client:
            client.send("first")
            waiting = pool.submit(call, client)
            while client._driver._reader is None or waiting.done():
                assert not threading.Event().wait(0.001)
            started = time.monotonic()
            client.close()
            with pytest.raises(kind):
                waiting.result(PATIENCE)
            assert time.monotonic() - started < 1.0


def test_X3_close_while_dialling() -> None:
    """close() does not wait for an upgrade that is not answered."""
    with RudeServer(upgrade_never) as server:
        client = connect(server.url, wait=False)
        assert server.wait_for(lambda server: bool(server.requests))
        started = time.monotonic()
        client.close()
        assert time.monotonic() - started < 1.0
