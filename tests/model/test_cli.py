"""`glmbot model`: what each command prints and leaves, its exit codes, and the talk in a terminal."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import structlog
import torch
from typer.testing import CliRunner, Result

from bot.cli import app
from model.config import ChatGLMConfig
from model.kernels.choice import choose
from model.packed import Packed

Glmbot = Callable[..., Result]
COMMANDS = (
    "download",
    "convert",
    "quantize",
    "info",
    "chat",
    "make-random",
    "bench",
    "serve",
    "key",
    "plan",
    "bench-engine",
    "bench-gpu",
)


@pytest.fixture
def glmbot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Glmbot]:
    """Runs `glmbot model ...` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GLMBOT_DEBUG", raising=False)

    def call(*words: object, input: str | None = None) -> Result:
        return CliRunner().invoke(app, ["model", *map(str, words)], input=input)

    yield call
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, made once by the command."""
    folder = tmp_path_factory.mktemp("made") / "TINY"
    done = CliRunner().invoke(app, ["model", "make-random", str(folder), "--seed", "3"])
    assert done.exit_code == 0, done.output
    return folder


def fields(result: Result) -> dict[str, str]:
    """What `info` printed, by the name of the row."""
    assert result.exit_code == 0, result.output
    return dict(re.split(r"  +", line, maxsplit=1) for line in result.stdout.splitlines())


# -- help and errors ------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(glmbot: Glmbot, command: str) -> None:
    done = glmbot(command, "--help")
    assert done.exit_code == 0
    assert f"model {command}" in done.stdout


def test_commands_of_later_days_are_absent(glmbot: Glmbot) -> None:
    listed = re.findall(r"^│ ([a-z][a-z-]+) ", glmbot("--help").stdout, re.MULTILINE)
    assert set(listed) == set(COMMANDS)


def run(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """`glmbot` with these words in a process of its own, after some code."""
    program = f"{code}\nfrom bot.cli import main\nmain()"
    return subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=60)


def test_without_the_extra_help_works_and_commands_name_it(made: Path) -> None:
    missing = "import sys; sys.modules |= dict.fromkeys(('torch', 'transformers', 'huggingface_hub'))"
    assert run(missing, "model", "chat", "--help").returncode == 0
    folder = str(made)
    for words in (("info", folder), ("chat", folder), ("convert", folder, "there"), ("make-random", "there")):
        done = run(missing, "model", *words)
        assert done.returncode == 1
        assert done.stderr == "error: the package torch is not installed; run: pip install 'glmbot[model]'\n"


def test_help_loads_no_torch() -> None:
    code = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules))"
    done = run(code, "model", "chat", "--help")
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    "words",
    [
        ("convert", "a", "b", "--quantization", "int3"),
        ("quantize", "a", "b", "--bits", "5"),
        ("convert", "a", "b", "--group-size", "0"),
        ("make-random", "a", "--form", "gguf"),
        ("chat", "a", "--temperature", "-1"),
        ("info",),
    ],
)
def test_bad_options_are_exit_code_2(glmbot: Glmbot, words: Sequence[str]) -> None:
    assert glmbot(*words).exit_code == 2


@pytest.mark.parametrize(
    "words",
    [
        ("info", "nowhere"),
        ("convert", "nowhere", "there"),
        ("quantize", "nowhere", "there"),
        ("chat", "nowhere"),
    ],
)
def test_what_is_not_there_is_one_line_and_exit_code_1(glmbot: Glmbot, words: Sequence[str]) -> None:
    done = glmbot(*words)
    assert done.exit_code == 1
    assert done.stderr == "error: nowhere: there is no such file or folder; check model.path\n"
    assert done.stdout == ""


def test_download_fails_in_one_line(glmbot: Glmbot) -> None:
    done = glmbot("download", "no/such/name", "--mirror", "http://127.0.0.1:9")
    assert done.exit_code == 1
    assert done.stderr == "error: 'no/such/name' is no name of a repository; name it as in THUDM/chatglm-6b\n"


# -- making, describing, converting ---------------------------------------------------------


def test_a_random_model_is_never_written_over(glmbot: Glmbot, made: Path) -> None:
    done = glmbot("make-random", made)
    assert done.exit_code == 1
    assert "is there already" in done.stderr


def test_making_a_random_model_leaves_nothing_when_it_is_terminated(tmp_path: Path) -> None:
    terminated = """
