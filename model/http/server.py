"""`glmbot model serve`: a server with nothing but a model's faces, health and metrics."""

from __future__ import annotations

import asyncio
import errno
import gc
import ipaddress
import logging
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from model.http.errors import api_error, json_response
from model.http.faces import Faces
from model.http.keys import Keys
from model.types import ChatModel, ModelError

log = structlog.get_logger(__name__)
MAX_BODY = 1 << 20
"""Bytes of a request."""
KEEP_ALIVE = 75.0
SHUTDOWN_WITHIN = 2.0
"""Seconds that answers get to end when the server stops."""


class ModelServer:
    """Listens from `start` to `stop`; `port` is the one it got."""

    def __init__(
        self,
        faces: Faces,
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        collector: Collector | None = None,
        max_body: int = MAX_BODY,
    ) -> None:
        """collector: what /metrics tells; without one there is none. Raises ModelError as `check_host`."""
        check_host(host, faces.keys)
        self.host, self.port = host, port
        self._faces = faces
        self._registry = CollectorRegistry()
        if collector is not None:
            self._registry.register(collector)
        app = web.Application(middlewares=[_errors], client_max_size=max_body)
        app.on_response_prepare.append(_headers)
        app.router.add_routes(faces.routes())
        app.router.add_get("/healthz", self._alive)
        if collector is not None:
            app.router.add_get("/metrics", self._exposition)
        self._runner = web.AppRunner(
            app,
            logger=_ProtocolLog(logging.getLogger(__name__)),
            access_log=None,
            auto_decompress=False,
            handler_cancellation=True,
            keepalive_timeout=KEEP_ALIVE,
            shutdown_timeout=SHUTDOWN_WITHIN,
        )

    async def start(self) -> None:
        """Begin to listen. Raises ModelError where the address cannot be had."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self.host, self.port, backlog=1024).start()
        except OSError as error:
            await self._runner.cleanup()
            raise self._unusable(error) from error
        self.port = self._runner.addresses[0][1]

    @property
    def url(self) -> str:
        """Where it listens."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    async def stop(self) -> None:
        """Stop listening, and end what is still open."""
        await self._runner.cleanup()

    async def _alive(self, request: web.Request) -> web.StreamResponse:
        problem = self._faces.problem
        if problem:
            return json_response({"status": "failed", "problem": problem}, 503)
        return json_response({"status": "alive"})

    async def _exposition(self, request: web.Request) -> web.StreamResponse:
        self._faces.admit(request)
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})

    def _unusable(self, error: OSError) -> ModelError:
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            problem, remedy = f"this machine has no address {self.host!r}", "use 127.0.0.1 or 0.0.0.0"
        elif error.errno == errno.EADDRINUSE:
            problem, remedy = f"port {self.port} is in use", "choose another one, or stop what uses it"
        else:
            problem, remedy = f"cannot listen on port {self.port}: {error.strerror}", "choose another one"
        return ModelError(problem, remedy=remedy)


def check_host(host: str, keys: Keys) -> None:
    """Raise ModelError where others could reach the server and no key kept them out."""
    if not keys.required and not is_loopback(host):
        raise ModelError(
            f"on {host or 'all addresses'} anybody could use the model",
            remedy="create a key first (glmbot model key new NAME), or give one with --api-key",
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it; a name other than localhost may stand for anything."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def serve(server: ModelServer, model: ChatModel, *, stop: asyncio.Event | None = None) -> None:
    """Serve until SIGINT, SIGTERM or `stop`, then close the model. Raises ModelError."""
    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    with suppress(NotImplementedError):  # on Windows Ctrl-C is a KeyboardInterrupt
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
    try:
        await server.start()
        gc.collect()
        gc.freeze()  # else each full collection walks all of torch, and everybody waits a tenth of a second
        log.info("listening", url=f"{server.url}/v1")
        await stop.wait()
        log.info("stopping")
    finally:
        await server.stop()
        await model.close()


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Unknown paths and wrong methods get the same kind of body as all errors."""
    try:
        return await handler(request)
    except Exception as error:
        return api_error(error).response()


class _ProtocolLog(logging.LoggerAdapter[logging.Logger]):
    """What aiohttp has to say: since `_errors` logs ours, only clients that do not speak HTTP are left."""

    def exception(self, msg: object, *args: object, **kwargs: Any) -> None:
        """Anyone can provoke these: they must not fill the log."""
        self.debug(msg, *args, **kwargs)


async def _headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "glmbot"
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Cache-Control", "no-store")
