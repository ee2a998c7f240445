"""Calls a connector's callback URL as WeCom does when the URL is saved, and says what stands in its way."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Literal

import aiohttp

from bot.config_connectors import WecomAibotSettings, WecomAppSettings, WecomKfSettings
from bot.connectors.wecom.crypto import Crypto
from bot.findings import Finding, http_session, reason

Called = WecomAppSettings | WecomAibotSettings | WecomKfSettings
PATIENCE = 1.0
"""Seconds within which WeCom wants the text back (developer document 90238)."""
_MOST = 4096
_UNREACHABLE = (
    "start the bot, then check DNS, firewall and reverse proxy; WeCom calls from the internet, so a test from"
    " outside counts for more than this one"
)
_CERTIFICATE = "install a certificate that browsers take, with its whole chain"
_UNCHANGED = "let the reverse proxy pass the answer on as it is"


@dataclass(frozen=True, slots=True)
class Came:
    """What came back: the status, the first bytes, and how many seconds that took."""

    status: int
    body: bytes
    took: float


async def check_callback(check: str, item: Called) -> Finding:
    """Whether `public_url` leads to this connector's route, with this configuration behind it."""
    crypto = _crypto(item)
    if crypto is None:
        return Finding(check, "ok", f"its events arrive through {getattr(item, 'app', None)}")
    if item.public_url is None:
        remedy = (
            f"set public_url to what the admin console has as URL, such as https://YOUR-HOST{_route(item)}"
        )
        return Finding(check, "warn", "not tried: public_url is not set", remedy)
    text = str(secrets.randbits(63))
    try:
        came = await _call(item.public_url, crypto, text)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        remedy = _CERTIFICATE if isinstance(error, aiohttp.ClientSSLError) else _UNREACHABLE
        return Finding(check, "fail", f"{item.public_url} cannot be reached: {reason(error)}", remedy)
    state, detail, remedy = _judged(item, came, text.encode())
    return Finding(check, state, f"{item.public_url} {detail}", remedy)


async def _call(url: str, crypto: Crypto, text: str) -> Came:
    stamp, nonce = str(int(time.time())), secrets.token_hex(8)
    echo, signature = crypto.seal(text.encode(), stamp, nonce)
    query = {"msg_signature": signature, "timestamp": stamp, "nonce": nonce, "echostr": echo}
    began = time.monotonic()
    body = bytearray()
    async with http_session() as session, session.get(url, params=query, allow_redirects=False) as response:
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > _MOST:
                break
        return Came(response.status, bytes(body), time.monotonic() - began)


def _judged(item: Called, came: Came, text: bytes) -> tuple[Literal["ok", "warn", "fail"], str, str]:
    """(state, detail, remedy) of an answer."""
    if came.status == 403 and item.callback_ips:
        remedy = (
            "if this machine is not in callback_ips, that is right: test from outside; else copy token from"
            " the admin console again, and start the bot with it"
        )
        return "warn", "answers 403: it takes no call from here", remedy
    if came.status != 200:
        return "fail", f"answers {came.status}", _remedy(item, came.status)
    if came.body == text:
        if came.took > PATIENCE:
            remedy = "find out what is slow, the proxy or the machine"
            return "warn", f"takes {came.took:.1f} s, WeCom waits {PATIENCE:g} s", remedy
        return "ok", f"answers as WeCom wants it, in {came.took * 1000:.0f} ms", ""
    if came.body.removeprefix(b"\xef\xbb\xbf").strip().strip(b"\"'") == text:
        return "fail", "puts quotes, a byte order mark or a line break around the text", _UNCHANGED
    remedy = f"let it lead to {_route(item)} of glmbot: another program or a login page answers"
    return "fail", "answers something else than the text that was sent", remedy


def _remedy(item: Called, status: int) -> str:
    """What to do about an answer that is not 200."""
    match status:
        case 403:
            return "copy token from the admin console again, and start the bot with it"
        case 400:
            also = "" if isinstance(item, WecomAibotSettings) else " and corp_id"
            return f"copy aes_key{also} from the admin console again, and start the bot with it"
        case 404 | 405:
            return f"let the path lead to {_route(item)} of glmbot"
        case 502 | 503 | 504:
            return "start the bot, and let the reverse proxy lead to server.host and server.port"
    if 300 <= status < 400:
        return "set public_url to where it redirects to: WeCom does not follow"
    return "see the log of the reverse proxy and of the bot"


def _crypto(item: Called) -> Crypto | None:
    """What the route is signed with; None for an account without a route of its own."""
    if item.token is None or item.aes_key is None:
        return None
    receiver = "" if isinstance(item, WecomAibotSettings) else item.corp_id or ""
    return Crypto(item.token.get_secret_value(), item.aes_key.get_secret_value(), receiver)


def _route(item: Called) -> str:
    return f"/{item.type}/{item.name}"
