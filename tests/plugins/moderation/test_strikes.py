"""Blocked messages are counted per user, within a time, in bounded memory."""

from __future__ import annotations

from plugins.moderation import strikes
from plugins.moderation.strikes import Strikes


def test_the_last_of_so_many_within_the_time_counts() -> None:
    counted = Strikes()
    times = [0.0, 5.0, 11.0, 14.0, 15.0]
    assert [counted.add(("bot", "mei"), at, after=3, within=10.0) for at in times] == [
        False,
        False,
        False,  # the first is 11 s old
        True,
        False,  # counted from one again
    ]
    assert counted.add(("shop", "mei"), 15.0, after=2, within=10.0) is False


def test_whoever_was_not_counted_for_longest_is_forgotten() -> None:
    counted = Strikes()
    counted.add(("bot", "first"), 0.0, after=2, within=1e9)
    counted.add(("bot", "again"), 0.0, after=3, within=1e9)
    for number in range(strikes._CAPACITY - 1):
        counted.add(("bot", str(number)), 1.0, after=2, within=1e9)
    assert counted.add(("bot", "again"), 2.0, after=2, within=1e9) is True
    assert counted.add(("bot", "first"), 2.0, after=2, within=1e9) is False
