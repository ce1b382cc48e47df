"""
The groups of settings that ``connect()`` takes, and what a dialect can do: frozen values, validated when made.

Durations are seconds, sizes bytes, and every bound is a pair (messages, bytes). Nothing here acts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import attrs
import tenacity

from resilient_ws.treatments import Treatment, treat_close, treat_status

if TYPE_CHECKING:
    import os


def _positive(instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
        raise ValueError(f"{type(instance).__name__}({attribute.name}={value!r}): must be a number above 0")


def _count(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{type(instance).__name__}({attribute.name}={value!r}): must be a whole number above 0")


def _positive_or_none(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None:
        _positive(instance, attribute, value)


def _not_negative(instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value >= 0:
        raise ValueError(f"{type(instance).__name__}({attribute.name}={value!r}): must be a number, 0 or above")


def _one_of(*allowed: str | bool | None) -> Any:
    def check(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if value not in allowed:
            raise ValueError(
                f"{type(instance).__name__}({attribute.name}={value!r}): must be one of {', '.join(map(repr, allowed))}"
            )

    return check


def _path_or_none(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is None or (isinstance(value, str) and value and "\0" not in value) or hasattr(value, "__fspath__"):
        return
    raise ValueError(f"{type(instance).__name__}({attribute.name}={value!r}): must be the path of a file, or None")


def _callable(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not callable(value):
        raise ValueError(f"{type(instance).__name__}({attribute.name}={value!r}): must be a function")


def _source_or_none(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not (value is None or isinstance(value, str) or callable(value)):
        name, given = type(instance).__name__, type(value).__name__
        raise ValueError(f"{name}({attribute.name}=): must be a URL, a function or None, not {given}")


def _names(value: Any) -> Any:
    return value if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__") else tuple(value)


def _all_str(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, tuple) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{type(instance).__name__}({attribute.name}={value!r}): must be a list of host names")


@attrs.frozen(kw_only=True)
class Budget:
    """
    How often one endpoint may be dialled, whatever happens there: a token bucket.

    So a server that accepts and drops everybody gets at most ``burst + t / refill`` attempts of one Client in any t
    seconds, 10 in 10 s by default. With several endpoints each has a budget of its own.

    Attributes:
        burst: Attempts that may follow each other without a pause.
        refill: Seconds until one more is allowed.
    """

    burst: int = attrs.field(default=5, validator=_count)
    refill: float = attrs.field(default=2.0, validator=_positive)


@attrs.frozen(kw_only=True)
class Retry:
    """
    When to try again.

    Attributes:
        wait: A tenacity wait object: the *ceiling* of the delay before attempt n; the delay is drawn uniformly from
            0 to it (full jitter). Default: 0.5 s doubling to 30 s.
        stop: A tenacity stop object over attempts and the seconds since the last stable time, or None: for ever.
        stable_after: Seconds that a connection must have been up, with one ack or answered ping in it, before the
            backoff starts anew.
        connect_timeout: Seconds for one attempt (name, TCP, TLS, upgrade, welcome); grows with the attempts to
            ``max_connect_timeout``.
        max_connect_timeout: Its ceiling.
        max_spread: Longest window in seconds over which the first attempt after a loss is spread on a server's advice.
        max_retry_after: So many seconds of a ``Retry-After``, or of ``retry_after=`` in a close reason, are waited for
            at most; 0: none.
        budget: How often one endpoint may be dialled; None: as often as the delays allow.
        on_close: What a close code and its reason ask for, in place of ``treat_close``; called in the middle of the
            session's work, so it must neither block nor use the Client. Call ``treat_close`` for the codes that are
            not yours: the session's own rules depend on them.
        on_status: The same for the HTTP status of an upgrade that was refused, in place of ``treat_status``.
    """

    wait: tenacity.wait.wait_base = attrs.field(factory=lambda: tenacity.wait_exponential(multiplier=0.5, max=30.0))
    stop: tenacity.stop.stop_base | None = None
    stable_after: float = attrs.field(default=30.0, validator=_not_negative)
    connect_timeout: float = attrs.field(default=10.0, validator=_positive)
    max_connect_timeout: float = attrs.field(default=60.0, validator=_positive)
    max_spread: float = attrs.field(default=30.0, validator=_not_negative)
    max_retry_after: float = attrs.field(default=60.0, validator=_not_negative)
    budget: Budget | None = attrs.field(
        factory=Budget, validator=attrs.validators.optional(attrs.validators.instance_of(Budget))
    )
    on_close: Callable[[int, str], Treatment] = attrs.field(default=treat_close, validator=_callable)
    on_status: Callable[[int], Treatment] = attrs.field(default=treat_status, validator=_callable)


@attrs.frozen(kw_only=True)
class Failover:
    """
    How another endpoint is reached.

    Attributes:
        stagger: Seconds after which the next address of a name, or the next endpoint, is dialled beside the one before
            it, which goes on; whoever is upgraded first is used. None: endpoints are dialled one after the other, and
            addresses after 0.25 s.
        eject_after: Consecutive failures after which an endpoint is left out for a while.
        ejection: Seconds of the first ejection; grows with each one.
        max_ejection: Its ceiling.
        affinity: Whether cookies that a balancer sets are sent back to it, so that a reconnect reaches the node that
            served before; they are forgotten where that node does not serve any more.
        standby: Whether a second connection stands by on another node, accepted and kept alive: when the first one
            dies the session goes on after one round trip. It costs the servers a connection more for each Client.
        discover: Who is asked for further endpoints: a URL (``https://``) that gives JSON, or a function that returns
            URLs, or (URLs, seconds that they are good for). Asked again before they are too old, and when all
            endpoints fail; what it said last goes on where it fails. None: nobody.
        trusted_hosts: Hosts that the URL of ``discover`` and servers may name besides those of ``urls``: a name or
            address, or ``*.domain`` for the names below a domain, with ``:port`` or without. Endpoints there are sent
            the access token.
    """

    stagger: float | None = attrs.field(default=0.25, validator=_positive_or_none)
    eject_after: int = attrs.field(default=3, validator=_positive)
    ejection: float = attrs.field(default=5.0, validator=_positive)
    max_ejection: float = attrs.field(default=60.0, validator=_positive)
    affinity: bool = attrs.field(default=True, validator=_one_of(True, False))
    standby: bool = attrs.field(default=False, validator=_one_of(True, False))
    discover: str | Callable[[], object] | None = attrs.field(default=None, validator=_source_or_none)
    trusted_hosts: tuple[str, ...] = attrs.field(default=(), converter=_names, validator=_all_str)


@attrs.frozen(kw_only=True)
class Keepalive:
    """
    When to ping and when to give a silent peer up.

    Attributes:
        interval: Seconds of silence before a ping; None: what the server's welcome says, else 20. What was sent and is
            not answered as soon as the round trip lets expect is asked about at once, 0.25 s after it at the earliest.
        timeout: Seconds without any frame, after a ping, until the connection counts as lost; None: as the measured
            round trip lets expect (RFC 6298), from ``min_timeout`` to what the welcome says, else 20.
        min_timeout: Floor of it: 1 s.
    """

    interval: float | None = attrs.field(default=None, validator=attrs.validators.optional(_positive))
    timeout: float | None = attrs.field(default=None, validator=attrs.validators.optional(_positive))
    min_timeout: float = attrs.field(default=1.0, validator=_positive)


@attrs.frozen(kw_only=True)
class Outbox:
    """
    Bounds of what is accepted from the application and not yet acked.

    Attributes:
        max_messages: At most this many messages.
        max_bytes: At most this many payload bytes (a single larger message is accepted only into an empty outbox).
        policy: What ``send()`` does when it is full: ``block`` (for ``send_timeout`` seconds, then OutboxFull),
            ``raise``, ``drop_oldest`` (those first that were never written to a connection) or ``drop_newest``; every
            drop is an event.
        send_timeout: Seconds that ``block`` waits.
        max_age: At most so many seconds may the oldest message wait for its ack; None: as long as it takes. Beyond it
            the outbox counts as full; with ``drop_oldest`` what is older is dropped, whether anything is sent or not.
        journal: A file that keeps what has no ack, how far each stream was handled, and the session over restarts and
            power losses; made where there is none. One Client at a time.
        sync: When a message is safe against a power loss: ``full``: before ``send()`` returns; ``normal``: within a
            second (against the end of the process: before ``send()`` returns). Positions: within a second with both.
        damaged: What happens to a journal that cannot be read whole: ``raise``: JournalCorrupt; ``recover``: what can
            be read goes on, what is missing is an event, and the damaged file is kept beside it.
        indefinite: What happens to unacked messages that the server may or may not have stored long ago (rule 11):
            ``resend`` (reported) or ``raise`` (their receipts fail).
    """

    max_messages: int = attrs.field(default=10_000, validator=_positive)
    max_bytes: int = attrs.field(default=64 << 20, validator=_positive)
    policy: Literal["block", "raise", "drop_oldest", "drop_newest"] = attrs.field(
        default="block", validator=_one_of("block", "raise", "drop_oldest", "drop_newest")
    )
    send_timeout: float = attrs.field(default=30.0, validator=_not_negative)
    max_age: float | None = attrs.field(default=None, validator=attrs.validators.optional(_positive))
    journal: str | os.PathLike[str] | None = attrs.field(default=None, validator=_path_or_none)
    sync: Literal["full", "normal"] = attrs.field(default="full", validator=_one_of("full", "normal"))
    damaged: Literal["raise", "recover"] = attrs.field(default="raise", validator=_one_of("raise", "recover"))
    indefinite: Literal["resend", "raise"] = attrs.field(default="resend", validator=_one_of("resend", "raise"))


@attrs.frozen(kw_only=True)
class Inbox:
    """
    Bounds of what is received and not yet taken by the application; the credit that the server gets equals them.

    Attributes:
        max_messages: At most this many messages.
        max_bytes: At most this many payload bytes; must be at least ``Wire.max_message``.
        ack: ``auto`` (when the same thread asks for its next message) or ``manual`` (``message.ack()``).
        max_deliveries: How often a message whose ``decoder`` fails is tried before it goes to ``dead_letter``.
        ack_delay: Seconds after which an unsent ack or credit is sent at the latest.
    """

    max_messages: int = attrs.field(default=1_024, validator=_positive)
    max_bytes: int = attrs.field(default=16 << 20, validator=_positive)
    ack: Literal["auto", "manual"] = attrs.field(default="auto", validator=_one_of("auto", "manual"))
    max_deliveries: int = attrs.field(default=3, validator=_positive)
    ack_delay: float = attrs.field(default=0.1, validator=_not_negative)


@attrs.frozen(kw_only=True)
class Wire:
    """
    What may cross the wire.

    Attributes:
        max_message: Largest message in bytes, both directions (the server's own limit may be lower).
        allow_plaintext: Permit ``ws://`` to other hosts than loopback.
        family: ``socket.AF_INET`` or ``AF_INET6`` to use one address family only, 0 for both.
        write_timeout: Seconds that written bytes may wait for the kernel before the connection counts as dead.
        compression: ``deflate`` offers permessage-deflate (RFC 7692) to the server, which may decline; None does not.
            Off by default: messages of one direction are compressed together, so whoever can have text of his own
            sent among them (a publisher, say) and sees how many bytes cross the wire can guess what else is in them,
            piece by piece, through TLS (CRIME). Switch it on where no message holds a secret that others than its
            readers must not learn. The protocol's own frames, tokens in them, go out uncompressed in any case.
            Costs about 300 KiB of memory for each connection, and time.
    """

    max_message: int = attrs.field(default=1 << 20, validator=_positive)
    allow_plaintext: bool = False
    family: int = 0
    write_timeout: float = attrs.field(default=20.0, validator=_positive)
    compression: Literal["deflate"] | None = attrs.field(default=None, validator=_one_of(None, "deflate"))


@attrs.frozen(kw_only=True)
class Capabilities:
    """
    What a dialect's protocol can do.

    Attributes:
        positions: Messages have offsets, so that gaps are seen.
        acks: The server confirms what was sent.
        credit: The client grants what may be sent to it.
        resume: A session goes on over another connection.
    """

    positions: bool
    acks: bool
    credit: bool
    resume: bool
