"""Counts by quarter of an hour: added in any order, summed over any span of whole quarters."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bot.store import Store, Tally
from bot.store.migrations import upgrade
from bot.store.tally import LABEL, QUARTER


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    store = Store("sqlite+aiosqlite:///:memory:")
    await upgrade(store)
    store.start()
    yield store
    await store.close()


EVENTS = st.lists(
    st.tuples(st.integers(0, 8 * QUARTER - 1), st.sampled_from("ab"), st.sampled_from("xyz")), max_size=40
)


@given(events=EVENTS, begin=st.integers(0, 8), length=st.integers(0, 8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
async def test_sums_are_those_of_a_plain_count(
    store: Store, events: list[tuple[int, str, str]], begin: int, length: int
) -> None:
    tally = Tally(store)
    await tally.expire(1e12, 10**6)
    await store.write(*(Tally.add(at, chat, "m", label, total=2.5) for at, chat, label in events))
    since, until = begin * QUARTER, (begin + length) * QUARTER
    plain = Counter(label for at, chat, label in events if since <= at < until and chat == "a")
    found = await tally.sums("m", since, until, chats=["a"])
    assert {one.label: one.count for one in found} == plain
    assert [one.count for one in found] == sorted(plain.values(), reverse=True)
    assert sum(one.total for one in found) == 2.5 * plain.total()


async def test_measures_are_apart_and_all_chats_are_the_default(store: Store) -> None:
    await store.write(Tally.add(0, "a", "asked"), Tally.add(0, "b", "asked"), Tally.add(0, "a", "missed"))
    assert [(one.label, one.count) for one in await Tally(store).sums("asked", 0, QUARTER)] == [("", 2)]


async def test_a_long_label_is_cut(store: Store) -> None:
    await store.write(Tally.add(0, "a", "asked", "长" * 500))
    [found] = await Tally(store).sums("asked", 0, QUARTER, most=5)
    assert found.label == "长" * LABEL


async def test_old_counts_go(store: Store) -> None:
    tally = Tally(store)
    await store.write(*(Tally.add(number * QUARTER, "a", "asked") for number in range(10)))
    while await tally.expire(5 * QUARTER, 2):
        pass
    assert sum(one.count for one in await tally.sums("asked", 0, 100 * QUARTER)) == 5
