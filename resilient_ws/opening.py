"""
From checked arguments to the parts of a Client and its welcome: its session, how it dials, who hears, what it promises.

Nothing here keeps the Client: one that was dropped open must be noticed.
"""

from __future__ import annotations

import os
import secrets
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from resilient_ws import dispatcher, instrumentation
from resilient_ws.actions import Dial, Discover, FetchToken
from resilient_ws.advertised import Found
from resilient_ws.arguments import Arguments
from resilient_ws.callbacks import Callbacks
from resilient_ws.config import Capabilities
from resilient_ws.dialling import STAGGER
from resilient_ws.driver import Driver
from resilient_ws.enquiring import Enquirer
from resilient_ws.events import Event, JournalOpened
from resilient_ws.exceptions import ConnectError, ConnectTimeout, SessionClosed
from resilient_ws.performing import Performer
from resilient_ws.persisting import Persister
from resilient_ws.pinning import Pinning
from resilient_ws.records import Restored
from resilient_ws.session import Role, Session
from resilient_ws.wired import Opener, Transport

if TYPE_CHECKING:
    from resilient_ws.journal import Journal

Dialer = Callable[..., Transport]
"""``dialer(url, options, cancelled=) -> transport``, as ``resilient_ws.transport.dial``."""


class Owner(Protocol):
    """The Client, as seen from here."""

    _arguments: Arguments
    _dialer: Dialer

    def _report(self, event: Event) -> None: ...


def open_its_journal(arguments: Arguments, instance: str, clock: Callable[[], float]) -> Journal | None:
    """Open the journal that ``Outbox(journal=)`` names, None where it names none."""
    settings = arguments.outbox
    if settings.journal is None:
        return None
    from resilient_ws.journal import open_journal  # SQLite is for those who use it

    path = os.fspath(settings.journal)
    return open_journal(path, instance=instance, sync=settings.sync, damaged=settings.damaged, clock=clock)


def make_session(arguments: Arguments, now: float, rng: Any, instance: str, restored: Restored | None) -> Session:
    """Make the pure session, with a random producer of its own."""
    return Session(
        urls=arguments.urls,
        subscribe=arguments.subscribe,
        retry=arguments.retry,
        failover=attrs.evolve(arguments.failover, discover=None),  # a function of the user's: asked by _make_answers
        keepalive=arguments.keepalive,
        outbox=arguments.outbox,
        inbox=attrs.evolve(arguments.inbox, ack="manual"),  # who is done with what is told by receiving.py
        wire=arguments.wire,
        capabilities=arguments.dialect.capabilities,
        gaps="report" if arguments.on_gap == "report" else "raise",
        instance=instance,
        producer=secrets.token_hex(16),
        rng=rng,
        now=now,
        roles=_roles(arguments),
        hedge_delay=arguments.failover.stagger or STAGGER,
        restored=restored,
        fetches_token=arguments.token_source is not None,
        discovers=arguments.failover.discover is not None,
        vet=arguments.rules().vet,
    )


def _roles(arguments: Arguments) -> frozenset[Role]:
    failover, can_resume = arguments.failover, arguments.dialect.capabilities.resume
    wanted = {
        Role.CANDIDATE: failover.stagger is not None,
        Role.SUCCESSOR: can_resume,
        Role.STANDBY: can_resume and failover.standby,
    }
    return frozenset(role for role, is_wanted in wanted.items() if is_wanted)


def make_driver(
    arguments: Arguments, owner: Owner, callbacks: Callbacks, clock: Callable[[], float], rng: Any
) -> Driver:
    """
    Make what drives the session.

    It refers to ``owner`` weakly, and to no function of the user's: those are often methods of what holds the Client.

    Raises:
        JournalError: The journal cannot be opened.
    """
    instance = secrets.token_hex(16)
    journal = open_its_journal(arguments, instance, clock)
    try:
        restored = None if journal is None else journal.restored
        session = make_session(arguments, clock(), rng, instance, restored)
        return _drive(session, arguments, owner, callbacks, clock, journal)
    except BaseException:
        if journal is not None:
            journal.close()
        raise


