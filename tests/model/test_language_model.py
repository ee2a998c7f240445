"""A loaded model: ids to ids and text to text."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from structlog.testing import capture_logs

import model
from model.convert import convert
from model.kernels.choice import Choice
from model.kernels.fused import Fused
from model.kernels.launcher import Argument, Grid
from model.language_model import choose_device
from model.prompt import build_inputs, format_chat, process_response
from model.random_model import make_random
from model.types import Delta, GenerationParams, ModelError, Turn

VECTORS = Path(__file__).parents[1] / "data" / "chatglm"
CASES = load_file(VECTORS / "cases.safetensors")
GREEDY = GenerationParams(max_new_tokens=40, temperature=0)
HISTORY = [Turn("运费是多少？", "满 99 元包邮。"), Turn("多久能到？", "三天左右。")]


@pytest.fixture(scope="module")
def exact() -> model.LanguageModel:
    return model.load(VECTORS, device="cpu", quantization="none", dtype="float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("random") / "tiny"
    make_random(path)
    return path


@pytest.fixture(scope="module")
def tiny(folder: Path) -> model.LanguageModel:
    return model.load(folder, device="cpu", quantization="none", dtype="float32")


def said(deltas: Iterator[Delta]) -> tuple[str, str | None]:
    """The whole text, and the finish that only the last delta may have."""
    *others, last = deltas
    assert all(delta.finish is None for delta in others)
    return "".join(delta.text for delta in [*others, last]), last.finish


def answer_ids(tiny: model.LanguageModel, prompt: str, count: int) -> list[int]:
    ids = build_inputs(tiny.tokenizer.encode(prompt), tiny.config)
    return list(tiny.generate(ids, max_new_tokens=count))


def test_torch_leaves_the_cores_to_the_kernels_threads(tiny: model.LanguageModel) -> None:
    """Its own would go on spinning on them after each of its operations."""
    assert torch.get_num_threads() == 1 or "native" not in tiny.kernels


def test_the_log_says_that_a_packed_file_goes_before_published_weights(folder: Path, tmp_path: Path) -> None:
    both = shutil.copytree(folder, tmp_path / "both")
    told = []
    for path in (convert(both, both), both):
        with capture_logs() as logs:
            loaded = model.load(path, device="cpu", quantization="none", dtype="float32")
        assert not isinstance(loaded.network.weights.word_embeddings, torch.Tensor)
        told.append([line["unused"] for line in logs if "unused" in line])
    assert told == [[], ["model.safetensors"]]


# -- ids ------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["gmask", "mask", "multi_special", "no_context", "long", "gmask_prefilled"])
def test_greedy_ids_are_the_published_ones(exact: model.LanguageModel, case: str) -> None:
    tokens = CASES[f"{case}/greedy_tokens"][0].tolist()
    ids = CASES[f"{case}/input_ids"][0].tolist()
    assert list(exact.generate(ids, max_new_tokens=len(tokens))) == tokens


def test_eop_ends_an_answer_and_is_not_among_its_ids(exact: model.LanguageModel) -> None:
    ids = CASES["gmask/input_ids"][0].tolist()
    tokens = CASES["gmask/greedy_tokens"][0].tolist()
    ending = replace(exact.config, eos_token_id=tokens[3])
    network = type(exact.network)(ending, exact.network.weights, exact.network.operations)
    ended = model.LanguageModel(network, VECTORS, max_context=2048)
    assert list(ended.generate(ids, max_new_tokens=8)) == tokens[: tokens.index(tokens[3])]


def test_an_answer_ends_where_the_context_does(exact: model.LanguageModel) -> None:
    ids = CASES["gmask/input_ids"][0].tolist()
    short = model.LanguageModel(exact.network, VECTORS, max_context=len(ids) + 3)
    assert len(list(short.generate(ids, max_new_tokens=8))) == 3
    full = model.LanguageModel(exact.network, VECTORS, max_context=len(ids))
    with pytest.raises(ModelError, match=f"{len(ids)} tokens") as caught:
        list(full.generate(ids))
    assert "max_context" in (caught.value.remedy or "")


def test_a_seed_gives_the_same_ids_again(exact: model.LanguageModel) -> None:
    ids = CASES["gmask/input_ids"][0].tolist()

    def drawn(seed: int) -> list[int]:
        return list(exact.generate(ids, 20, 1.5, seed=seed))

    assert drawn(1) == drawn(1)
    assert len({tuple(drawn(seed)) for seed in range(5)}) > 1


def test_generating_leaves_the_callers_ids_alone(exact: model.LanguageModel) -> None:
    ids = CASES["gmask/input_ids"][0].tolist()
    before = list(ids)
    list(exact.generate(ids))
    assert ids == before


def test_a_prefix_steers_one_call_and_not_the_next(exact: model.LanguageModel) -> None:
    prefix = model.Prefix(torch.randn(3, 2, 8, 4, 16, generator=torch.Generator().manual_seed(1)))
    ids = CASES["gmask/input_ids"][0].tolist()
    plain = list(exact.generate(ids))
    assert list(exact.generate(ids, prefix=prefix)) != plain
    assert list(exact.generate(ids)) == plain


# -- text -----------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["你好", "运费是多少？", "How long does delivery take?", "a\n\tb    c"])
def test_streamed_text_is_the_decoded_answer(tiny: model.LanguageModel, query: str) -> None:
    text, finish = said(tiny.stream(query, [], GREEDY))
    ids = answer_ids(tiny, query, 40)
    decoded = tiny.tokenizer.decode(ids)
    assert text == process_response(decoded.replace("\ufffd", ""))
    assert finish == ("length" if len(ids) == 40 else "stop")


def test_a_stream_never_has_a_broken_character(tiny: model.LanguageModel) -> None:
    for seed in range(5):
        params = GenerationParams(max_new_tokens=60, temperature=2.0, top_p=1.0, top_k=0, seed=seed)
        text, _ = said(tiny.stream("你好", [], params))
        assert "\ufffd" not in text


def test_history_goes_into_the_prompt_as_rounds(tiny: model.LanguageModel) -> None:
    text, _ = said(tiny.stream("可以退吗？", HISTORY, GREEDY))
    prompt = format_chat("可以退吗？", [(turn.question, turn.answer) for turn in HISTORY])
    assert prompt.startswith("[Round 0]\n问：运费是多少？\n答：满 99 元包邮。\n[Round 1]")
    assert text == process_response(tiny.tokenizer.decode(answer_ids(tiny, prompt, 40)).replace("\ufffd", ""))
    assert text != said(tiny.stream("可以退吗？", [], GREEDY))[0]


def test_the_oldest_rounds_go_where_the_context_is_short(tiny: model.LanguageModel) -> None:
    latest = format_chat("可以退吗？", [(HISTORY[1].question, HISTORY[1].answer)])
    room = tiny.count_tokens(latest) + 2 + GREEDY.max_new_tokens
    short = model.LanguageModel(tiny.network, tiny.path, max_context=room)
    text, _ = said(short.stream("可以退吗？", HISTORY, GREEDY))
    assert text == said(tiny.stream("可以退吗？", HISTORY[1:], GREEDY))[0]


def test_a_question_longer_than_the_context_is_refused(tiny: model.LanguageModel) -> None:
    with pytest.raises(ModelError, match="longer than the context") as caught:
        list(tiny.stream("运费" * 4_000, HISTORY, GREEDY))
    assert caught.value.remedy


def test_a_stop_string_ends_the_answer_before_it(tiny: model.LanguageModel) -> None:
    whole, _ = said(tiny.stream("你好", [], GREEDY))
    stop = whole[4:6]
    text, finish = said(tiny.stream("你好", [], replace(GREEDY, stop=(stop,))))
    assert text == process_response(whole[: whole.index(stop)])
    assert finish == "stop"


def test_what_is_given_out_comes_as_it_is_generated(tiny: model.LanguageModel) -> None:
    deltas = list(tiny.stream("你好", [], GREEDY))
    assert sum(bool(delta.text) for delta in deltas) > 5


def test_a_prompt_can_be_given_up_within_its_layers(tiny: model.LanguageModel) -> None:
    stream = tiny.stream("你好", [], GREEDY)
    for _ in range(2 * tiny.config.num_layers - 1):
        assert next(stream) == Delta("")
    assert next(stream).text  # only now is the first token drawn


def test_closing_a_stream_ends_it(tiny: model.LanguageModel) -> None:
    stream = tiny.stream("你好", [], GREEDY)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert list(stream) == []


def test_padding_rows_of_the_vocabulary_are_never_drawn(tiny: model.LanguageModel) -> None:
    pieces = len(tiny.tokenizer)
    assert pieces < tiny.config.vocab_size
    table = tiny.network.weights.word_embeddings
    assert isinstance(table, torch.Tensor)
    loud = table.clone()
    loud[pieces:] *= 50
    weights = replace(tiny.network.weights, word_embeddings=loud)
    network = type(tiny.network)(tiny.config, weights, tiny.network.operations)
    padded = model.LanguageModel(network, tiny.path, max_context=2048)
    ids = build_inputs(padded.tokenizer.encode("你好"), padded.config)
    assert max(padded.generate(ids)) >= pieces  # the bare ids show that the rows would win
    text, _ = said(padded.stream("你好", [], GREEDY))
    assert text


def save_prefix(file: Path, seed: int, tokens: int) -> Path:
    """A random prefix for the tiny vectors' model."""
    values = torch.randn(tokens, 3 * 2 * 64, generator=torch.Generator().manual_seed(seed))
    save_file({"transformer.prefix_encoder.embedding.weight": values}, file)
    return file


