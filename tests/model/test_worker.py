"""A worker's turns, one by one, over a runner that follows a script."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from model.desk import Job
from model.scheduler import Limits, Stage
from model.types import ModelBusy, ModelError, ModelTimeout
from model.worker import RECOVER_AFTER
from tests.model.turns import ROOMY, Stub, Turns, heard, prompt

Start = Callable[..., tuple[Stub, Turns]]
LONG = prompt(3, tokens=300)
"""Read by itself."""


@pytest.fixture
def start() -> Iterator[Start]:
    """Makes a stub and a worker for it."""
    made: list[Turns] = []

    def start(
        limits: Limits = ROOMY, *, slice_seconds: float = 0, step_seconds: float = 0
    ) -> tuple[Stub, Turns]:
        stub = Stub(slice_seconds=slice_seconds, step_seconds=step_seconds)
        made.append(Turns(stub, limits, stub.clock))
        return stub, made[-1]

    yield start
    for turns in made:
        turns.close()


async def error_of(job: Job) -> ModelError:
    """The news that ended it, which have to be an error."""
    *_, last = await heard(job)
    assert isinstance(last, ModelError)
    return last


# -- what askers hear ---------------------------------------------------------------------------


async def test_each_turn_gives_each_answer_a_token_until_its_length(start: Start) -> None:
    stub, turns = start()
    one, two = turns.ask(prompt(1, most=3)), turns.ask(prompt(2, most=2))
    turns.turn()
    assert (await heard(one), await heard(two)) == ([101], [201])
    turns.turn()
    assert (await heard(one), await heard(two)) == ([102], [202, "length"])
    turns.turn()
    assert await heard(one) == [103, "length"]
    assert stub.did("decode") == [[1, 2], [1, 2], [1]]
    assert not stub.held


@pytest.mark.parametrize("most", [3, 10])
async def test_the_end_token_stops_an_answer_and_is_not_heard(start: Start, most: int) -> None:
    """Also where it would have been the last one anyway."""
    stub, turns = start()
    stub.script[1] = [7, 8, stub.end]
    job = turns.ask(prompt(1, most))
    turns.finish(job)
    assert await heard(job) == [7, 8, "stop"]
    assert not stub.held


# -- what goes wrong ----------------------------------------------------------------------------


async def test_what_is_wrong_with_an_answer_ends_it_alone(start: Start) -> None:
    stub, turns = start()
    stub.script[1] = [7, ValueError("of no use")]
    one, two = turns.ask(prompt(1)), turns.ask(prompt(2))
    turns.finish(one, two)
    token, error = await heard(one)
    assert token == 7
    assert isinstance(error, ModelError)
    assert "of no use" in str(error)
    assert error.remedy
    assert await heard(two) == [201, 202, 203, "length"]
    assert not stub.held


async def test_a_model_error_is_told_as_it_is(start: Start) -> None:
    stub, turns = start()
    stub.script[1] = [told := ModelError("the KV cache is full", remedy="wait")]
    job = turns.ask(prompt(1))
    turns.finish(job)
    assert await heard(job) == [told]


@pytest.mark.parametrize("culprit", range(1, 8))
async def test_of_a_step_that_fails_only_the_culprit_does(start: Start, culprit: int) -> None:
    stub, turns = start()

    def fail(what: str, names: list[int]) -> None:
        if what == "decode" and culprit in names:
            raise RuntimeError("a shape does not fit")

    stub.before = fail
    jobs = {name: turns.ask(prompt(name, most=2)) for name in range(1, 8)}
    turns.finish(*jobs.values())
    assert "a shape does not fit" in str(await error_of(jobs.pop(culprit)))
    for name, job in jobs.items():
        assert await heard(job) == [100 * name + 1, 100 * name + 2, "length"]
    assert len(stub.did("decode")) <= 3 + 1  # the step in halves, and the next one over all the others
    assert not stub.held


async def test_steps_that_find_no_room_get_smaller_and_grow_again(start: Start) -> None:
    stub, turns = start()

    def full(what: str, names: list[int]) -> None:
        if what == "decode" and len(names) > 2:
            raise MemoryError

    stub.before = full
    jobs = [turns.ask(prompt(name, most=4 * RECOVER_AFTER), user=str(name)) for name in range(8)]
    turns.turn()
    assert [len(names) for names in stub.did("decode")] == [2] * 4
    for name, job in enumerate(jobs):
        assert await heard(job) == [100 * name + 1]
    assert ("forget", []) in stub.log
    stub.log.clear()
    turns.turn(20)
    assert [len(names) for names in stub.did("decode")] == [2] * 20
    assert {job.ticket.answered for job in jobs} == {1 + 20 * 2 // 8}
    stub.before = lambda what, names: None
    turns.turn(2 * RECOVER_AFTER)
    assert len(stub.did("decode")[-1]) == 8
    assert all(job.ticket.stage is Stage.ANSWERING for job in jobs)


async def test_a_step_is_never_larger_for_having_failed_at_a_larger_size_last(start: Start) -> None:
    stub, turns = start()
    calls = 0

    def full(what: str, names: list[int]) -> None:
        nonlocal calls
        calls += what == "decode"
        if what == "decode" and calls in (1, 2, 3, 7):  # 8, the left 4, the left 2 of those; the right 4
            raise MemoryError

    stub.before = full
    for name in range(8):
        turns.ask(prompt(name, most=50), user=str(name))
    turns.turn()
    stub.log.clear()
    turns.turn()
    assert [len(names) for names in stub.did("decode")] == [1]


async def test_who_does_not_fit_alone_is_told_so(start: Start) -> None:
    stub, turns = start()

    def full(what: str, names: list[int]) -> None:
        if what == "decode" and 1 in names:
            raise MemoryError("no room")

    stub.before = full
    one, two = turns.ask(prompt(1)), turns.ask(prompt(2))
    turns.finish(one, two)
    assert "no room" in str(await error_of(one))
    assert await heard(two) == [201, 202, 203, "length"]


@pytest.mark.parametrize("at", ["open", "read", "slice"])
async def test_a_prompt_that_cannot_be_read_fails_alone(start: Start, at: str) -> None:
    """Though it came with others that are read together with it."""
    stub, turns = start()

    def fail(what: str, names: list[int]) -> None:
        if what == at and 2 in names:
            raise RuntimeError("unreadable")

    stub.before = fail
    jobs = {name: turns.ask(prompt(name)) for name in (1, 2, 3)}
    turns.finish(*jobs.values())
    assert "unreadable" in str(await error_of(jobs.pop(2)))
    for name, job in jobs.items():
        assert (await heard(job))[0] == 100 * name + 1
    assert not stub.held


async def test_a_bug_in_a_turn_is_told_to_all_that_were_taken_on_and_the_worker_goes_on(start: Start) -> None:
    """Also to who was still read, or only followed; nobody's pages stay taken, and who waits is answered."""
    stub, turns = start(replace(ROOMY, answering=4), slice_seconds=1)

    def fail(what: str, names: list[int]) -> None:
        if what == "close" and names == [1]:
            raise AssertionError("a bug")

    stub.before = fail
    stub.slices[3] = 100
    ended, answering = turns.ask(prompt(1, most=1)), turns.ask(prompt(2))
    read, follows = turns.ask(LONG), turns.ask(LONG)
    waits = turns.ask(prompt(4))
    turns.turn()
    assert await heard(ended) == [101, "length"]
    token, error = await heard(answering)
    assert token == 201
    assert "a bug" in str(error)
    for job in (read, follows):
        assert "a bug" in str(await error_of(job))
    assert not stub.held
    turns.finish(waits)
    assert await heard(waits) == [401, 402, 403, "length"]
    assert not stub.held
    again = turns.ask(LONG)
    stub.slices.clear()
    turns.finish(again)
    assert await heard(again) == [301, 302, 303, "length"]


