"""
One server process: ``python -m server_fixture.node``, the reference server of ``resilient.v1``.

Here live its settings (flags, and variables of the environment), its start and its end. HTTP is in ``app.py``, what the
connections share in ``host.py``, one connection in ``serving.py``, the protocol in ``session.py``. Nothing is imported
here that needs the ``fixture`` extra before it is known to be there.

It prints ``READY {"port": ..., "url": ...}`` when it serves. SIGTERM drains it; SIGINT ends it at once.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import functools
import importlib
import logging
import os
import random
import re
import secrets
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from server_fixture.backplane import Backplane, BackplaneError
from server_fixture.entering import NodeSettings
from server_fixture.extra import require_or_exit
from server_fixture.leash import announce_ready, die_with_parent
from server_fixture.neighbours import ACCEPT_RATE, Neighbours

if TYPE_CHECKING:
    from aiohttp import web

    from server_fixture.app import Doors, Site

KEY = "RESILIENT_WS_TOKEN_KEY"
"""Secret under which resume tokens are made, in hex; all nodes of a cluster have the same."""
OLD_KEYS = "RESILIENT_WS_OLD_TOKEN_KEYS"
"""Secrets whose tokens are still good while keys are rotated, in hex, with commas between them."""
PREFIX = "RESILIENT_WS_NODE_"
"""Before the name of every flag, in the environment: RESILIENT_WS_NODE_TTL=30 is --ttl 30."""
BIND_TIMEOUT = 10.0
"""Seconds for which a port of a node that just died is waited for."""
MAX_RATE = 1_000_000
"""Most hellos per second that can be said of a node."""
MAX_WINDOW = 1e9
"""Most seconds that a frame can say."""
_NAME = re.compile(r"[!-~]{1,255}")
_URL = re.compile(r"wss?://[!-~]{1,2000}")

_log = logging.getLogger("server_fixture.node")


# -- settings ---------------------------------------------------------------------------------------------------------


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the flags; what is not given comes from the environment, then from the defaults."""
    parser = argparse.ArgumentParser(prog="python -m server_fixture.node", description=__doc__, allow_abbrev=False)
    add = functools.partial(_add, parser)
    add("name", "", _name, "its name; default: node-<port>")
    add("host", "127.0.0.1", str, "address to listen on")
    add("port", 0, int, "port to listen on; 0: any free one")
    add("backplane", "memory", str, "redis://, rediss:// or unix:// URL; or 'memory', for a single node without others")
    add("retention", 100_000, int, "messages that a stream keeps; the same for every node")
    add("step-timeout", 2.0, float, "seconds after which the outcome of a step at the backplane is unknown")
    add("ttl", 60.0, float, "seconds that a session outlives its last refresh")
    add("keepalive", 1.0, float, "seconds of silence after which a ping goes out, told to the clients")
    add("keepalive-timeout", 5.0, float, "further seconds of silence after which a peer is given up")
    add("hello-timeout", 10.0, float, "seconds from the connection to its hello, and from there to the welcome")
    add("poll", 5.0, float, "seconds between two looks at subscriptions that nothing woke")
    add("max-message", 1 << 20, int, "largest message in bytes; a larger one is rejected alone")
    add("producer-ttl", 7 * 86400.0, float, "seconds for which a producer is remembered at least")
    add("url", "", _url, "where clients reach it, told to the other nodes and by them; default: ws://<host>:<port>/")
    add("accept-rate", ACCEPT_RATE, _rate, "hellos per second that it can take, told to the other nodes")
    add("announce", 2.0, _interval, "seconds between two announcements to the other nodes, who wait for three")
    add("advertise", "off", _switch, "'on': tell clients the URLs of the other nodes that live")
    add("peers", "", str, "URLs of other nodes that are told in any case, with commas between them")
    add("spread", "", _window, "advised window in seconds for the first attempts after a loss; default: it is computed")
    add("drain", 10.0, float, "seconds that the clients get to leave after SIGTERM")
    add("origins", "", str, "origins that are let in beside the node's own, with commas between them")
    add("compression", "none", _compression, "'deflate': agree to permessage-deflate; compresses control frames too")
    add("access-ttl", 0.0, float, "seconds that access tokens of /token are good for, which are then checked; 0: none")
    add("authenticate", "", str, "module:function (access token or None) -> principal or None; default: 'anonymous'")
    add("authorize", "", str, "module:function (principal, verb, stream) -> bool; default: everybody may everything")
    return parser.parse_args(argv)


