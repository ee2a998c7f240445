"""Documents in a running bot: quoted with a citation, or put into the model's words."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from bot import ModelBusy, ModelError
from bot.retrieval import Entry, Hit
from bot.testing import BotTester, FakeModel
from plugins.knowledge.plugin import plugin
from plugins.knowledge.prompt import BUDGET, make_prompt

GUIDE = """# 配送说明

## 偏远地区
新疆和西藏满 199 元包邮，不满收取 18 元，一般五到七天送达。

## 大件
德邦物流送货前一天打电话约定时段，不负责拆箱。
"""
QUESTION = "新疆西藏满多少元包邮"


@pytest.fixture
def bot(bot_tester: BotTester, tmp_path: Path) -> BotTester:
    (tmp_path / "guide.md").write_text(GUIDE, "utf-8")
    return bot_tester.use(plugin, folders=[str(tmp_path)], threshold=0.3)


async def test_without_a_model_the_best_sentences_are_quoted_with_their_place(bot: BotTester) -> None:
    said = await bot.private().say(QUESTION)
    assert "199 元包邮" in said.text
    assert "德邦" not in said.text
    assert said.sources == ("配送说明 › 偏远地区",)
    assert [reply.feedback for reply in said.replies] == [True]


async def test_what_the_documents_do_not_say_is_not_answered(bot: BotTester) -> None:
    for text in ("今天天气怎么样", "199", "???", "大件", "好的", "包邮"):
        assert (await bot.private().say(text)).sources == ()


async def test_with_a_model_the_passages_go_into_the_prompt_and_are_cited(bot: BotTester) -> None:
    bot.with_model(lambda prompt: ["满 199 元", "就包邮。"])
    said = await bot.private().say(QUESTION)
    assert said.text == "满 199 元就包邮。"
    assert said.sources[0] == "配送说明 › 偏远地区"
    assert bot.model is not None
    [(prompt, history)] = bot.model.prompts
    assert "新疆和西藏满 199 元包邮" in prompt
    assert prompt.endswith(QUESTION)
    assert history == []


async def test_tokens_are_not_counted_on_the_event_loop(bot: BotTester) -> None:
    threads: set[threading.Thread] = set()

    def count(text: str) -> int:
        threads.add(threading.current_thread())
        return len(text)

    bot.with_model(lambda prompt: ["ok"])
    assert bot.model is not None
    bot.model.count_tokens = count  # type: ignore[method-assign]
    await bot.private().say(QUESTION)
    assert threads
    assert threading.current_thread() not in threads


@pytest.mark.parametrize("failure", [ModelBusy(9), ModelError("gone"), None])
async def test_a_model_that_does_not_answer_leaves_the_quotation(
    bot: BotTester, failure: Exception | None
) -> None:
    def answer(prompt: str) -> Iterable[str]:
        if failure is not None:
            raise failure
        return [" "]

    said = await bot.with_model(answer).private().say(QUESTION)
    assert "199 元包邮" in said.text
    assert said.sources[0] == "配送说明 › 偏远地区"


async def test_a_model_is_not_asked_what_the_documents_do_not_say(bot: BotTester) -> None:
    bot.with_model(lambda prompt: ["nonsense"])
    assert (await bot.private().say("今天天气怎么样")).sources == ()
    assert bot.model is not None
    assert bot.model.prompts == []


async def test_an_answer_that_breaks_off_is_followed_by_the_quotation(bot: BotTester) -> None:
    def answer(prompt: str) -> Iterator[str]:
        yield "满 199"
        raise ModelError("gone")

    said = await bot.with_model(answer).private().say(QUESTION)
    begun, quoted = said.text.split("…\n\n")
    assert begun == "满 199"
    assert "199 元包邮" in quoted
    assert said.sources == ("配送说明 › 偏远地区",)


def hit(text: str) -> Hit:
    return Hit(text[:1], 0.9, False, Entry(text[:1], (text,), text, title=text[:1]), text, 1.0)


def made(question: str, hits: list[Hit], language: str, model: FakeModel) -> tuple[str, list[str]]:
    prompt = make_prompt(question, hits, language, model)
    assert prompt is not None
    return prompt[0], [each.id for each in prompt[1]]


def test_the_prompt_keeps_its_budget() -> None:
    model = FakeModel(lambda prompt: [])
    model.max_context = 100_000
    prompt, used = made("{question}?", [hit("a" * (BUDGET - 10)), hit("b" * 10)], "en", model)
    assert used == ["a"]
    assert prompt.endswith("Question: {question}?")
    prompt, used = made("问", [hit("a"), hit("b"), hit("c" * BUDGET)], "zh", model)
    assert used == ["a", "b"]
    assert "[2] b" in prompt


def test_a_model_that_reads_little_gets_fewer_passages() -> None:
    model = FakeModel(lambda prompt: [])
    hits = [hit("a" * 200), hit("b" * 200)]
    assert made("?", hits, "en", model)[1] == ["a", "b"]
    model.max_context = 1024
    assert made("?", hits, "en", model)[1] == ["a"]


LONG = "".join(f"第{number}条说的是另外一件事情。" for number in range(20))
ABOUT = "新疆和西藏满199元包邮。"


def test_of_a_passage_too_long_for_the_model_the_sentences_asked_for_are_taken() -> None:
    model = FakeModel(lambda prompt: [])
    model.max_context = 256
    prompt, used = made("新疆包邮吗", [hit(f"运费说明。{LONG}{ABOUT}{LONG}"), hit("b")], "zh", model)
    assert used == ["运"]
    assert f"\n{ABOUT}\n" in prompt


@pytest.mark.parametrize("context", range(64, 2500, 61))
@pytest.mark.parametrize("language", ["zh", "en"])
def test_prompt_and_answer_fit_every_context(context: int, language: str) -> None:
    model = FakeModel(lambda prompt: [])
    model.max_context = context
    prompt = make_prompt(QUESTION, [hit(LONG + ABOUT), hit(ABOUT + LONG)], language, model)
    if context > 500:
        assert prompt is not None
    if prompt is not None:
        answer, special = min(512, context // 2), 2
        assert model.count_tokens(prompt[0]) + special + answer <= context


async def test_a_question_that_leaves_no_room_is_answered_by_quotation(bot: BotTester) -> None:
    bot.with_model(lambda prompt: ["nonsense"])
    assert bot.model is not None
    bot.model.max_context = 64
    said = await bot.private().say(QUESTION)
    assert "199 元包邮" in said.text
    assert said.sources == ("配送说明 › 偏远地区",)
    assert bot.model.prompts == []
