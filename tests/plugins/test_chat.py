"""Free talk: with a model it remembers and streams, without one it leaves the question to others."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bot import ModelBusy, ModelError
from bot.testing import BotTester
from model import load, serial
from model.batched import BatchedModel
from model.random_model import make_random
from model.scheduler import Limits
from model.types import Delta, GenerationParams, PromptTooLong, Turn, prompt_room
from plugins.chat.plugin import plugin


@pytest.fixture
def bot(bot_tester: BotTester) -> BotTester:
    return bot_tester.use(plugin)


async def test_without_a_model_it_stays_out_of_the_way(bot: BotTester) -> None:
    assert "答不上来" in (await bot.private().say("你好")).text


async def test_the_talk_so_far_goes_to_the_model(bot: BotTester) -> None:
    user = bot.with_model(lambda question: ["回答：", question]).private()
    assert (await user.say("一")).text == "回答：一"
    assert (await user.say("二")).text == "回答：二"
    assert bot.model is not None
    question, history = bot.model.prompts[1]
    assert question == "二"
    assert [(turn.question, turn.answer) for turn in history] == [("一", "回答：一")]


async def test_users_do_not_share_a_talk(bot: BotTester) -> None:
    bot.with_model(lambda question: ["ok"])
    await bot.private("u1").say("一")
    await bot.private("u2").say("二")
    assert bot.model is not None
    assert bot.model.prompts[1] == ("二", [])


async def test_clear_forgets_the_talk(bot: BotTester) -> None:
    user = bot.with_model(lambda question: ["ok"]).private()
    for _ in range(2):
        assert "没有需要清除" in (await user.say("/清空")).text
    await user.say("一")
    assert "忘掉了" in (await user.say("/clear")).text
    await user.say("二")
    assert bot.model is not None
    assert "一" not in [turn.question for turn in bot.model.prompts[-1][1]]


async def test_a_busy_model_says_so_with_the_time_to_wait(bot: BotTester) -> None:
    def answer(question: str) -> Iterable[str]:
        raise ModelBusy(7)

    assert "7 秒" in (await bot.with_model(answer).private().say("你好")).text


class HeldBackend:
    """A model in this process that answers once it is let go."""

    name = "held"
    max_context = 2048

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.let_go = threading.Event()

    def count_tokens(self, text: str) -> int:
        return len(text)

    def stream(self, query: str, history: Sequence[Turn], params: GenerationParams) -> Iterator[Delta]:
        self.begun.set()
        self.let_go.wait(10)
        yield Delta("ok", "stop")

    def close(self) -> None:
        pass


async def test_who_finds_the_line_full_is_told_when_to_come_back(
    bot: BotTester, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = HeldBackend()
    bot.model = serial.SerialModel(backend)  # type: ignore[assignment]
    first = asyncio.create_task(bot.private("u1").say("一"))
    await asyncio.to_thread(backend.begun.wait, 10)
    monkeypatch.setattr(serial, "MOST_WAITING", 0)
    refused = (await bot.private("u2").say("二")).text
    backend.let_go.set()
    assert (await first).text == "ok"
    assert re.search(r"有点多，请大约 \d+ 秒后再试", refused)


@pytest.mark.parametrize("session", ["user-in-chat", "chat"])
async def test_a_flooded_group_does_not_keep_a_private_chat_waiting(
    bot: BotTester, tmp_path: Path, session: str
) -> None:
    """By one member, or by all where a group is one talk: it is one user of the model among others."""
    make_random(tmp_path / "tiny")
    limits = Limits(pages=100, answering=1, batch=1, of_user=2)
    loaded = load(tmp_path / "tiny", device="cpu", max_context=256)
    bot.model = BatchedModel(loaded, limits, max_new_tokens=8)  # type: ignore[assignment]
    bot.configure(groups={"respond": "all", "session": session})
    members = [bot.group("g").user("u1" if session == "user-in-chat" else f"u{n}") for n in range(30)]
    flood = [asyncio.create_task(member.say(f"第 {n} 个问题")) for n, member in enumerate(members)]
    await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
    answer = (await bot.private("p").say("你好")).text
    assert answer
    assert "再试" not in answer
    assert sum(task.done() for task in flood) <= 5
    await asyncio.gather(*flood)


async def test_a_model_that_is_away_or_silent_is_admitted(bot: BotTester) -> None:
    def answer(question: str) -> Iterable[str]:
        if question == "silence":
            return ["", " "]
        raise ModelError("gone", file=Path("weights"), remedy="find them")

    user = bot.with_model(answer).private()
    with capture_logs() as logs:
        assert "智能对话暂时用不了" in (await user.say("你好")).text
    assert [line["problem"] for line in logs if "problem" in line] == ["weights: gone; find them"]
    assert "don't know" in (await user.say("silence")).text


async def test_an_answer_that_breaks_off_keeps_what_was_said(bot: BotTester) -> None:
    def answer(question: str) -> Iterator[str]:
        yield "半句"
        raise ModelError("gone")

    text = (await bot.with_model(answer).private().say("你好")).text
    assert text.startswith("半句")
    assert "打断" in text


async def test_a_question_longer_than_the_model_can_read_is_answered_with_the_limit(bot: BotTester) -> None:
    user = bot.with_model(lambda question: ["ok"]).private()
    assert bot.model is not None
    most = prompt_room(bot.model.max_context)
    assert (await user.say("长" * most)).text == "ok"
    assert f"{most} 字以内" in (await user.say("长" * (most + 1))).text


async def test_a_question_that_only_the_model_finds_too_long_is_no_failure(bot: BotTester) -> None:
    def answer(question: str) -> Iterable[str]:
        raise PromptTooLong("has 40 tokens", tokens=40, room=30, remedy="shorten it")

    with capture_logs() as logs:
        assert "15 字以内" in (await bot.with_model(answer).private().say("长" * 20)).text
    assert [line for line in logs if line["log_level"] == "error"] == []


async def test_how_freely_the_model_speaks_can_be_set(bot_tester: BotTester) -> None:
    user = (
        bot_tester.use(plugin, temperature=0.0, top_p=0.5, prefix="shop")
        .with_model(lambda question: ["ok"])
        .private()
    )
    await user.say("你好")
    assert bot_tester.model is not None
    [params] = bot_tester.model.params
    assert (params.temperature, params.top_p, params.prefix) == (0.0, 0.5, "shop")


async def test_tokens_are_not_counted_on_the_event_loop(bot: BotTester) -> None:
    threads: set[threading.Thread] = set()

    def count(text: str) -> int:
        threads.add(threading.current_thread())
        return len(text)

    user = bot.with_model(lambda question: ["ok"]).private()
    assert bot.model is not None
    bot.model.count_tokens = count  # type: ignore[method-assign]
    await user.say("一")
    await user.say("二")
    assert threads
    assert threading.current_thread() not in threads
