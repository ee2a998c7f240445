"""The doctor's look at WeCom: what it says of secrets, applications, accounts, addresses and callbacks."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from typer.testing import Result

from bot.connectors.wecom.callback import Callback
from bot.connectors.wecom.crypto import Crypto
from bot.connectors.wecom.errcodes import explain
from bot.doctor import examine
from bot.doctor_wecom import network_of
from bot.findings import Finding
from tests.bot.connectors.wecom.qyapi import AGENT, CORP, KF, SECRET, FakeQyApi

pytestmark = pytest.mark.usefixtures("fresh_logs")
TOKEN, AES_KEY = "TOKEN-of-the-callback", "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C"
OTHER_KEY = "a" * 43
ROUTE = "/wecom-app/main"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[..., Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serves an application, or one handler for everything; gives its URL."""
    runners: list[web.AppRunner] = []

    async def start(what: web.Application | Handler) -> str:
        app = what if isinstance(what, web.Application) else web.Application()
        if app is not what:
            app.router.add_route("*", "/{path:.*}", what)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        runners.append(runner)
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
def api() -> FakeQyApi:
    """The platform, with one application and one account."""
    fake = FakeQyApi()
    fake.answers["agent/get"] = lambda call: {"agentid": AGENT, "name": "客服助手", "close": 0}
    account = {"open_kfid": KF, "name": "售后", "manage_privilege": True}
    fake.answers["kf/account/list"] = lambda call: {"account_list": [account]}
    return fake


@pytest.fixture
async def base(api: FakeQyApi, serve: Serve) -> str:
    return await serve(api.app())


def app(base: str, **more: Any) -> dict[str, Any]:
    keys = {"corp_id": CORP, "agent_id": AGENT, "secret": SECRET, "token": TOKEN, "aes_key": AES_KEY}
    return {"type": "wecom-app", "name": "main", "api_base": base, **keys, **more}


def kf(**more: Any) -> dict[str, Any]:
    return {"type": "wecom-kf", "name": "care", "kf_id": KF, "app": "main", **more}


async def look(folder: Path, *connectors: dict[str, Any], topic: Any = "wecom") -> dict[str, list[Finding]]:
    """The findings by check; nothing that is secret is in them, and what is wrong has a remedy."""
    off = {name: {"enabled": False} for name in ("faq", "knowledge")}
    config = {"server": {"port": 0}, "plugins": off, "connectors": list(connectors)}
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config, allow_unicode=True), "utf-8")
    found: dict[str, list[Finding]] = {}
    async for finding in examine(file, topic):
        assert finding.state == "ok" or finding.remedy, finding
        for secret in (SECRET, TOKEN, AES_KEY):
            assert secret not in finding.detail + finding.remedy
        found.setdefault(finding.check, []).append(finding)
    return found


def states(found: dict[str, list[Finding]]) -> dict[str, str]:
    """The one state of each check that is about a connector."""
    return {check: item.state for check, [item] in found.items() if check.startswith("wecom-")}


def explained(code: int) -> str:
    known = explain(code)
    assert known
    return f"{known.zh} / {known.en}"


# -- the API ----------------------------------------------------------------------------------


async def test_a_healthy_application_and_account_are_ok(tmp_path: Path, base: str, api: FakeQyApi) -> None:
    found = await look(tmp_path, app(base), kf())
    assert states(found) == {
        "wecom-app main: token": "ok",
        "wecom-app main: agent": "ok",
        "wecom-app main: trusted IP": "ok",
        "wecom-app main: callback": "warn",  # there is no public_url
        "wecom-kf care: token": "ok",
        "wecom-kf care: account": "ok",
        "wecom-kf care: callback": "ok",
    }
    assert [item.state for item in found["wecom"]] == ["ok"]
    assert f"客服助手 ({AGENT})" in found["wecom-app main: agent"][0].detail
    assert f"https://YOUR-HOST{ROUTE}" in found["wecom-app main: callback"][0].remedy
    assert "through main" in found["wecom-kf care: callback"][0].detail
    assert next(call.query for call in api.calls if call.method == "agent/get")["agentid"] == str(AGENT)
    assert len([call for call in api.calls if call.method == "gettoken"]) == 1  # they share it
    assert not {"Python", "database", "plugins"} & found.keys()


@pytest.mark.parametrize(
    ("method", "code", "check"),
    [
        ("gettoken", 40013, "wecom-app main: token"),
        ("gettoken", 40001, "wecom-app main: token"),
        ("agent/get", 60020, "wecom-app main: trusted IP"),
        ("agent/get", 301002, "wecom-app main: agent"),
        ("kf/account/list", 48002, "wecom-kf care: account"),
        ("kf/account/list", 60020, "wecom-kf care: trusted IP"),
    ],
)
async def test_an_errcode_is_explained_in_both_languages(
    tmp_path: Path, base: str, api: FakeQyApi, method: str, code: int, check: str
) -> None:
    api.refuse(method, code)
    [finding] = (await look(tmp_path, app(base), kf()))[check]
    assert finding.state == "fail"
    assert f"{method}: {code} injected" in finding.detail
    assert finding.remedy == explained(code)


