"""A bot while it starts: HTTP answers first, messages are put off until it is ready; and SIGHUP."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from bot import Plugin
from bot.app import App
from bot.config import Config, LoadedConfig, validate_plugin_config
from bot.loader import Loaded, Plugins
from bot.testing import FakeModel
from bot.yaml_source import YamlSource
from model.http.faces import mount
from model.types import ChatModel
from tests.e2e.platforms import SECRET, signed

BUILT_IN = ("faq", "knowledge", "help", "chat", "feedback", "handoff", "moderation", "digest")
WITHIN = 10.0
QUESTION = b'{"type": "message", "chat_id": "c", "user_id": "u", "text": "hello"}'


class SlowBackend:
    """A model that is loaded once `go` is set: then it is there, or `error` is raised."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()
        self.error: Exception | None = None

    def __call__(self, settings: Any) -> FakeModel:
        self.begun.set()
        assert self.go.wait(WITHIN)
        if self.error is not None:
            raise self.error
        return FakeModel(lambda question: [question])


@pytest.fixture
async def backend(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SlowBackend]:
    slow = SlowBackend()
    points = {
        "glmbot.models": [SimpleNamespace(name="local", load=lambda: slow)],
        "glmbot.faces": [SimpleNamespace(name="http", load=lambda: mount)],
    }
    monkeypatch.setattr("bot.backend.entry_points", lambda group: points[group])
    yield slow
    slow.go.set()


def build(folder: Path, plugin: Plugin, **sections: Any) -> App:
    data = {
        "server": {"port": 0},
        "store": {"url": f"sqlite+aiosqlite:///{folder / 'bot.db'}"},
        "plugins": {plugin.name: {}},
        "connectors": [{"type": "webhook", "name": "shop", "secret": SECRET}],
        **sections,
    }
    loaded = LoadedConfig(Config.model_validate(data), YamlSource(None))
    own = Loaded(plugin, validate_plugin_config(plugin.config, loaded, plugin.name), "test")
    return App(loaded, plugins=Plugins([own]))


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(WITHIN):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


