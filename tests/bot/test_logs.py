"""Logs: one format for both libraries, a trace id per message, and no secret anywhere."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from bot.config import Config, load_config
from bot.logs import Redactor, bind_trace, configure_logging, new_trace

TOKEN = "7712345678:AAHkzV1x-Ge_3kQm9fJ2bWq8sT4uYw6zXcD"
WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Output(io.StringIO):
    """A stream that can be read back line by line."""

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture
def output() -> Iterator[Output]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = Output()
    configure_logging(Config.model_validate({"log": {"format": "json"}}), stream)
    yield stream
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def test_both_libraries_log_alike(output: Output) -> None:
    structlog.get_logger("shop").warning("stock low", item="杯子", left=3)
    logging.getLogger("library").warning("disk at %d %%", 90)
    ours, theirs = output.events()
    assert (ours["event"], ours["item"], ours["left"]) == ("stock low", "杯子", 3)
    assert (theirs["event"], theirs["logger"]) == ("disk at 90 %", "library")
    assert ours.keys() >= theirs.keys() == {"event", "logger", "level", "timestamp"}


def test_the_level_applies_to_both_and_noisy_libraries_are_quieter(output: Output) -> None:
    structlog.get_logger("shop").debug("not shown")
    logging.getLogger("library").debug("not shown")
    logging.getLogger("apscheduler.scheduler").info("not shown")
    logging.getLogger("library").info("shown")
    assert [line["event"] for line in output.events()] == ["shown"]


def test_libraries_that_tell_what_people_wrote_stay_quiet_at_any_level(output: Output) -> None:
    configure_logging(Config.model_validate({"log": {"format": "json", "level": "debug"}}), output)
    for name in ("sqlalchemy.engine.Engine", "aiosqlite"):
        logging.getLogger(name).info("INSERT ... my password is hunter2")
    logging.getLogger("apscheduler").debug("shown")
    assert [line["event"] for line in output.events()] == ["shown"]


def test_configuring_again_replaces_the_output(output: Output) -> None:
    later = Output()
    configure_logging(Config.model_validate({"log": {"format": "json", "level": "error"}}), later)
    structlog.get_logger("shop").warning("not shown")
    structlog.get_logger("shop").error("shown")
    assert output.getvalue() == ""
    assert [line["event"] for line in later.events()] == ["shown"]


def test_the_console_format_is_one_readable_line() -> None:
    stream, root = Output(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        configure_logging(Config.model_validate({"log": {"format": "console"}}), stream)
        structlog.get_logger("shop").info("stock low", item="杯子")
    finally:
        root.handlers[:], root.level = handlers, level
        structlog.reset_defaults()
    (line,) = stream.getvalue().splitlines()
    assert "stock low" in line
    assert "item=杯子" in line


async def test_every_line_of_a_message_carries_its_trace(output: Output) -> None:
    async def handle(trace: str) -> None:
        with bind_trace(trace, connector="site"):
            await asyncio.sleep(0)
            logging.getLogger("library").info("inside")
            await asyncio.create_task(deeper())
        structlog.get_logger("shop").info("outside")

    async def deeper() -> None:
        structlog.get_logger("shop").info("deeper")

    traces = new_trace(), new_trace()
    await asyncio.gather(*map(handle, traces))
    lines = output.events()
    for trace in traces:
        assert [line["event"] for line in lines if line.get("trace") == trace] == ["inside", "deeper"]
    assert all("trace" not in line for line in lines if line["event"] == "outside")


def test_configured_secrets_never_reach_the_log(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        f"""
server: {{admin_token: admin-hunter22}}
store: {{url: "postgresql+asyncpg://bot:p%40ss-hunter22@db/bot"}}
model: {{backend: openai, base_url: "https://llm.test/v1", name: glm, api_key: sk-hunter22}}
log: {{format: json}}
connectors:
- {{type: telegram, name: a, token: "12:short", mode: webhook, public_url: "https://x.test/t",
    secret: tg-hunter22}}
