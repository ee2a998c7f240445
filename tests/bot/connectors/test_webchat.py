"""The web chat over real HTTP: the page, visitors and their talk, events that resume, refusals."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot import Message, Plugin, Reply, Session
from bot.app import App
from bot.catalogue import Catalogue
from bot.config_connectors import WebchatSettings
from bot.connectors.webchat import MAX_QUESTION, PER_VISITOR, STREAMS_PER_VISITOR, Webchat
from bot.reply import Outgoing, Target
from bot.store import History
from bot.web.event_stream import MAX_WAITING, EventStream

SITE = {"type": "webchat", "name": "site"}
ids = (f"question-{number}" for number in count(1))


class Events:
    """An open stream of events."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def __aenter__(self) -> Events:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.response.close()

    async def next(self) -> tuple[str, dict[str, Any], int]:
        """(name, data, id) of the next event; raises EOFError at the end."""
        fields: dict[str, str] = {}
        while line := (await asyncio.wait_for(self.response.content.readline(), 10)).decode():
            name, _, value = line.rstrip("\n").partition(": ")
            if line == "\n" and "event" in fields:
                return fields["event"], json.loads(fields["data"]), int(fields.get("id", 0))
            fields[name] = value
        raise EOFError

    async def reply(self) -> tuple[dict[str, Any], int]:
        """The next reply, whatever comes before."""
        while True:
            name, data, number = await self.next()
            if name == "reply":
                return data, number


class Browser:
    """One visitor: a cookie jar of his own."""

    def __init__(self, app: App) -> None:
        assert app.server is not None
        self.app = app
        self.base = f"http://127.0.0.1:{app.server.port}"
        self.client = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))

    async def open(self, **headers: str) -> str:
        async with self.client.get(self.base, headers=headers) as response:
            self.headers = response.headers
            return await response.text()

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
        headers = {"Content-Type": "application/json"} | headers
        data = body if isinstance(body, bytes) else json.dumps(body)
        async with self.client.post(
            f"{self.base}/webchat/site/{path}", data=data, headers=headers
        ) as response:
            self.headers = response.headers
            return response.status, await response.json()

    async def ask(self, text: str, id: str | None = None) -> tuple[int, dict[str, Any]]:
        return await self.post("messages", {"text": text, "id": id or next(ids)})

    async def talk(self) -> Any:
        async with self.client.get(f"{self.base}/webchat/site/talk") as response:
            assert response.status == 200
            return await response.json()

    async def events(self, after: int = 0, **headers: str) -> Events:
        url = f"{self.base}/webchat/site/events?after={after}"
        response = await self.client.get(url, headers=headers)
        assert response.status == 200, await response.text()
        return Events(response)


Visit = Callable[..., Awaitable[Browser]]


@pytest.fixture
async def visit(serve_bot: Any) -> AsyncIterator[Visit]:
    """Opens the page of a bot with the given plugin in a new browser; the bot starts with the first."""
    apps: list[App] = []
    browsers: list[Browser] = []

    async def visit(plugin: Plugin) -> Browser:
        if not apps:
            apps.append(await serve_bot(plugin, SITE))
        browser = Browser(apps[0])
        browsers.append(browser)
        await browser.open()
        return browser

    yield visit
    for browser in browsers:
        await browser.client.close()


def echo() -> Plugin:
    plugin = Plugin("echo")

    @plugin.message()
    async def answer(message: Message) -> Reply:
        return Reply(f"echo {message.text}", source="manual.md", feedback=True, choices=("more",))

    @plugin.command("clear")
    async def clear(session: Session) -> str:
        await session.clear()
        return "gone"

    return plugin


# -- the page -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh-Hans"),
        ("en-GB", "en"),
        ("de;q=0.9, en;q=0.4, zh-TW;q=0.8", "zh-Hans"),
        ("fr", "zh-Hans"),
        ("en;q=abc, zh;q=0.1", "zh-Hans"),
        ("", "zh-Hans"),
    ],
)
async def test_the_page_speaks_the_visitors_language(visit: Visit, accepted: str, language: str) -> None:
    browser = await visit(echo())
    assert f'<html lang="{language}">' in await browser.open(**{"Accept-Language": accepted})


async def test_a_chosen_language_wins(visit: Visit) -> None:
    browser = await visit(echo())
    async with browser.client.get(f"{browser.base}/?lang=en") as response:
        assert '<html lang="en">' in await response.text()
    page = await browser.open(Cookie="glmbot_language=en", **{"Accept-Language": "zh"})
    assert '<html lang="en">' in page


