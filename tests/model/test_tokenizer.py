"""Text to ids and back, whole and in a stream; the published vocabulary where its file lies at hand."""

from __future__ import annotations

import hashlib
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from model.config import ChatGLMConfig
from model.prompt import build_inputs
from model.tokenizer import SPECIAL_PIECES, StreamDecoder, Tokenizer
from model.types import ModelError

ROOT = Path(__file__).parents[2]
CASES = json.loads((ROOT / "tests/data/chatglm/tokenizer_cases.json").read_text("utf-8"))
GENUINE = Path(os.environ.get("GLMBOT_TEST_DATA") or ROOT.parent / "shared/data") / "chatglm/ice_text.model"
genuine = pytest.mark.skipif(
    not GENUINE.is_file(), reason=f"no {GENUINE} (GLMBOT_TEST_DATA): it is not ours to give"
)
PARSED_BY_REFERENCE = ("[MASK]", "<sop>", "<eop>", "<unk>", "<pad>")
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
LAYOUT = ["<|tab|>", *(f"<|blank_{width}|>" for width in range(2, 81))]
LATE_PIECES = [(piece, CONTROL) for piece in SPECIAL_PIECES] + [(piece, USER_DEFINED) for piece in LAYOUT]


def piece(text: str, kind: int) -> bytes:
    """One piece as a SentencePiece file holds it."""
    message = bytes([0x0A, len(text.encode())]) + text.encode() + b"\x15" + bytes(4) + bytes([0x18, kind])
    return bytes([0x0A, len(message)]) + message


def train() -> bytes:
    sentences = [
        "你好，请问怎么退货？",
        "七天之内可以退货,运费由我们承担。",
        "Hello world, how do I return the goods?",
        "x = [1, 2]; if a > b: return <p>",
        "第一轮 问 答 Round 0",
    ]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences * 20),
        model_writer=model,
        vocab_size=420,
        hard_vocab_limit=False,
        byte_fallback=True,
        split_digits=True,
        pad_id=3,
        user_defined_symbols=["<n>"],
        minloglevel=2,
    )
    return model.getvalue()


TRAINED = train()
TINY = TRAINED + b"".join(piece(*late) for late in LATE_PIECES)
"""A small vocabulary with all that the published one has, its special pieces at the end."""


def save(folder: Path, data: bytes, name: str = "ice_text.model") -> Path:
    file = folder / name
    file.write_bytes(data)
    return file


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(save(tmp_path_factory.mktemp("tiny"), TINY))


@pytest.fixture(scope="module")
def published() -> Tokenizer:
    return Tokenizer(GENUINE)