- {{type: webhook, name: b, secret: [{WHSEC}]}}
"""
    )
    stream, root = Output(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    secrets = ["admin-hunter22", "p@ss-hunter22", "sk-hunter22", "12:short", "tg-hunter22", WHSEC, WHSEC[6:]]
    try:
        configure_logging(load_config(file).config, stream)
        for secret in secrets:
            log = structlog.get_logger("shop")
            log.info(
                f"event {secret}",
                text=f"a {secret} b",
                nested={"list": [secret], secret: 1},
                odd=Path(secret),
            )
            logging.getLogger("library").warning("got %s", secret)
            try:
                raise ValueError(secret)
            except ValueError:
                log.exception("failed")
                logging.getLogger("library").exception("failed")
    finally:
        root.handlers[:], root.level = handlers, level
        structlog.reset_defaults()
    lines = stream.getvalue()
    assert lines.count("Traceback") == 2 * len(secrets)
    for secret in (*secrets, "p%40ss-hunter22", "12%3Ashort"):
        assert secret not in lines


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"POST https://api.telegram.org/bot{TOKEN}/sendMessage", TOKEN),
        ("GET http://127.0.0.1:9930/bot1234:TEST/getUpdates", "1234:TEST"),
        ("GET https://api.telegram.org/file/bot1234:TEST/photo.jpg", "1234:TEST"),
        (f"token is {TOKEN}", TOKEN),
        (f"secret {WHSEC} given", WHSEC[6:]),
        ("Authorization: Bearer abc.def-ghi", "abc.def-ghi"),
        ("postgresql://bot:hunter22@db/bot", "hunter22"),
        ("https://qyapi.test/send?key=693a-91f6&x=1", "693a-91f6"),
        ("https://qyapi.test/gettoken?corpid=ww1&corpsecret=hunter22", "hunter22"),
        ("{'password': 'hunter22'}", "hunter22"),
        ('{"api_key": "hunter22"}', "hunter22"),
    ],
)
def test_known_forms_of_secrets_are_hidden(text: str, secret: str) -> None:
    hidden = Redactor().text(text)
    assert secret not in hidden
    assert "[hidden]" in hidden


@pytest.mark.parametrize(
    "key",
    ["token", "bot_token", "access-token", "Secret", "client_secret", "password", "api_key", "Authorization"],
)
def test_keys_named_like_secrets_are_hidden(key: str) -> None:
    line = Redactor()(None, "info", {"event": "x", key: "hunter22", "headers": {key: ["hunter22"]}})
    assert "hunter22" not in repr(line)


def test_what_is_no_secret_stays() -> None:
    line = {
        "event": "done",
        "tokens": 42,
        "token": None,
        "where": "a.py:12",
        "at": "12:30",
        "list": ["a", 1, 2.5],
    }
    assert Redactor(["abc"])(None, "info", dict(line)) == line


@given(st.text(min_size=4, max_size=30), st.text(max_size=20), st.text(max_size=20))
def test_a_registered_value_never_survives(secret: str, before: str, after: str) -> None:
    hidden = Redactor([secret]).text(f"{before}{secret}{after}").replace("[hidden]", "\0")
    assert secret in before + after or secret not in hidden


@pytest.mark.parametrize("text", ["\x1b[31mred", "a\rb", "\x9b2J", "bell\x07", "line\u2028break"])
def test_text_cannot_steer_the_terminal(text: str) -> None:
    assert Redactor().text(text).isprintable()


def test_personal_data_are_masked_but_not_where_they_name_somebody(output: Output) -> None:
    phone, card = "13812345678", "4111111111111111"
    known = {"user": phone, "chat": card, "message_id": card, "session": f"a:{phone}", "phones": [phone]}
    structlog.get_logger("shop").warning(
        f"call {phone}", text=[f"card {card}"], mail={"to": "li@b.cn"}, **known
    )
    logging.getLogger("library").warning("from %s", phone)
    ours, theirs = output.events()
    assert (ours["event"], ours["text"], ours["mail"]) == (
        "call 138****5678",
        ["card 4111********1111"],
        {"to": "l*@b.cn"},
    )
    assert {key: ours[key] for key in ("user", "chat", "message_id", "session")} == {
        key: known[key] for key in ("user", "chat", "message_id", "session")
    }
    assert ours["phones"] == ["138****5678"]
    assert theirs["event"] == "from 138****5678"


def test_personal_data_in_a_traceback_are_masked(output: Output) -> None:
    try:
        raise ValueError("no such number: 13812345678")
    except ValueError:
        structlog.get_logger("shop").exception("failed")
    assert "138****5678" in output.getvalue()
    assert "13812345678" not in output.getvalue()