class Client:
    """Asks a bot over HTTP."""

    def __init__(self, app: App, session: aiohttp.ClientSession) -> None:
        self._app = app
        self._session = session

    async def get(self, path: str) -> tuple[int, Any]:
        async with self._session.get(self._url(path)) as response:
            return response.status, await response.json()

    async def ask(self) -> tuple[int, Any, str | None]:
        headers = signed("msg_1", QUESTION)
        async with self._session.post(self._url("/webhook/shop"), data=QUESTION, headers=headers) as response:
            return response.status, await response.json(), response.headers.get("Retry-After")

    async def talk(self, key: str | None) -> tuple[int, Any, str | None]:
        """By the API of OpenAI."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        body = {"model": "weights", "messages": [{"role": "user", "content": "hello"}]}
        url = self._url("/v1/chat/completions")
        async with self._session.post(url, json=body, headers=headers) as response:
            return response.status, await response.json(), response.headers.get("Retry-After")

    def _url(self, path: str) -> str:
        assert self._app.server is not None
        return f"http://127.0.0.1:{self._app.server.port}{path}"


@asynccontextmanager
async def starting(app: App, backend: SlowBackend) -> AsyncIterator[tuple[Client, asyncio.Task[None]]]:
    """(a client, the start) of a bot whose model is being loaded; in the end it is stopped."""
    start = asyncio.create_task(app.start())
    async with aiohttp.ClientSession() as session:
        try:
            await until(backend.begun.is_set)
            yield Client(app, session), start
        finally:
            backend.go.set()
            await asyncio.gather(start, return_exceptions=True)
            await app.stop()


async def test_http_answers_while_the_model_loads_and_messages_are_put_off(
    tmp_path: Path, backend: SlowBackend
) -> None:
    plugin, given = Plugin("own"), []
    plugin.startup(_asking_for_the_model(given))
    plugin.message()(lambda: "hi")
    app = build(tmp_path, plugin, model={"path": str(tmp_path)})
    async with starting(app, backend) as (client, start):
        assert (await client.get("/healthz"))[0] == 200
        status, report = await client.get("/readyz")
        assert status == 503
        assert (report["ready"], report["state"]) == (False, "starting")
        assert report["store"] == {"state": "ok", "unanswered": 0}
        assert report["model"] == {"state": "loading"}
        assert report["connectors"]["shop"]["state"] == "starting"
        assert report["plugins"] == {"own": {"state": "starting"}}
        status, _, retry_after = await client.ask()
        assert (status, retry_after) == (503, "5")
        assert not given

        backend.go.set()
        await start
        assert given == [app.model]
        status, report = await client.get("/readyz")
        assert status == 200
        assert report["model"] == {"state": "ok", "name": "fake"}
        assert report["plugins"] == {"own": {"state": "ok"}}
        status, answer, _ = await client.ask()
        assert (status, [reply["text"] for reply in answer["replies"]]) == (200, ["hi"])


def _asking_for_the_model(given: list[ChatModel]) -> Callable[[ChatModel], None]:
    def start(model: ChatModel) -> None:
        given.append(model)

    return start


async def test_a_model_that_fails_after_a_while_leaves_a_bot_that_is_ready(
    tmp_path: Path, backend: SlowBackend
) -> None:
    backend.error = RuntimeError("no memory")
    app = build(tmp_path, Plugin("own"), model={"path": str(tmp_path)})
    async with starting(app, backend) as (client, start):
        assert (await client.get("/readyz"))[1]["model"] == {"state": "loading"}
        backend.go.set()
        await start
        status, report = await client.get("/readyz")
        assert status == 200
        assert report["model"] == {"state": "failed", "problem": "RuntimeError"}


async def test_a_start_that_is_given_up_does_not_wait_for_the_model(
    tmp_path: Path, backend: SlowBackend
) -> None:
    app = build(tmp_path, Plugin("own"), model={"path": str(tmp_path)})
    async with starting(app, backend) as (client, start):
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert not backend.go.is_set()
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.get("/healthz")
    assert not (tmp_path / "bot.db-wal").exists()  # the last connection is closed


async def test_a_reloaded_plugin_begins_with_work_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "from bot import Background, Plugin\n"
        "plugin = Plugin('shop')\n"
        "@plugin.startup\n"
        "def start(background: Background) -> None:\n"
        "    background.check()\n",
        "utf-8",
    )
    quiet = {name: {"enabled": False} for name in BUILT_IN}
    app = build(tmp_path, Plugin("own"), plugins=quiet, plugin_folders=[str(tmp_path)])
    try:
        await app.start()
        for _ in range(2):
            await app.reload()
        assert "shop" in [item.plugin.name for item in app.program.loaded]
        assert "shop" not in [item.name for item in app.program.failures]
    finally:
        await app.stop()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
async def test_every_hangup_reloads_once_and_none_before_the_bot_is_ready(
    tmp_path: Path, backend: SlowBackend
) -> None:
    (tmp_path / "shop.py").write_text("from bot import Plugin\nplugin = Plugin('shop')\n", "utf-8")
    quiet = {name: {"enabled": False} for name in BUILT_IN}
    app = build(
        tmp_path,
        Plugin("own"),
        model={"path": str(tmp_path)},
        plugins=quiet,
        plugin_folders=[str(tmp_path)],
    )
    with capture_logs() as logs:

        def count(event: str) -> int:
            return sum(entry["event"] == event for entry in logs)

        running = asyncio.create_task(app.run())
        await until(backend.begun.is_set)
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: count("reload ignored: the bot is starting or stopping"))
        backend.go.set()
        await until(lambda: app.ready)
        assert count("plugins reloaded") == 0
        kept = len(app._tasks)
        for reloads in (1, 2):
            os.kill(os.getpid(), signal.SIGHUP)
            await until(lambda expected=reloads: count("plugins reloaded") == expected)
            await asyncio.sleep(0)
        assert [item.plugin.name for item in app.program.loaded] == ["shop"]
        assert len(app._tasks) == kept
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(running, WITHIN)
        assert count("plugins reloaded") == 2


async def test_the_models_api_is_there_with_keys_and_busy_until_the_model_is(
    tmp_path: Path, backend: SlowBackend
) -> None:
    (tmp_path / "weights").mkdir()
    model = {"path": str(tmp_path / "weights"), "api": {"keys": ["sk-test"]}}
    async with starting(build(tmp_path, Plugin("mine"), model=model), backend) as (client, start):
        assert (await client.talk(None))[0] == 401
        status, body, after = await client.talk("sk-test")
        assert (status, after) == (429, "10")
        assert {"message", "type", "param", "code"} <= set(body["error"])
        backend.go.set()
        await start
        status, body, _ = await client.talk("sk-test")
        assert status == 200
        assert body["choices"][0]["message"]["content"] == "hello"


async def test_without_keys_there_is_no_api(tmp_path: Path, backend: SlowBackend) -> None:
    (tmp_path / "weights").mkdir()
    app = build(tmp_path, Plugin("mine"), model={"path": str(tmp_path / "weights")})
    async with starting(app, backend) as (client, _):
        assert (await client.talk("sk-test"))[0] == 404


async def test_a_model_that_cannot_be_loaded_is_an_error_of_the_api(
    tmp_path: Path, backend: SlowBackend
) -> None:
    (tmp_path / "weights").mkdir()
    backend.error = RuntimeError("broken")
    model = {"path": str(tmp_path / "weights"), "api": {"keys": ["sk-test"]}}
    async with starting(build(tmp_path, Plugin("mine"), model=model), backend) as (client, start):
        backend.go.set()
        await start
        status, body, _ = await client.talk("sk-test")
        assert status == 500
        assert "no model" in body["error"]["message"]
