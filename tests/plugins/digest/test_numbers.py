"""Each number of a digest is what a plain count of the same events says."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bot.retrieval import Encoder, load_encoder
from bot.store import Store, Tally
from bot.store.migrations import upgrade
from bot.store.tally import QUARTER
from plugins.digest.counting import seconds_class
from plugins.digest.numbers import collect

DAY = 86400.0
START = 20_000 * DAY


@dataclass(frozen=True)
class Asked:
    at: float
    chat: str
    plugin: str
    seconds: float
    text: str


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    store = Store("sqlite+aiosqlite:///:memory:")
    await upgrade(store)
    store.start()
    yield store
    await store.close()


asked = st.builds(
    Asked,
    at=st.floats(START - DAY, START + 2 * DAY, allow_nan=False),
    chat=st.sampled_from(["bot:a", "bot:b"]),
    plugin=st.sampled_from(["faq", "chat", ""]),
    seconds=st.floats(0, 200),
    text=st.sampled_from(["怎么退货", "运费多少", "几点开门"]),
)
handed = st.tuples(st.floats(START - DAY, START + 2 * DAY), st.sampled_from(["asked", "misses"]))


@given(questions=st.lists(asked, max_size=30), escalations=st.lists(handed, max_size=10), only=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
async def test_they_are_those_of_a_plain_count(
    store: Store, questions: list[Asked], escalations: list[tuple[float, str]], only: bool
) -> None:
    tally = Tally(store)
    await tally.expire(1e12, 10**6)
    for one in questions:
        await store.write(
            Tally.add(one.at, one.chat, "question", one.plugin, total=one.seconds),
            Tally.add(one.at, one.chat, "seconds", seconds_class(one.seconds)),
            Tally.add(one.at, one.chat, "text", one.text),
            *([] if one.plugin else [Tally.add(one.at, one.chat, "miss", one.text)]),
        )
    await store.write(*(Tally.add(at, "bot:a", "escalated", reason) for at, reason in escalations))
    until = START + DAY
    found = await collect(tally, START, until, zone="UTC", chats=["bot:a"] if only else None)
    mine = [one for one in questions if START <= one.at < until and (one.chat == "bot:a" or not only)]
    reasons = Counter(reason for at, reason in escalations if START <= at < until)
    assert found.questions == len(mine)
    assert found.answered == Counter(one.plugin for one in mine if one.plugin)
    assert found.misses == sum(not one.plugin for one in mine)
    assert {one.text: one.count for one in found.top} == Counter(one.text for one in mine)
    assert {one.text: one.count for one in found.unanswered} == Counter(
        one.text for one in mine if not one.plugin
    )
    assert found.escalated == reasons
    assert found.rate == (reasons.total() / len(mine) if mine else None)
    assert found.mean == pytest.approx(sum(one.seconds for one in mine) / len(mine) if mine else None)
    ordered = sorted(one.seconds for one in mine)
    if ordered:
        middle = ordered[-(-len(ordered) // 2) - 1]
        assert found.median == seconds_class(middle)
    days = Counter(datetime.fromtimestamp(one.at // QUARTER * QUARTER, UTC).date() for one in mine)
    assert {day: count for day, count, _ in found.days if count} == days


async def test_the_rate_around_a_change_of_knowledge(store: Store) -> None:
    change = START + 18 * 3600
    for hour, count, people in ((14, 10, 5), (20, 8, 1)):
        at = START + hour * 3600
        await store.write(
            Tally.add(at, "bot:a", "question", "faq", count=count),
            Tally.add(at, "bot:a", "escalated", "misses", count=people),
        )
    await store.write(Tally.add(change, "", "changed", "+退货运费"))
    found = await collect(Tally(store), START, START + DAY, zone="UTC")
    assert found.changed == ("+退货运费",)
    assert (found.before, found.after) == (0.5, 0.125)


async def test_a_subject_is_found_in_texts_changes_and_sources(store: Store) -> None:
    for measure, labels in (
        ("text", ["怎么退货", "运费多少"]),
        ("changed", ["~退货政策", "+运费表"]),
        ("escalated_source", ["退货政策 > 时限", ""]),
    ):
        await store.write(*(Tally.add(START, "bot:a", measure, label) for label in labels))
    found = await collect(Tally(store), START, START + DAY, zone="UTC", subject="退貨")
    assert [one.text for one in found.top] == ["怎么退货"]
    assert found.changed == ("~退货政策",)
    assert found.sources == {"退货政策 > 时限": 1}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder()


async def test_questions_that_say_the_same_are_one(store: Store, encoder: Encoder) -> None:
    for text, count in (("怎么退货", 5), ("如何退货", 3), ("今天天气怎么样", 4)):
        await store.write(Tally.add(START, "bot:a", "miss", text, count=count))
    found = await collect(Tally(store), START, START + DAY, zone="UTC", encoder=encoder)
    assert [(one.text, one.wordings, one.count) for one in found.unanswered] == [
        ("怎么退货", 2, 8),
        ("今天天气怎么样", 1, 4),
    ]
