"""A summary in the model's words, whose every number is one that was computed: else there is none."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

import structlog

from model.types import ChatModel, GenerationParams, ModelError

log = structlog.get_logger(__name__)
WITHIN = 90.0
"""Seconds for the model."""
TOKENS = 200
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_IN_WORDS = re.compile(
    r"百分之|[一二两三四五六七八九十百千万亿半]+(?:[多几余]?)(?:个|条|次|位|名|天|倍|成|分|秒|小时|%)|"
    r"[十百千万亿]+|"
    r"\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|twenty|thirty|forty|fifty|sixty|"
    r"seventy|eighty|ninety|hundreds?|thousands?|millions?|half|third|quarter|double[ds]?|twice|triple[ds]?|"
    r"dozens?|percent)\b",
    re.IGNORECASE,
)
_ASK = {
    "zh": "下面是客服机器人这段时间的统计。请用两三句话向主管概括，只说这里写到的情况，"
    "引用数字时照抄，不要计算，也不要编造：\n{facts}",
    "en": "Below are a support bot's figures. Sum them up for its manager in two or three sentences. "
    "Say only what stands here, copy numbers as they are, calculate nothing and make nothing up:\n{facts}",
}


async def summarise(model: ChatModel | None, facts: Sequence[str], language: str) -> str:
    """A few sentences about the facts; "" without a model, where it fails, or invents a number."""
    if model is None or not facts:
        return ""
    told = "\n".join(facts)
    params = GenerationParams(max_new_tokens=TOKENS, temperature=0.0)
    text = ""
    try:
        async with asyncio.timeout(WITHIN):
            async for delta in model.chat(_ASK[language].format(facts=told), (), params, user="digest"):
                text += delta.text
    except (ModelError, TimeoutError) as error:
        log.warning("a digest has no summary", problem=str(error) or type(error).__name__)
        return ""
    text = " ".join(text.split())
    invented = numbers_not_in(text, told)
    if invented:
        log.warning("a digest has no summary: the model made numbers up", numbers=sorted(invented))
        return ""
    return text


def numbers_not_in(text: str, facts: str) -> set[str]:
    """Numbers of a text, in figures or words, that the facts do not have."""
    known = set(_NUMBER.findall(facts))
    figures = {number for number in _NUMBER.findall(text) if number not in known}
    return figures | {found[0] for found in _IN_WORDS.finditer(text)}