def _add(parser: argparse.ArgumentParser, flag: str, default: Any, kind: Any, what: str) -> None:
    variable = PREFIX + flag.upper().replace("-", "_")
    found = os.environ.get(variable, default)
    parser.add_argument(f"--{flag}", default=found, type=kind, help=f"{what} (default {default!r}, or ${variable})")


def _compression(written: str) -> str:
    return _one_of(written, "none", "deflate")


def _switch(written: str) -> str:
    return _one_of(written, "off", "on")


def _one_of(written: str, *choices: str) -> str:
    if written not in choices:
        raise argparse.ArgumentTypeError(f"{written!r} is neither {' nor '.join(map(repr, choices))}")
    return written


def _rate(written: str | int) -> int:
    rate = int(written)
    if not 1 <= rate <= MAX_RATE:
        raise argparse.ArgumentTypeError(f"{written!r} is no whole number from 1 to {MAX_RATE}")
    return rate


def _interval(written: str | float) -> float:
    seconds = float(written)
    if not 0.01 <= seconds <= 3600.0:
        raise argparse.ArgumentTypeError(f"{written!r} is not between 0.01 and 3600 seconds")
    return seconds


def _name(written: str) -> str:
    if written and _NAME.fullmatch(written) is None:
        raise argparse.ArgumentTypeError(f"{written!r} is not 1 to 255 visible ASCII characters")
    return written


def _window(written: str) -> str:
    if written and not 0.0 <= float(written) <= MAX_WINDOW:
        raise argparse.ArgumentTypeError(f"{written!r} is not between 0 and {MAX_WINDOW:g} seconds")
    return written


def _url(written: str) -> str:
    if written and _URL.fullmatch(written) is None:
        raise argparse.ArgumentTypeError(f"{written!r} is no URL that begins with ws:// or wss://")
    return written


def hook(named: str, default: Any) -> Any:
    """
    Find a hook.

    Args:
        named: ``module:function``, or empty.
        default: What is used then.

    Raises:
        SystemExit: There is no such function; the text says what was looked for.
    """
    if not named:
        return default
    module, _, function = named.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise SystemExit(f"the hook {named!r} cannot be found ({error}): name it as module:function") from None


def token_keys() -> tuple[bytes, tuple[bytes, ...]]:
    """
    Return the key of resume tokens and the ones before it; without one, a key of this process alone.

    Raises:
        SystemExit: A key is no hex or too short; it is not quoted.
    """
    try:
        keys = [bytes.fromhex(os.environ.pop(KEY, ""))]
        keys += [bytes.fromhex(key) for key in os.environ.pop(OLD_KEYS, "").split(",") if key]
    except ValueError:
        raise SystemExit(f"{KEY} or {OLD_KEYS} is no hexadecimal number") from None
    if not keys[0]:
        _log.warning("token_key_random: sessions cannot be resumed on other nodes, nor after a restart; set %s", KEY)
        keys[0] = secrets.token_bytes(32)
    if min(map(len, keys)) < 16:
        raise SystemExit(f"{KEY} and {OLD_KEYS} need at least 16 bytes (32 hexadecimal digits) each")
    return keys[0], tuple(keys[1:])


def settings_of(options: argparse.Namespace, name: str) -> NodeSettings:
    """Return what the protocol needs to know of this node."""
    key, old_keys = token_keys()
    return NodeSettings(
        node=name,
        key=key,
        old_keys=old_keys,
        ttl=options.ttl,
        hello_timeout=options.hello_timeout,
        keepalive_interval=options.keepalive,
        keepalive_timeout=options.keepalive_timeout,
        poll_interval=options.poll,
        max_message=options.max_message,
        producer_ttl=options.producer_ttl,
    )


