"""The configured model: loaded at the start, told about by the checks, never a reason not to start."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from structlog.testing import capture_logs
from typer.testing import Result

from bot import ConfigError, Plugin
from bot.doctor import examine
from bot.testing import BotTester, FakeModel
from model.types import ModelError
from plugins.chat.plugin import plugin as chat

Glmbot = Callable[..., Result]
QUIET = {"faq": {"enabled": False}, "knowledge": {"enabled": False}}
CORRUPT = ModelError("is cut off", file=Path("/srv/model.bin"), remedy="download it again")


class Installed:
    """The backend `local` as if another package had installed it."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.closed = 0

    def create(self, settings: Any) -> FakeModel:
        if self.error is not None:
            raise self.error
        model = FakeModel(lambda question: [f"{settings.path.name}: {question}"])
        model.close = self.close  # type: ignore[method-assign]
        return model

    def check(self, settings: Any) -> list[str]:
        if self.error is not None:
            raise self.error
        return [f"{settings.path.name} is slow"]

    async def close(self) -> None:
        self.closed += 1


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Installed:
    backend = Installed()
    module = ModuleType("some_backend")
    module.create, module.check = backend.create, backend.check  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "some_backend", module)
    point = EntryPoint("local", "some_backend:create", "glmbot.models")
    monkeypatch.setattr("bot.backend.entry_points", lambda group: [point])
    return backend


@pytest.fixture
def bot(bot_tester: BotTester, installed: Installed, tmp_path: Path) -> BotTester:
    return bot_tester.use(chat).configure(model={"path": str(tmp_path)})


def write(folder: Path, **model: Any) -> Path:
    file = folder / "config.yaml"
    sections = {"server": {"port": 0}, "plugins": QUIET, "model": {"path": ".", **model}}
    file.write_text(yaml.safe_dump(sections), "utf-8")
    return file


async def test_the_configured_model_answers(bot: BotTester, installed: Installed, tmp_path: Path) -> None:
    assert (await bot.private().say("hello")).text == f"{tmp_path.name}: hello"
    assert (await (await bot.app()).health())[1]["model"] == {"state": "ok", "name": "fake"}
    await bot.close()
    assert installed.closed == 1


@pytest.mark.parametrize(("slow", "hinted"), [(0.0, True), (60.0, False)])
async def test_a_model_that_loads_slowly_is_logged_with_what_helps(
    bot: BotTester, installed: Installed, monkeypatch: pytest.MonkeyPatch, slow: float, hinted: bool
) -> None:
    monkeypatch.setattr("bot.backend.SLOW_LOADING", slow)
    with capture_logs() as logs:
        await bot.app()
    [loaded] = [entry for entry in logs if entry["event"] == "model loaded"]
    assert loaded["name"] == "fake"
    assert 0 <= loaded["seconds"] < 10
    assert ("glmbot model convert" in loaded.get("hint", "")) is hinted


async def test_what_a_model_in_this_process_computes_with_is_told(
    bot: BotTester, installed: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeModel, "kernels", "by hand, 2 threads", raising=False)
    with capture_logs() as logs:
        app = await bot.app()
    [told] = [entry["kernels"] for entry in logs if entry["event"] == "model loaded"]
    assert told == "by hand, 2 threads"
    state = (await app.health())[1]["model"]
    assert state == {"state": "ok", "name": "fake", "kernels": "by hand, 2 threads"}


@pytest.mark.parametrize("error", [CORRUPT, RuntimeError("/srv/model.bin")])
async def test_a_model_that_cannot_be_loaded_leaves_extractive_answers(
    bot: BotTester, installed: Installed, error: Exception
) -> None:
    installed.error = error
    faq = Plugin("faq")
    faq.keyword("运费")(lambda: "满 99 元包邮")
    with capture_logs() as logs:
        user = bot.use(faq).private()
        assert (await user.say("运费")).text == "满 99 元包邮"
    ready, report = await (await bot.app()).health()
    assert ready
    problem = error.problem if isinstance(error, ModelError) else "RuntimeError"
    assert report["model"] == {"state": "failed", "problem": problem}
    assert "/srv" not in str(report)
    [complaint] = [entry for entry in logs if entry["log_level"] == "error"]
    assert complaint["key"] == "model.path"
    if isinstance(error, ModelError):
        assert complaint["problem"] == "/srv/model.bin: is cut off; download it again"


async def test_a_backend_that_is_not_installed_is_an_error_of_the_configuration(
    bot: BotTester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.backend.entry_points", lambda group: [])
    with pytest.raises(ConfigError, match="no model backend 'local'"):
        await bot.private().say("hello")


def test_the_check_of_the_configuration_tells_about_the_model(
    glmbot: Glmbot, installed: Installed, tmp_path: Path
) -> None:
    write(tmp_path)
    result = glmbot("config", "check")
    assert result.exit_code == 0, result.output
    assert f"notice: model.path: {tmp_path.name} is slow" in result.stderr
    installed.error = CORRUPT
    result = glmbot("config", "check")
    assert result.exit_code == 0
    assert "warning: model.path: answers will be extractive: /srv/model.bin: is cut off" in result.stderr


@pytest.mark.usefixtures("fresh_logs")
async def test_the_doctor_loads_the_model(
    installed: Installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = SimpleNamespace(name="none", encode=lambda texts: np.ones((len(texts), 2)))
    monkeypatch.setattr("bot.doctor.load_encoder", lambda name: encoder)

    async def findings() -> list[tuple[str, str, str]]:
        found = [item async for item in examine(write(tmp_path)) if item.check == "model"]
        return [(item.state, item.detail, item.remedy) for item in found]

    loaded, notice = await findings()
    assert loaded[0] == "ok"
    assert loaded[1].startswith("fake, loaded in")
    assert notice == ("ok", f"{tmp_path.name} is slow", "")
    assert installed.closed == 1
    installed.error = CORRUPT
    assert await findings() == [("fail", "/srv/model.bin: is cut off", "download it again")]
