"""`glmbot model plan`: the table, what fits instead, exit codes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from bot.cli import app
from model import memory
from model.config import ChatGLMConfig
from model.kv_cache import page_count
from model.local import create
from model.options import Settings


def plan(*words: object) -> Result:
    return CliRunner().invoke(app, ["model", "plan", *map(str, words)])


def table(result: Result) -> dict[str, str]:
    """What it printed, by the name of the row."""
    return dict(re.split(r"  +", line, maxsplit=1) for line in result.stdout.splitlines())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model."""
    folder = tmp_path_factory.mktemp("made") / "TINY"
    done = CliRunner().invoke(app, ["model", "make-random", str(folder)])
    assert done.exit_code == 0, done.output
    return folder


def test_fifty_users_on_a_card_of_12_gb() -> None:
    done = plan("--vram", 12, "--users", 50, "--context", 1024, "--kv", "int4", "--head", "int8")
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    found = table(done)
    assert list(found) == [
        "memory",
        "weights",
        "KV cache, fp16",
        "KV cache, int8",
        "KV cache, int4",
        "workspace",
        "reserve",
        "total, int4",
    ]
    assert found["memory"] == "12.88 GB, less 750.00 MB for CUDA itself"
    assert found["weights"] == "3.53 GB: INT4, groups of 64; embedding INT8"
    assert found["KV cache, fp16"] == "23.49 GB for 50 users of 1,024 tokens; 16 fit"
    assert found["KV cache, int8"] == "11.93 GB for 50 users of 1,024 tokens; 32 fit"
    assert found["KV cache, int4"] == "6.24 GB for 50 users of 1,024 tokens; 60 fit"
    assert found["reserve"].endswith(", 6 %")
    assert float(found["total, int4"].removesuffix(" GB")) < 12.13


@pytest.mark.parametrize(
    ("kv", "fits", "name"), [("auto", 16, "fp16"), ("fp16", 16, "fp16"), ("int8", 32, "int8")]
)
def test_too_many_users_are_refused_with_how_many_fit(kv: str, fits: int, name: str) -> None:
    words = ("--vram", 12, "--context", 1024, "--kv", kv)
    done = plan(*words, "--users", 50)
    assert done.exit_code == 1
    assert table(done)[f"KV cache, {name}"].endswith(f"; {fits} fit")
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    told = "users of 1,024 tokens with a KV cache in"
    assert line.endswith(f"; what fits: {fits} {told} {name}, or 50 {told} int4")
    assert plan("--vram", 12, "--context", 1024, "--kv", "int4", "--users", 50).exit_code == 0
    assert plan(*words, "--users", fits).exit_code == 0
    assert plan(*words, "--users", fits + 1).exit_code == 1


def test_where_no_user_fits_storage_and_context_shrink() -> None:
    done = plan("--vram", 5.2, "--context", 10_000)
    assert done.exit_code == 1
    named = re.search(r"what fits: 1 user of ([\d,]+) tokens with a KV cache in int4$", done.stderr.strip())
    assert named, done.stderr
    context = int(named[1].replace(",", ""))
    assert plan("--vram", 5.2, "--context", context, "--kv", "int4").exit_code == 0
    assert plan("--vram", 5.2, "--context", context + 256, "--kv", "int4").exit_code == 1


def test_weights_that_do_not_fit_are_told_so() -> None:
    done = plan("--vram", 3)
    assert done.exit_code == 1
    assert "take a device with more memory" in done.stderr
    assert "convert" not in done.stderr  # these are packed
    least = re.search(r"; at least ([\d.]+) GB are needed:", done.stderr)
    assert least, done.stderr
    needed = float(least[1]) * 1e9
    for bytes_of_card, code in ((needed - 1e7, 1), (needed + 1e7, 0)):
        card = (bytes_of_card + memory.CUDA_BYTES) / 2**30
        assert plan("--vram", card, "--kv", "int4", "--context", 256).exit_code == code
    floats = plan("--vram", 3, "--quantization", "none")
    assert f"or {least[1]} GB with weights that `glmbot model convert` packed" in floats.stderr


