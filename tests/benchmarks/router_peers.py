"""One cell of the router benchmark for another framework: its own core, no network, in this process alone.

`python router_peers.py PEER KIND HANDLERS SECONDS` prints a line of JSON. Run it with an interpreter that
has the peer; nothing of glmbot is imported. What is timed is the public call that a platform's message comes
in by, with the last of N handlers being the one that matches and answers through a fake transport.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

CHATS = 64
TEXTS = {
    "command": "/cmd{:03d} hello",
    "keyword": "please cmd{:03d} hello",
    "regex": "please cmd{:03d} hello",
}
PATTERN = r"\bcmd{:03d}\b"
Feed = Callable[[Any], Awaitable[Any]]


async def measure(feed: Feed, events: list[Any], sent: list[int], seconds: float) -> dict[str, Any]:
    """Messages per CPU-second of `feed`; every message has to be answered once."""
    await feed(events[0])
    if len(sent) != 1:
        raise SystemExit(f"{len(sent)} answers to one message")
    sent.clear()
    done = 0
    began, used = time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        await feed(events[done % len(events)])
        done += 1
    used = time.process_time() - used
    if len(sent) != done:
        raise SystemExit(f"{len(sent)} answers to {done} messages")
    return {"messages": done, "per_cpu_second": done / used}


async def nonebot2(kind: str, handlers: int, seconds: float) -> dict[str, Any]:
    """nonebot.message.handle_event; its fake bot takes a text and builds no API object."""
    import nonebot
    from nonebot.adapters import Adapter, Bot, Event, Message, MessageSegment
    from nonebot.log import logger
    from nonebot.message import handle_event

    class Segment(MessageSegment["Text"]):
        @classmethod
        def get_message_class(cls) -> type[Text]:
            return Text

        def __str__(self) -> str:
            return str(self.data.get("text", ""))

        def is_text(self) -> bool:
            return True

    class Text(Message[Segment]):
        @classmethod
        def get_segment_class(cls) -> type[Segment]:
            return Segment

        @staticmethod
        def _construct(msg: str) -> Any:
            yield Segment("text", {"text": msg})

    class Said(Event):
        user: str
        text: str

        def get_type(self) -> str:
            return "message"

        def get_event_name(self) -> str:
            return "message"

        def get_event_description(self) -> str:
            return self.text

        def get_user_id(self) -> str:
            return self.user

        def get_session_id(self) -> str:
            return self.user

        def get_message(self) -> Text:
            return Text(self.text)

        def is_tome(self) -> bool:
            return True

    class FakeAdapter(Adapter):
        @classmethod
        def get_name(cls) -> str:
            return "fake"

        async def _call_api(self, bot: Bot, api: str, **data: Any) -> None:
            return None

    class FakeBot(Bot):
        async def send(self, event: Event, message: Any, **options: Any) -> None:
            sent.append(1)

    sent: list[int] = []
    nonebot.init(driver="~none", _env_file=None)
    logger.remove()  # its line per event would be the most expensive part
    bot = FakeBot(FakeAdapter(nonebot.get_driver()), "bot")
    for number in range(handlers):
        if kind == "command":
            matcher = nonebot.on_command(f"cmd{number:03d}", priority=10, block=True)
        elif kind == "keyword":
            matcher = nonebot.on_keyword({f"cmd{number:03d}"}, priority=10, block=True)
        else:
            matcher = nonebot.on_regex(PATTERN.format(number), priority=10, block=True)

        @matcher.handle()
        async def _(bot: Bot, event: Event) -> None:
            await bot.send(event, "ok")

    events = [Said(user=f"u{chat}", text=TEXTS[kind].format(handlers - 1)) for chat in range(CHATS)]
    return await measure(lambda event: handle_event(bot, event), events, sent, seconds)


async def aiogram(kind: str, handlers: int, seconds: float) -> dict[str, Any]:
    """aiogram.Dispatcher.feed_update with updates built beforehand; each answer builds a SendMessage."""
    from aiogram import Bot, Dispatcher, F
    from aiogram.client.session.base import BaseSession
    from aiogram.filters import Command
    from aiogram.types import Message, Update

    class FakeSession(BaseSession):
        async def close(self) -> None:
            return None

        async def make_request(self, bot: Bot, method: Any, timeout: int | None = None) -> Any:
            sent.append(1)
            return True

        async def stream_content(self, *args: Any, **options: Any) -> Any:
            yield b""

    sent: list[int] = []
    bot = Bot("42:TEST", session=FakeSession())
    dispatcher = Dispatcher()
    for number in range(handlers):
        if kind == "command":
            matches: Any = Command(f"cmd{number:03d}")
        elif kind == "keyword":
            matches = F.text.contains(f"cmd{number:03d}")
        else:
            matches = F.text.regexp(re.compile(PATTERN.format(number)), mode="search")

        @dispatcher.message(matches)
        async def _(message: Message) -> None:
            await message.answer("ok")

    context = {"bot": bot}
    events = [
        Update.model_validate(update, context=context) for update in _telegram_updates(kind, handlers - 1)
    ]
    return await measure(lambda update: dispatcher.feed_update(bot, update), events, sent, seconds)


async def python_telegram_bot(kind: str, handlers: int, seconds: float) -> dict[str, Any]:
    """telegram.ext.Application.process_update with updates built beforehand; each answer is a request."""
    from telegram import Update, User
    from telegram.ext import ApplicationBuilder, CommandHandler, MessageHandler, filters
    from telegram.request import BaseRequest

    class FakeRequest(BaseRequest):
        read_timeout = 5.0

        async def initialize(self) -> None:
            return None

        async def shutdown(self) -> None:
            return None

        async def do_request(self, *args: Any, **options: Any) -> tuple[int, bytes]:
            sent.append(1)
            return 200, (
                b'{"ok":true,"result":{"message_id":1,"date":1700000000,"chat":{"id":1,"type":"private"}}}'
            )

    sent: list[int] = []
    request = FakeRequest()
    builder = ApplicationBuilder().token("42:TEST").request(request).get_updates_request(FakeRequest())
    application = builder.job_queue(None).build()
    application.bot._bot_user = User(42, "b", True, username="b")
    application._initialized = True
    for number in range(handlers):

        async def answer(update: Update, context: Any) -> None:
            await update.effective_message.reply_text("ok")

        if kind == "command":
            application.add_handler(CommandHandler(f"cmd{number:03d}", answer))
        else:
            pattern = PATTERN.format(number) if kind == "regex" else f"cmd{number:03d}"
            application.add_handler(MessageHandler(filters.Regex(pattern), answer))
    events = [Update.de_json(update, application.bot) for update in _telegram_updates(kind, handlers - 1)]
    return await measure(application.process_update, events, sent, seconds)


def _telegram_updates(kind: str, number: int) -> list[dict[str, Any]]:
    entities = [{"type": "bot_command", "offset": 0, "length": 7}] if kind == "command" else []
    return [
        {
            "update_id": chat,
            "message": {
                "message_id": chat,
                "date": 1700000000,
                "chat": {"id": -100 - chat, "type": "group", "title": "g"},
                "from": {"id": 7 + chat, "is_bot": False, "first_name": "u"},
                "text": TEXTS[kind].format(number),
                "entities": entities,
            },
        }
        for chat in range(CHATS)
    ]


PEERS = {"nonebot2": nonebot2, "aiogram": aiogram, "python-telegram-bot": python_telegram_bot}


def main() -> None:
    """Measure one cell, or say with exit code 3 that the peer is not installed."""
    peer, kind, handlers, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    try:
        result = asyncio.run(PEERS[peer](kind, handlers, seconds))
    except ModuleNotFoundError as error:
        print(f"{error.name} is not installed", file=sys.stderr)
        raise SystemExit(3) from None
    print(json.dumps(result))


if __name__ == "__main__":
    main()
