"""The WeCom family's entries in config.yaml, and what holds between connectors."""

from __future__ import annotations

import json
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from bot.config import LoadedConfig, load_config
from bot.errors import ConfigError

KEY = "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C"
APP = {
    "type": "wecom-app",
    "name": "desk",
    "corp_id": "ww1",
    "agent_id": 1000002,
    "secret": "s3cret-value",
    "token": "T0KEN",
    "aes_key": KEY,
}
AIBOT = {"type": "wecom-aibot", "name": "desk-bot", "token": "T0KEN", "aes_key": KEY, "robot_name": "RobotA"}
KF = {"type": "wecom-kf", "name": "care", "app": "desk", "kf_id": "wkTEST"}
ROBOT = {"type": "wecom-robot", "name": "ops", "key": "a-key-of-nobody"}


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def load_connectors(*connectors: dict[str, Any], **environ: str) -> LoadedConfig:
        file = tmp_path / "config.yaml"
        file.write_text(json.dumps({"connectors": connectors}), encoding="utf-8")
        return load_config(file, environ)

    return load_connectors


def test_the_whole_family_is_read(load: Any) -> None:
    app, aibot, kf, robot = load(APP, AIBOT, KF, ROBOT).config.connectors
    assert (app.api_base, app.reply, app.markdown) == ("https://qyapi.weixin.qq.com", "active", False)
    assert aibot.robot_name == "RobotA"
    assert (kf.app, kf.kf_id, kf.secret) == ("desk", "wkTEST", None)
    assert robot.key.get_secret_value() == "a-key-of-nobody"


@pytest.mark.parametrize("base", ["http://127.0.0.1:9911", "http://127.0.0.1:9911/cgi-bin/"])
def test_the_api_may_be_named_with_or_without_its_path(load: Any, base: str) -> None:
    assert load(APP | {"api_base": base}).config.connectors[0].api_base == "http://127.0.0.1:9911"


def test_callers_may_be_limited_to_networks(load: Any) -> None:
    app = load(APP | {"callback_ips": ["203.0.113.7", "2001:db8::/32"]}).config.connectors[0]
    assert app.callback_ips == (ip_network("203.0.113.7/32"), ip_network("2001:db8::/32"))


def test_an_account_takes_from_its_application_what_it_does_not_have(load: Any) -> None:
    app, kf = load(APP, KF | {"secret": "its own"}).config.connectors
    whole = kf.completed(app)
    assert (whole.corp_id, whole.secret.get_secret_value(), whole.api_base) == (
        "ww1",
        "its own",
        app.api_base,
    )
    assert (whole.token, whole.aes_key) == (None, None)


def test_an_account_can_stand_alone(load: Any) -> None:
    kf = load(
        {"type": "wecom-kf", "name": "care", "kf_id": "wk", "corp_id": "ww1", "secret": "s"}
        | {"token": "t", "aes_key": KEY}
    ).config.connectors[0]
    assert kf.completed(None).api_base == "https://qyapi.weixin.qq.com"


@pytest.mark.parametrize(
    ("connectors", "key", "says"),
    [
        ([APP | {"corp_id": "w w"}], "connectors[0].corp_id", "企业ID"),
        ([APP | {"aes_key": "short"}], "connectors[0].aes_key", "43"),
        ([APP | {"secret": ""}], "connectors[0].secret", "empty"),
        ([APP | {"agent_id": "desk"}], "connectors[0].agent_id", "number"),
        ([APP | {"callback_ips": ["here"]}], "connectors[0].callback_ips[0]", "network"),
        ([APP | {"reply": "later"}], "connectors[0].reply", "passive"),
        ([APP | {"api_base": "http://example.com"}], "connectors[0].api_base", "loopback"),
        ([APP | {"agnt_id": 1}], "connectors[0].agnt_id", "agent_id"),
        ([APP, APP | {"name": "other"}], "connectors[1].agent_id", "one bot"),
        ([APP, KF, KF | {"name": "other"}], "connectors[2].kf_id", "one bot"),
        ([ROBOT, ROBOT | {"name": "other"}], "connectors[1].key", "one bot"),
        ([APP, KF | {"app": "dsk"}], "connectors[1].app", "'desk'"),
        ([KF], "connectors[0].app", "no wecom-app"),
        ([{"type": "wecom-kf", "name": "k", "kf_id": "wk"}], "connectors[0]", "corp_id"),
        ([APP, KF | {"token": "t"}], "connectors[1]", "aes_key"),
        ([APP, KF | {"callback_ips": ["203.0.113.7"]}], "connectors[1]", "at the app"),
        ([APP, KF | {"corp_id": "ww2"}], "connectors[1].corp_id", "another corp"),
        ([APP, KF | {"secret": None}], "connectors[1].secret", "empty"),
    ],
)
def test_what_cannot_work_is_refused(
    load: Any, connectors: list[dict[str, Any]], key: str, says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(*connectors)
    assert caught.value.key == key
    assert says in str(caught.value)


def test_several_applications_and_corps_live_side_by_side(load: Any) -> None:
    others = APP | {"name": "sales", "agent_id": 1000003}, APP | {"name": "branch", "corp_id": "ww2"}
    assert len(load(APP, *others).config.connectors) == 3


def test_an_account_is_off_with_its_application(load: Any) -> None:
    loaded = load(APP | {"secret": "${ENV:GONE}"}, KF, ROBOT)
    assert [item.name for item in loaded.config.connectors] == ["ops"]
    assert [("GONE" in warning, "is off" in warning) for warning in loaded.warnings] == [(True, True)] * 2


def test_secrets_of_the_family_never_show(load: Any) -> None:
    shown = repr(load(APP, AIBOT, KF, ROBOT).config)
    for secret in ("s3cret-value", KEY, "T0KEN", "a-key-of-nobody"):
        assert secret not in shown
