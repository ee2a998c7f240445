"""The plugin's settings, and the plugin that the other modules register their handlers on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field, StringConstraints

from bot import Plugin, parse_duration
from plugins.handoff.hours import Hours

STAFF = ("agents", "admins")
_Duration = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]
_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
_Chat = Annotated[str, StringConstraints(pattern=r"^[^\s:]+:\S+$")]


class Automatic(BaseModel, extra="forbid"):
    """What makes the bot call people by itself: answers in a row that were none, or unsure (0: never).

    mode: hand the talk over at once, or tell the customer how to ask for it.
    """

    mode: Literal["hand_over", "offer", "off"] = "hand_over"
    misses: Annotated[int, Field(ge=0)] = 2
    unsure: Annotated[int, Field(ge=0)] = 2
    unsure_below: Annotated[float, Field(ge=0, le=1)] = 0.5
    vote: bool = True
    tone: bool = True


class Answering(BaseModel, extra="forbid"):
    """How soon people must take a talk, in open hours, and who is reminded how often where they do not."""

    first_reply: _Duration = 600.0
    remind: list[_Chat] = []
    times: Annotated[int, Field(ge=0)] = 3


class Config(BaseModel, extra="forbid"):
    """When talks are handed over, when people are there, and when a silent customer is the bot's again."""

    release_after: _Duration | None = 86400.0
    words: list[_Text] = []
    automatic: Automatic = Automatic()
    hours: Hours = Hours()
    answering: Answering | None = Answering()
    canned: dict[_Text, _Text] = {}


plugin = Plugin(
    "handoff",
    config=Config,
    help="hands a talk over to people",
    tables=Path(__file__).parent / "migrations",
)