def neighbours_of(options: argparse.Namespace, name: str, url: str) -> Neighbours:
    """
    Return what the node says of itself to the others, and what it tells of them to clients.

    Args:
        url: Where it listens; the flag counts where it is given.
    """
    return Neighbours(
        name=name,
        url=options.url or url,
        accept_rate=options.accept_rate,
        interval=options.announce,
        advertises=options.advertise == "on",
        peers=_listed(options.peers),
        spread=float(options.spread) if options.spread else None,
    )


def _listed(written: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in written.split(",") if part.strip())


def backplane_of(options: argparse.Namespace) -> Backplane:
    """Return the backplane that the flags name; nothing is connected yet."""
    if options.backplane == "memory":
        from server_fixture.backplane.local import LocalBackplane
        from server_fixture.backplane.memory import MemoryBackplane

        core = MemoryBackplane(
            random.SystemRandom(), retention=options.retention, producer_ttl=options.producer_ttl
        )
        return LocalBackplane(core, asyncio.get_running_loop().time)
    from server_fixture.backplane.redis import RedisBackplane

    return RedisBackplane(
        options.backplane,
        retention=options.retention,
        producer_ttl=options.producer_ttl,
        timeout=options.step_timeout,
    )


def doors_of(options: argparse.Namespace, settings: NodeSettings) -> Doors:
    """Return who gets in, and who may what."""
    from server_fixture.access import Gate
    from server_fixture.app import Doors, anonymous, everybody

    gate = Gate(keys=(settings.key, *settings.old_keys), ttl=options.access_ttl, wall=time.time)
    issues = options.access_ttl > 0
    return Doors(
        authenticate=hook(options.authenticate, gate.authenticate if issues else anonymous),
        authorize=hook(options.authorize, everybody),
        origins=_listed(options.origins),
        issue=gate.issue if issues else None,
    )


# -- the process ------------------------------------------------------------------------------------------------------


async def serve(options: argparse.Namespace) -> None:
    """Listen, say READY, serve until SIGTERM or SIGINT."""
    from server_fixture.app import Site
    from server_fixture.host import Host

    loop = asyncio.get_running_loop()
    asked: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.put_nowait, number)
    backplane = backplane_of(options)
    listener = await listen(options.host, options.port)
    port = listener.getsockname()[1]
    name = options.name or f"node-{port}"
    where = f"[{options.host}]" if ":" in options.host else options.host
    url = f"ws://{where}:{port}/"
    settings, neighbours = settings_of(options, name), neighbours_of(options, name, url)
    doors = doors_of(options, settings)
    host = Host(settings, neighbours, backplane, loop.time)
    await host.start()
    runner = await _open(Site(host, doors, compresses=options.compression == "deflate"), listener)
    announce_ready(port=port, url=url, name=name)
    if await asked.get() == signal.SIGTERM:
        draining = asyncio.create_task(host.drain(options.drain))
        await asyncio.wait((draining, asyncio.create_task(asked.get())), return_when=asyncio.FIRST_COMPLETED)
    await host.stop()
    await runner.cleanup()


async def listen(address: str, port: int) -> socket.socket:
    """
    Bind a port, and wait for one that is still taken: a client's own end may have got the number of a node that died.

    Raises:
        OSError: It cannot be bound.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    deadline = time.monotonic() + BIND_TIMEOUT
    while True:
        try:
            listener.bind((address, port))
            return listener
        except OSError as error:
            if error.errno != errno.EADDRINUSE or port == 0 or time.monotonic() > deadline:
                listener.close()
                raise
            await asyncio.sleep(0.05)


async def _open(site: Site, listener: socket.socket) -> web.AppRunner:
    from aiohttp import web

    runner = web.AppRunner(site.application(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.SockSite(runner, listener, backlog=1024).start()
    return runner


def main(argv: Sequence[str] | None = None) -> int:
    """Run one node until SIGTERM (drain) or SIGINT."""
    die_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    options = parse(argv)
    require_or_exit("aiohttp", "redis")
    try:
        asyncio.run(serve(options))
    except (BackplaneError, OSError) as error:
        print(f"the node cannot serve: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