async def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing_inline(visit: Visit) -> None:
    browser = await visit(echo())
    page = await browser.open()
    policy = browser.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*(src=|application/json))|\son\w+=|\sstyle=", page)
    addresses = re.findall(r'(?:src|href)="([^"#]+)"', page)
    assert len(addresses) >= 4
    for address in addresses:
        assert address.startswith("/webchat/site/static/")
        async with browser.client.get(browser.base + address) as response:
            assert response.status == 200
            assert "immutable" in response.headers["Cache-Control"]
            content = await response.text()
        assert not re.search(r"@import|url\(|innerHTML|eval\(|document\.write", content)
    async with browser.client.get(f"{browser.base}/webchat/site/static/..%2f..%2fpage.py") as response:
        assert response.status == 404


def test_an_operators_text_cannot_break_out_of_the_page() -> None:
    text = "</script><img src=x onerror=alert(1)>\"'&"
    catalogue = Catalogue.load({"web.title": text})
    webchat = Webchat(WebchatSettings(name="site"), catalogue=catalogue, secret=b"s", max_body=1 << 20)
    for language in ("zh", "en"):
        page = webchat._page.html(language).body.decode()  # type: ignore[arg-type, union-attr]
        assert "<img src=x" not in page
        boot = re.search(r'<script type="application/json" id="boot">(.*?)</script>', page, re.DOTALL)
        assert boot
        assert json.loads(boot[1])["texts"][language]["title"] == text


# -- visitors -------------------------------------------------------------------------------


async def test_a_visitor_is_known_by_a_cookie_that_scripts_cannot_read(visit: Visit) -> None:
    browser = await visit(echo())
    cookie = browser.headers["Set-Cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=Lax", "Path=/"))
    assert "Secure" not in cookie
    await browser.open(**{"X-Forwarded-Proto": "https"})
    assert "Secure" in browser.headers["Set-Cookie"]
    again = browser.headers["Set-Cookie"].partition(";")[0]
    assert again == cookie.partition(";")[0]


async def test_a_visitor_sees_only_his_own_talk(visit: Visit) -> None:
    plugin = echo()
    one, two = await visit(plugin), await visit(plugin)
    async with await two.events() as other:
        async with await one.events() as own:
            await one.ask("my secret")
            await own.reply()
        await two.ask("hello")
        assert (await other.reply())[0]["text"] == "echo hello"
    assert [item["question"] for item in (await one.talk())["rounds"]] == ["my secret"]
    assert [item["question"] for item in (await two.talk())["rounds"]] == ["hello"]


@pytest.mark.parametrize("forge", [lambda value: value[:-1] + "!", lambda value: f"x{value}", lambda _: "é."])
async def test_a_forged_cookie_is_nobody_and_gets_a_new_one(visit: Visit, forge: Any) -> None:
    browser = await visit(echo())
    [genuine] = [cookie.value for cookie in browser.client.cookie_jar if cookie.key == "glmbot_visitor"]
    await browser.ask("mine")
    browser.client.cookie_jar.clear()
    forged = {"Cookie": f"glmbot_visitor={forge(genuine)}"}
    assert (await browser.post("messages", {"text": "x", "id": "12345678"}, **forged))[0] == 401
    async with browser.client.get(f"{browser.base}/webchat/site/events", headers=forged) as response:
        assert response.status == 401
    browser.client.cookie_jar.clear()
    async with browser.client.get(f"{browser.base}/webchat/site/talk", headers=forged) as response:
        assert (await response.json())["rounds"] == []
        assert response.cookies["glmbot_visitor"].value != genuine


# -- asking ---------------------------------------------------------------------------------


async def test_an_answer_comes_as_an_event_and_stands_in_the_talk(visit: Visit) -> None:
    browser = await visit(echo())
    async with await browser.events() as events:
        assert await browser.ask("运费？", "abcdefgh") == (202, {"id": "abcdefgh", "round": 1})
        assert (await events.next())[:2] == ("question", {"id": "abcdefgh", "text": "运费？"})
        reply, number = await events.reply()
    assert reply == {
        "to": "abcdefgh",
        "round": 1,
        "text": "echo 运费？",
        "sources": ["manual.md"],
        "choices": ["more"],
        "feedback": True,
        "markdown": False,
        "final": True,
    }
    talk = await browser.talk()
    assert talk["last"] == number
    assert talk["waiting"] == []
    assert talk["rounds"] == [
        {
            "id": "abcdefgh",
            "round": 1,
            "question": "运费？",
            "answer": "echo 运费？",
            "sources": ["manual.md"],
            "vote": None,
            "choices": ["more"],
            "feedback": True,
            "markdown": False,
        }
    ]


