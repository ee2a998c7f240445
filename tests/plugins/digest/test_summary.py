"""A summary by the model: every number is one of the facts, or there is none."""

from __future__ import annotations

import pytest

from bot.testing import FakeModel
from plugins.digest.summary import numbers_not_in, summarise

FACTS = ["提问 120 次", "转人工 6 次（5.0%）"]


@pytest.mark.parametrize(
    ("text", "invented"),
    [
        ("共提问 120 次，转人工率 5.0%。", set()),
        ("共提问 121 次。", {"121"}),
        ("提问增长三成。", {"三成"}),
        ("大约一百二十次提问。", {"一百二十次"}),
        ("Half of them were lost.", {"Half"}),
        ("大家主要在问退货，一切正常。", set()),
    ],
)
def test_numbers_that_the_facts_do_not_have_are_found(text: str, invented: set[str]) -> None:
    assert numbers_not_in(text, "\n".join(FACTS)) == invented


async def test_what_the_model_says_is_taken_or_left_as_a_whole() -> None:
    honest = FakeModel(lambda prompt: ["今天提问 120 次，", "\n转人工 6 次。"])
    assert await summarise(honest, FACTS, "zh") == "今天提问 120 次， 转人工 6 次。"
    assert "提问 120 次" in honest.prompts[0][0]
    assert await summarise(FakeModel(lambda prompt: ["比昨天多 17 次。"]), FACTS, "zh") == ""
    assert await summarise(None, FACTS, "zh") == ""


async def test_a_model_that_fails_leaves_the_numbers() -> None:
    from bot import ModelError

    def fail(prompt: str) -> list[str]:
        raise ModelError("away")

    assert await summarise(FakeModel(fail), FACTS, "en") == ""
