"""Options that several commands of `glmbot model` have, and the settings that they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from model.types import Device, KVType, ModelError, Quantization

DeviceOption = Annotated[Device, typer.Option("--device", help="Where it runs.")]
QuantizationOption = Annotated[
    Quantization, typer.Option("--quantization", help="Of float weights; integers stay as they are stored.")
]
KVOption = Annotated[KVType, typer.Option("--kv-cache", help="How keys and values are stored. auto: fp16.")]
MaxNewTokensOption = Annotated[
    int, typer.Option("--max-new-tokens", min=1, help="Of one answer; at most half of the context.")
]
MaxContextOption = Annotated[
    int,
    typer.Option("--max-context", min=64, help="Tokens of prompt and answer; older rounds are left out."),
]
PrefixOption = Annotated[
    list[str] | None,
    typer.Option("--prefix", metavar="NAME=PATH", help="A P-Tuning v2 checkpoint, a model to clients."),
]
MaxRunningOption = Annotated[
    int, typer.Option("--max-running", min=1, max=1024, help="Answers that are made at once; others wait.")
]
MaxPerUserOption = Annotated[
    int,
    typer.Option("--max-per-user", min=1, help="Requests of a user that run or wait; more are refused."),
]
MemoryOption = Annotated[
    float | None,
    typer.Option(
        "--memory", min=0.1, help="GB for weights, keys and values (default: half of what the weights leave)."
    ),
]


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of a command as the model section of config.yaml has them."""

    path: Path | None
    device: Device
    quantization: Quantization
    kv_cache: KVType
    max_context: int
    max_new_tokens: int
    prefixes: dict[str, Path] = field(default_factory=dict)
    max_running: int = 64
    max_per_user: int = 2
    memory: int | None = None


def prefix_paths(options: Sequence[str]) -> dict[str, Path]:
    """What `PrefixOption` was given, by name. Raises ModelError."""
    paths = {}
    for text in options:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise ModelError(f"--prefix {text!r} has no name", remedy="write NAME=PATH")
        paths[name] = Path(path)
    return paths
