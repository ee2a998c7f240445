"""WeCom played from outside: it calls the bot as WeCom does, takes what the bot sends, and counts."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from random import Random
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import aiohttp
from aiohttp import web
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tests.e2e.platforms import AGAIN_AFTER, News, site

CORP = "wwTestsOnly0000001"
SECRET = "a secret that only tests know, and they tell"
TOKEN = "tokenOfTheTests"
AES_KEY = "EncodingAESKeyOfTheTestsItHas43Characters0x"
KF = "wkTestsOnly0000001"
ACCESS = "an access token that only tests know"
PATIENCE = 5.0
"""Seconds after which WeCom hangs up, and calls again."""
PAGE = 3
"""Items of one answer to kf/sync_msg: few, so that a pull takes several."""
QUOTA = 5


class Envelope:
    """Seals and opens what a callback carries, worked out independently of the bot's code."""

    def __init__(self, receive_id: str) -> None:
        key = base64.b64decode(AES_KEY + "=")
        self._cipher = Cipher(algorithms.AES(key), modes.CBC(key[:16]))
        self._receive_id = receive_id.encode()

    def seal(self, plain: bytes) -> tuple[dict[str, str], str]:
        """(the URL's parameters, the encrypted text) of one copy of a message; no two copies are alike."""
        body = os.urandom(16) + len(plain).to_bytes(4, "big") + plain + self._receive_id
        pad = 32 - len(body) % 32
        encryptor = self._cipher.encryptor()
        encrypted = base64.b64encode(
            encryptor.update(body + bytes([pad] * pad)) + encryptor.finalize()
        ).decode()
        stamp, nonce = str(int(time.time())), os.urandom(5).hex()
        query = {"msg_signature": _signature(stamp, nonce, encrypted), "timestamp": stamp, "nonce": nonce}
        return query, encrypted

    def open(self, signature: str, stamp: str, nonce: str, encrypted: str) -> bytes:
        """What the bot sealed; AssertionError when that is not as WeCom wants it."""
        assert signature == _signature(stamp, nonce, encrypted)
        decryptor = self._cipher.decryptor()
        body = decryptor.update(base64.b64decode(encrypted)) + decryptor.finalize()
        assert 1 <= body[-1] <= 32
        body = body[: -body[-1]]
        end = 20 + int.from_bytes(body[16:20], "big")
        assert body[end:] == self._receive_id
        return body[20:end]


def _signature(*parts: str) -> str:
    return hashlib.sha1("".join(sorted((TOKEN, *parts))).encode()).hexdigest()