# -- who gives up, or comes too late ------------------------------------------------------------


async def test_who_gives_up_while_waiting_never_takes_pages(start: Start) -> None:
    stub, turns = start(replace(ROOMY, answering=1))
    first, waits = turns.ask(prompt(1)), turns.ask(prompt(2))
    turns.turn()
    turns.desk.give_up(waits)
    turns.finish(first)
    assert stub.did("open") == [[1]]
    assert await heard(waits) == []


@pytest.mark.parametrize("beside", [False, True])
async def test_who_gives_up_while_read_frees_its_pages_at_the_next_turn(start: Start, beside: bool) -> None:
    """Prompts that are read together with it go on."""
    stub, turns = start(slice_seconds=1)
    stub.slices[1] = 10
    job = turns.ask(prompt(1))
    others = [turns.ask(prompt(2))] if beside else []
    turns.turn(2)
    assert 1 in stub.names
    turns.desk.give_up(job)
    turns.turn()
    assert stub.names == [2][: len(others)]
    turns.finish(*others)
    for other in others:
        assert await heard(other) == [201, 202, 203, "length"]
    assert await heard(job) == []
    assert not stub.held


async def test_who_gives_up_before_its_first_slice_is_never_read(start: Start) -> None:
    stub, turns = start(slice_seconds=1)
    jobs = [turns.ask(prompt(name, tokens=300)) for name in (1, 2, 3)]
    turns.turn()
    turns.desk.give_up(jobs[2])
    turns.finish(*jobs)
    assert stub.did("read") == [[1], [2]]
    assert not stub.held


