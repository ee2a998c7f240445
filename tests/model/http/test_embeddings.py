"""Embeddings and the list of models."""

from __future__ import annotations

import asyncio
import base64
import threading
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from model.http import cli
from tests.model.http.talker import Lengths, Site, Talker, error_of, until

PATH = "/v1/embeddings"


@pytest.fixture
def lengths() -> Lengths:
    return Lengths()


@pytest.fixture
async def site(serve: Any, lengths: Lengths) -> Site:
    made: Site = await serve(encoder=lengths, prefixes=["shop"])
    return made


async def test_texts_become_numbers_in_their_order(site: Site, lengths: Lengths) -> None:
    status, body, _ = await site.ask(PATH, {"model": "lengths", "input": ["a b", "世界!"]})
    assert status == 200
    tenth = float(np.float32(0.1))
    assert body == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [3.0, tenth, -1.0]},
            {"object": "embedding", "index": 1, "embedding": [3.0, tenth, -1.0]},
        ],
        "model": "lengths",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    assert threading.main_thread().name not in lengths.threads


async def test_many_texts_keep_their_order(site: Site) -> None:
    texts = ["x" * (number % 7 + 1) for number in range(200)]
    _, body, _ = await site.ask(PATH, {"model": "lengths", "input": texts})
    assert [one["index"] for one in body["data"]] == list(range(200))
    assert [one["embedding"][0] for one in body["data"]] == list(map(len, texts))


async def test_a_long_list_holds_up_nobody_who_talks_and_ends_when_its_asker_leaves(
    site: Site, lengths: Lengths, talker: Talker
) -> None:
    lengths.held.clear()
    body = {"model": "lengths", "input": ["a"] * 2000}
    asked = [asyncio.create_task(site.ask(PATH, body)) for _ in range(8)]
    await until(lambda: lengths.encoded > 0)
    assert [(await site.chat())[0] for _ in range(10)] == [200] * 10
    answer = await site.ask(PATH, body)
    assert answer[0] == 429
    assert error_of(answer)["code"] == "model_busy"
    for one in asked:
        one.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    await asyncio.sleep(0.05)
    lengths.held.set()
    assert (await site.ask(PATH, {"model": "lengths", "input": "a"}))[0] == 200
    assert lengths.encoded < 8 * 2000


async def test_base64_is_little_endian_float32(site: Site) -> None:
    body = {"model": "fake-glm", "input": "abcd", "encoding_format": "base64", "dimensions": 3}
    _, answer, _ = await site.ask(PATH, body)
    raw = base64.b64decode(answer["data"][0]["embedding"])
    assert np.frombuffer(raw, "<f4").tolist() == [4.0, float(np.float32(0.1)), -1.0]


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": "other"}, 404, "model"),
        ({"input": []}, 400, "input"),
        ({"input": [[1, 2]]}, 400, "input"),
        ({"input": ["a"] * 2049}, 400, "input"),
        ({"encoding_format": "hex"}, 400, "encoding_format"),
        ({"dimensions": 2}, 400, "dimensions"),
    ],
)
async def test_what_is_wrong_is_named(site: Site, fields: dict[str, Any], status: int, param: str) -> None:
    answer = await site.ask(PATH, {"model": "lengths", "input": "a", **fields})
    assert answer[0] == status
    assert error_of(answer)["param"] == param


async def test_without_an_encoder_embeddings_are_404(serve: Any) -> None:
    answer = await (await serve()).ask(PATH, {"model": "fake-glm", "input": "a"})
    assert answer[0] == 404
    assert error_of(answer)["code"] == "no_encoder"


async def test_models_are_the_model_its_prefixes_and_the_encoder(site: Site) -> None:
    _, listed, _ = await site.ask("/v1/models")
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["fake-glm", "shop", "lengths"]
    for model in listed["data"]:
        assert model.keys() == {"id", "object", "created", "owned_by"}
        assert (await site.ask(f"/v1/models/{model['id']}"))[1] == model
    answer = await site.ask("/v1/models/a/b")
    assert answer[0] == 404
    assert error_of(answer)["code"] == "model_not_found"


async def test_a_model_may_have_another_name_to_clients(serve: Any) -> None:
    site = await serve(name="THUDM/chatglm-6b")
    assert (await site.ask("/v1/models/THUDM/chatglm-6b"))[0] == 200
    assert (await site.chat(model="THUDM/chatglm-6b"))[0] == 200
    assert (await site.chat(model="fake-glm"))[0] == 404


def installed(monkeypatch: pytest.MonkeyPatch, *values: str) -> None:
    points = [EntryPoint("default", value, cli.ENCODERS) for value in values]
    monkeypatch.setattr(cli, "entry_points", lambda group, name: points)


def test_the_encoder_is_what_is_installed_under_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "bot.retrieval:load_encoder")
    encoder = cli.load_encoder()
    assert encoder is not None
    assert encoder.dim == 512


def test_an_encoder_that_is_missing_or_broken_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch)
    assert cli.load_encoder() is None
    installed(monkeypatch, "no_such_package:encoder")
    with capture_logs() as logs:
        assert cli.load_encoder() is None
    assert "no_such_package" in logs[0]["reason"]
