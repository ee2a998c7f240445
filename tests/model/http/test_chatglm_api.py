"""`POST /` as clients of ChatGLM-6B's api.py know it."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

import pytest

from model.types import ModelError, Turn
from tests.model.http.talker import Site, Talker, error_of


async def test_the_answer_has_the_fields_and_bytes_of_the_original(site: Site, talker: Talker) -> None:
    talker.says = ["你好", "👋"]
    body = {"prompt": "在吗", "history": [["q", "a"]]}
    async with site.client.post(site.server.url + "/", json=body) as response:
        raw = (await response.read()).decode()
        assert response.headers["Content-Type"] == "application/json"
    told = re.fullmatch(
        r'{"response":"你好👋","history":\[\["q","a"\],\["在吗","你好👋"\]\],"status":200,'
        r'"time":"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)"}',
        raw,
    )
    assert told, raw
    assert abs(datetime.now() - datetime.strptime(told[1], "%Y-%m-%d %H:%M:%S")) < timedelta(seconds=10)
    assert (talker.calls[0].query, talker.calls[0].history) == ("在吗", (Turn("q", "a"),))


@pytest.fixture
async def site(serve: Any) -> Site:
    """Its answers may be as long as the context."""
    made: Site = await serve(max_new_tokens=2048)
    return made


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"history": None, "max_length": None, "top_p": None, "temperature": None},
        {"history": [], "max_length": 0, "top_p": 0, "temperature": 0},
        {"history": "", "max_length": False, "top_p": {}, "temperature": ""},
    ],
)
async def test_what_is_false_is_a_default(site: Site, talker: Talker, fields: dict[str, Any]) -> None:
    status, body, _ = await site.ask("/", {"prompt": "one two", **fields})
    assert status == 200
    assert body["history"] == [["one two", body["response"]]]
    params = talker.calls[0].params
    assert (params.temperature, params.top_p) == (0.95, 0.7)
    assert params.max_new_tokens == 2048 - 2 - 2


async def test_the_type_of_a_body_does_not_matter(site: Site) -> None:
    """`curl -d` calls it a form."""
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert (await site.ask("/", {"prompt": "hi"}, **form))[0] == 200


async def test_max_length_counts_the_prompt(site: Site, talker: Talker) -> None:
    ask = {"prompt": "three", "history": [["one", "two"]], "max_length": 50, "top_p": 0.5, "temperature": 1.5}
    await site.ask("/", ask)
    params = talker.calls[0].params
    assert params.max_new_tokens == 50 - 2 - len(
        ["[Round", "0]", "问：one", "答：two", "[Round", "1]", "问：three", "答："]
    )
    assert (params.temperature, params.top_p) == (1.5, 0.5)
    await site.ask("/", {**ask, "max_length": 3})
    assert talker.calls[1].params.max_new_tokens == 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"history": [["q"]]}, "history.0"),
        ({"history": "q"}, "history"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_length": -1}, "max_length"),
    ],
)
async def test_what_is_wrong_is_named(site: Site, fields: dict[str, Any], param: str) -> None:
    answer = await site.ask("/", {"prompt": "hi", **fields})
    assert answer[0] == 400
    assert str(error_of(answer)["param"]).startswith(param)


async def test_failures_are_the_same_as_elsewhere(site: Site, talker: Talker) -> None:
    talker.says = ["a", ModelError("the device is gone")]
    answer = await site.ask("/", {"prompt": "hi"})
    assert answer[0] == 500
    assert error_of(answer)["code"] == "model_error"
