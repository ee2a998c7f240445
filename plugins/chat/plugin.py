"""Free talk with the model, where there is one, and /clear to forget the talk."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import structlog

from bot import Message, ModelBusy, ModelError, Plugin, Session, Stream, to_me
from model.types import ChatModel, GenerationParams, Turn

log = structlog.get_logger(__name__)
plugin = Plugin("chat", help="talks to the language model")


@plugin.message(to_me, priority=80)
async def talk(message: Message, session: Session, model: ChatModel | None) -> Stream | None:
    """The model's answer to what nothing else answered, the talk so far in mind."""
    if model is None or not message.text.strip():
        return None
    return Stream(_generate(model, message.text, await session.history(), session), feedback=True)


@plugin.command("clear", "清空", help="command_clear")
async def clear(session: Session) -> str:
    """Forget the talk."""
    return session.text("cleared" if await session.clear() else "nothing_to_clear")


async def _generate(
    model: ChatModel, question: str, history: Sequence[Turn], session: Session
) -> AsyncIterator[str]:
    """The model's words; says so when it is away or breaks off. Raises ModelBusy."""
    said = False
    try:
        async for delta in model.chat(question, history, GenerationParams(), user=session.key):
            said = said or bool(delta.text.strip())
            yield delta.text
    except ModelBusy:
        raise
    except ModelError as error:
        log.error("the model failed", problem=error.problem)
        yield f"\n{session.text('interrupted')}" if said else session.text("model_offline")
        return
    if not said:
        yield session.text("unknown", contact=session.text("contact"))