async def test_who_gives_up_while_answered_frees_its_pages_at_the_next_turn(start: Start) -> None:
    stub, turns = start()
    job, other = turns.ask(prompt(1, most=100)), turns.ask(prompt(2, most=100))
    turns.turn()
    assert turns.meters.registry.get_sample_value("glmbot_model_pages_reserved") == 2
    turns.desk.give_up(job)
    turns.desk.give_up(job)
    turns.turn()
    assert stub.names == [2]
    assert turns.meters.registry.get_sample_value("glmbot_model_pages_reserved") == 1
    assert await heard(job) == [101]
    assert await heard(other) == [201, 202]


async def test_who_gives_up_while_a_step_is_made_hears_nothing_of_it(start: Start) -> None:
    stub, turns = start()
    job, other = turns.ask(prompt(1)), turns.ask(prompt(2))
    stub.before = lambda what, names: turns.desk.give_up(job) if what == "decode" else None
    turns.finish(other)
    assert await heard(job) == []
    assert await heard(other) == [201, 202, 203, "length"]
    assert not stub.held


async def test_a_deadline_passes_before_admission(start: Start) -> None:
    stub, turns = start(replace(ROOMY, answering=1), step_seconds=1)
    first, late = turns.ask(prompt(1, most=10)), turns.ask(prompt(2), timeout=3)
    turns.turn(3)
    assert await heard(late) == []
    turns.turn()
    error = await error_of(late)
    assert isinstance(error, ModelTimeout)
    assert error.seconds == 3
    turns.finish(first)
    assert stub.did("open") == [[1]]


async def test_a_deadline_passes_between_slices(start: Start) -> None:
    stub, turns = start(slice_seconds=1)
    stub.slices[1] = 100
    late, other = turns.ask(prompt(1), timeout=5), turns.ask(prompt(2))
    turns.turn(6)
    assert isinstance(await error_of(late), ModelTimeout)
    assert len(stub.did("slice")) == 6
    assert stub.names == [2]
    stub.slices.clear()
    turns.finish(other)


async def test_a_deadline_passes_during_steps(start: Start) -> None:
    stub, turns = start(step_seconds=1)
    late, other = turns.ask(prompt(1, most=100), timeout=3), turns.ask(prompt(2, most=10))
    turns.finish(late, other)
    *tokens, error = await heard(late)
    assert tokens == [101, 102, 103]
    assert isinstance(error, ModelTimeout)
    assert (await heard(other))[-1] == "length"
    assert not stub.held


# -- the same prompt ----------------------------------------------------------------------------


async def test_the_same_prompt_is_read_once(start: Start) -> None:
    """For who asks while it is read, and for who asks later."""
    stub, turns = start(slice_seconds=1)
    stub.slices[1] = 5
    jobs = [turns.ask(prompt(1)) for _ in range(3)]
    turns.turn()
    jobs += [turns.ask(prompt(1)) for _ in range(2)]
    turns.finish(*jobs)
    jobs.append(turns.ask(prompt(1)))
    turns.finish(*jobs)
    assert stub.did("read") == [[1]]
    for job in jobs:
        assert await heard(job) == [101, 102, 103, "length"]
    assert not stub.held


async def test_who_followed_a_prompt_that_is_given_up_reads_it_once_more(start: Start) -> None:
    stub, turns = start(slice_seconds=1)
    stub.slices[1] = 5
    leader, *followers = (turns.ask(prompt(1)) for _ in range(4))
    turns.turn(2)
    turns.desk.give_up(followers[0])
    turns.turn()
    turns.desk.give_up(leader)
    turns.finish(*followers)
    assert stub.did("read") == [[1], [1]]
    assert [await heard(job) for job in (leader, followers[0])] == [[], []]
    for job in followers[1:]:
        assert await heard(job) == [101, 102, 103, "length"]
    assert not stub.held


async def test_who_followed_a_prompt_that_failed_tries_for_itself(start: Start) -> None:
    stub, turns = start(slice_seconds=1)
    stub.slices[1] = 5

    def fail(what: str, names: list[int]) -> None:
        if what == "slice" and stub.did("read") == [[1]] and len(stub.did("slice")) == 2:
            raise RuntimeError("unreadable")

    stub.before = fail
    leader, follower = turns.ask(prompt(1)), turns.ask(prompt(1))
    turns.finish(leader, follower)
    assert "unreadable" in str(await error_of(leader))
    assert await heard(follower) == [101, 102, 103, "length"]
    assert not stub.held


