"""Hand-over at a customer service account of WeCom: a wish, its notice, silence, and the bot's return."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from bot.app import App
from bot.config import Config, LoadedConfig, validate_plugin_config
from bot.connectors.wecom.kf_messages import KIND
from bot.loader import Loaded, Plugins
from bot.yaml_source import YamlSource
from plugins.handoff import switchboard
from plugins.handoff.plugin import plugin
from tests.bot.connectors.wecom.kf_platform import CUSTOMER, Stage, event, said, staged
from tests.bot.connectors.wecom.qyapi import KF, WAIT
from tests.plugins.handoff.desk import echo

NOTICE, ANSWER, TRANS = "kf/send_msg_on_event", "kf/send_msg", "kf/service_state/trans"
AGENT = "wmAgent"


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with staged() as stage:
        yield stage


@pytest.fixture
async def happen(stage: Stage) -> AsyncIterator[Callable[..., Awaitable[None]]]:
    """Lets things happen at the account of a running bot, and waits until all is done and sent."""
    data = {
        "store": {"url": "sqlite+aiosqlite:///:memory:"},  # the account keeps its cursors apart
        "plugins": {"handoff": {}, "echo": {}},
        "connectors": [],
        "roles": {"agents": [f"care:{AGENT}"]},
    }
    loaded = LoadedConfig(Config.model_validate(data), YamlSource(None))
    plugins = [
        Loaded(item, validate_plugin_config(item.config, loaded, item.name), "test")
        for item in (plugin, echo)
    ]
    kf = stage.build()
    app = App(loaded, connectors=[kf], plugins=Plugins(plugins), serve=False)
    await app.start()

    async def over() -> bool:
        pulled = await stage.cursors.get(KIND, KF) == str(len(stage.platform.kf_messages))
        return pulled and not app.dispatch.pending and not app.outbox.pending

    async def happen(*items: dict[str, Any]) -> None:
        stage.platform.say(*items)
        stage.wake(kf)
        async with asyncio.timeout(WAIT):
            while not await over():  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)

    yield happen
    await app.stop()


Happen = Callable[..., Awaitable[None]]


def shown(stage: Stage, method: str = ANSWER) -> list[str]:
    return [call["text"]["content"] for call in stage.platform.of(method)]


async def test_a_wish_brings_a_notice_by_code_and_silence_until_the_platform_says_that_people_are_done(
    stage: Stage, happen: Happen
) -> None:
    await happen(said("转人工"))
    assert stage.platform.kf_states[CUSTOMER] == 2
    [notice] = shown(stage, NOTICE)
    assert "正在为您转接" in notice
    await happen(said("在吗"), said("转人工"))
    assert shown(stage) == []
    stage.platform.kf_states[CUSTOMER] = 3
    await happen(event("session_status_change", change_type=1), said("您好"))
    assert shown(stage) == []
    stage.platform.kf_states[CUSTOMER] = 0
    await happen(event("session_status_change", change_type=3), said("几点关门"))
    assert shown(stage) == ["bot: 几点关门"]
    assert len(stage.platform.of(TRANS)) == len(shown(stage, NOTICE)) == 1


async def test_a_talk_that_people_took_by_themselves_is_theirs(stage: Stage, happen: Happen) -> None:
    stage.platform.kf_states[CUSTOMER] = 3
    await happen(event("session_status_change", change_type=1), said("您好"))
    assert shown(stage) == []


async def test_a_talk_that_ran_out_without_a_word_is_the_bots_again(
    stage: Stage, happen: Happen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switchboard, "ASK_EVERY", 0.0)
    await happen(said("转人工"))
    await happen(said("在吗"))
    assert shown(stage) == []
    stage.platform.kf_states[CUSTOMER] = 0
    await happen(said("几点关门"))
    assert shown(stage) == ["bot: 几点关门"]


async def test_staff_take_a_talk_back(stage: Stage, happen: Happen) -> None:
    await happen(said("转人工"))
    await happen(said("/release 1", AGENT))
    assert stage.platform.kf_states[CUSTOMER] == 1
    await happen(said("几点关门"))
    assert shown(stage) == ["#1 已交还给机器人。", "bot: 几点关门"]


async def test_a_customer_who_is_gone_is_struck_off(stage: Stage, happen: Happen) -> None:
    await happen(said("转人工"))
    stage.platform.refuse(TRANS, 84061)
    await happen(said("/release 1", AGENT))
    assert "#1 已从列表中移除" in shown(stage)[0]
