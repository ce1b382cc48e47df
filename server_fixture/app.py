"""
What a node answers over HTTP: the upgrade to ``resilient.v1``, its health, the nodes that live, and the server's own
publish API.

Here live requests and responses. What happens on a connection is in ``serving.py``; who may what is asked of the hooks
in :class:`Doors`, and decided nowhere here.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from urllib.parse import urlsplit

import attrs
from aiohttp import hdrs, web

from resilient_ws.dialects.native import Native, wire_limit
from resilient_ws.frames import STREAM_NAME
from server_fixture.access import PRINCIPAL, Authenticate, admitted
from server_fixture.backplane import BackplaneError, Entry, Publish, Published, is_private
from server_fixture.entering import Authorize
from server_fixture.host import Host
from server_fixture.serving import LINGER, Served
from server_fixture.session import ServerSession

RETRY_AFTER = "1"
"""Seconds after which another node, or this one, is worth a try."""


def anonymous(access_token: str | None) -> str | None:
    """Let everybody in as the same principal."""
    return "anonymous"


def everybody(principal: str, verb: str, stream: str) -> bool:
    """Let everybody do everything."""
    return True


@attrs.frozen(kw_only=True)
class Doors:
    """
    Who gets in, and who may what there.

    Attributes:
        authenticate: Says whose an access token is, and for how long.
        issue: Gives a principal an access token; None: nobody gets one here.
        authorize: Says what a principal may do.
        origins: Values of ``Origin`` that are let in beside the node's own; a request without one is no browser's.
    """

    authenticate: Authenticate = anonymous
    authorize: Authorize = everybody
    origins: tuple[str, ...] = ()
    issue: Callable[[str], dict[str, object]] | None = None


class Site:
    """
    The HTTP side of one node.

    Args:
        host: What the connections of this node share.
        doors: Who gets in.
        compresses: Whether permessage-deflate is agreed to where a client offers it. aiohttp then compresses every
            message that it sends, control frames of the protocol too, which the specification says it should not.
    """

    def __init__(self, host: Host, doors: Doors, *, compresses: bool = False) -> None:
        self._host = host
        self._compresses = compresses
        self._doors = doors
        self._dialect = Native()
        self._rng = random.SystemRandom()

    def application(self) -> web.Application:
        """Return what aiohttp serves."""
        app = web.Application(client_max_size=self._host.settings.max_message)
        app.on_response_prepare.append(self._name)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/endpoints", self._endpoints)
        app.router.add_post("/streams/{stream:.+}", self._publish)
        if self._doors.issue is not None:
            app.router.add_route("*", "/token", self._token)
        app.router.add_get("/{path:.*}", self._upgrade)
        return app

    async def _name(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers["Resilient-Node"] = self._host.settings.node

    def _unavailable(self) -> str | None:
        """Say why nobody is served here at present."""
        if self._host.is_draining:
            return "draining"
        return "the backplane does not answer" if self._host.is_store_silent else None

    async def _health(self, request: web.Request) -> web.StreamResponse:
        why = self._unavailable()
        state = {"node": self._host.settings.node, "status": why or "ok", "sessions": self._host.sessions}
        return web.json_response(state, status=200 if why is None else 503)

    async def _endpoints(self, request: web.Request) -> web.StreamResponse:
        """Say where the nodes are that live; an upgrade is one at this path too."""
        if hdrs.UPGRADE in request.headers:
            return await self._upgrade(request)
        self._principal(request)
        host, now = self._host, self._host.clock()
        if not host.neighbours.is_informed(now):
            raise web.HTTPServiceUnavailable(
                text="the node does not know which others live, ask another\n", headers={"Retry-After": RETRY_AFTER}
            )
        nodes = host.neighbours.living(host.sessions, host.is_draining, now)
        found = [{"url": node.url, "name": node.name, "draining": node.is_draining} for node in nodes]
        return web.json_response({"endpoints": found, "ttl": host.neighbours.ttl})

    async def _token(self, request: web.Request) -> web.StreamResponse:
        """Give whoever asks an access token for the principal that he names: for tests."""
        assert self._doors.issue is not None  # else there is no route
        if hdrs.UPGRADE in request.headers:
            return await self._upgrade(request)
        if request.method not in ("GET", "POST"):
            raise web.HTTPMethodNotAllowed(request.method, ["GET", "POST"])
        principal = request.query.get("principal", "anonymous")
        if PRINCIPAL.match(principal) is None:
            raise web.HTTPBadRequest(text="a principal has 1 to 64 letters, digits, _, ~ or -\n")
        return web.json_response(self._doors.issue(principal), headers={"Cache-Control": "no-store"})

    def _principal(self, request: web.Request) -> str:
        """Say who asks; who is nobody gets no further."""
        return self._admitted(request)[0]

    def _admitted(self, request: web.Request) -> tuple[str, float | None]:
        scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        found = admitted(self._doors.authenticate(token.strip() if scheme.lower() == "bearer" else None))
        if found is None:
            raise web.HTTPUnauthorized(
                text="the access token is missing or refused\n", headers={"WWW-Authenticate": "Bearer"}
            )
        return found

    # -- the upgrade --------------------------------------------------------------------------------------------------

    async def _upgrade(self, request: web.Request) -> web.StreamResponse:
        why = self._unavailable()
        if why is not None:
            raise web.HTTPServiceUnavailable(text=f"{why}, try another node\n", headers={"Retry-After": RETRY_AFTER})
        self._check_upgrade(request)
        (principal, seconds), settings = self._admitted(request), self._host.settings
        socket = web.WebSocketResponse(
            protocols=(self._dialect.subprotocol,),
            timeout=LINGER,
            compress=self._compresses,
            # Well above what is stored: a message that is too large is rejected alone, the connection goes on.
            max_msg_size=max(4 * settings.max_message + (1 << 20), wire_limit(settings.max_message)),
        )
        await socket.prepare(request)
        transport = request.transport
        assert isinstance(transport, asyncio.Transport)
        session = ServerSession(settings, principal, self._doors.authorize, self._rng, self._host.clock())
        await Served(
            host=self._host,
            socket=socket,
            transport=transport,
            session=session,
            codec=self._dialect.server(),
            reauthenticate=self._doors.authenticate,
            principal=principal,
            seconds=seconds,
        ).run()
        return socket

    def _check_upgrade(self, request: web.Request) -> None:
        if request.headers.get(hdrs.UPGRADE, "").lower() != "websocket":
            raise web.HTTPUpgradeRequired(
                text=f"this is a WebSocket endpoint, subprotocol {self._dialect.subprotocol}\n",
                headers={"Upgrade": "websocket"},
            )
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and origin not in self._doors.origins and urlsplit(origin).netloc != request.host:
            raise web.HTTPForbidden(text="this origin is not let in\n")
        offered = ",".join(request.headers.getall(hdrs.SEC_WEBSOCKET_PROTOCOL, []))
        if self._dialect.subprotocol not in [name.strip() for name in offered.split(",")]:
            raise web.HTTPBadRequest(text=f"offer the subprotocol {self._dialect.subprotocol}\n")

    # -- the server's own publish API ---------------------------------------------------------------------------------

    async def _publish(self, request: web.Request) -> web.StreamResponse:
        """Append the body to a stream; a text content type makes it a text message."""
        principal, stream = self._principal(request), request.match_info["stream"]
        if STREAM_NAME.match(stream) is None or stream == "~":
            raise web.HTTPBadRequest(text="this is no name of a stream\n")
        if not self._doors.authorize(principal, "publish", stream):
            raise web.HTTPForbidden(text="the principal may not publish on this stream\n")
        entry = Entry(payload=await request.read(), text=request.content_type.startswith("text/"))
        if entry.text and not _is_utf8(entry.payload):
            raise web.HTTPBadRequest(text="the body of a text message is not UTF-8\n")
        answer = await self._host.ask(Publish(stream=stream, entries=(entry,)))
        if isinstance(answer, Published):
            return web.json_response({"epoch": answer.epoch, "offset": answer.last})
        if isinstance(answer, BackplaneError):
            raise web.HTTPServiceUnavailable(
                text="the outcome is unknown: the message may have been appended\n",
                headers={"Retry-After": RETRY_AFTER},
            )
        what = "the session of this private stream is gone" if is_private(stream) else "nothing can be appended to it"
        raise web.HTTPNotFound(text=f"{what}\n")


def _is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True
