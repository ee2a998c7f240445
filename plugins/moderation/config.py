"""The settings of the plugin."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, Field, StringConstraints

from bot import ConfigPath, parse_duration
from plugins.moderation.words import Action

Identity = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^[^:\s]+:\S+$")]
Duration = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]


class Mute(BaseModel, extra="forbid"):
    """After how many blocked messages within which time nobody listens to a user, and for how long."""

    after: int | None = Field(5, ge=1, le=1000)
    within: Duration = 600.0
    lasts: Duration = 1800.0


class Config(BaseModel, extra="forbid"):
    """Which words are sensitive, what history keeps, and who is not listened to."""

    files: list[ConfigPath] = []
    action: Action = "block"
    pinyin: bool = False
    mask_history: bool = True
    mute: Mute = Mute()
    blocked: list[Identity] = []
    tell_blocked: bool = False