class Caller:
    """Calls one route of the bot, and calls again until it is acknowledged."""

    def __init__(self, url: str, client: aiohttp.ClientSession, envelope: Envelope) -> None:
        self._url = url
        self._client = client
        self._envelope = envelope

    async def xml(self, fields: Mapping[str, str | int]) -> dict[str, str]:
        """Deliver a message; returns the fields of the passive reply, none for an empty one."""
        plain = as_xml(fields)
        while True:
            query, encrypted = self._envelope.seal(plain)
            body = await self._post(query, as_xml({"ToUserName": CORP, "Encrypt": encrypted}))
            if body is not None:
                return self._opened(body)

    async def json(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Deliver a message to an intelligent robot; returns its reply, {} for an empty one."""
        plain = json.dumps(fields, ensure_ascii=False).encode()
        while True:
            query, encrypted = self._envelope.seal(plain)
            body = await self._post(query, json.dumps({"encrypt": encrypted}).encode())
            if body is None:
                continue
            if not body:
                return {}
            reply = json.loads(body)
            assert reply["nonce"] == query["nonce"]
            assert isinstance(reply["timestamp"], int)
            stamp = str(reply["timestamp"])
            answer = json.loads(
                self._envelope.open(reply["msgsignature"], stamp, reply["nonce"], reply["encrypt"])
            )
            assert isinstance(answer, dict)
            return answer

    def _opened(self, body: bytes) -> dict[str, str]:
        if not body:
            return {}
        outer = _fields(body)
        given = outer["MsgSignature"], outer["TimeStamp"], outer["Nonce"], outer["Encrypt"]
        return _fields(self._envelope.open(*given))

    async def _post(self, query: Mapping[str, str], body: bytes) -> bytes | None:
        """The body of an answer with status 200; None, after a pause, when there was no such answer."""
        patience = aiohttp.ClientTimeout(total=PATIENCE)
        try:
            async with self._client.post(self._url, params=query, data=body, timeout=patience) as response:
                assert response.status == 200 or response.status >= 500, await response.text()
                answer = await response.read()
                if response.status == 200:
                    return answer
        except (aiohttp.ClientError, OSError, TimeoutError):
            pass
        await asyncio.sleep(AGAIN_AFTER)
        return None


def message(user: str, number: str, text: str, agent: int) -> dict[str, str | int]:
    """The fields of a member's text; `number` is its MsgId."""
    return {
        "ToUserName": CORP,
        "FromUserName": user,
        "CreateTime": int(time.time()),
        "MsgType": "text",
        "Content": text,
        "MsgId": number,
        "AgentID": agent,
    }


def as_xml(fields: Mapping[str, str | int]) -> bytes:
    """A message as WeCom writes it."""
    inner = "".join(f"<{name}>{escape(str(value))}</{name}>" for name, value in fields.items())
    return f"<xml>{inner}</xml>".encode()


def _fields(body: bytes) -> dict[str, str]:
    return {element.tag: element.text or "" for element in ElementTree.fromstring(body)}


class Refused(Exception):
    """An answer with an errcode."""

    def __init__(self, code: int) -> None:
        self.code = code


class QyApi:
    """The server API for one corp with one customer service account. It takes up to `slow` seconds to answer.

    `shown` is what each user was shown, in order.
    """

    def __init__(self, chance: Random | None = None, *, slow: float = 0.0) -> None:
        self.news = News()
        self.shown: dict[str, list[str]] = defaultdict(list)
        self.calls: Counter[str] = Counter()
        self.pulled = 0
        self._chance = chance or Random(0)
        self._slow = slow
        self._items: list[dict[str, Any]] = []
        self._event_tokens: set[str] = set()
        self._taken: set[str] = set()
        self._left: Counter[str] = Counter()
        self._codes: dict[str, str] = {}
        self._base = ""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Listen; yields the api_base."""
        async with site(
            web.get("/cgi-bin/gettoken", self._gettoken), web.post("/cgi-bin/{method:.+}", self._call)
        ) as self._base:
            yield self._base

    # -- what users do ----------------------------------------------------------------------

    async def show(self, user: str, text: str) -> None:
        """A user is shown a text."""
        self.shown[user].append(text)
        await self.news.changed()

    def write(self, customer: str, number: str, text: str) -> dict[str, str | int]:
        """A customer writes to the account; returns the event that the bot is to be called with."""
        item = {"msgid": number, "open_kfid": KF, "external_userid": customer, "send_time": int(time.time())}
        self._items.append({**item, "origin": 3, "msgtype": "text", "text": {"content": text}})
        self._left[customer] = QUOTA
        token = f"token of {number}"
        self._event_tokens.add(token)
        return {
            "ToUserName": CORP,
            "CreateTime": int(time.time()),
            "MsgType": "event",
            "Event": "kf_msg_or_event",
            "Token": token,
            "OpenKfId": KF,
        }

    def response_url(self, user: str) -> str:
        """An address at which one answer to a user is taken."""
        code = os.urandom(8).hex()
        self._codes[code] = user
        return f"{self._base}/cgi-bin/aibot/response?response_code={code}"

    # -- what the bot calls -----------------------------------------------------------------

    async def _gettoken(self, request: web.Request) -> web.Response:
        self.calls["gettoken"] += 1
        await self._pause()
        if request.query["corpid"] != CORP or request.query["corpsecret"] != SECRET:
            return _answer(40001)
        return _answer(access_token=ACCESS, expires_in=7200)

    async def _call(self, request: web.Request) -> web.Response:
        method = request.match_info["method"]
        self.calls[method] += 1
        payload = json.loads((await request.read()).decode())
        try:
            if method == "aibot/response":
                answer = await self._response(request.query["response_code"], payload)
            elif request.query.get("access_token") != ACCESS:
                raise Refused(40014)
            else:
                answer = await getattr(self, "_" + method.replace("/", "_"))(payload)
        except Refused as refused:
            await self._pause()
            return _answer(refused.code)
        await self._pause()
        return _answer(**answer)

    async def _pause(self) -> None:
        await asyncio.sleep(self._chance.uniform(0, self._slow))

    async def _message_send(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        await self.show(payload["touser"], _text(payload))
        return {"msgid": f"m{self.calls['message/send']}"}

    async def _response(self, code: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        user = self._codes.pop(code, None)
        if user is None:
            raise Refused(40058)
        await self.show(user, payload["markdown"]["content"])
        return {}

    async def _kf_sync_msg(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        if payload.get("token", "") not in self._event_tokens | {""}:
            raise Refused(95007)
        if payload["open_kfid"] != KF:
            raise Refused(95000)
        start = int(payload.get("cursor") or 0)
        if start > self.pulled:
            self.pulled = start
            await self.news.changed()
        page = self._items[start : start + PAGE]
        end = start + len(page)
        return {"next_cursor": str(end), "has_more": int(end < len(self._items)), "msg_list": page}

    async def _kf_send_msg(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """The msgid is an idempotency key: a message is shown once, however often it is sent."""
        customer, msgid = payload["touser"], payload["msgid"]
        if msgid not in self._taken:
            if not self._left[customer]:
                raise Refused(95001)
            self._left[customer] -= 1
            self._taken.add(msgid)
            await self.show(customer, _text(payload))
        return {"msgid": msgid}

    async def _kf_service_state_get(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        return {"service_state": 1}


def _text(payload: Mapping[str, Any]) -> str:
    content = payload["text"]["content"]
    assert isinstance(content, str)
    assert len(content.encode()) <= 2048, "WeCom would cut it in silence"
    return content


def _answer(errcode: int = 0, **fields: Any) -> web.Response:
    return web.json_response({"errcode": errcode, "errmsg": "refused" if errcode else "ok", **fields})
