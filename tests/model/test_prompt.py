"""Prompts inside their budget, and answers tidied while they come."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config import ChatGLMConfig
from model.prompt import ResponseStream, build_inputs, fit_rounds, format_chat, process_response
from model.tokenizer import StreamDecoder, Tokenizer
from model.types import PromptTooLong

ROOT = Path(__file__).parents[2]
CASES = json.loads((ROOT / "tests/data/chatglm/tokenizer_cases.json").read_text("utf-8"))
GENUINE = Path(os.environ.get("GLMBOT_TEST_DATA") or ROOT.parent / "shared/data") / "chatglm/ice_text.model"
genuine = pytest.mark.skipif(
    not GENUINE.is_file(), reason=f"no {GENUINE} (GLMBOT_TEST_DATA): it is not ours to give"
)

words = st.text(st.sampled_from("好a,! \n"), min_size=1, max_size=12)
rounds = st.lists(st.tuples(words, words), max_size=16)
marks = ["[[训练时间]]", "[[训练时间", "[", "训练", "时间]]"]
tricky = st.lists(st.sampled_from([*marks, *"中a1,!:;?， \n\u3000"]), max_size=25).map("".join)


@pytest.fixture(scope="module")
def published() -> Tokenizer:
    return Tokenizer(GENUINE)


def encode(text: str) -> list[int]:
    """A dummy prefix and pairs of characters: as with real vocabularies, parts do not add up to the whole."""
    return [5, *map(ord, text[::2])] if text else []


@pytest.mark.parametrize("case", CASES["prompts"], ids=lambda case: case["query"])
def test_prompt_is_that_of_the_reference(case: dict[str, object]) -> None:
    assert format_chat(case["query"], case["history"]) == case["prompt"]  # type: ignore[arg-type]


def test_gmask_and_sop_come_last() -> None:
    assert build_inputs([5, 74_874], ChatGLMConfig()) == [5, 74_874, 130_001, 130_004]


@given(query=words, history=rounds, budget=st.integers(0, 250))
def test_latest_rounds_that_fit_are_kept_whole(
    query: str, history: list[tuple[str, str]], budget: int
) -> None:
    if len(encode(query)) > budget:
        with pytest.raises(PromptTooLong):
            fit_rounds(query, history, budget, encode)
        return
    fitted = fit_rounds(query, history, budget, encode)
    assert fitted.prompt == format_chat(query, history[fitted.dropped :])
    assert fitted.ids == encode(fitted.prompt)
    assert len(fitted.ids) <= budget
    if fitted.dropped:
        assert len(encode(format_chat(query, history[fitted.dropped - 1 :]))) > budget


def test_rounds_are_numbered_anew() -> None:
    history = [("q" * 50, "a" * 50), ("q2", "a2")]
    fitted = fit_rounds("q3", history, 40, encode)
    assert fitted.prompt == "[Round 0]\n问：q2\n答：a2\n[Round 1]\n问：q3\n答："
    assert fitted.dropped == 1


def test_too_long_a_query_is_refused_with_figures() -> None:
    with pytest.raises(PromptTooLong, match="longer than the context: 51 tokens, and 20 have room") as caught:
        fit_rounds("q" * 100, [("q", "a")], 20, encode)
    assert (caught.value.tokens, caught.value.room) == (51, 20)
    assert caught.value.remedy


def test_long_history_costs_no_more_than_a_full_prompt() -> None:
    read = 0

    def metered(text: str) -> list[int]:
        nonlocal read
        read += len(text)
        return [5, *map(ord, text)]

    fitted = fit_rounds("q", [("question", "answer")] * 5_000, 2_000, metered)
    assert 0 < 5_000 - fitted.dropped < 100
    assert read < 3 * len(fitted.prompt)


@pytest.mark.parametrize("case", CASES["process_response"], ids=lambda case: case["inp"])
def test_answer_is_tidied_as_by_the_reference(case: dict[str, str]) -> None:
    assert process_response(case["inp"]) == case["out"]


@given(text=tricky)
def test_one_pass_over_punctuation_is_as_good_as_ten(text: str) -> None:
    expected = text.strip().replace("[[训练时间]]", "2023年")
    for half, full in zip(",!:;?", "，！：；？", strict=True):
        expected = re.sub(rf"([\u4e00-\u9fff])\{half}", rf"\1{full}", expected)
        expected = re.sub(rf"\{half}([\u4e00-\u9fff])", rf"{full}\1", expected)
    assert process_response(text) == expected


@given(text=tricky, data=st.data())
def test_stream_is_the_tidied_text_however_it_is_cut(text: str, data: st.DataObject) -> None:
    stream, shown, rest = ResponseStream(), "", text
    while rest:
        cut = data.draw(st.integers(1, len(rest)))
        shown += stream.push(rest[:cut])
        rest = rest[cut:]
    assert shown + stream.end() == process_response(text)


@pytest.mark.parametrize(
    "text",
    ["好!!", "测试::中", "a,中", "中,a", " \n好, [[训练时间]],好 \n", "x,[[训练时间]]!y", "[[[训练时间]]]"],
)
def test_stream_cut_at_every_character(text: str) -> None:
    stream = ResponseStream()
    assert "".join([*map(stream.push, text), stream.end()]) == process_response(text)


@given(text=tricky)
def test_only_a_few_characters_are_held_back(text: str) -> None:
    stream, shown = ResponseStream(), ""
    for end, character in enumerate(text, 1):
        shown += stream.push(character)
        assert len(process_response(text[:end])) - len(shown) < len("[[训练时间]]")


def test_plain_text_flows_at_once() -> None:
    stream = ResponseStream()
    assert [stream.push(part) for part in ["\n你好", "，我是", " Chat", "GLM"]] == [
        "你好",
        "，我是",
        " Chat",
        "GLM",
    ]


@genuine
def test_streamed_answer_is_that_of_the_reference(published: Tokenizer) -> None:
    for case in CASES["streaming"]:
        decoder, response, shown = StreamDecoder(published), ResponseStream(), ""
        for token, partial in zip(case["generated_ids"], case["partials"], strict=False):
            shown += response.push(decoder.push(token))
            assert partial.startswith(shown)
            assert len(partial.rstrip("\ufffd")) - len(shown) <= 1  # punctuation may wait for its neighbour
        rest = response.push(decoder.push(case["generated_ids"][-1]) + decoder.end()) + response.end()
        assert shown + rest == case["final_chat"]


@genuine
@given(query=words, history=rounds, budget=st.integers(40, 250))
def test_rounds_are_counted_exactly_with_the_published_vocabulary(
    published: Tokenizer, query: str, history: list[tuple[str, str]], budget: int
) -> None:
    fitted = fit_rounds(query, history, budget, published.encode)
    assert len(fitted.ids) <= budget
    if fitted.dropped:
        assert len(published.encode(format_chat(query, history[fitted.dropped - 1 :]))) > budget
