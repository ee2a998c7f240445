"""The HTTP server: the connectors' routes, /healthz, /readyz and /metrics."""

from __future__ import annotations

import errno
import hmac
import ipaddress
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import uuid4

import structlog
from aiohttp import web

from bot.config import ServerSettings
from bot.connectors.base import Connector
from bot.errors import ConfigError
from bot.metrics import Metrics

Health = Callable[[], Awaitable[tuple[bool, dict[str, Any]]]]
"""Whether the bot is fit to serve, and one entry for each thing that matters."""

log = structlog.get_logger(__name__)
KEEP_ALIVE = 75.0
SHUTDOWN_WITHIN = 1.0
_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")


class Server:
    """Listens from `start` to `stop`; `port` is the one it got."""

    def __init__(
        self,
        settings: ServerSettings,
        connectors: Sequence[Connector],
        health: Health,
        metrics: Metrics,
        routes: Sequence[web.RouteDef] = (),
    ) -> None:
        """routes: of the model's API, who knows them by itself."""
        self.port = settings.port
        self._settings = settings
        self._health = health
        self._metrics = metrics
        app = web.Application(middlewares=[_errors], client_max_size=settings.max_body)
        app.on_response_prepare.append(_headers)
        app.router.add_get("/healthz", self._alive)
        app.router.add_get("/readyz", self._ready)
        app.router.add_get("/metrics", self._exposition)
        for connector in connectors:
            app.router.add_routes(connector.routes())
        app.router.add_routes(routes)
        # A signature covers the bytes that were sent: bodies are not unpacked.
        self._runner = web.AppRunner(
            app,
            logger=_ProtocolLog(logging.getLogger(__name__)),
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=KEEP_ALIVE,
            shutdown_timeout=SHUTDOWN_WITHIN,
        )

    async def start(self) -> None:
        """Begin to listen. Raises ConfigError where the address cannot be had."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._settings.host, self._settings.port, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise self._unusable(error) from error
        self.port = self._runner.addresses[0][1]
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        log.info("listening", url=f"http://{host}:{self.port}/")

    async def stop(self) -> None:
        """Stop listening and end what is still open, streams included, within a few seconds."""
        await self._runner.cleanup()

    def _unusable(self, error: OSError) -> ConfigError:
        host, port = self._settings.host, self._settings.port
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            return ConfigError(
                f"this machine has no address {host!r}",
                key="server.host",
                remedy="use 127.0.0.1, 0.0.0.0 or one of its own addresses",
            )
        if error.errno == errno.EADDRINUSE:
            problem = f"port {port} is in use"
        elif error.errno == errno.EACCES:
            problem = f"port {port} needs more rights"
        else:
            problem = f"cannot listen on port {port}: {error.strerror}"
        return ConfigError(problem, key="server.port", remedy="choose another one, or stop what uses it")

    # -- routes -----------------------------------------------------------------------------

    async def _alive(self, request: web.Request) -> web.Response:
        return _json(200, {"status": "alive"})

    async def _ready(self, request: web.Request) -> web.Response:
        ready, entries = await self._health()
        return _json(200 if ready else 503, {"ready": ready, **entries})

    async def _exposition(self, request: web.Request) -> web.Response:
        self._admit(request)
        body, content_type = self._metrics.exposition(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    def _admit(self, request: web.Request) -> None:
        """Let the operator through: by the token, or without one from this machine only."""
        token = self._settings.admin_token
        if token is None:
            if not _is_local(request):
                raise web.HTTPForbidden(reason="Only from this machine while server.admin_token is not set")
            return
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        right = hmac.compare_digest(
            given.strip().encode("utf-8", "surrogateescape"), token.get_secret_value().encode()
        )
        if scheme.lower() != "bearer" or not right:
            raise web.HTTPUnauthorized(headers={"WWW-Authenticate": "Bearer"})


def _is_local(request: web.Request) -> bool:
    """Whether the request was made on this machine; what a proxy passed on was not, whatever it claims."""
    if any(name in request.headers for name in _FORWARDED):
        return False
    try:
        address = ipaddress.ip_address((request.remote or "").partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Errors are JSON; an unforeseen one is logged in full, and the client gets the id to ask about."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400 or error.content_type == "application/json":
            raise
        kept = {name: error.headers[name] for name in ("Allow", "WWW-Authenticate") if name in error.headers}
        return _json(error.status, {"error": error.reason}, kept)
    except ConnectionError:
        return _json(400, {"error": "the client left"})  # nobody hears it
    except Exception:
        error_id = uuid4().hex[:16]
        log.exception("request failed", error_id=error_id, method=request.method, path=request.path)
        return _json(500, {"error": "Internal Server Error", "id": error_id})


class _ProtocolLog(logging.LoggerAdapter[logging.Logger]):
    """What aiohttp has to say: since `_errors` logs ours, only clients that do not speak HTTP are left."""

    def exception(self, msg: object, *args: object, **kwargs: Any) -> None:
        """Anyone can provoke these: they must not fill the log."""
        self.debug(msg, *args, **kwargs)


async def _headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "glmbot"
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Cache-Control", "no-store")


def _json(status: int, value: object, headers: dict[str, str] | None = None) -> web.Response:
    text = json.dumps(value, ensure_ascii=False)
    return web.Response(text=text, status=status, content_type="application/json", headers=headers)
