"""ChatGLM as the engine drives it: random histories, turn by turn, on a small random network."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from model.desk import Job
from model.kv_cache import PAGE
from model.language_model import LanguageModel, load
from model.prefix import Prefix
from model.random_model import make_random
from model.reading import Reading
from model.runner import Answer, ChatGLMRunner, Prompt, is_out_of_memory
from model.scheduler import Limits, Stage
from model.types import GenerationParams, KVType, ModelBusy, ModelError, ModelTimeout
from tests.model.turns import Clock, Turns, heard

PAGES = 24
PREFIXES = {"short": 5, "long": 20}
"""Tokens, of which some fill a page and others do not."""
KV_TYPES: tuple[KVType, ...] = ("fp16", "int8", "int4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    make_random(path)
    return path


@pytest.fixture(scope="module", params=KV_TYPES)
def model(request: pytest.FixtureRequest, folder: Path) -> LanguageModel:
    """With two prefixes; keys and values stored in each way."""
    made = load(folder, device="cpu", kv_cache=request.param, max_context=200)
    config, generator = made.config, torch.Generator().manual_seed(0)
    for name, length in PREFIXES.items():
        shape = (config.num_layers, 2, length, config.num_attention_heads, config.head_size)
        values = torch.randn(shape, generator=generator).to(made.network.dtype)
        made.prefixes[name] = Prefix(values, name)
    return made


class Books(ChatGLMRunner):
    """Keeps a list of the answers that hold pages, and a clock."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.held: list[Answer] = []
        self.clock = Clock()
        self.opened = Counter[bool]()

    def open(self, prompt: Prompt) -> tuple[Answer, bool]:
        answer, known = super().open(prompt)
        self.held.append(answer)
        self.opened[known] += 1
        return answer, known

    def reading(self, answers: Sequence[Answer]) -> Reading:
        """A slice takes a while, so that turns come between them."""
        reading = super().reading(answers)
        step = reading.step

        def slow() -> bool:
            self.clock.now += 0.02
            return step()

        reading.step = slow  # type: ignore[method-assign]
        return reading

    def close(self, answer: Answer) -> None:
        self.held.remove(answer)
        super().close(answer)


def new_runner(model: LanguageModel, pages: int = PAGES) -> Books:
    return Books(
        model.network,
        pages=pages,
        storage=model.storage,
        prefixes=model.prefixes,
        renew_network=model.renewed_network,
    )


def words(model: LanguageModel, length: int, seed: int) -> tuple[int, ...]:
    """A prompt of so many words."""
    config, generator = model.config, torch.Generator().manual_seed(seed)
    drawn = torch.randint(20, config.mask_token_id, (length,), generator=generator).tolist()
    return (*drawn, config.gmask_token_id, config.bos_token_id)


@functools.cache
def alone(model: LanguageModel, prompt: Prompt) -> tuple[int, ...]:
    """The tokens of its answer where nothing else runs."""
    params = prompt.params
    prefix = None if params.prefix is None else model.prefixes[params.prefix]
    return tuple(
        model.generate(
            prompt.ids,
            prompt.most,
            params.temperature,
            top_p=params.top_p,
            top_k=params.top_k or 0,
            repetition_penalty=params.repetition_penalty,
            seed=params.seed,
            prefix=prefix,
        )
    )


