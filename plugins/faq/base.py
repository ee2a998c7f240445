"""The plugin's settings, and the plugin that the other modules register their handlers on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from bot import ConfigPath, Plugin


class Config(BaseModel, extra="forbid"):
    """The files with the entries, and the confidence from which one is given as the answer."""

    files: list[ConfigPath] = [Path("faq.yaml")]
    threshold: Literal["auto"] | Annotated[float, Field(strict=True, ge=0, le=1)] = "auto"


plugin = Plugin(
    "faq",
    config=Config,
    help="answers from the FAQ",
    tables=Path(__file__).parent / "migrations",
    index="faq",
)