@pytest.mark.parametrize("kv_cache", ["auto", "int8", "int4"])
def test_a_resident_prefix_answers_as_one_that_is_handed_in(tmp_path: Path, kv_cache: Any) -> None:
    """Its pages are shared; 8 and 20 tokens fill no whole number of them."""
    ids = CASES["gmask/input_ids"][0].tolist()
    loaded = model.load(VECTORS, device="cpu", quantization="none", kv_cache=kv_cache)
    plain = list(loaded.generate(ids))
    files = [save_prefix(tmp_path / f"{tokens}.safetensors", tokens, tokens) for tokens in (8, 20)]
    handed = [list(loaded.generate(ids, prefix=model.load_prefix(file, loaded))) for file in files]
    resident = [loaded.load_prefix(file.stem, file) for file in files]
    for _ in range(2):
        assert [list(loaded.generate(ids, prefix=prefix)) for prefix in resident] == handed
        assert list(loaded.generate(ids)) == plain
    assert handed[0] != plain != handed[1]


def test_pages_come_back_however_an_answer_ends(tmp_path: Path) -> None:
    """And suffice for a prompt as long as the context, whatever prefix begins it."""
    loaded = model.load(VECTORS, device="cpu", quantization="none", max_context=64)
    prefixes = [None]
    for tokens in (20, 33):
        file = save_prefix(tmp_path / f"{tokens}.safetensors", tokens, tokens)
        prefixes.append(loaded.load_prefix(file.stem, file))
    ids, free = CASES["gmask/input_ids"][0].tolist(), loaded.pages.free
    assert loaded.pages.nbytes < model.load(VECTORS, device="cpu", quantization="none").pages.nbytes / 10
    for prefix in prefixes:
        assert len(list(loaded.generate(ids, 1000, prefix=prefix))) == 64 - len(ids)
        begun = loaded.generate(ids, 40, prefix=prefix)
        next(begun)
        assert loaded.pages.free < free
        del begun
        with pytest.raises(ModelError, match="outside the vocabulary"):
            list(loaded.generate([100_000, *ids], prefix=prefix))
        assert loaded.pages.free == free


