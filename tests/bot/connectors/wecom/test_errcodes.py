"""That every code an operator may meet is explained, and which ones no retry can help."""

from __future__ import annotations

import pytest

from bot.connectors.wecom.errcodes import EXPLANATIONS, PERMANENT, explain

DOCUMENTED = (
    *(-1, 40001, 40003, 40014, 40056, 40058, 41001, 42001, 44004, 45002, 45009, 45033, 48002, 60011, 60020),
    *(81013, 82001, 86001, 86003, 93000, 301002, 95000, 95007, 95013, 95016, 95018, 40033),
)


@pytest.mark.parametrize("code", sorted({*DOCUMENTED, *EXPLANATIONS}))
def test_a_code_is_explained_in_chinese_and_in_english(code: int) -> None:
    known = explain(code)
    assert known is not None
    assert any("\u4e00" <= char <= "\u9fff" for char in known.zh)
    assert known.en.isascii()


def test_what_is_not_known_is_not_explained() -> None:
    assert explain(1) is None
    assert explain(None) is None


def test_what_an_operator_can_mend_or_time_heals_is_retried() -> None:
    mendable = {40001, 40013, 40056, 48002, 50003, 60011, 60020, 93000, 301002}
    passing = {-1, 40014, 41001, 42001, 45009, 45033, 95007}
    assert not PERMANENT & (mendable | passing)


def test_what_will_never_go_through_is_not_retried() -> None:
    assert {40003, 40058, 44004, 45002, 81013, 86003, 95013, 95018} <= PERMANENT
    assert set(EXPLANATIONS) >= PERMANENT