async def test_an_errcode_that_nobody_knows_can_be_looked_up(
    tmp_path: Path, base: str, api: FakeQyApi
) -> None:
    api.refuse("agent/get", 987654)
    [finding] = (await look(tmp_path, app(base)))["wecom-app main: agent"]
    assert finding.state == "fail"
    assert "devtool/query" in finding.remedy


async def test_a_wrong_secret_fails_and_is_not_shown(tmp_path: Path, base: str) -> None:
    [finding] = (await look(tmp_path, app(base, secret="SECRET-of-another")))["wecom-app main: token"]
    assert finding.state == "fail"
    assert "40001" in finding.detail
    assert "SECRET-of-another" not in finding.detail


async def test_an_application_that_is_switched_off_fails(tmp_path: Path, base: str, api: FakeQyApi) -> None:
    api.answers["agent/get"] = lambda call: {"name": "客服助手", "close": 1}
    [finding] = (await look(tmp_path, app(base)))["wecom-app main: agent"]
    assert (finding.state, finding.remedy) == ("fail", explained(50003))


@pytest.mark.parametrize(("status", "text"), [(404, ""), (200, "<html>hello</html>")])
async def test_an_api_that_does_not_know_a_call_is_a_warning(
    tmp_path: Path, base: str, api: FakeQyApi, status: int, text: str
) -> None:
    for method in ("agent/get", "kf/account/list"):
        api.reply(method, web.Response(status=status, text=text, content_type="text/html"))
    found = await look(tmp_path, app(base), kf())
    assert states(found)["wecom-app main: agent"] == states(found)["wecom-kf care: account"] == "warn"
    assert "wecom-app main: trusted IP" not in found


async def test_an_account_is_found_on_a_later_page_or_missed(
    tmp_path: Path, base: str, api: FakeQyApi
) -> None:
    accounts = [{"open_kfid": f"wk{number}", "manage_privilege": number != 7} for number in range(150)]

    def page(call: Any) -> dict[str, Any]:
        start = call.payload["offset"]
        return {"account_list": accounts[start : start + call.payload["limit"]]}

    api.answers["kf/account/list"] = page
    for kf_id, state in (("wk120", "ok"), ("wk7", "warn"), ("wkGone", "fail")):
        found = await look(tmp_path, app(base), kf(kf_id=kf_id))
        assert states(found)["wecom-kf care: account"] == state
    assert found["wecom-kf care: account"][0].detail.endswith("and 145 more")


@pytest.mark.parametrize(
    ("ours", "state", "says"),
    [
        (["101.226.0.0/16", "2402:4e00::/32"], "ok", "all 3"),
        (["101.226.103.0/24"], "warn", "101.226.62.77, 2402:4e00::1"),
    ],
)
async def test_callers_that_would_be_refused_are_named(
    tmp_path: Path, base: str, api: FakeQyApi, ours: list[str], state: str, says: str
) -> None:
    theirs = ["101.226.103.*", "101.226.62.77", "2402:4e00::1"]
    api.answers["getcallbackip"] = lambda call: {"ip_list": theirs}
    [finding] = (await look(tmp_path, app(base, callback_ips=ours)))["wecom-app main: callback_ips"]
    assert finding.state == state
    assert says in finding.detail


def test_networks_are_read_as_wecom_writes_them() -> None:
    for text, network in {"1.2.3.4": "1.2.3.4/32", "1.2.3.*": "1.2.3.0/24", "1.*.*": "1.0.0.0/8"}.items():
        assert network_of(text) == ipaddress.ip_network(network)
    assert network_of("10.0.0.0/8") == ipaddress.ip_network("10.0.0.0/8")
    assert network_of("999.2.3.*") is network_of("somewhere") is network_of("1.2.3.4.5.*") is None


async def test_what_is_out_of_reach_is_told_once(tmp_path: Path) -> None:
    robot = {"type": "wecom-robot", "name": "ops", "key": "KEY", "api_base": "http://127.0.0.1:1"}
    found = await look(tmp_path, app("http://127.0.0.1:1"), robot)
    [away] = found["wecom"]
    assert away.state == "fail"
    assert states(found) == {"wecom-app main: callback": "warn", "wecom-robot ops": "ok"}


# -- the callback -----------------------------------------------------------------------------


async def callback(folder: Path, base: str, serve: Serve, handler: Handler, **more: Any) -> Finding:
    """What is said of the application's callback with this handler behind its URL."""
    public_url = await serve(handler) + ROUTE
    [finding] = (await look(folder, app(base, public_url=public_url, **more)))["wecom-app main: callback"]
    return finding


def behind(token: str = TOKEN, key: str = AES_KEY, corp: str = CORP) -> Handler:
    """A bot with this configuration."""
    return Callback(Crypto(token, key, corp), max_body=4096).verify


async def test_a_callback_that_answers_like_a_bot_is_ok(tmp_path: Path, base: str, serve: Serve) -> None:
    finding = await callback(tmp_path, base, serve, behind())
    assert finding.state == "ok", finding