async def test_a_retry_is_not_asked_twice_and_ids_are_each_visitors_own(visit: Visit) -> None:
    plugin = echo()
    one, two = await visit(plugin), await visit(plugin)
    answers = [await one.ask("hi", "same-id-1") for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    assert (await two.ask("hi", "same-id-1"))[1]["round"] != answers[0][1]["round"]
    async with await one.events() as events:
        await one.ask("next")
        assert [(await events.reply())[0]["text"] for _ in range(2)] == ["echo hi", "echo next"]
    assert len((await one.talk())["rounds"]) == 2


async def test_a_growing_answer_is_seen_before_it_is_whole(visit: Visit) -> None:
    plugin, gates = Plugin("slow"), [asyncio.Event() for _ in range(2)]

    @plugin.message()
    async def answer(message: Message) -> AsyncIterator[str]:
        yield "一"
        await gates[0].wait()
        yield "二"
        await gates[1].wait()
        yield "三"

    browser = await visit(plugin)
    async with await browser.events() as events:
        await browser.ask("数", "counting-1")
        await events.next()
        assert (await events.next())[1] == {"to": "counting-1", "text": "一", "more": False}
        waiting = (await browser.talk())["waiting"]
        assert waiting == [{"id": "counting-1", "text": "数", "said": []}]
        gates[0].set()
        assert (await events.next())[1] == {"to": "counting-1", "text": "二", "more": True}
        gates[1].set()
        assert (await events.reply())[0]["text"] == "一二三"
    assert (await browser.talk())["waiting"] == []


async def test_events_resume_without_loss_or_doubling(visit: Visit) -> None:
    browser = await visit(echo())
    async with await browser.events() as events:
        await browser.ask("1")
        _, seen = await events.reply()
    for number in range(2, 6):
        await browser.ask(str(number))
    async with await browser.events(after=0, **{"Last-Event-ID": str(seen)}) as events:
        await browser.ask("6")
        texts = [(await events.reply())[0]["text"] for _ in range(5)]
    assert texts == [f"echo {number}" for number in range(2, 7)]


async def test_another_page_of_the_visitor_follows_along(visit: Visit) -> None:
    browser = await visit(echo())
    async with await browser.events() as one, await browser.events() as two:
        await browser.ask("hi")
        for events in (one, two):
            assert (await events.next())[0] == "question"
            assert (await events.reply())[0]["text"] == "echo hi"


async def test_clear_empties_the_talk(visit: Visit) -> None:
    browser = await visit(echo())
    async with await browser.events() as events:
        await browser.ask("hi")
        await events.reply()
        await browser.ask("/clear")
        assert (await events.reply())[0]["text"] == "gone"
    assert [item["question"] for item in (await browser.talk())["rounds"]] == ["/clear"]


async def test_a_vote_reaches_the_plugins_and_the_talk(visit: Visit) -> None:
    plugin, votes = echo(), asyncio.Queue[dict[str, Any]]()

    @plugin.event("feedback")
    async def vote(message: Message, history: History) -> None:
        await history.vote(message.connector, message.user.id, message.data["inbox_id"], message.data["vote"])
        votes.put_nowait(dict(message.data))

    browser = await visit(plugin)
    _, asked = await browser.ask("hi")
    for thumb in (1, -1, 1):
        assert (await browser.post("feedback", {"round": asked["round"], "vote": thumb}))[0] == 202
        assert await votes.get() == {"vote": thumb, "inbox_id": asked["round"]}
    assert (await browser.talk())["rounds"][0]["vote"] == 1


# -- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"text": "x" * (MAX_QUESTION + 1), "id": "12345678"}, 413, "text"),
        ({"text": " \n", "id": "12345678"}, 400, "text"),
        ({"text": 5, "id": "12345678"}, 400, "text"),
        ({"text": "x", "id": "short"}, 400, "id"),
        ({"text": "x", "id": "white space"}, 400, "id"),
        ({"text": "x"}, 400, "id"),
        (b"{", 400, None),
        (b"\xff", 400, None),
        (b"[]", 400, None),
        (b" " * 40_000, 413, None),
    ],
)
async def test_a_wrong_question_is_refused_by_name(
    visit: Visit, body: Any, status: int, field: str | None
) -> None:
    browser = await visit(echo())
    answered, answer = await browser.post("messages", body)
    assert (answered, answer.get("field")) == (status, field)
    assert (await browser.talk())["rounds"] == []


