"""One thread behind a fair line: order, cancellation, refusals with a time, failures that stay apart."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from structlog.testing import capture_logs

from model import local
from model.local import LocalModel, check, create
from model.types import (
    ChatModel,
    Delta,
    GenerationParams,
    InProcess,
    KVType,
    ModelBusy,
    ModelError,
    Turn,
    prompt_room,
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
async def model(speaker: Speaker) -> AsyncIterator[LocalModel]:
    made = LocalModel(speaker, max_new_tokens=30, prefixes={"shop", "repair"})
    yield made
    speaker.release()
    await made.close()


async def ask(model: ChatModel, query: str, user: str = "u", params: GenerationParams = PLAIN) -> list[Delta]:
    return [delta async for delta in model.chat(query, (), params, user=user)]


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not reached():  # noqa: ASYNC110 - a thread gets there
            await asyncio.sleep(0.001)


async def test_an_answer_streams_from_one_thread(model: LocalModel, speaker: Speaker) -> None:
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


async def test_the_loop_goes_on_while_the_model_works(model: LocalModel, speaker: Speaker) -> None:
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


async def test_users_take_turns(model: LocalModel, speaker: Speaker) -> None:
    speaker.hold()
    tasks = [asyncio.create_task(ask(model, "first", "z"))]
    await until(lambda: speaker.begun == ["first"])
    for query, user in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("c1", "c"), ("b2", "b")):
        tasks.append(asyncio.create_task(ask(model, query, user)))
        await asyncio.sleep(0)
    speaker.release()
    await asyncio.gather(*tasks)
    assert speaker.begun == ["first", "a1", "b1", "c1", "a2", "b2"]


async def test_closing_the_iterator_stops_at_the_next_token(model: LocalModel, speaker: Speaker) -> None:
    speaker.hold()
    asking = model.chat("one two three four", (), PLAIN, user="u")
    speaker.release(1)
    assert await anext(asking) == Delta("one")
    await asking.aclose()
    speaker.release()
    await until(lambda: bool(speaker.given_up))
    assert speaker.spoken == 2
    assert await ask(model, "next") == [Delta("next"), Delta("", "stop")]


async def test_a_cancelled_task_stops_the_model_too(model: LocalModel, speaker: Speaker) -> None:
    speaker.hold()
    asking = asyncio.create_task(ask(model, "one two"))
    await until(lambda: bool(speaker.begun))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    speaker.release()
    await until(lambda: speaker.given_up == ["one two"])


async def test_who_gives_up_frees_the_place_at_once(model: LocalModel, speaker: Speaker) -> None:
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


async def test_a_full_line_is_refused_with_the_time_to_wait(
    model: LocalModel, speaker: Speaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "MOST_WAITING", 3)
    clock = 1000.0
    monkeypatch.setattr(local, "monotonic", lambda: clock)
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
    model: LocalModel, speaker: Speaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 1000.0
    monkeypatch.setattr(local, "monotonic", lambda: clock)
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
    monkeypatch.setattr(local, "MOST_WAITING", 0)
    with pytest.raises(ModelBusy) as busy:
        await ask(model, "one more", "somebody")
    assert busy.value.retry_after == 20.0
    speaker.release()
    await running


async def test_nobody_is_let_in_to_wait_for_ages(
    model: LocalModel, speaker: Speaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "LONGEST_WAIT", 2 * local.FIRST_GUESS)
    speaker.hold()
    tasks = []
    for user in "abc":
        tasks.append(asyncio.create_task(ask(model, user, user)))
        await until(lambda: bool(speaker.begun))
    await asyncio.sleep(0)
    with pytest.raises(ModelBusy) as busy:
        await ask(model, "d", "d")
    assert busy.value.retry_after > local.LONGEST_WAIT
    speaker.release()
    await asyncio.gather(*tasks)


async def test_a_failure_is_one_requests_own(model: LocalModel) -> None:
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
    model: LocalModel, speaker: Speaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "SIGN_OF_LIFE", 0.01)
    speaker.hold()
    async with aclosing(model.chat("word", (), PLAIN, user="u")) as deltas:
        assert await anext(deltas) == Delta("")
        assert await anext(deltas) == Delta("")
        speaker.release()
        rest = [delta async for delta in deltas]
    assert [delta for delta in rest if delta != Delta("")] == [Delta("word"), Delta("", "stop")]


async def test_the_answer_is_no_longer_than_configured(model: LocalModel, speaker: Speaker) -> None:
    await ask(model, "a", params=GenerationParams(max_new_tokens=1000, top_p=0.5))
    assert speaker.params == GenerationParams(max_new_tokens=30, top_p=0.5)
    await ask(model, "a", params=GenerationParams(max_new_tokens=7, prefix="shop"))
    assert speaker.params == GenerationParams(max_new_tokens=7, prefix="shop")


async def test_half_of_the_context_is_left_to_the_question(speaker: Speaker) -> None:
    model = LocalModel(speaker, max_new_tokens=63)
    await ask(model, "a", params=GenerationParams(max_new_tokens=1000))
    await model.close()
    assert speaker.params.max_new_tokens == speaker.max_context // 2


async def test_an_unknown_prefix_names_the_known_ones(model: LocalModel) -> None:
    with pytest.raises(ModelError, match=r"'gone'.*known are: repair, shop"):
        await ask(model, "a", params=GenerationParams(prefix="gone"))


async def test_close_stops_everything_and_leaves_no_thread(speaker: Speaker) -> None:
    model = LocalModel(speaker)
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


async def test_a_loop_that_ended_stops_nobody_else(model: LocalModel, speaker: Speaker) -> None:
    async def leave() -> None:
        await anext(model.chat("one two three", (), PLAIN, user="gone"))

    await asyncio.to_thread(asyncio.run, leave())
    assert await ask(model, "next") == [Delta("next"), Delta("", "stop")]


# -- from the configuration ------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    path: Path | None
    device: Literal["auto", "cuda", "cpu", "mps"] = "cpu"
    quantization: Literal["int4", "int8", "none"] = "int4"
    kv_cache: KVType = "auto"
    max_context: int = 256
    max_new_tokens: int = 8
    prefixes: Mapping[str, Path] = field(default_factory=dict)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random ChatGLM with its tokenizer."""
    from model.random_model import make_random

    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_random(folder)
    return folder


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in the project's own file."""
    from model.random_model import make_random

    folder = tmp_path_factory.mktemp("models") / "packed"
    make_random(folder, form="packed")
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with its tokenizer."""
    from tests.model.test_families import make_network, make_tokenizer

    folder = tmp_path_factory.mktemp("models") / "llama"
    make_network("llama").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def write_config(folder: Path, **keys: object) -> Path:
    (folder / "config.json").write_text(json.dumps(keys), "utf-8")
    return folder


@pytest.mark.parametrize("family", ["tiny", "packed", "llama"])
async def test_the_configured_folder_answers(family: str, request: pytest.FixtureRequest) -> None:
    model = create(Settings(request.getfixturevalue(family)))
    try:
        assert (model.name, model.max_context) == (family, 256)
        assert 0 < model.count_tokens("怎么退货") < 20
        deltas = await ask(model, "怎么退货", params=GenerationParams(seed=1))
        assert "".join(delta.text for delta in deltas).strip()
        assert deltas[-1].finish in ("stop", "length")
    finally:
        await model.close()


@pytest.mark.parametrize("family", ["tiny", "llama"])
async def test_the_longest_prompt_and_the_longest_answer_fit_together(
    family: str, request: pytest.FixtureRequest
) -> None:
    model = create(Settings(request.getfixturevalue(family), max_context=512, max_new_tokens=511))
    query = "退" * prompt_room(512)
    while model.count_tokens(query) > prompt_room(512):
        query = query[1:]
    try:
        deltas = await ask(model, query, params=GenerationParams(1000, seed=1))
        assert deltas[-1].finish
    finally:
        await model.close()


async def test_configured_prefixes_are_resident(tiny: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from model.config import ChatGLMConfig

    sizes = ChatGLMConfig.read(tiny)
    embedding = torch.randn(4, 2 * sizes.num_layers * sizes.hidden_size)
    save_file({"transformer.prefix_encoder.embedding.weight": embedding}, tmp_path / "shop.safetensors")
    model = create(Settings(tiny, quantization="none", prefixes={"shop": tmp_path / "shop.safetensors"}))
    try:
        greedy = GenerationParams(temperature=0.0)
        plain = await ask(model, "怎么退货", params=greedy)
        assert await ask(model, "怎么退货", params=GenerationParams(temperature=0.0, prefix="shop")) != plain
        assert await ask(model, "怎么退货", params=greedy) == plain
    finally:
        await model.close()


@pytest.mark.parametrize("kv_cache", ["int8", "int4"])
async def test_a_small_kv_cache_serves(tiny: Path, kv_cache: KVType) -> None:
    with capture_logs() as logs:
        model = create(Settings(tiny, kv_cache=kv_cache))
    try:
        assert (await ask(model, "怎么退货"))[-1].finish
    finally:
        await model.close()
    [told] = [line for line in logs if line["event"] == "memory for the model"]
    # 256 tokens of 3 layers of 4 heads of 16 numbers
    assert told["kv_cache"] == {"int8": "110.6 kB", "int4": "73.7 kB"}[kv_cache]


def test_a_tokenizer_that_is_missing_is_missed_at_the_start(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "mute")
    (folder / "ice_text.model").unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        create(Settings(folder))


def test_without_the_packages_the_remedy_is_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "model.language_model", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModelError, match="torch is not installed") as error:
        create(Settings(write_config(tmp_path, position_encoding_2d=True)))
    assert error.value.remedy == "run: pip install 'glmbot[model]'"
    monkeypatch.delitem(sys.modules, "model.family_folder", raising=False)
    with pytest.raises(ModelError, match="torch is not installed"):
        check(Settings(write_config(tmp_path, model_type="llama")))


def test_the_check_tells_which_families_serve_one_at_a_time(tmp_path: Path) -> None:
    qwen = write_config(tmp_path, model_type="qwen2", architectures=["Qwen2ForCausalLM"])
    [notice] = check(Settings(qwen))
    assert "(qwen2) serves one request at a time" in notice
    with pytest.raises(ModelError, match="only ChatGLM-6B takes prefixes"):
        check(Settings(qwen, prefixes={"shop": tmp_path}))
    with pytest.raises(ModelError, match="only ChatGLM-6B has a KV cache in int8"):
        check(Settings(qwen, kv_cache="int8"))
    second = write_config(tmp_path, model_type="chatglm", architectures=["ChatGLMModel"], auto_map={})
    with pytest.raises(ModelError, match="code of its own"):
        check(Settings(second))


def test_the_check_opens_a_chatglm(tiny: Path, packed: Path) -> None:
    for path in (tiny, tiny / "model.safetensors", packed, packed / "glmbot.safetensors"):
        assert check(Settings(path)) == []


@pytest.mark.parametrize("family", ["tiny", "packed"])
def test_the_check_finds_what_would_not_load(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = shutil.copytree(request.getfixturevalue(family), tmp_path / "broken")
    tokenizer = folder / "ice_text.model"
    whole = tokenizer.read_bytes()
    for data, says in (
        (b"", "not a SentencePiece model"),
        (whole[:-40], "SentencePiece"),
        (None, "holds no"),
    ):
        tokenizer.unlink()
        if data is not None:
            tokenizer.write_bytes(data)
        with pytest.raises(ModelError, match=says):
            check(Settings(folder))
    tokenizer.write_bytes(whole)
    assert check(Settings(folder)) == []
    [weights] = folder.glob("*.safetensors")
    os.truncate(weights, weights.stat().st_size // 2)
    with pytest.raises(ModelError, match=r"damaged|truncated") as caught:
        check(Settings(folder))
    assert caught.value.file == weights


def test_the_check_misses_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file or folder"):
        check(Settings(tmp_path / "nowhere"))


def test_the_check_tells_which_of_two_forms_is_used(tiny: Path, packed: Path, tmp_path: Path) -> None:
    both = shutil.copytree(tiny, tmp_path / "both")
    shutil.copy(packed / "glmbot.safetensors", both)
    assert check(Settings(both)) == ["a packed file lies there and is used, not model.safetensors"]


def test_without_the_packages_the_check_knows_nothing_of_a_chatglm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("model.language_model", "model.loading"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    chatglm = write_config(tmp_path, model_type="chatglm", inner_hidden_size=64)
    assert check(Settings(chatglm)) == []
    assert check(Settings(chatglm / "config.json")) == []  # a file can only be a ChatGLM's


def test_the_check_misses_a_config_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        check(Settings(tmp_path))