def _drive(
    session: Session,
    arguments: Arguments,
    owner: Owner,
    callbacks: Callbacks,
    clock: Callable[[], float],
    journal: Journal | None,
) -> Driver:
    performer = Performer(
        session=session,
        opener=_make_opener(weakref.ref(owner), Pinning(clock=clock) if arguments.failover.affinity else None),
        make_codec=arguments.dialect.client,
        listener=_make_listener(weakref.ref(owner)),
        callbacks=callbacks,
        clock=clock,
    )
    performer.ask = Enquirer(performer=performer, answer=_make_answers(weakref.ref(owner))).ask
    persister = None
    if journal is not None:
        persister = Persister(performer=performer, disk=journal, is_patient=arguments.outbox.sync == "normal")
        kept = journal.opened
        performer.listener(
            [JournalOpened(path=kept.path, messages=kept.messages, bytes=kept.bytes, notes="; ".join(kept.notes))]
        )
    return Driver(performer=performer, write_timeout=arguments.wire.write_timeout, persister=persister)


def _make_opener(owner: weakref.ref[Any], pinning: Pinning | None) -> Opener:
    def open_transport(dial: Dial, cancelled: Callable[[], bool]) -> Transport:
        opening: Owner | None = owner()
        if opening is None:
            raise SessionClosed("the Client is gone")
        options = opening._arguments.dial_options(dial.timeout, dial.token)
        if pinning is None:
            return opening._dialer(dial.url, options, cancelled=cancelled)
        return pinning.dial(opening._dialer, dial.url, options, dial.is_fresh, cancelled=cancelled)

    return open_transport


def _make_answers(owner: weakref.ref[Any]) -> dict[type, Callable[[Any], Any]]:
    def arguments() -> Arguments:
        asking: Owner | None = owner()
        if asking is None:
            raise SessionClosed("the Client is gone")
        return asking._arguments

    def token(asked: FetchToken) -> tuple[str, float | None]:
        from resilient_ws.discovery import fetch_token

        given = arguments()
        return fetch_token(given.token_source, given.http(given.token_source), asked.timeout)

    def endpoints(asked: Discover) -> Found:
        from resilient_ws.discovery import find_endpoints

        given = arguments()
        source, token = given.failover.discover, given.token(asked.token)
        assert source is not None  # nobody asks else
        return find_endpoints(source, given.rules(), given.http(source), token, asked.timeout)

    return {FetchToken: token, Discover: endpoints}


def _make_listener(owner: weakref.ref[Any]) -> Callable[[list[Event]], None]:
    def listen(found: list[Event]) -> None:
        listening = owner()
        for event in found:
            if listening is not None:
                listening._report(event)
            else:
                log(event)

    return listen


def log(event: Event) -> None:
    """Have an event logged, by the dispatcher: a log's handler may block, and may even send over this Client."""
    if instrumentation.is_logged(event):
        dispatcher.post(instrumentation.log_event, event)


def weakly(owner: Any, method: Callable[[Any], Any]) -> Callable[[], Any]:
    """Return ``method`` bound to ``owner`` weakly, for the parts of a Client, which must not keep it."""
    reference = weakref.ref(owner)

    def call() -> Any:
        found = reference()
        return None if found is None else method(found)

    return call


def start(driver: Driver, arguments: Arguments) -> None:
    """
    Dial, and wait for the welcome as ``arguments`` say.

    Raises:
        ConnectError: There was none in time; the cause is the last attempt's error.
    """
    performer, timeout = driver.performer, arguments.open_timeout
    session = performer.session
    deadline = None if timeout is None else performer.clock() + timeout

    def is_open(now: float) -> bool:
        if isinstance(session.error, ConnectError):
            raise session.error
        if performer.has_ended:
            cause = performer.failure or session.error or SessionClosed("the server ended the session at once")
            failed = ConnectError(f"no session was opened: {cause}")
            failed.retryable = getattr(cause, "retryable", False)
            raise failed from cause
        return session.welcomed_once

    driver.start()
    if arguments.wait and not driver.pump(is_open, deadline):
        last, count = session.last_error, len(session.endpoints(performer.clock()))
        why = session.waits_for if last is None else f"the last attempt: {last}"
        where = f"from {count} endpoint{'s' * (count != 1)} within open_timeout={timeout:g} s"
        raise ConnectTimeout(f"no welcome {where}; {why}") from last


def guarantee_of(can: Capabilities, *, has_journal: bool) -> str:
    """Say what a Client promises with a server that can do this, in a sentence."""
    inbound, outbound = "as they come; gaps cannot be seen", "at most once"
    if can.positions:
        inbound = (
            "in order per stream, exactly once in one life of this Client; "
            "at least once for the message in hand when the process dies"
        )
        if has_journal:
            inbound = "in order per stream, exactly once; at least once for the message in hand when the process dies"
    if can.acks:
        outbound = "in order per stream, exactly once while this Client lives"
        if has_journal:
            outbound = "in order per stream, exactly once, also over restarts and power losses of this machine"
    return f"Inbound: {inbound}. Outbound: {outbound}."
