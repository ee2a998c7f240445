"""What a group robot sends, within its limit and in forms that WeCom shows."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from structlog.testing import capture_logs

from bot.compose import compose
from bot.config_connectors import WecomRobotSettings
from bot.connectors.base import Connector
from bot.connectors.wecom.api import Http, QyApi
from bot.connectors.wecom.robot import MAX_IMAGE, Robot
from bot.errors import MAY_HAVE_ARRIVED, ConnectorError, Undeliverable
from bot.metrics import Metrics
from bot.reply import Attachment, Outgoing, Reply, Target
from tests.bot.connectors.wecom.qyapi import KEY, Call, FakeQyApi, Refusal

TARGET = Target("wecom-robot", "alarm", "group")
PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"
AMR = b"#!AMR\nsound"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def robot(http: Http, api_base: str, metrics: Metrics) -> Robot:
    settings = WecomRobotSettings.model_validate({"name": "alarm", "key": KEY, "api_base": api_base})
    return Robot(settings, api=QyApi(http, api_base), metrics=metrics)


def part(text: str = "在的", key: str = "k", **more: Any) -> Outgoing:
    return Outgoing(TARGET, text, key, **more)


async def send(robot: Robot, reply: Reply) -> None:
    for outgoing in compose(reply, robot.capabilities, TARGET, None, "k"):
        assert await robot.send(outgoing) is None


async def test_text_goes_as_text(robot: Robot, qyapi: FakeQyApi) -> None:
    connector: Connector = robot
    await connector.send(part("**在的**"))
    [call] = qyapi.calls
    assert (call.method, call.query) == ("webhook/send", {"key": KEY})
    assert call.payload == {"msgtype": "text", "text": {"content": "**在的**"}}


async def test_markdown_goes_as_markdown_v2(robot: Robot, qyapi: FakeQyApi) -> None:
    await robot.send(part("| a |\n|---|\n| **b** |", markdown=True))
    assert qyapi.of("webhook/send") == [
        {"msgtype": "markdown_v2", "markdown_v2": {"content": "| a |\n|---|\n| **b** |"}}
    ]


async def test_markdown_that_is_refused_goes_as_plain_text(robot: Robot, qyapi: FakeQyApi) -> None:
    qyapi.refuse("webhook/send", 40008)
    await robot.send(part("**在的**", markdown=True))
    assert qyapi.of("webhook/send")[1] == {"msgtype": "text", "text": {"content": "在的"}}


async def test_no_part_of_a_long_answer_is_cut_even_as_text(robot: Robot, qyapi: FakeQyApi) -> None:
    def without_markdown(call: Call) -> dict[str, Any]:
        if call.payload["msgtype"] != "text":
            raise Refusal(40008, "invalid message type")
        assert len(call.payload["text"]["content"].encode()) <= 2048
        return {}

    qyapi.answers["webhook/send"] = without_markdown
    await send(robot, Reply("- **满 99 元**包邮。\n" * 200, markdown=True))
    texts = [call["text"]["content"] for call in qyapi.of("webhook/send") if call["msgtype"] == "text"]
    assert "\n".join(texts) == "\n".join(["- 满 99 元包邮。"] * 200)


async def test_images_go_inline(robot: Robot, qyapi: FakeQyApi) -> None:
    await send(robot, Reply("", attachments=(Attachment("image", "a.png", PNG),)))
    [sent] = qyapi.of("webhook/send")
    assert sent["msgtype"] == "image"
    assert base64.b64decode(sent["image"]["base64"]) == PNG
    assert sent["image"]["md5"] == hashlib.md5(PNG).hexdigest()


@pytest.mark.parametrize(
    ("item", "kind"),
    [
        (Attachment("file", "a.pdf", b"%PDF-1.7"), "file"),
        (Attachment("voice", "a.amr", AMR), "voice"),
        (Attachment("voice", "a.mp3", b"ID3 sound"), "file"),
        (Attachment("image", "a.gif", b"GIF89a..."), "file"),
        (Attachment("image", "a.png", PNG.ljust(MAX_IMAGE + 1)), "file"),
    ],
)
async def test_files_are_uploaded_with_the_key(
    robot: Robot, qyapi: FakeQyApi, item: Attachment, kind: str
) -> None:
    await send(robot, Reply("", attachments=(item,)))
    upload, message = qyapi.calls
    assert (upload.method, upload.query) == ("webhook/upload_media", {"key": KEY, "type": kind})
    assert qyapi.media == {"media-0": (item.name, item.data)}
    assert message.payload == {"msgtype": kind, kind: {"media_id": "media-0"}}


async def test_links_go_as_news(robot: Robot, qyapi: FakeQyApi) -> None:
    await send(
        robot, Reply("看这里", attachments=(Attachment("link", "说明", url="https://x.cn", text="新"),))
    )
    article = {"title": "说明", "description": "新", "url": "https://x.cn"}
    assert qyapi.of("webhook/send")[1] == {"msgtype": "news", "news": {"articles": [article]}}


async def test_a_file_that_is_refused_is_named(robot: Robot, qyapi: FakeQyApi) -> None:
    qyapi.refuse("webhook/upload_media", 45001)
    await send(robot, Reply("", attachments=(Attachment("file", "a.pdf", b"%PDF-1.7"),)))
    assert qyapi.of("webhook/send") == [{"msgtype": "text", "text": {"content": "[a.pdf]"}}]


async def test_the_21st_message_of_a_minute_waits_and_is_told_once(
    robot: Robot, qyapi: FakeQyApi, metrics: Metrics
) -> None:
    for number in range(20):
        await robot.send(part(key=f"k{number}"))
    with capture_logs() as logs:
        for _ in range(2):
            with pytest.raises(ConnectorError) as caught:
                await robot.send(part(key="late"))
    assert caught.value.retry_after is not None
    assert 50 < caught.value.retry_after <= 60
    assert len(qyapi.calls) == 20
    assert [entry["bot"] for entry in logs] == ["alarm"]
    assert metrics.registry.get_sample_value(
        "glmbot_sends_held_total", {"connector": "alarm", "reason": "robot"}
    ) == pytest.approx(1)


async def test_the_platforms_own_limit_is_waited_for(robot: Robot, qyapi: FakeQyApi) -> None:
    qyapi.refuse("webhook/send", 45009)
    with pytest.raises(ConnectorError) as caught:
        await robot.send(part(markdown=True))
    assert caught.value.retry_after == pytest.approx(60)
    assert len(qyapi.calls) == 1


async def test_a_dead_key_waits_for_the_operator(http: Http, api_base: str, qyapi: FakeQyApi) -> None:
    settings = WecomRobotSettings.model_validate({"name": "alarm", "key": "dead-key", "api_base": api_base})
    robot = Robot(settings, api=QyApi(http, api_base), metrics=Metrics())
    await robot.start(inlet=None)  # type: ignore[arg-type] - a robot receives nothing
    with pytest.raises(ConnectorError) as caught:
        await robot.send(part())
    assert not isinstance(caught.value, Undeliverable)
    assert robot.status.state == "retrying"
    assert "93000" in robot.status.detail
    assert "dead-key" not in robot.status.detail + str(caught.value)


async def test_the_status_is_ok_again_after_a_success(robot: Robot, qyapi: FakeQyApi) -> None:
    await robot.start(inlet=None)  # type: ignore[arg-type] - a robot receives nothing
    qyapi.refuse("webhook/send", -1)
    with pytest.raises(ConnectorError):
        await robot.send(part())
    assert robot.status.state == "retrying"
    await robot.send(part())
    assert (robot.status.state, robot.status.detail) == ("ok", "")


async def test_what_will_never_be_taken_is_not_sent_again(robot: Robot, qyapi: FakeQyApi) -> None:
    qyapi.refuse("webhook/send", 85002)
    with pytest.raises(Undeliverable):
        await robot.send(part())


async def test_how_long_a_send_is_tried(robot: Robot, qyapi: FakeQyApi) -> None:
    qyapi.cut("webhook/send")
    with pytest.raises(ConnectorError) as caught:
        await robot.send(part())
    assert caught.value.patience == MAY_HAVE_ARRIVED
    qyapi.refuse("webhook/send", 999_999)
    with pytest.raises(ConnectorError) as caught:
        await robot.send(part())
    assert caught.value.patience == 600