@pytest.mark.parametrize(
    "body", [{"round": "1", "vote": 1}, {"round": 1, "vote": 2}, {"round": 1, "vote": True}, {}]
)
async def test_a_wrong_vote_is_refused(visit: Visit, body: Any) -> None:
    browser = await visit(echo())
    assert (await browser.post("feedback", body))[0] == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Sec-Fetch-Site": "same-origin"}, 202),
    ],
)
async def test_other_sites_cannot_ask_in_a_visitors_name(visit: Visit, headers: Any, status: int) -> None:
    browser = await visit(echo())
    assert (await browser.post("messages", {"text": "x", "id": "12345678"}, **headers))[0] == status
    assert (await browser.post("messages", {"text": "x", "id": "12345679"}, Origin=browser.base))[0] == 202


async def test_one_visitor_cannot_flood_and_others_do_not_feel_it(visit: Visit) -> None:
    plugin = echo()
    one, two = await visit(plugin), await visit(plugin)
    statuses = [(await one.ask("x"))[0] for _ in range(PER_VISITOR.count + 1)]
    assert statuses == [202] * PER_VISITOR.count + [429]
    assert 0 < int(one.headers["Retry-After"]) <= PER_VISITOR.seconds
    assert (await two.ask("x"))[0] == 202


async def test_open_pages_are_counted_and_given_back(visit: Visit) -> None:
    browser = await visit(echo())
    streams = [await browser.events() for _ in range(STREAMS_PER_VISITOR)]
    async with browser.client.get(f"{browser.base}/webchat/site/events") as response:
        assert response.status == 429
    for stream in streams:
        stream.response.close()
    async with asyncio.timeout(10):  # long before the heartbeat of the pages that left
        status = 429
        while status == 429:
            async with browser.client.get(f"{browser.base}/webchat/site/events") as response:
                status = response.status
    assert status == 200


async def test_closing_ends_the_streams_once_the_answers_are_out(visit: Visit) -> None:
    plugin, gate = Plugin("slow"), asyncio.Event()

    @plugin.message()
    async def answer(message: Message) -> str:
        await gate.wait()
        return "last words"

    browser = await visit(plugin)
    [webchat] = browser.app.connectors
    async with await browser.events() as events:
        await browser.ask("hi")
        await webchat.stop()
        assert (await browser.ask("too late"))[0] == 503
        gate.set()
        assert (await events.reply())[0]["text"] == "last words"
        await webchat.close()
        with pytest.raises(EOFError):
            await events.next()


# -- one stream -----------------------------------------------------------------------------


def part(number: int, to: str = "q") -> Outgoing:
    target = Target("webchat", "site", "v", user="v", message_id=to)
    return Outgoing(target, f"text {number}", f"key {number}", id=number)


async def written(stream: EventStream) -> str:
    """All that a closed stream writes."""
    chunks: list[bytes] = []

    async def write(data: bytes) -> None:
        chunks.append(data)

    stream.close()
    await stream.run(SimpleNamespace(write=write))  # type: ignore[arg-type]
    return b"".join(chunks).decode()


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
async def test_what_is_published_while_catching_up_comes_once(missed: int, overlap: int, fresh: int) -> None:
    stream = EventStream()
    newest = missed + fresh
    for number in range(max(1, missed - overlap + 1), newest + 1):
        stream.reply(part(number))
    stream.catch_up([part(number) for number in range(1, missed + 1)], complete=True)
    stream.reply(part(newest))
    stream.reply(part(newest + 1))
    numbers = [int(found) for found in re.findall(r"^id: (\d+)$", await written(stream), re.MULTILINE)]
    assert numbers == list(range(1, newest + 2))


async def test_a_client_that_missed_too_much_is_told_to_load_the_talk() -> None:
    stream = EventStream()
    stream.catch_up([part(7)], complete=False)
    stream.reply(part(8))
    assert re.findall(r"event: (\w+)", await written(stream)) == ["reset", "reply"]


async def test_a_client_that_does_not_read_is_let_go() -> None:
    stream = EventStream()
    for number in range(1, MAX_WAITING + 5):
        stream.reply(part(number))
    assert "reply" not in await written(stream)


async def test_of_a_growing_answer_only_the_newest_state_waits() -> None:
    stream = EventStream()
    for length in range(1, 500):
        stream.grow("q", "a" * length)
    stream.grow("other", "unfinished")
    assert len(stream._growing) == 2
    stream.reply(part(1))
    assert list(stream._growing) == ["other"]
