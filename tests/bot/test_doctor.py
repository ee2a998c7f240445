"""The doctor: what it finds on a healthy machine, and what it says about each thing that is wrong."""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from typer.testing import Result

from bot.config import load_config
from bot.doctor import Finding, examine, rehearse
from bot.retrieval import load_encoder
from bot.store import Store
from bot.store.migrations import upgrade

Glmbot = Callable[..., Result]
TOKEN = "123456:abcdefghijklmnopqrstuvwxyz0123456789"
QUIET = {
    name: {"enabled": False} for name in ("digest", "faq", "feedback", "handoff", "knowledge", "moderation")
}


class Encoder:
    """An encoder that costs nothing."""

    name = "tiny"
    dim = 2

    def encode(self, texts: Any) -> Any:
        import numpy as np

        return np.ones((len(texts), 2), np.float32)


@pytest.fixture(autouse=True)
def _light(fresh_logs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The true encoder is loaded by one test only."""
    monkeypatch.setattr("bot.doctor.load_encoder", lambda name: Encoder())


def write(folder: Path, **sections: Any) -> Path:
    file = folder / "config.yaml"
    defaults = {"server": {"port": 0}, "plugins": QUIET}
    file.write_text(yaml.safe_dump({**defaults, **sections}, allow_unicode=True), "utf-8")
    return file


async def findings(file: Path) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    async for finding in examine(file):
        assert finding.state == "ok" or finding.remedy, finding
        found.setdefault(finding.check, []).append(finding)
    return found


def states(found: dict[str, list[Finding]]) -> dict[str, list[str]]:
    return {check: [item.state for item in items] for check, items in found.items()}


# -- this machine -----------------------------------------------------------------------------


def test_a_healthy_machine_is_all_ok(glmbot: Glmbot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.doctor.load_encoder", load_encoder)
    glmbot("db", "upgrade")
    result = glmbot("doctor")
    assert result.exit_code == 0, result.output
    assert "0 failed, 0 warnings" in result.stdout
    for check in (
        "Python",
        "database",
        "disk",
        "schema",
        "plugins",
        "encoder",
        "model",
        "port",
        "webchat site",
    ):
        assert f"ok   {check}" in result.stdout


def test_a_wrong_configuration_is_all_that_is_told(glmbot: Glmbot, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("plugins:\n  faq: {treshold: 1}\n", "utf-8")
    result = glmbot("doctor")
    assert result.exit_code == 1
    assert f"{tmp_path / 'config.yaml'}:2: plugins.faq.treshold" in result.stdout
    assert "threshold" in result.stdout
    assert "database" not in result.stdout


async def test_a_database_that_is_not_there_yet_is_fine_and_stays_so(tmp_path: Path) -> None:
    found = await findings(write(tmp_path))
    assert states(found)["database"] == ["ok"]
    assert "schema" not in found
    assert not list(tmp_path.glob("*.db"))  # noqa: ASYNC240


async def test_a_file_that_is_no_database_fails(tmp_path: Path) -> None:
    (tmp_path / "glmbot.db").write_text("no database at all " * 100, "utf-8")
    found = await findings(write(tmp_path))
    assert states(found)["database"] == ["fail"]
    assert "not a database" in found["database"][0].detail


async def test_an_old_schema_is_a_warning_and_a_strange_one_fails(tmp_path: Path) -> None:
    file = tmp_path / "glmbot.db"
    with closing(sqlite3.connect(file)):
        pass
    config = write(tmp_path)
    file.touch()
    assert states(await findings(config))["schema"] == ["warn"]
    store = Store(f"sqlite+aiosqlite:///{file}")
    await upgrade(store)
    await store.close()
    assert states(await findings(config))["schema"] == ["ok"]
    with closing(sqlite3.connect(file)) as database:
        database.execute("UPDATE alembic_version SET version_num = 'core_9999'")
        database.commit()
    found = await findings(config)
    assert states(found)["schema"] == ["fail"]
    assert "core_9999" in found["schema"][0].detail


async def test_a_full_disk_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write(tmp_path)
    for free, state in ((50 << 20, "fail"), (500 << 20, "warn"), (5 << 30, "ok")):
        usage = type("Usage", (), {"free": free})
        monkeypatch.setattr("bot.doctor.shutil.disk_usage", lambda folder, usage=usage: usage)
        assert states(await findings(config))["disk"] == [state]


async def test_a_taken_port_fails_unless_glmbot_has_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        # It never answers: the listener's queue takes the connection, and the doctor must not wait for it.
        port = taken.getsockname()[1]
        asyncio.get_running_loop().call_later(0.5, taken.close)
        found = await findings(write(tmp_path, server={"port": port}))
    assert states(found)["port"] == ["fail"]
    assert str(port) in found["port"][0].detail

    async def alive(request: web.Request) -> web.Response:
        return web.Response(headers={"Server": "glmbot"})

    runner = await serve(web.get("/healthz", alive))
    found = await findings(write(tmp_path, server={"port": runner.addresses[0][1]}))
    await runner.cleanup()
    assert states(found)["port"] == ["ok"]
    assert "running glmbot" in found["port"][0].detail


# -- plugins and model ------------------------------------------------------------------------


async def test_plugins_that_are_off_fail_and_complaints_are_warnings(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "broken.py").write_text("import no_such_module\n", "utf-8")
    (folder / "sulky.py").write_text(
        "import structlog\nfrom bot import Plugin\nplugin = Plugin('sulky')\n"
        "@plugin.startup\ndef start():\n"
        "    structlog.get_logger().warning('no stock', plugin='sulky', problem='shelf is empty')\n",
        "utf-8",
    )
    found = (await findings(write(tmp_path, plugin_folders=["mine"])))["plugins"]
    assert [item.state for item in found] == ["ok", "fail", "warn"]
    assert "broken is off: ModuleNotFoundError" in found[1].detail
    assert found[2].detail == "sulky: no stock: shelf is empty"


async def test_a_faq_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("- {question: 运费}\n", "utf-8")
    plugins = {"faq": {"files": ["mine.yaml"]}, "knowledge": {"enabled": False}}
    found = (await findings(write(tmp_path, plugins=plugins)))["plugins"]
    assert "fail" in [item.state for item in found]
    assert any("mine.yaml" in item.detail for item in found)


async def test_a_rehearsal_leaves_the_database_alone(tmp_path: Path) -> None:
    rehearsal = await rehearse(load_config(write(tmp_path)))
    assert {"help", "chat"} <= {item.plugin.name for item in rehearsal.loaded}
    assert not rehearsal.failures
    assert not rehearsal.complaints
    assert os.listdir(tmp_path) == ["config.yaml"]


async def test_an_unknown_encoder_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.doctor.load_encoder", load_encoder)
    found = await findings(write(tmp_path, retrieval={"encoder": "word2vec"}))
    assert states(found)["encoder"] == ["fail"]


async def test_a_model_that_cannot_be_loaded_here_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights").mkdir()
    monkeypatch.setattr("bot.backend.entry_points", lambda group: [])
    found = await findings(write(tmp_path, model={"path": "weights"}))
    assert states(found)["model"] == ["fail"]


@pytest.mark.parametrize(
    ("entry", "state", "says"),
    [
        ({"state": "ok", "name": "chatglm-6b"}, "ok", "chatglm-6b"),
        ({"state": "loading"}, "warn", "loading"),
        ({"state": "failed", "problem": "is cut off"}, "fail", "is cut off"),
        ({"state": "extractive"}, "fail", "extractive"),
    ],
)
async def test_a_running_bots_model_is_not_loaded_again(
    tmp_path: Path, entry: dict[str, str], state: str, says: str
) -> None:
    async def alive(request: web.Request) -> web.Response:
        return web.json_response({"model": entry}, headers={"Server": "glmbot"})

    runner = await serve(web.get("/healthz", alive), web.get("/readyz", alive))
    port = runner.addresses[0][1]
    (tmp_path / "weights").mkdir()
    found = await findings(write(tmp_path, server={"port": port}, model={"path": "weights"}))
    await runner.cleanup()
    assert states(found)["model"] == [state]
    assert f"{says}, says the running glmbot" in found["model"][0].detail


# -- platforms --------------------------------------------------------------------------------

Serve = Callable[..., Awaitable[str]]


async def serve(*routes: web.RouteDef) -> web.AppRunner:
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner


@pytest.fixture
async def platform() -> AsyncIterator[Serve]:
    """A Bot API that knows one token; its clock is `ahead` seconds ahead."""
    runners: list[web.AppRunner] = []

    async def start(ahead: float = 0.0) -> str:
        async def get_me(request: web.Request) -> web.Response:
            if request.match_info["token"] != TOKEN:
                answer = {"ok": False, "error_code": 401, "description": "Unauthorized"}
                return web.json_response(answer, status=401)
            return web.json_response({"ok": True, "result": {"id": 1, "username": "shop_bot"}})

        async def root(request: web.Request) -> web.Response:
            return web.Response(headers={"Date": formatdate(time.time() + ahead, usegmt=True)})

        runners.append(await serve(web.post("/bot{token}/getMe", get_me), web.head("/", root)))
        return f"http://127.0.0.1:{runners[-1].addresses[0][1]}"

    yield start
    for runner in runners:
        await runner.cleanup()


def telegram(base: str, token: str = TOKEN) -> dict[str, str]:
    return {"type": "telegram", "name": "main", "token": token, "api_base": base}


async def test_telegram_is_asked_who_it_is(tmp_path: Path, platform: Serve) -> None:
    found = await findings(write(tmp_path, connectors=[telegram(await platform())]))
    assert states(found)["telegram main"] == states(found)["clock"] == ["ok"]
    assert found["telegram main"][0].detail.startswith("@shop_bot, getMe in ")


async def test_a_token_that_telegram_refuses_fails_and_is_not_shown(tmp_path: Path, platform: Serve) -> None:
    wrong = TOKEN.replace("abc", "xyz")
    found = await findings(write(tmp_path, connectors=[telegram(await platform(), wrong)]))
    [refused] = found["telegram main"]
    assert refused.state == "fail"
    assert "401" in refused.detail
    assert "BotFather" in refused.remedy
    assert "xyz" not in refused.detail


async def test_a_wrong_clock_is_noticed(tmp_path: Path, platform: Serve) -> None:
    for ahead, state in ((60.0, "warn"), (-3600.0, "fail")):
        found = await findings(write(tmp_path, connectors=[telegram(await platform(ahead))]))
        assert states(found)["clock"] == [state]
        assert ("behind" if ahead > 0 else "ahead of") in found["clock"][0].detail


async def test_platforms_out_of_reach_fail_and_missing_secrets_warn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_SET_ANYWHERE", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as gone:
        base = f"http://127.0.0.1:{gone.getsockname()[1]}"
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    webhook = {"type": "webhook", "name": "shop", "secret": secret}
    found = await findings(
        write(
            tmp_path,
            connectors=[
                telegram(base),
                {**webhook, "reply_url": f"{base}/in?token=very-private"},
                {**webhook, "name": "pull"},
                {**webhook, "name": "quiet", "secret": "${ENV:NOT_SET_ANYWHERE}"},
            ],
        )
    )
    assert states(found)["telegram main"] == states(found)["webhook shop"] == ["fail"]
    assert "very-private" not in found["webhook shop"][0].detail
    assert states(found)["webhook pull"] == ["ok"]
    assert states(found)["configuration"] == ["ok", "warn"]
    assert "webhook quiet" not in found
