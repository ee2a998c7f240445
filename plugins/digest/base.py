"""The plugin's settings, and the plugin itself."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, StringConstraints, model_validator

from bot import Plugin
from plugins.digest.calendar import check_country, check_cron, check_zone

_Chat = Annotated[str, StringConstraints(pattern=r"^[^\s:]+:\S+$")]
Covers = Literal["since-last", "day", "week", "month"]


class Digest(BaseModel, extra="forbid"):
    """One digest: when, where to, and about what.

    covers: the time since the one before, or the last 1, 7 or 30 days. about: chats, none is all of them.
    subject: only what has to do with this. country: whose public holidays are skipped; holidays: more days.
    """

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    cron: Annotated[str, AfterValidator(check_cron)]
    timezone: Annotated[str, AfterValidator(check_zone)] = "Asia/Shanghai"
    chats: Annotated[list[_Chat], Field(min_length=1)]
    about: list[_Chat] = []
    covers: Covers = "since-last"
    subject: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] | None = None
    language: Literal["zh", "en"] = "zh"
    country: Annotated[str, AfterValidator(check_country)] | None = None
    holidays: list[date] = []
    chart: bool = True
    summary: bool = True


class Config(BaseModel, extra="forbid"):
    """The digests."""

    digests: list[Digest] = []

    @model_validator(mode="after")
    def _apart(self) -> Self:
        names = [digest.name for digest in self.digests]
        doubled = next((name for name in names if names.count(name) > 1), None)
        if doubled is not None:
            raise ValueError(f"two digests are named {doubled!r}; give each a name of its own")
        return self


plugin = Plugin(
    "digest",
    config=Config,
    help="tells at fixed times what was asked and what changed",
    tables=Path(__file__).parent / "migrations",
)
