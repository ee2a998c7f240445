"""What the connectors of WeCom need: secrets, applications, trusted addresses, accounts, callbacks."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Literal

from bot.config_connectors import (
    WecomAibotSettings,
    WecomAppSettings,
    WecomKfSettings,
    WecomRobotSettings,
    WecomSettings,
)
from bot.connectors.fields import items, mapping, string
from bot.connectors.wecom.api import ApiError, Http, QyApi
from bot.connectors.wecom.errcodes import explain
from bot.connectors.wecom.token import AccessToken
from bot.doctor_wecom_callback import check_callback
from bot.findings import Finding, reach

Network = IPv4Network | IPv6Network
UNTRUSTED, DISABLED, NO_ACCOUNT = 60020, 50003, 95004
PAGE, MANY_PAGES = 100, 50
"""Accounts that are asked for at once, and how often: no corp has so many."""
_SHOWN = 5
_LOOK_UP = "https://developer.work.weixin.qq.com/devtool/query explains it"
_NO_ANSWER = "correct api_base, or try again in a minute"
_ODD_API = "nothing, if api_base is a proxy or a test server without it; else correct api_base"


async def check_wecom(settings: Sequence[WecomSettings], *, briefly: bool = False) -> list[Finding]:
    """What there is to say about these connectors.

    `briefly` asks only whether the API is within reach and takes the secrets.
    """
    apps = {item.name: item for item in settings if isinstance(item, WecomAppSettings)}
    whole = [
        item.completed(apps.get(item.app or "")) if isinstance(item, WecomKfSettings) else item
        for item in settings
    ]
    bases = list(dict.fromkeys(str(item.api_base) for item in whole))
    reached = await asyncio.gather(*(reach("wecom", base) for base in bases))
    away = {base for base, found in zip(bases, reached, strict=True) if found[0].state == "fail"}
    checks = _Checks(briefly=briefly)
    try:
        found = await asyncio.gather(*(checks.of(item, away=item.api_base in away) for item in whole))
    finally:
        await checks.close()
    return [finding for group in (*reached, *found) for finding in group]


class _Checks:
    """The checks of connectors that share connections and tokens."""

    def __init__(self, *, briefly: bool) -> None:
        self._briefly = briefly
        self._http = Http()
        self._tokens: dict[tuple[str, str, str], AccessToken] = {}

    async def close(self) -> None:
        """Give the connections back."""
        await self._http.close()

    async def of(self, item: WecomSettings, *, away: bool) -> list[Finding]:
        """All about one connector; without what asks the API where that is away."""
        found: list[Finding] = []
        name = f"{item.type} {item.name}"
        match item:
            case WecomRobotSettings():
                found.append(Finding(name, "ok", "nothing was sent: its first message will try the key"))
            case WecomAibotSettings() if self._briefly:
                found.append(Finding(name, "ok", "needs the API for late answers only"))
            case WecomAppSettings() | WecomKfSettings() if not away:
                found += await self._asked(name, item)
        if not isinstance(item, WecomRobotSettings) and not self._briefly:
            found.append(await check_callback(f"{name}: callback", item))
        return found

    async def _asked(self, name: str, item: WecomAppSettings | WecomKfSettings) -> list[Finding]:
        """What the API says of a connector that has a secret."""
        api = self._api(item)
        began = time.monotonic()
        check = name if self._briefly else f"{name}: token"
        try:
            await api.check()
        except ApiError as error:
            return [_refusal(check, error)]
        found = [Finding(check, "ok", f"gettoken in {(time.monotonic() - began) * 1000:.0f} ms")]
        if self._briefly:
            return found
        if isinstance(item, WecomAppSettings):
            found += await _application(name, item, api)
        else:
            found += await _account(name, item, api)
        if item.callback_ips:
            found.append(await _callers(f"{name}: callback_ips", item.callback_ips, api))
        return found

    def _api(self, item: WecomAppSettings | WecomKfSettings) -> QyApi:
        if item.api_base is None or item.corp_id is None or item.secret is None:
            raise ValueError(f"the settings of {item.name!r} are not complete")
        key = (item.api_base, item.corp_id, item.secret.get_secret_value())
        if key not in self._tokens:
            self._tokens[key] = AccessToken(self._http, item.api_base, item.corp_id, item.secret)
        return QyApi(self._http, item.api_base, self._tokens[key])


async def _application(name: str, item: WecomAppSettings, api: QyApi) -> list[Finding]:
    """Whether the application is there and enabled, and whether this machine may call for it."""
    check, trust = f"{name}: agent", f"{name}: trusted IP"
    try:
        agent = await api.get("agent/get", {"agentid": str(item.agent_id)})
    except ApiError as error:
        if error.code is None:
            return [_odd_api(check, error)]
        return [_refusal(trust if error.code == UNTRUSTED else check, error)]
    detail = f"{string(agent.get('name')) or 'without a name'} ({item.agent_id})"
    trusted = Finding(trust, "ok", "calls from this machine are taken")
    if agent.get("close") == 1:
        return [Finding(check, "fail", f"{detail} is disabled", _explained(DISABLED)), trusted]
    return [Finding(check, "ok", detail), trusted]


async def _account(name: str, item: WecomKfSettings, api: QyApi) -> list[Finding]:
    """Whether the secret may use customer service, and has the account."""
    check = f"{name}: account"
    known: dict[str, Mapping[str, Any]] = {}
    try:
        for page in range(MANY_PAGES):
            answer = await api.post("kf/account/list", {"offset": page * PAGE, "limit": PAGE})
            listed = [mapping(entry) for entry in items(answer.get("account_list"))]
            known |= {string(entry.get("open_kfid")): entry for entry in listed}
            if item.kf_id in known or len(listed) < PAGE:
                break
    except ApiError as error:
        if error.code is None:
            return [_odd_api(check, error)]
        return [_refusal(f"{name}: trusted IP" if error.code == UNTRUSTED else check, error)]
    account = known.get(item.kf_id)
    if account is None:
        others = f"; it has {_few(sorted(known))}" if known else "; it has none"
        detail = f"the secret has no account {item.kf_id}{others}"
        return [Finding(check, "fail", detail, _explained(NO_ACCOUNT))]
    detail = f"{string(account.get('name')) or 'without a name'} ({item.kf_id})"
    if account.get("manage_privilege") is False:
        remedy = "let this application manage the account: 微信客服 - API in the admin console"
        return [Finding(check, "warn", f"{detail} is not this application's to manage", remedy)]
    return [Finding(check, "ok", detail)]


async def _callers(check: str, allowed: Sequence[Network], api: QyApi) -> Finding:
    """Whether `callback_ips` has all addresses from which WeCom calls."""
    try:
        listed = items((await api.get("getcallbackip")).get("ip_list"))
    except ApiError as error:
        return _odd_api(check, error) if error.code is None else _refusal(check, error, "warn")
    theirs = {str(entry): network_of(str(entry)) for entry in listed}
    missing = [text for text, network in theirs.items() if not _covered(network, allowed)]
    if missing:
        detail = f"WeCom calls from {_few(missing)}, too, and would be refused"
        return Finding(check, "warn", detail, "add these to callback_ips")
    return Finding(check, "ok", f"all {len(theirs)} addresses of getcallbackip are in it")


def network_of(text: str) -> Network | None:
    """What an entry of getcallbackip stands for: an address, a network, or an IPv4 address that ends in *."""
    match = re.fullmatch(r"((?:[0-9]{1,3}\.){1,3})\*(?:\.\*)*", text)
    if match is not None:
        given = match[1].count(".")
        text = f"{match[1]}{'.'.join('0' * (4 - given))}/{8 * given}"
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def _covered(network: Network | None, allowed: Sequence[Network]) -> bool:
    if network is None:
        return False
    ends = network.network_address, network.broadcast_address
    return any(all(end in item for end in ends) for item in allowed)


def _few(texts: Sequence[str]) -> str:
    more = len(texts) - _SHOWN
    return ", ".join(texts[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _odd_api(check: str, error: ApiError) -> Finding:
    """The API took the secret, yet has no valid answer to this."""
    return Finding(check, "warn", f"cannot be told: {error.method}: {error.errmsg}", _ODD_API)


def _refusal(check: str, error: ApiError, state: Literal["warn", "fail"] = "fail") -> Finding:
    if error.code is None:
        return Finding(check, state, f"{error.method}: {error.errmsg}", _NO_ANSWER)
    return Finding(check, state, f"{error.method}: {error.code} {error.errmsg}", _explained(error.code))


def _explained(code: int) -> str:
    known = explain(code)
    return f"{known.zh} / {known.en}" if known else _LOOK_UP
