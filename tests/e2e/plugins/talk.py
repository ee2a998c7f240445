"""What the bot under test answers: at once, slowly, in pieces, and by asking back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from pydantic import BaseModel

from bot import Message, Plugin, Session, to_me


class Config(BaseModel, extra="forbid"):
    """`gate`: the file that ends the answer to /gated."""

    gate: Path = Path("gate")


plugin = Plugin("talk", config=Config)


@plugin.command("slow")
async def slow(args: str) -> str:
    """Takes a moment."""
    await asyncio.sleep(0.1)
    return f"slow {args}"


@plugin.command("stream")
async def stream(args: str) -> AsyncIterator[str]:
    """Grows for a moment."""
    yield f"stream {args}: "
    for number in range(10):
        await asyncio.sleep(0.015)
        yield f"piece {number} of it, "
    yield "the end"


@plugin.command("gated")
async def gated(args: str, config: Config) -> AsyncIterator[str]:
    """Grows until there is the file, then ends."""
    yield f"gated {args}: this much is shown at first, "
    while not await asyncio.to_thread(config.gate.exists):
        await asyncio.sleep(0.05)
        yield "more "
    yield "the end"


@plugin.command("order")
async def order(session: Session) -> str:
    """Asks back."""
    size = await session.ask("which size?")
    return f"ordered {size.text}"


@plugin.message(to_me)
async def echo(message: Message) -> str:
    """Says it back."""
    return f"echo {message.text}"
