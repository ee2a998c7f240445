"""What a check found, and the check that most others begin with: whether anything answers at a URL."""

from __future__ import annotations

import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Literal

import aiohttp

ANSWER_WITHIN = 10.0
SKEW_NOTED, SKEW_HARMFUL = 10.0, 240.0  # signatures are good for 300 s


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    check: str
    state: Literal["ok", "warn", "fail"]
    detail: str
    remedy: str = ""


async def reach(name: str, url: str) -> list[Finding]:
    """Whether anything answers there, and how far its clock is from this machine's."""
    sent, began = time.time(), time.monotonic()
    try:
        async with http_session() as session, session.head(url, allow_redirects=False) as response:
            date = response.headers.get("Date", "")
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        detail = f"{url} cannot be reached: {reason(error)}"
        return [Finding(name, "fail", detail, "check the address, DNS, firewall and proxy (HTTPS_PROXY)")]
    took = time.monotonic() - began
    found = [Finding(name, "ok", f"{url} answers in {took * 1000:.0f} ms")]
    try:
        theirs = parsedate_to_datetime(date).timestamp() + 0.5  # it has whole seconds
    except ValueError:
        return found
    skew = sent + took / 2 - theirs
    detail = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} {url}"
    if abs(skew) < SKEW_NOTED:
        return [*found, Finding("clock", "ok", f"within {SKEW_NOTED:g} s of {url}")]
    state: Literal["warn", "fail"] = "warn" if abs(skew) < SKEW_HARMFUL else "fail"
    return [*found, Finding("clock", state, detail, "set this machine's clock (NTP)")]


def reason(error: Exception) -> str:
    """What kept a request from being answered, in few words."""
    if isinstance(error, TimeoutError):
        return f"no answer within {ANSWER_WITHIN:g} s"
    return str(error) or type(error).__name__


def http_session() -> aiohttp.ClientSession:
    """A session whose requests go through the environment's proxy and end after ANSWER_WITHIN seconds."""
    return aiohttp.ClientSession(trust_env=True, timeout=aiohttp.ClientTimeout(total=ANSWER_WITHIN))
