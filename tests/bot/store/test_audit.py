"""The trail of what staff did."""

from __future__ import annotations

from bot.message import Chat, Message, User
from bot.store import Audit, Store
from bot.store.migrations import upgrade


async def test_the_newest_action_comes_first_and_old_ones_go() -> None:
    store = Store("sqlite+aiosqlite:///:memory:")
    await upgrade(store)
    store.start()
    try:
        audit = Audit(store)
        agent = Message("telegram", "main", "1", Chat("staff"), User("u7"), "/release 3")
        await audit.note(agent, "release", "3")
        await audit.note("terminal", "approve", "12", "退货")
        newest, older = await audit.latest()
        assert (newest.actor, newest.action, newest.subject) == ("terminal", "approve", "12")
        assert newest.detail == "退货"
        assert (older.actor, older.action, older.subject) == ("main:u7", "release", "3")
        assert [action.action for action in await audit.latest(1)] == ["approve"]
        assert await audit.expire(newest.at + 1) == 2
        assert await audit.latest() == []
    finally:
        await store.close()
