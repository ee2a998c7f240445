"""Free talk with the model, where there is one, and /clear to forget the talk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import structlog
from pydantic import BaseModel, Field

from bot import Message, ModelBusy, ModelError, Plugin, Session, Stream, to_me
from model.types import ChatModel, GenerationParams, PromptTooLong, Turn, prompt_room

log = structlog.get_logger(__name__)


class Config(BaseModel, extra="forbid"):
    """How freely the model speaks (at temperature 0 it says what is likeliest), and with which prefix."""

    temperature: float = Field(0.95, strict=True, ge=0, le=2)
    top_p: float = Field(0.7, strict=True, gt=0, le=1)
    prefix: str | None = None


plugin = Plugin("chat", config=Config, help="talks to the language model")


@plugin.message(to_me, priority=80)
async def talk(
    message: Message, session: Session, config: Config, model: ChatModel | None
) -> Stream | str | None:
    """The model's answer to what nothing else answered, the talk so far in mind."""
    if model is None or not message.text.strip():
        return None
    size = await asyncio.to_thread(model.count_tokens, message.text)
    if size > (room := prompt_room(model.max_context)):
        return _too_long(session, message.text, size, room)
    params = GenerationParams(temperature=config.temperature, top_p=config.top_p, prefix=config.prefix)
    history = await session.history()
    chunks = _generate(model, message.text, history, params, session)
    return Stream(chunks, feedback=True, model=model.name, prefix=config.prefix or "")


@plugin.command("clear", "清空", help="command_clear")
async def clear(session: Session) -> str:
    """Forget the talk."""
    return session.text("cleared" if await session.clear() else "nothing_to_clear")


def _too_long(session: Session, question: str, tokens: int, room: int) -> str:
    """How many characters the question may have, of which `room` of its `tokens` would fit."""
    return session.text("too_long", limit=len(question) * room // tokens)


async def _generate(
    model: ChatModel, question: str, history: Sequence[Turn], params: GenerationParams, session: Session
) -> AsyncIterator[str]:
    """The model's words; says so when it is away or breaks off. Raises ModelBusy."""
    said = False
    try:
        async for delta in model.chat(question, history, params, user=session.key):
            said = said or bool(delta.text.strip())
            yield delta.text
    except ModelBusy:
        raise
    except PromptTooLong as error:  # the model's own template may need more room than is usual
        yield _too_long(session, question, error.tokens, error.room)
        return
    except ModelError as error:
        log.error("the model failed", problem=str(error))
        yield f"\n{session.text('interrupted')}" if said else session.text("model_offline")
        return
    if not said:
        yield session.text("unknown", contact=session.text("contact"))