def test_without_a_card_it_plans_for_what_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda device: 10**10)
    found = table(plan())
    assert found["memory"] == (
        "6.77 GB of 10.00 GB available: what a server takes without --memory, a bot without model.memory"
    )
    assert found["KV cache, fp16"].startswith("939.52 MB for 1 user of 2,048 tokens; ")
    monkeypatch.setattr(memory, "available", lambda device: None)
    done = plan("--users", 1000)
    assert done.exit_code == 0
    found = table(done)
    assert found["memory"] == "unknown"
    assert found["KV cache, int8"].endswith("for 1,000 users of 2,048 tokens")
    assert "reserve" not in found


@pytest.mark.parametrize("words", [(), ("--memory", 0.15), ("--prefix",)])
async def test_what_fits_is_what_a_server_admits(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...]
) -> None:
    """With as many as can be at once, so that only memory limits them."""
    monkeypatch.setattr(memory, "available", lambda device: 150_000_000)
    prefixes = {}
    if words == ("--prefix",):
        prefixes["shop"] = save_prefix(made, tmp_path / "shop.safetensors", tokens=100)
        words = ("--prefix", f"shop={prefixes['shop']}")
    given = int(0.15e9) if "--memory" in words else None
    settings = Settings(made, "cpu", "int4", "auto", 512, 8, prefixes, max_running=1024, memory=given)
    found = table(plan(made, *words, "--context", 512))
    assert ("prefixes" in found) == bool(prefixes)
    model = create(settings)
    try:
        pages = model.registry.get_sample_value("glmbot_model_pages")
    finally:
        await model.close()
    assert pages
    fit = pages // page_count(512 + (100 % 16 if prefixes else 0))
    assert 0 < fit < 1024
    assert found["KV cache, fp16"].endswith(f"; {fit:.0f} fit")


def save_prefix(base: Path, file: Path, *, tokens: int) -> Path:
    """A random P-Tuning v2 checkpoint for a model."""
    sizes = ChatGLMConfig.read(base)
    embedding = torch.randn(tokens, 2 * sizes.num_layers * sizes.hidden_size)
    save_file({"transformer.prefix_encoder.embedding.weight": embedding}, file)
    return file


def test_a_prefix_of_another_model_is_refused(made: Path, tmp_path: Path) -> None:
    file = save_prefix(made, tmp_path / "shop.safetensors", tokens=4)
    done = plan("--vram", 12, "--prefix", f"shop={file}")
    assert done.exit_code == 1
    assert "the prefix belongs to another base model" in done.stderr
    assert "has no name; write NAME=PATH" in plan("--vram", 12, "--prefix", file).stderr


def test_a_card_or_bytes_but_not_both() -> None:
    done = plan("--vram", 12, "--memory", 8)
    assert done.exit_code == 1
    assert "--vram and --memory" in done.stderr
    assert table(plan("--memory", 8))["memory"] == "8.00 GB, as --memory says"


def test_a_folder_is_planned_for_as_it_loads(made: Path) -> None:
    done = plan(made, "--vram", 1, "--users", 50)
    assert done.exit_code == 0, done.output
    assert "; embedding INT8" in table(done)["weights"]
    floats = plan(made, "--vram", 1, "--quantization", "none")
    assert table(floats)["weights"].endswith(": floats; embedding floats")


def test_a_path_without_a_model_is_refused(tmp_path: Path) -> None:
    done = plan(tmp_path / "none")
    assert done.exit_code == 1
    assert "there is no such file or folder" in done.stderr


def test_a_card_of_6_gb_takes_the_model_and_a_whole_talk() -> None:
    done = plan("--vram", 6)
    assert done.exit_code == 0, done.output
    found = table(done)
    weights = float(found["weights"].partition(" GB")[0])
    talk = float(found["KV cache, fp16"].partition(" MB")[0]) / 1000
    assert weights + talk <= 4.5
    assert float(found["total, fp16"].removesuffix(" GB")) <= 5.69


def test_floats_fit_a_card_of_24_gb() -> None:
    assert plan("--vram", 24, "--quantization", "none", "--users", 8, "--kv", "int8").exit_code == 0
