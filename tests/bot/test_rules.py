"""Rules: what they let through, alone and composed."""

import pytest

from bot.message import Chat, Message, User
from bot.rules import Cooldowns, Facts, cooldown, group, parse_duration, private, role, to_me, unasked


def message(*, in_group: bool = False, mine: bool = True) -> Message:
    return Message("test", "bot", "d", Chat("c", group=in_group), User("u"), "hi", to_me=mine)


def test_where_a_message_was_said() -> None:
    facts = Facts()
    assert private(message(), facts)
    assert not private(message(in_group=True), facts)
    assert group(message(in_group=True), facts)


def test_composition() -> None:
    facts = Facts()
    assert (to_me & private)(message(), facts)
    assert not (to_me & group)(message(), facts)
    assert (group | private)(message(), facts)
    assert (~group)(message(), facts)
    assert repr(to_me & ~group) == "Rule((to_me & ~group))"


def test_role_needs_one_of_the_named_ones() -> None:
    assert role("admins", "agents")(message(), Facts(roles=frozenset({"agents"})))
    assert not role("admins")(message(), Facts(roles=frozenset({"agents"})))
    assert role("admins").denial == "denied"


def test_unasked_holds_only_where_the_faq_may_speak_up() -> None:
    overheard = message(in_group=True, mine=False)
    assert unasked(overheard, Facts(respond="faq"))
    assert not unasked(overheard, Facts(respond="mention"))
    assert not unasked(message(in_group=True), Facts(respond="faq"))


def test_cooldown_counts_per_session() -> None:
    now = [0.0]
    facts = Facts(session="a", cooldowns=Cooldowns(clock=lambda: now[0]))
    other = Facts(session="b", cooldowns=facts.cooldowns)
    rule = cooldown("30s")
    assert rule(message(), facts)
    assert not rule(message(), facts)
    assert rule(message(), other)
    now[0] = 30.0
    assert rule(message(), facts)


def test_cooldowns_of_many_sessions_stay_bounded() -> None:
    cooldowns = Cooldowns(capacity=10)
    assert all(cooldowns.take(1, f"s{n}", 60) for n in range(1000))
    assert cooldowns.take(1, "s0", 60), "the oldest was forgotten"
    assert not cooldowns.take(1, "s999", 60)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("1.5m", 90), ("2h", 7200), ("250ms", 0.25), (5, 5), ("1d", 86400)]
)
def test_durations(text: str | int, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "s", "-1s", "1 hour"])
def test_a_wrong_duration_says_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match="30s, 5m or 2h"):
        parse_duration(text)