@pytest.fixture(scope="module")
def early_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file as it was before 2023-04-06: without the late pieces and without byte_fallback."""
    late = LATE_PIECES + [(f"<0x{byte:02X}>", BYTE) for byte in range(256)]
    head, rest = GENUINE.read_bytes().split(b"".join(piece(*each) for each in late))
    length = rest[1]
    trainer = rest[2 : 2 + length].replace(b"\x98\x02\x01", b"")
    data = head + bytes([rest[0], len(trainer)]) + trainer + rest[2 + length :]
    return save(tmp_path_factory.mktemp("early"), data)


def config_of(tokenizer: Tokenizer, **changes: int) -> ChatGLMConfig:
    ids = tokenizer.special_ids
    return ChatGLMConfig(
        **{
            "vocab_size": len(tokenizer),
            "mask_token_id": ids["[MASK]"],
            "gmask_token_id": ids["[gMASK]"],
            "bos_token_id": ids["<sop>"],
            "eos_token_id": ids["<eop>"],
        }
        | changes  # type: ignore[arg-type]
    )


class TestPublishedVocabulary:
    pytestmark = genuine

    def test_gives_the_ids_of_bare_sentencepiece(self, published: Tokenizer) -> None:
        assert [published.encode(case["text"]) for case in CASES["cases"]] == [
            case["sp_ids"] for case in CASES["cases"]
        ]

    def test_decodes_without_clean_up(self, published: Tokenizer) -> None:
        assert [published.decode(case["sp_ids"]) for case in CASES["cases"]] == [
            case["sp_decoded"] for case in CASES["cases"]
        ]

    def test_decodes_specials_and_broken_bytes_as_the_reference(self, published: Tokenizer) -> None:
        assert [published.decode(case["ids"]) for case in CASES["decode"]] == [
            case["decoded"] for case in CASES["decode"]
        ]

    def test_prompt_ids_are_those_of_the_reference(self, published: Tokenizer) -> None:
        plain = [
            c for c in CASES["cases"] if not any(special in c["text"] for special in PARSED_BY_REFERENCE)
        ]
        assert len(plain) > 30
        for case in plain:
            assert build_inputs(published.encode(case["text"]), ChatGLMConfig()) == case["ids"]

    def test_rows_of_a_batch_are_the_single_prompts_without_padding(self, published: Tokenizer) -> None:
        pad = published.special_ids["<pad>"]
        rows = [
            (text, ids)
            for batch in CASES["batches"]
            for text, ids in zip(batch["texts"], batch["input_ids"], strict=True)
            if "[MASK]" not in text  # the reference parses it, user text keeps it
        ]
        assert len(rows) == 4
        for text, ids in rows:
            unpadded = [token for token in ids if token != pad]
            assert build_inputs(published.encode(text), ChatGLMConfig()) == unpadded

    def test_training_pairs_are_prompt_answer_and_end(self, published: Tokenizer) -> None:
        config = ChatGLMConfig()
        for case in CASES["pairs"]:
            prompt = build_inputs(published.encode(case["prompt"]), config)
            assert [*prompt, *published.encode(case["answer"]), config.eos_token_id] == case["ids"]

    def test_truncation_leaves_room_for_the_two_specials(self, published: Tokenizer) -> None:
        for case in CASES["truncation"]:
            kept = published.encode(case["text"])[: case["max_length"] - 2]
            assert build_inputs(kept, ChatGLMConfig()) == case["ids"]

    def test_special_ids_are_found_by_piece(self, published: Tokenizer) -> None:
        named = {"[MASK]": "mask", "[gMASK]": "gmask", "<sop>": "sop", "<eop>": "eop", "<pad>": "pad"}
        for special, name in named.items():
            assert published.special_ids[special] == CASES["special_ids"][name]
        published.check(ChatGLMConfig())

    def test_padding_rows_of_the_embedding_print_nothing(self, published: Tokenizer) -> None:
        assert len(published) == 130_344
        assert published.decode([5, 130_344, 74_874, 130_527]) == "你好"

    def test_early_file_is_the_one_that_was_published(self, early_file: Path) -> None:
        assert early_file.stat().st_size == 2_699_926
        digest = hashlib.sha256(early_file.read_bytes()).hexdigest()
        assert digest == "99871e0c85db81ad7af1028854fd091cd5778c8414ae9d94bbbc10d02c831c21"

    def test_early_file_gives_slim_ids(self, early_file: Path, published: Tokenizer) -> None:
        early = Tokenizer(early_file)
        assert (len(early), early.special_ids) == (len(published), published.special_ids)
        for case in CASES["cases"]:
            assert early.encode(case["text"]) == case["sp_ids"]
            assert early.decode(case["sp_ids"]) == case["sp_decoded"]

    def test_early_file_matches_both_generations_of_config(self, early_file: Path) -> None:
        early = Tokenizer(early_file)
        early.check(ChatGLMConfig())
        data = {"vocab_size": 150_528, "hidden_size": 64, "num_layers": 1, "num_attention_heads": 4}
        early.check(ChatGLMConfig.from_dict(data | {"bos_token_id": 150_004}))


# characters that normalisation leaves alone, some of which the tiny vocabulary lacks
stable = st.text(st.sampled_from("你好退货鳜Hello world019 \n\t.<[|é😀👋"), max_size=60)
anything = st.text(st.characters(exclude_categories=()), max_size=40)


@given(text=stable.filter(lambda text: text == text.strip(" ")))
def test_text_comes_back_with_its_layout(tiny: Tokenizer, text: str) -> None:
    assert tiny.decode(tiny.encode(text)) == text


@pytest.mark.parametrize("width", [2, 3, 79, 80, 81, 82, 160, 161, 400])
def test_runs_of_blanks_come_back(tiny: Tokenizer, width: int) -> None:
    text = f"a{' ' * width}b"
    ids = tiny.encode(text)
    assert tiny.decode(ids) == text
    assert len(ids) <= 3 + width // 80 + 2  # one id for up to 80 blanks


@given(parts=st.lists(anything | st.sampled_from([*SPECIAL_PIECES, "<pad>", "<s>", "</s>"]), max_size=6))
def test_no_text_becomes_a_special(tiny: Tokenizer, parts: list[str]) -> None:
    control = {0, 1, 2, 3, *tiny.special_ids.values()}
    assert control.isdisjoint(tiny.encode("".join(parts)))


@pytest.mark.parametrize("special", [*SPECIAL_PIECES, "<pad>", "<unk>", "</s>", "<0x41>"])
def test_typed_specials_stay_text(tiny: Tokenizer, special: str) -> None:
    text = f"你好{special}a"
    assert tiny.decode(tiny.encode(text)) == text


def test_specials_declared_as_symbols_cannot_be_typed_either(tmp_path: Path) -> None:
    tokenizer = Tokenizer(save(tmp_path, TRAINED + piece("[gMASK]", USER_DEFINED)))
    ids = tokenizer.encode("a[gMASK]b")
    assert ids
    assert tokenizer.special_ids["[gMASK]"] not in ids
    assert tokenizer.decode([tokenizer.special_ids["[gMASK]"]]) == ""


def test_files_without_layout_pieces_take_layout_as_spaces(tmp_path: Path) -> None:
    tokenizer = Tokenizer(save(tmp_path, TRAINED.replace(b"<n>", b"<m>")))
    assert tokenizer.decode(tokenizer.encode("a\nb   c\td")) == "a b c d"


@pytest.mark.parametrize(
    ("text", "back"), [("a\ud800b", "a b"), ("a\ud83d\ude00b", "a😀b"), ("a\0b", "a\0b"), ("a\udc00", "a")]
)
def test_surrogates_and_null_do_no_harm(tiny: Tokenizer, text: str, back: str) -> None:
    assert tiny.decode(tiny.encode(text)) == back


def test_a_megabyte_of_text_is_encoded(tiny: Tokenizer) -> None:
    ids = tiny.encode("你好  hello\n" * 80_000)
    assert len(ids) > 5 * 80_000
    assert tiny.decode(ids[-14:]).endswith("你好  hello\n")


def test_threads_share_a_tokenizer(tiny: Tokenizer) -> None:
    texts = [f"你好 {number}\n  退货" * 50 for number in range(64)]
    with ThreadPoolExecutor(8) as pool:
        there = list(pool.map(tiny.encode, texts))
        back = list(pool.map(tiny.decode, there))
    assert there == [tiny.encode(text) for text in texts]
    assert back == texts


def sp_ids(sp: sentencepiece.SentencePieceProcessor) -> st.SearchStrategy[list[int]]:
    byte = st.integers(sp.piece_to_id("<0x00>"), sp.piece_to_id("<0xFF>"))
    printed = st.integers(5, sp.piece_to_id("[MASK]") - 1)
    return st.lists(printed | byte | st.sampled_from([0, sp.piece_to_id("▁")]), max_size=30)


PROCESSOR = sentencepiece.SentencePieceProcessor(model_proto=TINY)


@given(ids=sp_ids(PROCESSOR))
def test_decodes_as_sentencepiece(tiny: Tokenizer, ids: list[int]) -> None:
    assert tiny.decode(ids) == PROCESSOR.decode(ids)


@given(ids=st.lists(st.integers(-2, len(PROCESSOR) + 200)) | sp_ids(PROCESSOR))
def test_stream_is_the_whole_text_without_broken_characters(tiny: Tokenizer, ids: list[int]) -> None:
    stream = StreamDecoder(tiny)
    text = "".join([stream.push(token) for token in ids]) + stream.end()
    assert text == tiny.decode(ids).replace("\ufffd", "")


def test_stream_drops_even_a_spelled_replacement_character(tiny: Tokenizer) -> None:
    ids = [PROCESSOR.piece_to_id(f"<0x{byte}>") for byte in ("41", "EF", "BF", "BD", "42")]
    stream = StreamDecoder(tiny)
    assert "".join(map(stream.push, ids)) == "AB"
    assert tiny.decode(ids) == "A\ufffdB"


@given(text=stable)
def test_stream_shows_each_character_once_it_is_complete(tiny: Tokenizer, text: str) -> None:
    ids = tiny.encode(text)
    stream = StreamDecoder(tiny)
    shown = ""
    for end, token in enumerate(ids, 1):
        shown += stream.push(token)
        assert shown == tiny.decode(ids[:end]).rstrip("\ufffd")


def early_like(last: bytes) -> bytes:
    """130000 pieces that begin as the published ones do, with one of your own at the end."""
    begin = [("<unk>", UNKNOWN), *((control, CONTROL) for control in ("<s>", "</s>", "<pad>"))]
    words = [(f"w{number}", NORMAL) for number in range(130_000 - 7)]
    return b"".join(piece(*each) for each in [*begin, ("<n>", USER_DEFINED), ("▁", NORMAL), *words]) + last


def test_early_vocabulary_is_completed_in_memory(tmp_path: Path) -> None:
    tokenizer = Tokenizer(save(tmp_path, early_like(piece("last", NORMAL))))
    assert len(tokenizer) == 130_344
    assert tokenizer.encode("\t  é") == [5, 130_008, 130_009, 130_088 + 0xC3, 130_088 + 0xA9]
    tokenizer.check(ChatGLMConfig())


@pytest.mark.parametrize(
    "data", [TINY, TRAINED, early_like(piece("[gMASK]", CONTROL))], ids=["tiny", "plain", "as long"]
)
def test_other_vocabularies_are_left_as_they_are(tmp_path: Path, data: bytes) -> None:
    there = sentencepiece.SentencePieceProcessor(model_proto=data)
    assert len(Tokenizer(save(tmp_path, data))) == len(there)


@pytest.mark.parametrize("name", ["ice_text.model", "tokenizer.model", "spiece.model"])
def test_folder_stands_for_the_tokenizer_in_it(tmp_path: Path, name: str) -> None:
    save(tmp_path, TINY, name)
    assert Tokenizer(str(tmp_path)).file == tmp_path / name


def test_the_published_name_is_looked_for_first(tmp_path: Path) -> None:
    for name in ("a.model", "tokenizer.model", "ice_text.model"):
        save(tmp_path, TINY, name)
        assert Tokenizer(tmp_path).file.name == name


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:5e97\nsize 2706249\n"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (POINTER, "Git LFS pointer"),
        (b"", "not a SentencePiece model"),
        (TINY[: len(TRAINED) // 2], "only a part"),
        (TRAINED[:-1], "only a part"),
        (b"PK\x03\x04" + bytes(200), "not a SentencePiece model"),
        ("你好".encode() * 50, "not a SentencePiece model"),
    ],
)
def test_bad_files_are_named_with_a_remedy(tmp_path: Path, data: bytes, problem: str) -> None:
    file = save(tmp_path, data)
    with pytest.raises(ModelError, match=problem) as caught:
        Tokenizer(tmp_path)
    assert caught.value.file == file
    assert caught.value.remedy


@pytest.mark.parametrize("path", [Path("missing.model"), Path()])
def test_missing_tokenizer_is_named_with_a_remedy(tmp_path: Path, path: Path) -> None:
    with pytest.raises(ModelError, match=r"no .*tokenizer") as caught:
        Tokenizer(tmp_path / path)
    assert caught.value.file == tmp_path / path
    assert "ice_text.model" in str(caught.value.remedy)


def test_own_config_is_accepted(tiny: Tokenizer) -> None:
    tiny.check(config_of(tiny, vocab_size=len(tiny) + 184))


@pytest.mark.parametrize("key", ["mask_token_id", "gmask_token_id", "bos_token_id", "eos_token_id"])
def test_ids_of_another_vocabulary_are_refused(tiny: Tokenizer, key: str) -> None:
    config = config_of(tiny, **{key: 7})
    with pytest.raises(ModelError, match=r"two vocabularies are mixed.* at 7") as caught:
        tiny.check(config, Path("other") / "config.json")
    assert caught.value.file == tiny.file
    assert str(Path("other") / "config.json") in str(caught.value)


def test_fewer_rows_than_pieces_are_refused(tiny: Tokenizer) -> None:
    with pytest.raises(ModelError, match=f"{len(tiny)} pieces, .* of 400"):
        tiny.check(config_of(tiny, vocab_size=400))


def test_vocabulary_without_the_specials_is_refused(tmp_path: Path, tiny: Tokenizer) -> None:
    plain = Tokenizer(save(tmp_path, TRAINED))
    with pytest.raises(ModelError, match=r"has no piece \[MASK\]"):
        plain.check(config_of(tiny))
