"""History: whole rounds, within the budget, erased and moved completely."""

from collections.abc import AsyncIterator
from time import time
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.answered import Answered
from bot.message import Chat, Message, User
from bot.reply import Reply
from bot.session import session_key
from bot.store import History, Store
from bot.store.history import trim
from bot.store.migrations import upgrade
from model.types import Turn


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    store = Store("sqlite+aiosqlite:///:memory:")
    await upgrade(store)
    store.start()
    yield store
    await store.close()


def message(text: str, chat: str = "g1", user: str = "u1") -> Message:
    return Message("telegram", "main", uuid4().hex, Chat(chat, group=True), User(user), text)


async def add(store: Store, text: str, **where: str) -> str:
    said = message(text, **where)
    key = session_key(said, "user-in-chat")
    reply = Reply(f"re: {text}", "doc", confidence=0.9)
    answered = Answered(key, said, 7, text, reply.text, reply, "faq", "message", 0.1, time())
    await store.write(History.add(answered))
    return key


async def test_rounds_come_back_oldest_first_and_limited(store: Store) -> None:
    for n in range(5):
        key = await add(store, f"q{n}")
    rounds = await History(store).rounds(key, 3)
    assert [(item.question, item.answer) for item in rounds] == [(f"q{n}", f"re: q{n}") for n in (2, 3, 4)]
    assert (rounds[0].sources, rounds[0].confidence) == (("doc",), 0.9)


async def test_sessions_do_not_see_each_other(store: Store) -> None:
    mine = await add(store, "mine")
    theirs = await add(store, "theirs", user="u2")
    assert [item.question for item in await History(store).rounds(mine, 9)] == ["mine"]
    assert await History(store).clear(theirs) == 1
    assert len(await History(store).rounds(mine, 9)) == 1


async def test_a_renamed_chat_keeps_its_talks(store: Store) -> None:
    await add(store, "q", chat="-5")
    other = await add(store, "other", chat="-55")
    await History(store).chat_moved("telegram", "main", "-5", "-100123")
    moved = session_key(message("", chat="-100123"), "user-in-chat")
    assert [item.question for item in await History(store).rounds(moved, 9)] == ["q"]
    assert [item.question for item in await History(store).rounds(other, 9)] == ["other"]


async def test_only_the_user_who_got_an_answer_may_rate_it(store: Store) -> None:
    key = await add(store, "q")
    history = History(store)
    assert not await history.vote("telegram", "u2", 7, 1)
    assert await history.vote("telegram", "u1", 7, -1)
    assert (await history.rounds(key, 1))[0].vote == -1


async def test_old_rounds_expire(store: Store) -> None:
    history = History(store)
    key = await add(store, "b")
    assert await history.expire(before=0) == 0
    assert await history.expire(before=9e12) == 1
    assert await history.rounds(key, 9) == []


TURNS = st.lists(st.builds(Turn, st.text(max_size=9), st.text(max_size=9)), max_size=8)


@given(TURNS, st.integers(0, 60))
def test_trim_keeps_the_newest_whole_rounds_that_fit(turns: list[Turn], budget: int) -> None:
    def size(turn: Turn) -> int:
        return len(turn.question) + len(turn.answer)

    kept = trim(turns, budget, len)
    assert kept == turns[len(turns) - len(kept) :]
    assert sum(map(size, kept)) <= budget
    if len(kept) < len(turns):
        assert sum(map(size, kept)) + size(turns[-len(kept) - 1]) > budget


async def test_what_was_only_commands_counts_for_nothing_when_it_is_forgotten(store: Store) -> None:
    for text in ("/help", "／帮助"):
        key = await add(store, text)
    assert await History(store).clear(key) == 0
    assert await History(store).rounds(key, 9) == []