import os, signal
from model import published
write = published.write_safetensors
published.write_safetensors = lambda *args: (write(*args), os.kill(os.getpid(), signal.SIGTERM))
"""
    done = run(terminated, "model", "make-random", str(tmp_path / "tiny"))
    assert done.returncode == 143
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("form", "told", "scheme", "generation"),
    [
        (
            "safetensors",
            "float, .safetensors",
            "floats; embedding floats (loaded as INT4, groups of 64",
            "slim",
        ),
        ("early", "float, .bin", "floats; embedding floats (loaded as INT4, groups of 64", "early"),
        ("int4", "int4, .bin", "INT4, one scale a row; embedding floats", "slim"),
        ("packed", "packed", "INT4, groups of 64; embedding INT8", "slim"),
    ],
)
def test_info_tells_every_form(glmbot: Glmbot, form: str, told: str, scheme: str, generation: str) -> None:
    assert glmbot("make-random", "made", "--form", form).exit_code == 0
    found = fields(glmbot("info", "made", "--device", "cpu"))
    assert found["form"] == told
    assert found["weights"].startswith(scheme)
    assert found["vocabulary"].partition(" rows, ")[2].startswith(generation)
    assert found["tokenizer"].startswith("ice_text.model, ")
    assert found["kernels"] == str(choose(torch.device("cpu"), torch.float32))
    assert found["PyTorch"] == torch.__version__
    assert {"memory, weights", "memory, total", "memory, available on cpu"} <= found.keys()


def test_info_tells_a_missing_tokenizer_and_refuses_another_ones(
    glmbot: Glmbot, made: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(made, tmp_path / "copy")
    (folder / "ice_text.model").unlink()
    assert fields(glmbot("info", folder))["tokenizer"].startswith("missing")
    shutil.copy(made / "ice_text.model", folder)
    config = folder / "config.json"
    eop = ChatGLMConfig.read(folder).eos_token_id
    text = config.read_text("utf-8").replace(f'"eos_token_id": {eop}', f'"eos_token_id": {eop + 1}')
    config.write_text(text, "utf-8")
    done = glmbot("info", folder)
    assert done.exit_code == 1
    assert "vocabularies are mixed" in done.stderr


def test_info_refuses_a_truncated_file(glmbot: Glmbot, made: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(made, tmp_path / "copy")
    os.truncate(folder / "model.safetensors", 100_000)
    done = glmbot("info", folder)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error: {folder / 'model.safetensors'}: is damaged or cut short")


def test_convert_writes_what_was_asked_and_tells_sizes_time_and_memory(glmbot: Glmbot, made: Path) -> None:
    options = ("--quantization", "int8", "--head", "float16", "--layout", "rows")
    done = glmbot("convert", made, "there", *options)
    assert done.exit_code == 0, done.output
    written = Path("there/glmbot.safetensors")
    scheme = Packed.open(written).scheme
    assert (scheme.bits, scheme.head_bits) == (8, None)
    first, second = done.stdout.splitlines()
    assert first.startswith(f"{written}: INT8, one scale a row; embedding floats; layout rows, ")
    before, after = (file.stat().st_size / 1e3 for file in (made / "model.safetensors", written))
    assert first.endswith(f"{before:.1f} kB -> {after:.1f} kB")
    assert re.fullmatch(r"\d+\.\d s, peak memory \d+\.\d\d [GM]B", second)
    again = glmbot("convert", made, "there")
    assert again.exit_code == 1
    assert "is there already" in again.stderr
    assert glmbot("convert", made, "there", "--group-size", 32, "--hqq", "--force").exit_code == 0
    scheme = Packed.open(written).scheme
    assert (scheme.bits, scheme.group_size, scheme.zero, scheme.head_bits) == (4, 32, True, 8)


def test_a_packed_file_is_brought_into_another_layout(glmbot: Glmbot, made: Path) -> None:
    for source, target, layout in ((made, "rows", "rows"), ("rows", "tiles", "tiles16")):
        assert glmbot("convert", source, target, "--layout", layout).exit_code == 0
        found = fields(glmbot("info", target))
        assert found["layout"].startswith(f"{layout}: ")
        assert found["weights"] == "INT4, groups of 64; embedding INT8"
    assert glmbot("convert", "tiles", "cards", "--layout", "mma16", "--device", "cpu").exit_code == 0
    assert fields(glmbot("info", "cards"))["layout"].startswith("mma16: ")
    assert glmbot("convert", "cards", "back", "--layout", "rows").exit_code == 0
    rows, back = (Packed.open(Path(folder)) for folder in ("rows", "back"))
    assert all(torch.equal(back.read(name), rows.read(name)) for name in rows.names)
    assert "layout" not in fields(glmbot("info", made))
    again = glmbot("convert", "tiles", "again", "--layout", "tiles16")
    assert again.exit_code == 1
    assert "error: tiles: is packed already, with layout tiles16" in again.stderr


def decibels(result: Result) -> dict[str, float]:
    assert result.exit_code == 0, result.output
    return {
        kind: float(ratio) for kind, ratio in re.findall(r"^  (\w+) +(.+) dB$", result.stdout, re.MULTILINE)
    }


def test_quantize_tells_what_it_costs(glmbot: Glmbot, made: Path) -> None:
    searched = decibels(glmbot("quantize", made, "searched"))
    plain = decibels(glmbot("quantize", made, "plain", "--no-search"))
    eight = decibels(glmbot("quantize", made, "eight", "--bits", "8"))
    kinds = {"word_embeddings", "query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}
    assert searched.keys() == plain.keys() == eight.keys() == kinds
    for kind in kinds - {"word_embeddings"}:
        assert 17 < plain[kind] < searched[kind] < 24 < 40 < eight[kind] < 50
    assert searched["word_embeddings"] == eight["word_embeddings"] > 40


def test_quantize_refuses_integers(glmbot: Glmbot, made: Path) -> None:
    assert glmbot("convert", made, "packed").exit_code == 0
    assert glmbot("make-random", "int4", "--form", "int4").exit_code == 0
    for source, wanted in (("packed", "published"), ("int4", "float")):
        done = glmbot("quantize", source, "there")
        assert done.exit_code == 1
        assert done.stderr == f"error: {source}: is {source} already; name the {wanted} weights\n"


def test_floats_with_a_packed_file_beside_them_are_converted_and_quantised_alike(
    glmbot: Glmbot, made: Path, tmp_path: Path
) -> None:
    both = shutil.copytree(made, tmp_path / "both")
    assert glmbot("convert", both, both).exit_code == 0
    assert fields(glmbot("info", both))["form"] == "packed (model.safetensors beside it is not used)"
    assert glmbot("convert", both, "converted").exit_code == 0
    assert decibels(glmbot("quantize", both, "quantised"))
    files = (Path(name, "glmbot.safetensors").read_bytes() for name in ("converted", "quantised"))
    assert next(files) == next(files)


def test_a_conversion_without_a_tokenizer_says_so_last(glmbot: Glmbot, made: Path, tmp_path: Path) -> None:
    mute = shutil.copytree(made, tmp_path / "mute", ignore=shutil.ignore_patterns("*.model"))
    done = glmbot("convert", mute, "there")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == "no tokenizer: copy ice_text.model into there, text needs it"


def test_another_family_is_described_and_talked_with(glmbot: Glmbot, tmp_path: Path) -> None:
    write_llama(tmp_path / "llama")
    found = fields(glmbot("info", "llama"))
    assert found["architecture"] == "LlamaForCausalLM"
    assert found["class"].startswith("LlamaForCausalLM (transformers ")
    assert found["tokenizer"] == "tokenizer.json"
    done = glmbot("chat", "llama", "--max-new-tokens", 3, "--seed", 1, input="a b\n")
    assert done.exit_code == 0, done.output
    assert set(done.stdout.split()) <= set("abcd")
    assert done.stderr.count("\n") == 1


def write_llama(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=8, **sizes)).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate("abcd?")}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?", eos_token="?")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    tokenizer.save_pretrained(folder)


# -- talking --------------------------------------------------------------------------------


def test_answers_come_from_the_model_the_same_for_a_seed(glmbot: Glmbot, made: Path) -> None:
    words = ("chat", made, "--seed", 7, "--max-new-tokens", 8, "--device", "cpu")
    first, again = (glmbot(*words, input="你好\nstop\n") for _ in range(2))
    assert first.exit_code == 0
    assert first.stdout == again.stdout
    assert len(first.stdout.strip()) > 3
    assert "TINY, loaded in" in first.stderr
    other = glmbot(*words[:3], 8, *words[4:], input="你好\nstop\n")
    assert other.stdout != first.stdout


def test_a_short_context_leaves_room_for_the_question(glmbot: Glmbot, made: Path) -> None:
    done = glmbot("chat", made, "--max-context", 64, "--seed", 1, input="你好\n")
    assert len(done.stdout.strip()) > 3
    assert "error" not in done.stderr