@pytest.mark.parametrize(
    ("kv_cache", "dtype", "width"),
    [
        ("auto", "auto", 16 * 2),
        ("fp16", "auto", 16 * 2),
        ("int8", "auto", 16 + 2),
        ("int4", "auto", 8 + 4),
        ("int4", "float32", 16 * 4),
        ("auto", "float32", 16 * 4),
    ],
)
def test_keys_and_values_are_stored_as_configured_but_on_the_exact_path(
    kv_cache: Any, dtype: Any, width: int
) -> None:
    """width: bytes of the 16 numbers of a head, with their scales."""
    loaded = model.load(VECTORS, device="cpu", quantization="none", dtype=dtype, kv_cache=kv_cache)
    layers, heads = 3, 4
    assert loaded.pages.nbytes == 2048 * layers * 2 * heads * width


def test_prefixes_go_by_name(tiny: model.LanguageModel) -> None:
    with pytest.raises(ModelError, match="'shop'"):
        list(tiny.stream("你好", [], replace(GREEDY, prefix="shop")))


def test_no_tokenizer_is_needed_until_there_is_text(exact: model.LanguageModel, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(VECTORS / name, tmp_path)
    bare = model.load(tmp_path, device="cpu", quantization="none", dtype="float32")
    ids = CASES["gmask/input_ids"][0].tolist()
    assert list(bare.generate(ids)) == list(exact.generate(ids))
    with pytest.raises(ModelError, match="tokenizer") as caught:
        bare.count_tokens("你好")
    assert caught.value.remedy


def test_a_tokenizer_of_another_vocabulary_is_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(VECTORS / name, tmp_path)
    shutil.copy(folder / "ice_text.model", tmp_path)
    mixed = model.load(tmp_path, device="cpu", quantization="none", dtype="float32")
    with pytest.raises(ModelError, match="vocabular"):
        mixed.count_tokens("你好")


@pytest.mark.parametrize("quantization", ["int4", "int8"])
def test_quantised_at_loading_comes_near_the_floats(
    exact: model.LanguageModel, quantization: model.language_model.Quantization
) -> None:
    ids = CASES["gmask/input_ids"][0].tolist()
    loaded = model.load(VECTORS, device="cpu", quantization=quantization, dtype="float32")
    error = (loaded.logits(ids) - exact.logits(ids)).square().mean() / exact.logits(ids).square().mean()
    assert 1e-9 < error < (0.2 if quantization == "int4" else 1e-3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"device": "xpu"},
        {"quantization": "int5"},
        {"dtype": "int4"},
        {"kv_cache": "fp8"},
        {"max_context": -5},
    ],
)
def test_a_setting_that_does_not_exist_is_named(wrong: dict[str, Any]) -> None:
    [(name, value)] = wrong.items()
    with pytest.raises(ModelError, match=f"{name}.*{value}") as caught:
        model.load(VECTORS, **wrong)
    assert caught.value.remedy


