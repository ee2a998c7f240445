"""What the model is told when it answers from passages."""

from __future__ import annotations

from collections.abc import Sequence

from bot.retrieval import Hit, best_sentences
from model.types import ChatModel, prompt_room

BUDGET = 1_000
"""Tokens that passages may take of the prompt, where the model can read so many."""
_ZH = (
    "请根据下面的资料回答顾客的问题。只用资料里有的内容，回答要简短明确；"
    "资料不足以回答时，请直说资料里没有提到。\n\n资料：\n{passages}\n\n问题：{question}"
)
_EN = (
    "Answer the customer's question from the passages below. Use only what they say and be brief; "
    "if they do not answer it, say so.\n\nPassages:\n{passages}\n\nQuestion: {question}"
)


def make_prompt(
    question: str, hits: Sequence[Hit], language: str, model: ChatModel
) -> tuple[str, list[Hit]] | None:
    """The prompt, and the hits whose passages are in it: the best one, and others while they fit.

    Of a best passage that does not fit as a whole, the sentences about the question are taken; None where
    not even those fit.
    """

    def write(passages: Sequence[str]) -> str:
        template = _ZH if language == "zh" else _EN
        return template.format(passages="\n\n".join(passages), question=question)

    room = min(prompt_room(model.max_context), model.count_tokens(write(())) + BUDGET)
    passages: list[str] = []
    for number, hit in enumerate(hits, 1):
        passage = _cite(number, hit, hit.answer)
        if model.count_tokens(write([*passages, passage])) > room:
            break
        passages.append(passage)
    if passages:
        return write(passages), list(hits[: len(passages)])
    best = hits[0]
    left = room - model.count_tokens(write([_cite(1, best, "")]))
    characters = len(best.answer) * left // max(model.count_tokens(best.answer), 1)
    prompt = write([_cite(1, best, best_sentences(question, best.answer, limit=characters))])
    return (prompt, [best]) if model.count_tokens(prompt) <= room else None


def _cite(number: int, hit: Hit, text: str) -> str:
    return f"[{number}] {hit.entry.title}\n{text}"
