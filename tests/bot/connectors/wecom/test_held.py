"""What waits for a limit is counted once, and within bounds."""

from __future__ import annotations

from bot.connectors.wecom.held import HeldSends
from bot.metrics import HeldReason, Metrics


def counted(metrics: Metrics, reason: str) -> float | None:
    labels = {"connector": "shop", "reason": reason}
    return metrics.registry.get_sample_value("glmbot_sends_held_total", labels)


def test_a_part_is_counted_once_for_each_limit() -> None:
    metrics = Metrics()
    held = HeldSends(metrics, "shop")
    noted: list[tuple[HeldReason, str]] = [("member", "a"), ("member", "a"), ("member", "b"), ("robot", "a")]
    assert [held.note(reason, part) for reason, part in noted] == [True, False, True, True]
    assert (counted(metrics, "member"), counted(metrics, "robot")) == (2, 1)


def test_memory_is_bounded() -> None:
    held = HeldSends(Metrics(), "shop", capacity=2)
    assert [held.note("member", part) for part in "abcb"] == [True, True, True, False]
    assert held.note("member", "a")  # forgotten


def test_what_is_no_part_is_not_counted() -> None:
    metrics = Metrics()
    assert not HeldSends(metrics, "shop").note("api_pace", "")
    assert counted(metrics, "api_pace") is None
