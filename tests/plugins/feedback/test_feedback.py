"""Thumbs: recorded for the answer they are about, by the user who got it, and by nobody else."""

from __future__ import annotations

import pytest

from bot import Plugin
from bot.session import session_key
from bot.testing import BotTester, Person
from plugins.feedback.plugin import plugin

echo = Plugin("echo")


@echo.message()
def repeat() -> str:
    return "answer"


async def votes(person: Person) -> list[tuple[int, int | None]]:
    """(inbox id, vote) of the person's rounds."""
    app = await person.tester.app()
    key = session_key(person.message(""), "user-in-chat")
    return [(item.inbox_id, item.vote) for item in await app.history.rounds(key, 10)]


@pytest.mark.parametrize(("given", "kept"), [(1, 1), (-1, -1), ("up", 1), ("down", -1)])
async def test_a_vote_is_recorded_without_a_reply(bot_tester: BotTester, given: object, kept: int) -> None:
    user = bot_tester.use(echo).use(plugin).private()
    await user.say("question")
    [(answered, before)] = await votes(user)
    assert before is None
    assert (await user.do("feedback", inbox_id=answered, vote=given)).text == ""
    assert await votes(user) == [(answered, kept)]


async def test_nobody_votes_on_answers_of_others(bot_tester: BotTester) -> None:
    user = bot_tester.use(echo).use(plugin).private("u1")
    await user.say("question")
    [(answered, _)] = await votes(user)
    await bot_tester.private("u2").do("feedback", inbox_id=answered, vote=1)
    assert await votes(user) == [(answered, None)]


@pytest.mark.parametrize("data", [{}, {"inbox_id": "1", "vote": 1}, {"inbox_id": 1, "vote": 5}, {"vote": []}])
async def test_what_is_no_vote_changes_nothing(bot_tester: BotTester, data: dict[str, object]) -> None:
    user = bot_tester.use(echo).use(plugin).private()
    await user.say("question")
    assert (await user.do("feedback", **data)).text == ""
    assert [vote for _, vote in await votes(user)] == [None]