PARAMS = st.builds(
    GenerationParams,
    temperature=st.sampled_from([0.0, 0.8]),
    top_p=st.sampled_from([0.7, 1.0]),
    top_k=st.sampled_from([0, 20]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    seed=st.integers(0, 2),
    prefix=st.sampled_from([None, *PREFIXES]),
)


class Histories(RuleBasedStateMachine):
    """Anything that may happen, in any order; between two turns all books are checked."""

    model: ClassVar[LanguageModel]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.runner = new_runner(self.model)
        self.clock = self.runner.clock
        self.limits = Limits(pages=PAGES, answering=5, batch=3, cheap=2, waiting=6, of_user=4, wait=1e9)
        self.turns = Turns(self.runner, self.limits, self.clock)
        self.jobs: list[Job] = []
        self.given_up: list[Job] = []
        self.seats_given_up = 0

    def teardown(self) -> None:
        try:
            self.end()
        finally:
            self.turns.close()
            self.loop.close()

    @property
    def here(self) -> list[Job]:
        return [job for job in self.jobs if job.ticket.stage is not Stage.GONE]

    @rule(
        length=st.integers(1, 90),
        seed=st.integers(0, 1),
        most=st.integers(1, 12),
        params=PARAMS,
        user=st.sampled_from("abc"),
        timeout=st.none() | st.integers(1, 8),
    )
    def ask(
        self, length: int, seed: int, most: int, params: GenerationParams, user: str, timeout: float | None
    ) -> None:
        self._ask(Prompt(words(self.model, length, seed), most, params), user, timeout)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), times=st.integers(1, 3))
    def ask_the_same(self, data: st.DataObject, times: int) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        for _ in range(times):
            self._ask(job.prompt, data.draw(st.sampled_from("abc")), None)

    def _ask(self, prompt: Prompt, user: str, timeout: float | None) -> None:
        async def ask() -> Job:
            pages = self.runner.pages_for(prompt)
            return self.turns.ask(prompt, pages=pages, user=user, timeout=timeout)

        with suppress(ModelBusy):
            self.jobs.append(self.loop.run_until_complete(ask()))

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.here))
        self.seats_given_up += job.ticket.stage is not Stage.WAITING
        self.turns.desk.give_up(job)
        self.given_up.append(job)

    @precondition(lambda self: self.here or self.seats_given_up)
    @rule(turns=st.integers(1, 6), seconds=st.integers(0, 2))
    def turn(self, turns: int, seconds: int) -> None:
        self.clock.now += seconds
        for _ in range(turns):
            if self.here or self.seats_given_up:
                self.seats_given_up = 0
                self.turns.turn()
                self.pages_are_owned_once()

    @rule()
    def forget(self) -> None:
        self.runner.forget()

    @invariant()
    def pages_are_owned_once(self) -> None:
        """Nobody's page that may still be written is another's; what is taken was reserved."""
        pages, held = self.runner.pages, self.runner.held
        assert sum(self.runner.pages_for(answer.prompt) for answer in held) <= self.limits.pages
        assert len(held) <= self.limits.answering
        written = Counter(page for one in held for page in one.cache.table[one.cache.length // PAGE :])
        shared = {page for one in held for page in one.cache.table[: one.cache.length // PAGE]}
        assert set(written.values()) <= {1}
        assert not written.keys() & shared
        assert len(written) + len(shared) + pages.free <= pages.count
        for one in held:
            assert len(one.cache.table) * PAGE >= one.cache.length

    def end(self) -> None:
        """All that are left are answered, everything is as in the single run, and no page is lost."""
        if not self.turns.finish(*self.here) and self.seats_given_up:
            self.turns.turn()
        assert not self.runner.held
        self.runner.forget()
        assert self.runner.pages.free == PAGES
        for job in self.jobs:
            news = self.loop.run_until_complete(heard(job))
            tokens = [one for one in news if isinstance(one, int)]
            expected = list(alone(self.model, job.prompt))
            rest = news[len(tokens) :]
            if job in self.given_up:
                assert not rest
            elif not (job.timeout and isinstance(rest[0], ModelTimeout)):
                assert rest == ["stop" if len(expected) < job.prompt.most else "length"]
                assert tokens == expected
            assert len(rest) <= 1
            assert tokens == expected[: len(tokens)]


def test_answers_are_those_of_single_runs_and_no_page_is_lost(model: LanguageModel) -> None:
    """Whatever else arrives, is given up or ends beside them, in every storage of keys and values."""
    machine = type("Machine", (Histories,), {"model": model})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=25, stateful_step_count=30, deadline=None)
    )


GREEDY = GenerationParams(temperature=0, top_k=0)


def answer_of(runner: ChatGLMRunner, prompt: Prompt) -> tuple[int, ...]:
    """Its tokens, with nobody beside it; its pages are given back."""
    answer, known = runner.open(prompt)
    if not known:
        reading = runner.reading([answer])
        while not reading.step():
            pass
        runner.has_read(answer)
    tokens: list[int] = []
    while len(tokens) < prompt.most:
        [token] = runner.decode([answer])
        assert isinstance(token, int)
        if token == runner.end:
            break
        tokens.append(token)
    runner.close(answer)
    return tuple(tokens)


@pytest.fixture(scope="module")
def plain(folder: Path) -> LanguageModel:
    return load(folder, device="cpu", max_context=200)


@pytest.mark.parametrize("length", [13, 14, 15, 30])
def test_a_prompt_that_was_read_is_not_read_again(plain: LanguageModel, length: int) -> None:
    """Wherever in a page it ends; with other ways to draw, too."""
    runner = new_runner(plain)
    first = Prompt(words(plain, length, 0), 20, GREEDY)
    drawn = Prompt(first.ids, 20, GenerationParams(seed=1, top_k=0, top_p=1.0))
    for prompt in (first, first, drawn):
        assert answer_of(runner, prompt) == alone(plain, prompt)
    assert runner.opened == {False: 1, True: 2}
    assert runner.pages.free < PAGES
    runner.forget()
    assert runner.pages.free == PAGES
    answer_of(runner, first)
    assert runner.opened[False] == 2


def test_what_is_remembered_makes_room_for_who_asks(plain: LanguageModel) -> None:
    """Also where it would have been the beginning of that very answer, and the pool is as small as can be."""
    long = Prompt(words(plain, 100, 0), 20, GREEDY)
    runner = new_runner(plain, pages := 8)
    assert runner.pages_for(long) == pages
    for prompt in (Prompt(words(plain, 20, 1), 2, GREEDY), long, long, Prompt(words(plain, 20, 2), 2), long):
        answer, _ = runner.open(prompt)
        assert runner.pages.free <= pages - runner.pages_for(prompt)
        runner.close(answer)
        answer_of(runner, prompt)
    assert answer_of(runner, long) == alone(plain, long)


def test_who_asks_for_nonsense_takes_no_pages(model: LanguageModel) -> None:
    runner = new_runner(model)
    free = runner.pages.free
    ids = words(model, 20, 0)
    for prompt in (
        Prompt(ids, 5, GenerationParams(temperature=float("nan"))),
        Prompt(ids, 5, GenerationParams(repetition_penalty=0)),
        Prompt(ids[:-1], 5),  # without <sop>
        Prompt(words(model, 20 * PAGES, 0), 5),
        Prompt(words(model, 20 * PAGES, 0), 5, GenerationParams(prefix="long")),
    ):
        with pytest.raises(ModelError):
            runner.open(prompt)
    assert runner.pages.free == free


def test_an_answer_that_cannot_be_drawn_concerns_no_other(plain: LanguageModel) -> None:
    runner = new_runner(plain)
    prompts = [Prompt(words(plain, 20, seed), 5, GREEDY) for seed in range(3)]
    answers = [runner.open(prompt)[0] for prompt in prompts]
    reading = runner.reading(answers)
    while not reading.step():
        pass

    def fail(*args: object) -> int:
        raise ValueError("cannot be drawn")

    answers[1].sampler.next = fail  # type: ignore[method-assign]
    outcomes = runner.decode(answers)
    assert isinstance(outcomes[1], ValueError)
    assert [outcomes[0], outcomes[2]] == [alone(plain, prompts[0])[0], alone(plain, prompts[2])[0]]


def test_a_renewed_one_answers_the_same_from_pages_of_its_own(plain: LanguageModel) -> None:
    runner = new_runner(plain)
    prompt = Prompt(words(plain, 40, 0), 10, GREEDY)
    runner.open(prompt)
    new = runner.renew()
    assert new.pages is not runner.pages
    assert new.pages.free == PAGES
    assert answer_of(new, prompt) == alone(plain, prompt)


def test_a_cache_that_the_system_has_no_memory_for_is_refused_with_what_to_do(plain: LanguageModel) -> None:
    with pytest.raises(ModelError, match=r"no memory for 1099511627776 pages") as refused:
        ChatGLMRunner.of(plain, 1 << 40)
    assert "model.memory" in refused.value.remedy


def test_a_lost_card_is_told_and_a_stuck_one_not_waited_for(
    plain: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To open the card's kernels anew would wait for all that it has begun, and for ever."""
    runner = new_runner(plain)
    assert not runner.problem
    monkeypatch.setattr(plain.network, "device", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    assert not runner.problem

    def lost(device: torch.device) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ...")

    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    assert runner.problem.endswith("lost: CUDA error: an illegal memory access was encountered")
    with pytest.raises(ModelError, match="card"):
        runner.renew()


@pytest.mark.parametrize(
    ("error", "yes"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (ModelError("sample cannot be launched: CUDA_ERROR_OUT_OF_MEMORY out of memory"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_smaller_steps_can_help(error: Exception, yes: bool) -> None:
    assert is_out_of_memory(error) is yes
