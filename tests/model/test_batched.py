"""Many talks over one small random model: what each hears is what it would hear alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

import pytest

import model
from model.batched import BatchedModel, limits_of
from model.random_model import make_random
from model.scheduler import Limits
from model.types import Delta, GenerationParams, ModelBusy, ModelError, ModelTimeout, PromptTooLong, Turn

LIMITS = Limits(pages=300, answering=16, batch=8, waiting=20, of_user=4)
QUESTIONS = [f"第 {number} 个问题：怎么退货？" * (number % 4 + 1) for number in range(12)]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> model.LanguageModel:
    folder = tmp_path_factory.mktemp("random") / "tiny"
    make_random(folder)
    return model.load(folder, device="cpu", max_context=256)


@pytest.fixture
async def batched(loaded: model.LanguageModel) -> AsyncIterator[BatchedModel]:
    made = BatchedModel(loaded, LIMITS, max_new_tokens=40, sign_of_life=0.05)
    yield made
    await made._engine.close()  # the weights stay for the next test


async def ask(batched: BatchedModel, query: str, params: GenerationParams, user: str = "u") -> list[Delta]:
    return [delta async for delta in batched.chat(query, (), params, user=user)]


def text(deltas: list[Delta]) -> str:
    assert all(delta.finish is None and delta.usage is None for delta in deltas[:-1])
    return "".join(delta.text for delta in deltas)


def reserved(batched: BatchedModel) -> float | None:
    return batched.registry.get_sample_value("glmbot_model_pages_reserved")


async def until_free(batched: BatchedModel) -> None:
    async with asyncio.timeout(5):
        while reserved(batched):  # noqa: ASYNC110 - the worker's thread has no event for it
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
async def test_each_hears_what_it_would_hear_alone(
    batched: BatchedModel, loaded: model.LanguageModel, temperature: float
) -> None:
    params = [GenerationParams(30, temperature, seed=seed) for seed in range(len(QUESTIONS))]
    together = await asyncio.gather(
        *(ask(batched, one, own, one) for one, own in zip(QUESTIONS, params, strict=True))
    )
    for query, own, deltas in zip(QUESTIONS, params, together, strict=True):
        alone = list(loaded.stream(query, (), own))
        assert text(deltas) == text(alone)
        assert (deltas[-1].finish, deltas[-1].usage) == (alone[-1].finish, alone[-1].usage)


async def test_the_same_prompt_is_read_once(batched: BatchedModel, loaded: model.LanguageModel) -> None:
    """However many ask it at once or after one another; each draws for itself."""
    params = [GenerationParams(20, seed=seed) for seed in (1, 2, 2)]
    answers = [text(one) for one in await asyncio.gather(*(ask(batched, "你好", own) for own in params))]
    again = text(await ask(batched, "你好", params[0]))
    assert answers == [text(list(loaded.stream("你好", (), own))) for own in params]
    assert again == answers[0]
    read = batched.registry.get_sample_value("glmbot_model_prompt_tokens_total")
    assert read == len(loaded.prompt("你好", (), params[0]))


async def test_a_stop_string_ends_the_answer_and_frees_its_pages(
    batched: BatchedModel, loaded: model.LanguageModel
) -> None:
    plain = GenerationParams(40, seed=3)
    whole = text(list(loaded.stream("你好", (), plain)))
    stop = whole[5:8]
    deltas = await ask(batched, "你好", replace(plain, stop=(stop,)))
    assert text(deltas) == whole[: whole.index(stop)].rstrip()
    assert deltas[-1].finish == "stop"
    await until_free(batched)


async def test_history_is_part_of_the_prompt(batched: BatchedModel, loaded: model.LanguageModel) -> None:
    history, params = [Turn("运费？", "满 99 包邮。")], GenerationParams(10, 0.0)
    deltas = [delta async for delta in batched.chat("多久能到？", history, params, user="u")]
    assert text(deltas) == text(list(loaded.stream("多久能到？", history, params)))


async def test_closing_the_iterator_frees_the_pages_at_the_next_step(batched: BatchedModel) -> None:
    async with aclosing(batched.chat("你好", (), GenerationParams(seed=1), user="u")) as deltas:
        async for delta in deltas:
            if delta.text:
                break
        assert reserved(batched)
    await until_free(batched)


async def test_a_cancelled_task_frees_its_pages(batched: BatchedModel) -> None:
    tasks = [asyncio.create_task(ask(batched, one, GenerationParams(seed=1), one)) for one in QUESTIONS]
    await asyncio.sleep(0.02)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await until_free(batched)


async def test_one_user_may_not_fill_the_line(batched: BatchedModel) -> None:
    tasks = [asyncio.create_task(ask(batched, one, GenerationParams(seed=1))) for one in QUESTIONS[:6]]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    refused = [one for one in results if isinstance(one, ModelBusy)]
    assert len(refused) == len(tasks) - LIMITS.of_user
    assert all(one.position and one.retry_after >= 1 for one in refused)


async def test_what_does_not_end_in_time_is_given_up(batched: BatchedModel) -> None:
    with pytest.raises(ModelTimeout) as late:
        await ask(batched, "你好", GenerationParams(seed=1, timeout=0.001))
    assert late.value.seconds == 0.001
    await until_free(batched)


async def test_a_question_longer_than_the_context_is_refused(batched: BatchedModel) -> None:
    with pytest.raises(PromptTooLong):
        await ask(batched, "很长的问题" * 400, GenerationParams())


async def test_an_unknown_prefix_is_refused(batched: BatchedModel) -> None:
    with pytest.raises(ModelError, match="no prefix 'shop'"):
        await ask(batched, "你好", GenerationParams(prefix="shop"))


async def test_the_loop_goes_on_while_a_long_text_becomes_tokens(batched: BatchedModel) -> None:
    """Of a question far too long, for instance."""
    asking = asyncio.create_task(ask(batched, "很长的问题，" * 100_000, GenerationParams()))
    loop, latest = asyncio.get_running_loop(), 0.0
    while not asking.done():
        before = loop.time()
        await asyncio.sleep(0.001)
        latest = max(latest, loop.time() - before)
    with pytest.raises(PromptTooLong):
        await asking
    assert latest < 0.25


async def test_silence_shows_signs_of_life(batched: BatchedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    network = batched._model.network
    monkeypatch.setattr(type(network), "extend", slowly(type(network).extend))
    deltas = await ask(batched, "你好", GenerationParams(2, seed=1))
    assert Delta("") in deltas


async def test_closing_tells_who_still_waits(loaded: model.LanguageModel) -> None:
    made = BatchedModel(loaded, LIMITS)
    tasks = [asyncio.create_task(ask(made, one, GenerationParams(seed=1), one)) for one in QUESTIONS]
    await asyncio.sleep(0.02)
    await made._engine.close()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert any(isinstance(one, ModelError) and "being closed" in str(one) for one in results)
    with pytest.raises(ModelError, match="being closed"):
        await ask(made, "你好", GenerationParams())


def test_half_of_what_is_free_is_taken(loaded: model.LanguageModel) -> None:
    """Less than all users would need, but one talk at least."""
    all_of_them = limits_of(loaded, answering=8, free=None, memory=None)
    assert all_of_them.pages == 8 * 256 // 16
    some = limits_of(loaded, answering=8, free=60_000_000, memory=None)
    assert 16 <= some.pages <= all_of_them.pages
    with pytest.raises(ModelError, match="are available"):
        limits_of(loaded, answering=8, free=None, memory=1_000_000)


def slowly(function):  # type: ignore[no-untyped-def]
    def slow(*arguments):  # type: ignore[no-untyped-def]
        import time

        time.sleep(0.2)
        return function(*arguments)

    return slow
