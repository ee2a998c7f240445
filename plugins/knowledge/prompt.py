"""What the model is told when it answers from passages."""

from __future__ import annotations

from collections.abc import Sequence

from bot.retrieval import Hit
from model.types import ChatModel

BUDGET = 1_000
"""Tokens that passages may take of the prompt, if that is no more than half of what the model can read."""
_ZH = (
    "请根据下面的资料回答顾客的问题。只用资料里有的内容，回答要简短明确；"
    "资料不足以回答时，请直说资料里没有提到。\n\n资料：\n{passages}\n\n问题：{question}"
)
_EN = (
    "Answer the customer's question from the passages below. Use only what they say and be brief; "
    "if they do not answer it, say so.\n\nPassages:\n{passages}\n\nQuestion: {question}"
)


def make_prompt(question: str, hits: Sequence[Hit], language: str, model: ChatModel) -> tuple[str, list[Hit]]:
    """The prompt, and the hits whose passages are in it: the best one always, others while they fit."""
    used: list[Hit] = []
    passages: list[str] = []
    left = min(BUDGET, model.max_context // 2)
    for hit in hits:
        passage = f"[{len(used) + 1}] {hit.entry.title}\n{hit.answer}"
        left -= model.count_tokens(passage)
        if used and left < 0:
            break
        used.append(hit)
        passages.append(passage)
    template = _ZH if language == "zh" else _EN
    return template.format(passages="\n\n".join(passages), question=question), used
