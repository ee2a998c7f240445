"""Answers from documents with a citation: the best sentences, or the model's words where there is one."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Literal

import structlog
from pydantic import BaseModel, Field

from bot import (
    Background,
    ConfigPath,
    Message,
    ModelBusy,
    ModelError,
    Plugin,
    Reply,
    Session,
    Stream,
    keep_index,
    to_me,
)
from bot.retrieval import Index, best_sentences
from bot.store import Store
from model.types import ChatModel, GenerationParams
from plugins.knowledge.prompt import make_prompt
from plugins.knowledge.sync import DocumentSource
from plugins.knowledge.tables import KnowledgeTable

log = structlog.get_logger(__name__)
PASSAGES = 4
SUPPORT = 0.5
"""Further passages go to the model with at least this part of the best one's score."""


class Config(BaseModel, extra="forbid"):
    """The folders, the confidence from which a passage is used; temperature and prefix of a model."""

    folders: list[ConfigPath] = [Path("docs")]
    threshold: Literal["auto"] | Annotated[float, Field(strict=True, ge=0, le=1)] = "auto"
    temperature: float = Field(0.1, strict=True, ge=0, le=2)
    prefix: str | None = None


plugin = Plugin(
    "knowledge",
    config=Config,
    help="answers from documents",
    tables=Path(__file__).parent / "migrations",
    index="knowledge",
)


LEAST_LETTERS = 5
"""Shorter messages are left to the FAQ and to "did you mean"."""
_WIDE = re.compile("[\u3400-\u9fff\uf900-\ufaff]")
_WORD = re.compile(r"[^\W\d_]+")


@plugin.startup
async def load(index: Index, store: Store, config: Config, background: Background) -> None:
    """Bring table and index in step with the folders, and keep them so."""
    await keep_index(index, DocumentSource(KnowledgeTable(store), config.folders), background)


@plugin.shutdown
async def stop(background: Background) -> None:
    """End what keeps the documents up to date."""
    await background.stop()


@plugin.message(to_me, priority=40)
async def answer(
    message: Message, session: Session, index: Index, config: Config, model: ChatModel | None
) -> Reply | Stream | None:
    """What the documents say, when a passage is sure enough to be about the question."""
    if _letters(message.text) < LEAST_LETTERS:
        return None  # a word or a bare number finds a passage that holds it, not one that answers it
    hits = await asyncio.to_thread(index.search, message.text, PASSAGES)
    if not hits or hits[0].confidence < threshold(index, config, message.text):
        return None
    sentences = await asyncio.to_thread(best_sentences, message.text, hits[0].answer)
    extract = session.text("from_documents", text=sentences)
    quotation = Reply(extract, sources=(hits[0].entry.title,), feedback=True, confidence=hits[0].confidence)
    if model is None:
        return quotation
    supported = [hit for hit in hits if hit.score >= SUPPORT * hits[0].score]
    made = await asyncio.to_thread(make_prompt, message.text, supported, session.language, model)
    if made is None:
        return quotation
    prompt, used = made
    sources = tuple(dict.fromkeys(hit.entry.title for hit in used))
    params = GenerationParams(temperature=config.temperature, prefix=config.prefix)
    chunks = _generate(model, prompt, params, session.key, extract)
    return Stream(
        chunks,
        sources=sources,
        feedback=True,
        confidence=hits[0].confidence,
        model=model.name,
        prefix=config.prefix or "",
    )


def threshold(index: Index, config: Config, text: str) -> float:
    """The confidence from which a passage is used for `text`."""
    return index.threshold_for(text) if config.threshold == "auto" else config.threshold


def _letters(text: str) -> int:
    """How much a text says: Chinese characters count one, Latin words two."""
    wide = len(_WIDE.findall(text))
    return wide + 2 * len(_WORD.findall(_WIDE.sub(" ", text)))


async def _generate(
    model: ChatModel, prompt: str, params: GenerationParams, user: str, extract: str
) -> AsyncIterator[str]:
    """The model's answer; the extract where the model is busy, away, says nothing or breaks off."""
    said = False
    try:
        async for delta in model.chat(prompt, (), params, user=user):
            said = said or bool(delta.text.strip())
            yield delta.text
    except ModelError as error:
        level = log.info if isinstance(error, ModelBusy) else log.error
        level("the model does not answer, the documents are quoted", problem=str(error))
        yield f"…\n\n{extract}" if said else extract
        return
    if not said:
        yield extract