async def test_robots_and_accounts_have_callbacks_of_their_own(
    tmp_path: Path, base: str, serve: Serve
) -> None:
    aibot = {"type": "wecom-aibot", "name": "helper", "token": TOKEN, "aes_key": AES_KEY, "api_base": base}
    own = {"token": TOKEN, "aes_key": AES_KEY}
    robots, accounts = await serve(behind(corp="")), await serve(behind())
    found = await look(
        tmp_path,
        {**aibot, "public_url": f"{robots}/wecom-aibot/helper"},
        app(base),
        kf(**own, public_url=f"{accounts}/wecom-kf/care"),
    )
    assert states(found)["wecom-aibot helper: callback"] == "ok"
    assert states(found)["wecom-kf care: callback"] == "ok"


@pytest.mark.parametrize(
    ("wrong", "says", "remedy"),
    [
        ({"token": "TOKEN-of-another"}, "answers 403", "copy token"),
        ({"key": OTHER_KEY}, "answers 400", "copy aes_key"),
        ({"corp": "wwOther"}, "answers 400", "and corp_id"),
    ],
)
async def test_what_the_bot_has_wrong_is_told_from_its_answer(
    tmp_path: Path, base: str, serve: Serve, wrong: dict[str, str], says: str, remedy: str
) -> None:
    finding = await callback(tmp_path, base, serve, behind(**wrong))
    assert finding.state == "fail"
    assert says in finding.detail
    assert remedy in finding.remedy


async def test_a_bot_that_may_not_be_called_from_here_is_a_warning(
    tmp_path: Path, base: str, serve: Serve
) -> None:
    networks = ["203.0.113.0/24"]
    gate = Callback(Crypto(TOKEN, AES_KEY, CORP), max_body=4096, allowed=[ipaddress.ip_network(networks[0])])
    finding = await callback(tmp_path, base, serve, gate.verify, callback_ips=networks)
    assert finding.state == "warn"
    assert "test from outside" in finding.remedy


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (404, f"lead to {ROUTE}"),
        (502, "start the bot"),
        (301, "where it redirects to"),
        (500, "see the log"),
    ],
)
async def test_what_stands_in_front_of_the_bot_is_told_from_the_status(
    tmp_path: Path, base: str, serve: Serve, status: int, remedy: str
) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    finding = await callback(tmp_path, base, serve, handler)
    assert finding.state == "fail"
    assert f"answers {status}" in finding.detail
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (b'"', b'"', "puts quotes"),
        (b"", b"\n", "puts quotes"),
        (b"\xef\xbb\xbf", b"", "puts quotes"),
        (b"<html>", b"</html>", "something else"),
        (b"x" * 100_000, b"", "something else"),
    ],
)
async def test_an_answer_that_is_not_exactly_the_text_fails(
    tmp_path: Path, base: str, serve: Serve, before: bytes, after: bytes, says: str
) -> None:
    async def handler(request: web.Request) -> web.Response:
        right = await behind()(request)
        assert isinstance(right, web.Response)
        assert isinstance(right.body, bytes)
        return web.Response(body=before + right.body + after)

    finding = await callback(tmp_path, base, serve, handler)
    assert finding.state == "fail"
    assert says in finding.detail


async def test_a_slow_answer_is_a_warning(
    tmp_path: Path, base: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.doctor_wecom_callback.PATIENCE", 0.05)

    async def handler(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.1)
        return await behind()(request)

    finding = await callback(tmp_path, base, serve, handler)
    assert finding.state == "warn"


async def test_a_callback_that_cannot_be_reached_fails(tmp_path: Path, base: str) -> None:
    public_url = f"http://127.0.0.1:1{ROUTE}"
    [finding] = (await look(tmp_path, app(base, public_url=public_url)))["wecom-app main: callback"]
    assert finding.state == "fail"
    assert "cannot be reached" in finding.detail


# -- the command ------------------------------------------------------------------------------


async def test_without_a_topic_it_is_brief(
    tmp_path: Path, base: str, api: FakeQyApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*args: object) -> list[Finding]:
        return []

    for check in ("_database", "_plugins", "_encoder", "_model", "_port"):
        monkeypatch.setattr(f"bot.doctor.{check}", nothing)
    aibot = {"type": "wecom-aibot", "name": "helper", "token": TOKEN, "aes_key": AES_KEY, "api_base": base}
    robot = {"type": "wecom-robot", "name": "ops", "key": "KEY", "api_base": base}
    found = await look(tmp_path, app(base), kf(), aibot, robot, topic=None)
    names = ("wecom-app main", "wecom-kf care", "wecom-aibot helper", "wecom-robot ops")
    assert states(found) == dict.fromkeys(names, "ok")
    assert {call.method for call in api.calls} == {"gettoken"}


def test_the_command_takes_the_topic(glmbot: Callable[..., Result], tmp_path: Path) -> None:
    result = glmbot("doctor", "wecom")
    assert result.exit_code == 0, result.output
    assert "no connector of WeCom is configured" in result.stdout
    assert "encoder" not in result.stdout
    away = app("http://127.0.0.1:1")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"connectors": [away]}), "utf-8")
    assert glmbot("doctor", "wecom").exit_code == 1
    assert glmbot("doctor", "weather").exit_code == 2