def test_a_prefix_of_another_model_is_refused(exact: model.LanguageModel) -> None:
    ids = CASES["gmask/input_ids"][0].tolist()
    prefix = model.Prefix(torch.zeros(2, 2, 8, 4, 16))
    with pytest.raises(ModelError, match=r"\[2, 2, 8, 4, 16\].*\[3, 2, 8, 4, 16\]"):
        exact.logits(ids, prefix)
    with pytest.raises(ModelError, match="does not fit"):
        list(exact.generate(ids, prefix=prefix))


def test_the_tokenizer_is_found_from_another_working_directory(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    loaded = model.load(folder.name, device="cpu")
    monkeypatch.chdir(tmp_path)
    assert loaded.count_tokens("你好") > 0
    assert loaded.name == folder.name


def test_an_absent_device_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(ModelError, match="'cuda'") as caught:
        model.load(VECTORS, device="cuda")
    assert "set model.device to auto or cpu" in str(caught.value)


class Card:
    """A `Launcher` that launches nothing."""

    name, arch, multiprocessors = "a card", 86, 4

    def __init__(self) -> None:
        self.prepared = set[str]()

    def prepare(self, kernels: Iterable[str]) -> None:
        self.prepared.update(kernels)

    def launch(self, kernel: str, grid: Grid, block: int, *arguments: Argument, shared: int = 0) -> None:
        raise AssertionError(kernel)


def test_kernels_are_compiled_while_the_model_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = Card()
    chosen = Choice(Fused(card, torch.device("cpu")))
    monkeypatch.setattr("model.language_model.choose", lambda *_, **__: chosen)
    model.load(folder, device="cpu", dtype="float16", kv_cache="int4")
    assert {"sample", "layer_norm", "rope_kv<2>", "attn_decode<2>"} <= card.prepared


@pytest.mark.parametrize(("built_for", "lacks"), [(None, "PyTorch for CUDA"), ("13.0", "a driver")])
def test_what_a_card_lacks_is_told(
    monkeypatch: pytest.MonkeyPatch, built_for: str | None, lacks: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    with pytest.raises(ModelError, match=f"install {lacks}"):
        choose_device("cuda")
