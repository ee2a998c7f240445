"""Completions: the prompt as the bare question, several prompts, streams."""

from __future__ import annotations

from typing import Any

import pytest

from model.types import Usage
from tests.model.http.talker import Site, Talker, error_of

PATH = "/v1/completions"
TEXT = "Hello, 世界🌏"


async def test_a_prompt_is_the_bare_question(site: Site, talker: Talker) -> None:
    talker.usage = Usage(3, 4)
    status, body, _ = await site.ask(PATH, {"model": "fake-glm", "prompt": " Once\n", "max_tokens": 5})
    assert status == 200
    assert body["object"] == "text_completion"
    assert body["id"].startswith("cmpl-")
    assert body["choices"] == [{"index": 0, "text": TEXT, "logprobs": None, "finish_reason": "stop"}]
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    call = talker.calls[0]
    assert (call.query, call.history, call.params.max_new_tokens) == (" Once\n", (), 5)


async def test_each_prompt_gets_n_answers_in_order(site: Site, talker: Talker) -> None:
    talker.usage = Usage(3, 4)
    _, body, _ = await site.ask(PATH, {"model": "fake-glm", "prompt": ["a", "b"], "n": 2, "seed": 1})
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert sorted((call.query, call.params.seed) for call in talker.calls) == [
        ("a", 1),
        ("a", 2),
        ("b", 1),
        ("b", 2),
    ]
    assert body["usage"] == {"prompt_tokens": 6, "completion_tokens": 16, "total_tokens": 22}


async def test_a_stream_has_texts_and_ends_with_the_reason(site: Site) -> None:
    events = await site.stream(PATH, prompt="x")
    assert "".join(event["choices"][0]["text"] for event in events) == TEXT
    assert {event["object"] for event in events} == {"text_completion"}
    reasons = [event["choices"][0]["finish_reason"] for event in events]
    assert reasons == [*[None] * (len(events) - 1), "stop"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": ["a"] * 17}, "prompt"),
        ({"prompt": ["a"] * 9, "n": 2}, "n"),
    ],
)
async def test_prompts_that_are_wrong_are_named(site: Site, fields: dict[str, Any], param: str) -> None:
    answer = await site.ask(PATH, {"model": "fake-glm", **fields})
    assert answer[0] == 400
    assert error_of(answer)["param"] == param
