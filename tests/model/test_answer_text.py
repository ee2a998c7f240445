"""Text given out piece by piece is the text of the whole answer, however it is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.answer_text import AnswerText
from model.prompt import process_response
from model.random_model import train_tokenizer
from model.tokenizer import StreamDecoder, Tokenizer

STOPS = ("。", "结束", "END", "了。", "  ")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    file = tmp_path_factory.mktemp("tokenizer") / "ice_text.model"
    file.write_bytes(train_tokenizer())
    return Tokenizer(file)


@given(data=st.data())
def test_pieces_add_up_to_the_tidied_text_before_the_first_stop_string(
    tokenizer: Tokenizer, data: st.DataObject
) -> None:
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=40))
    stop = data.draw(st.lists(st.sampled_from(STOPS), max_size=3))
    text, pieces = AnswerText(tokenizer, stop), list[str]()
    for token in ids:
        pieces.append(text.push(token))
        if text.stopped:
            break
    pieces.append(text.end())
    decoder = StreamDecoder(tokenizer)
    whole = "".join(map(decoder.push, ids)) + decoder.end()
    complete = [(whole.find(string) + len(string), len(string)) for string in stop if string in whole]
    end, size = min(complete, key=lambda found: (found[0], -found[1]), default=(len(whole), 0))
    assert text.stopped == bool(complete)
    assert "".join(pieces) == process_response(whole[: end - size])
    assert "\ufffd" not in "".join(pieces)
