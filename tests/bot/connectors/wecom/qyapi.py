"""A small server in the place of qyapi.weixin.qq.com: strict where WeCom is strict, failing on demand."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from multidict import MultiDictProxy

CORP, SECRET, AGENT = "wwcorp", "SECRET-of-the-app", 1000002
KF, KEY = "wkAccount", "KEY-of-the-robot"
WAIT = 5.0
_TEXT_BYTES = {
    "message/send": {"text": 2048, "markdown": 2048},
    "appchat/send": {"text": 2048, "markdown": 2048},
    "webhook/send": {"text": 2048, "markdown": 4096, "markdown_v2": 4096},
    "kf/send_msg": {"text": 2048},
    "kf/send_msg_on_event": {"text": 2048},
}


@dataclass
class Call:
    """One request: the path below /cgi-bin/, its query and its JSON."""

    method: str
    query: dict[str, str]
    payload: dict[str, Any] = field(default_factory=dict)


class Refusal(Exception):
    """An answer with an errcode."""

    def __init__(self, code: int, errmsg: str = "refused") -> None:
        self.code, self.errmsg = code, errmsg


class FakeQyApi:
    """Takes calls for one corp with one secret, one robot key and one customer service account.

    `answers[method]` replaces what a method does with a call (returns fields, or raises Refusal);
    `problems` collects what WeCom would take and show wrongly; an event in `gates[method]` holds calls back.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.problems: list[str] = []
        self.answers: dict[str, Callable[[Call], dict[str, Any]]] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.tokens: list[str] = []
        self.revoked: set[str] = set()
        self.expires_in: Any = 7200
        self.unknown_users: set[str] = set()
        self.media: dict[str, tuple[str, bytes]] = {}
        self.kf_messages: list[dict[str, Any]] = []
        self.kf_page = 1000
        self.kf_states: dict[str, int] = {}
        self._next: list[tuple[str, int | web.Response | None]] = []
        self._changed = asyncio.Condition()

    def app(self) -> web.Application:
        app = web.Application(client_max_size=25 << 20)
        app.router.add_route("*", "/cgi-bin/{method:.+}", self._handle)
        return app

    # -- what a test sets and sees ----------------------------------------------------------

    def refuse(self, method: str, code: int, times: int = 1) -> None:
        """Answer the next calls of a method with an errcode."""
        self._next += [(method, code)] * times

    def reply(self, method: str, response: web.Response) -> None:
        """Answer the next call of a method with just this."""
        self._next.append((method, response))

    def cut(self, method: str) -> None:
        """Take the next call of a method, and break the connection before the answer."""
        self._next.append((method, None))

    def revoke(self) -> None:
        """Take back all tokens given so far."""
        self.revoked |= set(self.tokens)

    def of(self, method: str) -> list[dict[str, Any]]:
        """The payloads of a method's calls."""
        return [call.payload for call in self.calls if call.method == method]

    async def called(self, method: str, times: int = 1) -> list[dict[str, Any]]:
        """The payloads of a method's calls, once there are that many."""
        async with asyncio.timeout(WAIT), self._changed:
            await self._changed.wait_for(lambda: len(self.of(method)) >= times)
        return self.of(method)

    # -- the server -------------------------------------------------------------------------

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        method = request.match_info["method"]
        upload = await request.post() if "multipart" in request.content_type else None
        call = Call(method, dict(request.query))
        try:
            if request.method == "POST" and upload is None:
                call.payload = _json(request, await request.read())
            async with self._changed:
                self.calls.append(call)
                self._changed.notify_all()
            if method in self.gates:
                await self.gates[method].wait()
            forced = self._forced(request, method)
            if forced is not None:
                return forced
            self._allowed(call)
            if upload is not None:
                return _answer(**self._uploaded(upload))
            if method == "media/get":
                return self._file(call)
            answer = self.answers.get(method) or getattr(self, "_" + method.replace("/", "_"), None)
            return _answer(**(answer(call) if answer else {}))
        except Refusal as refusal:
            return _answer(refusal.code, refusal.errmsg)

    def _forced(self, request: web.Request, method: str) -> web.Response | None:
        for index, (name, what) in enumerate(self._next):
            if name == method:
                del self._next[index]
                if isinstance(what, int):
                    raise Refusal(what, "injected")
                if what is None:
                    assert request.transport is not None
                    request.transport.abort()
                    return web.Response(status=503)
                return what
        return None

    def _allowed(self, call: Call) -> None:
        if call.method == "gettoken" or call.method.startswith("aibot/"):
            return
        if call.method.startswith("webhook/"):
            if call.query.get("key") != KEY:
                raise Refusal(93000, "invalid webhook url")
            return
        given = call.query.get("access_token")
        if not given:
            raise Refusal(41001, "access_token missing")
        if given not in self.tokens or given in self.revoked:
            raise Refusal(40014, f"invalid access_token {given}")

    def _text(self, call: Call) -> None:
        kind = call.payload.get("msgtype")
        body = call.payload.get(kind or "")
        if not isinstance(body, dict):
            raise Refusal(40008, "invalid message type")
        if kind == "text" and not body.get("content"):
            raise Refusal(44004, "content is empty")
        most = _TEXT_BYTES[call.method].get(str(kind))
        if most and len(body["content"].encode()) > most:
            self.problems.append(f"{call.method}: {kind} of more than {most} bytes is cut in silence")

    # -- methods ----------------------------------------------------------------------------

    def _gettoken(self, call: Call) -> dict[str, Any]:
        if call.query.get("corpid") != CORP:
            raise Refusal(40013, "invalid corpid")
        if call.query.get("corpsecret") != SECRET:
            raise Refusal(40001, f"invalid credential {call.query.get('corpsecret')}")
        if not self.tokens or self.tokens[-1] in self.revoked:
            self.tokens.append(f"token-{len(self.tokens)}-{'x' * 40}")
        return {"access_token": self.tokens[-1], "expires_in": self.expires_in}

    def _message_send(self, call: Call) -> dict[str, Any]:
        if call.payload.get("agentid") != AGENT:
            raise Refusal(301002, "not allow operate another agent")
        users = str(call.payload.get("touser") or "").split("|")
        wrong = [user for user in users if not user or user in self.unknown_users]
        if len(wrong) == len(users):
            raise Refusal(81013, "all users invalid")
        self._text(call)
        return {"invaliduser": "|".join(wrong), "msgid": f"m{len(self.calls)}"}

    def _appchat_send(self, call: Call) -> dict[str, Any]:
        if not call.payload.get("chatid"):
            raise Refusal(86001, "invalid chatid")
        self._text(call)
        return {}

    def _webhook_send(self, call: Call) -> dict[str, Any]:
        self._text(call)
        return {}

    def _kf_send_msg(self, call: Call) -> dict[str, Any]:
        customer, msgid = call.payload.get("touser"), call.payload.get("msgid", f"k{len(self.calls)}")
        if call.payload.get("open_kfid") != KF:
            raise Refusal(95000, "invalid open_kfid")
        if not customer or not re.fullmatch(r"[0-9A-Za-z_-]{1,32}", msgid):
            raise Refusal(40058, "invalid touser or msgid")
        if self.kf_states.get(customer, 0) not in (0, 1):
            raise Refusal(95018, "send msg session status invalid")
        if call.payload.get("msgtype") != "msgmenu":
            self._text(call)
        return {"msgid": msgid}

    def _kf_sync_msg(self, call: Call) -> dict[str, Any]:
        start = int(call.payload.get("cursor") or 0)
        end = min(start + min(self.kf_page, call.payload.get("limit", 1000)), len(self.kf_messages))
        more = int(end < len(self.kf_messages))
        return {"next_cursor": str(end), "has_more": more, "msg_list": self.kf_messages[start:end]}

    def _kf_service_state_get(self, call: Call) -> dict[str, Any]:
        return {"service_state": self.kf_states.get(call.payload["external_userid"], 0)}

    def _kf_service_state_trans(self, call: Call) -> dict[str, Any]:
        customer, new = call.payload["external_userid"], call.payload["service_state"]
        old = self.kf_states.get(customer, 0)
        if old == 4 or (old == 3 and new not in (3, 4)):
            raise Refusal(95016, "state transition not allowed")
        if new == 3 and not call.payload.get("servicer_userid"):
            raise Refusal(40058, "servicer_userid missing")
        self.kf_states[customer] = new
        return {"msg_code": f"code{len(self.calls)}"}

    def _uploaded(self, form: MultiDictProxy[Any]) -> dict[str, Any]:
        part = form.get("media")
        if not isinstance(part, web.FileField):
            raise Refusal(41005, "media data missing")
        media_id = f"media-{len(self.media)}"
        self.media[media_id] = (part.filename, part.file.read())
        return {"type": "file", "media_id": media_id, "created_at": "1700000000"}

    def _file(self, call: Call) -> web.Response:
        if call.query.get("media_id") not in self.media:
            raise Refusal(40007, "invalid media_id")
        name, data = self.media[call.query["media_id"]]
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return web.Response(body=data, content_type="text/plain", headers=headers)


def _json(request: web.Request, body: bytes) -> dict[str, Any]:
    if request.content_type != "application/json" or rb"\u" in body.replace(rb"\\", b""):
        raise Refusal(40033, "not JSON in UTF-8")
    try:
        value = json.loads(body.decode())
    except ValueError:
        raise Refusal(47001, "data format error") from None
    assert isinstance(value, dict)
    return value


def _answer(errcode: int = 0, errmsg: str = "ok", **fields: Any) -> web.Response:
    return web.json_response({"errcode": errcode, "errmsg": errmsg, **fields})