# -- slices -------------------------------------------------------------------------------------


def slices_between_steps(stub: Stub) -> list[int]:
    """How many there were before each step."""
    between = [0]
    for what, _ in stub.log:
        if what == "slice":
            between[-1] += 1
        elif what == "decode":
            between.append(0)
    return between


async def test_who_answers_waits_no_longer_than_a_step_for_slices(start: Start) -> None:
    stub, turns = start(slice_seconds=0.25, step_seconds=1)
    stub.slices[3] = 100
    answering = turns.ask(prompt(1, most=1000))
    turns.turn(10)
    stub.log.clear()
    turns.ask(LONG)
    turns.turn(20)
    between = slices_between_steps(stub)
    assert max(between) * 0.25 <= 1 + 0.25
    assert between[5:-1] == [4] * 15  # and no less: it comes forward
    assert len(await heard(answering)) == 30


async def test_nobody_waits_for_slices_where_nobody_answers(start: Start) -> None:
    """But who comes or goes is looked at in between."""
    stub, turns = start(slice_seconds=1 / 64)
    stub.slices[3] = 100
    turns.ask(LONG)
    turns.turn()
    assert len(stub.did("slice")) == 4


async def test_prompts_that_are_read_at_once_take_turns(start: Start) -> None:
    """A long one does not hold up a short one, nor the short ones the long one."""
    stub, turns = start(slice_seconds=1)
    stub.slices |= {3: 40, 5: 10, 6: 10}
    long, short = turns.ask(LONG), turns.ask(prompt(5, tokens=300))
    turns.finish(short)
    shares = [names[0] for names in stub.did("slice")]
    assert shares.count(5) == 10
    assert abs(shares[: 2 * 10 - 1].count(3) - 10) <= 1
    other = turns.ask(prompt(6, tokens=300))
    turns.finish(long, other)
    rest = [names[0] for names in stub.did("slice")][len(shares) :]
    assert abs(rest[:19].count(3) - 10) <= 1


async def test_short_prompts_are_read_as_one(start: Start) -> None:
    stub, turns = start()
    turns.finish(*(turns.ask(prompt(name, tokens=100)) for name in range(5)))
    assert stub.did("read") == [[0, 1], [2, 3], [4]]


async def test_the_estimate_of_a_refusal_knows_how_long_prompts_are_read(start: Start) -> None:
    """All the slices of a prompt count, also where a turn had nothing but some of them."""
    stub, turns = start(replace(ROOMY, answering=1, wait=50), slice_seconds=1)
    stub.slices = dict.fromkeys(range(31), 40)
    for name in range(30):
        turns.finish(turns.ask(prompt(name, most=1, tokens=400)))  # 10 tokens a second
    turns.ask(prompt(30, most=1, tokens=400))
    turns.turn()
    for name in (31, 32):
        turns.ask(prompt(name, most=1, tokens=400))
    with pytest.raises(ModelBusy) as refused:
        turns.ask(prompt(33, most=1, tokens=400))
    assert 70 < refused.value.retry_after < 85  # two prompts of 400 tokens


# -- what is counted ----------------------------------------------------------------------------


async def test_what_happened_is_counted(start: Start) -> None:
    _, turns = start(replace(ROOMY, of_user=3), step_seconds=0.2)
    jobs = [turns.ask(prompt(1, most=4, tokens=20)), turns.ask(prompt(2, most=2, tokens=10))]
    late = turns.ask(prompt(3, most=9, tokens=5), timeout=0.5)
    with pytest.raises(ModelBusy):
        turns.ask(prompt(4))
    turns.finish(*jobs, late)
    expected = {
        "requests_total answered": 2,
        "requests_total overdue": 1,
        "requests_total refused": 1,
        "prompt_tokens_total": 35,
        "answer_tokens_total": 4 + 2 + 3,
        "first_token_seconds_count": 3,
        "step_seconds_count": 4,
        "batch_sum": 4 + 2 + 3,
        "token_gap_seconds_count": 3 + 1 + 2,
    }
    for name, value in expected.items():
        name, *end = name.split()
        labels = {"end": end[0]} if end else {}
        assert turns.meters.registry.get_sample_value(f"glmbot_model_{name}", labels) == value, name
    gaps = turns.meters.registry.get_sample_value("glmbot_model_token_gap_seconds_sum")
    assert gaps == pytest.approx(6 * 0.2)
    for bound, count in (("0.1", 0), ("0.25", 6), ("+Inf", 6)):
        bucket = turns.meters.registry.get_sample_value(
            "glmbot_model_token_gap_seconds_bucket", {"le": bound}
        )
        assert bucket == count
