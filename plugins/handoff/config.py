"""The settings of the plugin."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, StringConstraints

from bot import ConfigPath, parse_duration
from plugins.handoff.hours import HoursConfig

Duration = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Name = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^\S+$")]


def _off(value: Any) -> Any:
    return "off" if value is False else value  # what YAML makes of a bare `off`


Mode = Annotated[Literal["offer", "hand_over", "off"], BeforeValidator(_off)]


class Automatic(BaseModel, extra="forbid"):
    """What happens when nobody asked for a person, by reason."""

    misses: Mode = "hand_over"
    unsure: Mode = "offer"
    vote: Mode = "offer"
    tone: Mode = "hand_over"


def _for_all(value: Any) -> Any:
    return value if isinstance(value, dict | Automatic) else dict.fromkeys(Automatic.model_fields, value)


class Sla(BaseModel, extra="forbid"):
    """How soon a first reply is due, who is reminded then (nobody: the staff chats), and how often."""

    first_reply: Duration | None = 300.0
    repeats: int = Field(3, ge=1, le=100)
    escalate_to: list[Text] = []


class Config(BaseModel, extra="forbid"):
    """When a silent customer is the bot's again, what asks for a person, and how people work."""

    release_after: Duration | None = 86400.0
    words: list[Text] = []
    automatic: Annotated[Automatic, BeforeValidator(_for_all)] = Automatic()
    low_confidence: float = Field(0.5, ge=0, le=1)
    hours: HoursConfig = HoursConfig()
    sla: Sla = Sla()
    busy_at: int = Field(5, ge=0)
    canned: dict[Name, Text] = {}
    canned_file: ConfigPath | None = None
