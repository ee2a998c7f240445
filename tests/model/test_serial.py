"""One thread behind a fair line: order, cancellation, refusals with a time, failures that stay apart."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing

import pytest

from model import serial
from model.serial import SerialModel
from model.types import (
    ChatModel,
    Delta,
    GenerationParams,
    InProcess,
    ModelBusy,
    ModelError,
    Turn,
)

PLAIN = GenerationParams()


class Speaker:
    """Says the words of the question; held, one for each release; some words are things that go wrong."""

    name = "speaker"
    max_context = 64
    kernels = "spoken, 1 thread"

    def __init__(self) -> None:
        self.words = threading.Semaphore(1000)
        self.begun: list[str] = []
        self.spoken = 0
        self.given_up: list[str] = []
        self.params = PLAIN
        self.history: Sequence[Turn] = ()
        self.threads: set[str] = set()

    def hold(self) -> None:
        """Say nothing more without a release."""
        self.words = threading.Semaphore(0)

    def release(self, words: int = 1000) -> None:
        """Say so many words."""
        self.words.release(words)

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def stream(self, query: str, history: Sequence[Turn], params: GenerationParams) -> Iterator[Delta]:
        self.begun.append(query)
        self.params, self.history = params, history
        self.threads.add(threading.current_thread().name)
        try:
            for word in query.split():
                self.words.acquire(timeout=10)
                if word == "fail":
                    raise RuntimeError("the device is gone")
                if word == "refuse":
                    raise ModelError("the prompt is longer than the context", remedy="shorten it")
                if word == "break":
                    return
                self.spoken += 1
                yield Delta(word)
            yield Delta("", "stop")
        except GeneratorExit:
            self.given_up.append(query)
            raise

    def close(self) -> None:
        self.threads.add(f"closed by {threading.current_thread().name}")


@pytest.fixture
def speaker() -> Speaker:
    return Speaker()


@pytest.fixture
async def model(speaker: Speaker) -> AsyncIterator[SerialModel]:
    made = SerialModel(speaker, max_new_tokens=30, prefixes={"shop", "repair"})
    yield made
    speaker.release()
    await made.close()


async def ask(model: ChatModel, query: str, user: str = "u", params: GenerationParams = PLAIN) -> list[Delta]:
    return [delta async for delta in model.chat(query, (), params, user=user)]


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not reached():  # noqa: ASYNC110 - a thread gets there
            await asyncio.sleep(0.001)


async def test_an_answer_streams_from_one_thread(model: SerialModel, speaker: Speaker) -> None:
    assert isinstance(model, ChatModel)
    assert isinstance(model, InProcess)
    assert (model.name, model.max_context, model.count_tokens("a b")) == ("speaker", 64, 2)
    assert model.kernels == "spoken, 1 thread"
    history = [Turn("q", "a")]
    deltas = [delta async for delta in model.chat("one two", history, PLAIN, user="u")]
    assert deltas == [Delta("one"), Delta("two"), Delta("", "stop")]
    assert list(speaker.history) == history
    assert await ask(model, "three") == [Delta("three"), Delta("", "stop")]
    assert speaker.threads == {"model"}


async def test_the_loop_goes_on_while_the_model_works(model: SerialModel, speaker: Speaker) -> None:
    speaker.hold()
    asking = asyncio.create_task(ask(model, "slow"))
    await until(lambda: speaker.begun == ["slow"])
    turns = 0
    for _ in range(100):
        await asyncio.sleep(0)
        turns += 1
    assert turns == 100
    assert not asking.done()
    speaker.release()
    assert (await asking)[0].text == "slow"


async def test_users_take_turns(model: SerialModel, speaker: Speaker) -> None:
    speaker.hold()
    tasks = [asyncio.create_task(ask(model, "first", "z"))]
    await until(lambda: speaker.begun == ["first"])
    for query, user in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("c1", "c"), ("b2", "b")):
        tasks.append(asyncio.create_task(ask(model, query, user)))
        await asyncio.sleep(0)
    speaker.release()
    await asyncio.gather(*tasks)
    assert speaker.begun == ["first", "a1", "b1", "c1", "a2", "b2"]


async def test_closing_the_iterator_stops_at_the_next_token(model: SerialModel, speaker: Speaker) -> None:
    speaker.hold()
    asking = model.chat("one two three four", (), PLAIN, user="u")
    speaker.release(1)
    assert await anext(asking) == Delta("one")
    await asking.aclose()
    speaker.release()
    await until(lambda: bool(speaker.given_up))
    assert speaker.spoken == 2
    assert await ask(model, "next") == [Delta("next"), Delta("", "stop")]


async def test_a_cancelled_task_stops_the_model_too(model: SerialModel, speaker: Speaker) -> None:
    speaker.hold()
    asking = asyncio.create_task(ask(model, "one two"))
    await until(lambda: bool(speaker.begun))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    speaker.release()
    await until(lambda: speaker.given_up == ["one two"])


async def test_who_gives_up_frees_the_place_at_once(model: SerialModel, speaker: Speaker) -> None:
    speaker.hold()
    running = asyncio.create_task(ask(model, "one", "u"))
    await until(lambda: bool(speaker.begun))
    waiting = asyncio.create_task(ask(model, "never", "u"))
    await asyncio.sleep(0)
    with pytest.raises(ModelBusy):
        await ask(model, "third", "u")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    again = asyncio.create_task(ask(model, "again", "u"))
    await asyncio.sleep(0)
    speaker.release()
    await asyncio.gather(running, again)
    assert speaker.begun == ["one", "again"]


async def test_how_many_a_user_may_have_is_the_callers_to_say(speaker: Speaker) -> None:
    model = SerialModel(speaker, of_user=3)
    speaker.hold()
    tasks = [asyncio.create_task(ask(model, query)) for query in ("one", "two", "three")]
    await asyncio.sleep(0)
    with pytest.raises(ModelBusy):
        await ask(model, "four")
    speaker.release()
    await asyncio.gather(*tasks)
    await model.close()


async def test_requests_are_counted_by_how_they_end(model: SerialModel, speaker: Speaker) -> None:
    def value(name: str, **labels: str) -> float:
        return model.registry.get_sample_value(f"glmbot_model_{name}", labels) or 0

    assert await ask(model, "one")
    with pytest.raises(ModelError):
        await ask(model, "word fail")
    speaker.hold()
    running = asyncio.create_task(ask(model, "two words"))
    await until(lambda: speaker.begun[-1] == "two words")
    waiting = asyncio.create_task(ask(model, "gone"))
    await asyncio.sleep(0)
    with pytest.raises(ModelBusy):
        await ask(model, "too much")
    assert (value("waiting"), value("resident")) == (1, 1)
    for task in (waiting, running):
        task.cancel()
    await asyncio.gather(waiting, running, return_exceptions=True)
    speaker.release()
    await until(lambda: not value("resident"))
    assert value("waiting") == 0
    ends = {"answered": 1, "failed": 1, "cancelled": 2, "refused": 1}
    assert {end: value("requests_total", end=end) for end in ends} == ends
    assert value("first_token_seconds_count") == 2


async def test_a_full_line_is_refused_with_the_time_to_wait(
    model: SerialModel, speaker: Speaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serial, "MOST_WAITING", 3)
    clock = 1000.0
    monkeypatch.setattr(serial, "monotonic", lambda: clock)
    speaker.hold()
    first = asyncio.create_task(ask(model, "first"))
    await until(lambda: speaker.begun == ["first"])
    clock += 20.0
    speaker.release(1)
    await first  # answers take 20 s now
    tasks = [asyncio.create_task(ask(model, "running", "r"))]
    await until(lambda: speaker.begun == ["first", "running"])
    tasks += [asyncio.create_task(ask(model, user, user)) for user in "abc"]
    await asyncio.sleep(0)
    clock += 5.0
    with pytest.raises(ModelBusy) as busy:
        await ask(model, "one more", "somebody")
    assert busy.value.retry_after == pytest.approx(15 + 3 * 20)
    speaker.release()
    await asyncio.gather(*tasks)


async def test_only_whole_answers_tell_how_long_one_takes(
    model: SerialModel, speaker: Speaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 1000.0
    monkeypatch.setattr(serial, "monotonic", lambda: clock)
    speaker.hold()
    for query, takes in (
        ("whole", 20.0),
        ("fail", 1.0),
        ("refuse", 1.0),
        ("break", 1.0),
        ("left early", 1.0),
    ):
        task = asyncio.create_task(ask(model, query))
        await until(lambda query=query: speaker.begun[-1:] == [query])  # type: ignore[misc]
        clock += takes
        if query == "left early":
            task.cancel()
            await asyncio.sleep(0)
        speaker.release(1)
        await asyncio.gather(task, return_exceptions=True)
    running = asyncio.create_task(ask(model, "running", "r"))
    await until(lambda: speaker.begun[-1] == "running")
    monkeypatch.setattr(serial, "MOST_WAITING", 0)
    with pytest.raises(ModelBusy) as busy:
        await ask(model, "one more", "somebody")
    assert busy.value.retry_after == 20.0
    speaker.release()
    await running


async def test_nobody_is_let_in_to_wait_for_ages(
    model: SerialModel, speaker: Speaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serial, "LONGEST_WAIT", 2 * serial.FIRST_GUESS)
    speaker.hold()
    tasks = []
    for user in "abc":
        tasks.append(asyncio.create_task(ask(model, user, user)))
        await until(lambda: bool(speaker.begun))
    await asyncio.sleep(0)
    with pytest.raises(ModelBusy) as busy:
        await ask(model, "d", "d")
    assert busy.value.retry_after > serial.LONGEST_WAIT
    speaker.release()
    await asyncio.gather(*tasks)


async def test_a_failure_is_one_requests_own(model: SerialModel) -> None:
    for query, says in (
        ("word fail", "RuntimeError: the device is gone"),
        ("refuse", "longer than the context"),
        ("word break", "broke off"),
    ):
        with pytest.raises(ModelError, match=says) as failed:
            await ask(model, query)
        assert failed.value.remedy
        assert await ask(model, "next") == [Delta("next"), Delta("", "stop")]


async def test_a_long_silence_shows_signs_of_life(
    model: SerialModel, speaker: Speaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serial, "SIGN_OF_LIFE", 0.01)
    speaker.hold()
    async with aclosing(model.chat("word", (), PLAIN, user="u")) as deltas:
        assert await anext(deltas) == Delta("")
        assert await anext(deltas) == Delta("")
        speaker.release()
        rest = [delta async for delta in deltas]
    assert [delta for delta in rest if delta != Delta("")] == [Delta("word"), Delta("", "stop")]


async def test_the_answer_is_no_longer_than_configured(model: SerialModel, speaker: Speaker) -> None:
    await ask(model, "a", params=GenerationParams(max_new_tokens=1000, top_p=0.5))
    assert speaker.params == GenerationParams(max_new_tokens=30, top_p=0.5)
    await ask(model, "a", params=GenerationParams(max_new_tokens=7, prefix="shop"))
    assert speaker.params == GenerationParams(max_new_tokens=7, prefix="shop")


async def test_half_of_the_context_is_left_to_the_question(speaker: Speaker) -> None:
    model = SerialModel(speaker, max_new_tokens=63)
    await ask(model, "a", params=GenerationParams(max_new_tokens=1000))
    await model.close()
    assert speaker.params.max_new_tokens == speaker.max_context // 2


async def test_an_unknown_prefix_names_the_known_ones(model: SerialModel) -> None:
    with pytest.raises(ModelError, match=r"'gone'.*known are: repair, shop"):
        await ask(model, "a", params=GenerationParams(prefix="gone"))


async def test_close_stops_everything_and_leaves_no_thread(speaker: Speaker) -> None:
    model = SerialModel(speaker)
    speaker.hold()
    running = asyncio.create_task(ask(model, "one two three", "a"))
    await until(lambda: bool(speaker.begun))
    waiting = asyncio.create_task(ask(model, "never", "b"))
    await asyncio.sleep(0)
    closing = asyncio.create_task(model.close())
    await asyncio.sleep(0)
    speaker.release()
    await closing
    for task in (running, waiting):
        with pytest.raises(ModelError, match="closed") as closed:
            await task
        assert closed.value.remedy
    assert speaker.begun == ["one two three"]
    assert "closed by model" in speaker.threads
    with pytest.raises(ModelError, match="closed"):
        await ask(model, "late")
    await model.close()
    assert "model" not in [thread.name for thread in threading.enumerate()]


async def test_a_loop_that_ended_stops_nobody_else(model: SerialModel, speaker: Speaker) -> None:
    async def leave() -> None:
        await anext(model.chat("one two three", (), PLAIN, user="gone"))

    await asyncio.to_thread(asyncio.run, leave())
    assert await ask(model, "next") == [Delta("next"), Delta("", "stop")]
