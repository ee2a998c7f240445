"""Anger at the service is told from questions, plain ones and unhappy ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from plugins.handoff.tone import is_angry

SAMPLE = Path(__file__).parents[3] / "plugins/faq/sample"


@pytest.mark.parametrize(
    "text",
    [
        "什么垃圾客服！",
        "我要投诉你们",
        "你们太过分了",
        "气死我了，等了三天",
        "再不处理我打12315",
        "骗子公司",
        "你这机器人答非所问",
        "这什么态度啊",
        "到底有没有人管",
        "This is unacceptable!",
        "what a joke",
        "worst service ever",
        "I'm fed up with this",
        "I want to file a complaint",
    ],
)
def test_it_is_anger(text: str) -> None:
    assert is_angry(text)


@pytest.mark.parametrize(
    "text",
    [
        "怎么投诉商家？",
        "投诉电话是多少",
        "我要投诉的流程是什么",
        "垃圾分类怎么做",
        "垃圾桶多少钱",
        "这个颜色太差了吗",
        "快递还没到，麻烦看一下",
        "我有点着急",
        "今天能到吗",
        "How do I file a complaint about a seller?",
        "Is this a joke product?",
        "The app is slow",
        "garbage bags price",
        "",
    ],
)
def test_it_is_not(text: str) -> None:
    assert not is_angry(text)


@pytest.mark.parametrize("language", ["zh", "en"])
def test_no_sample_question_is_angry(language: str) -> None:
    entries = yaml.safe_load((SAMPLE / f"faq.{language}.yaml").read_text("utf-8"))
    entries = [entry for entry in entries if not re.search("投诉|complain", entry["question"])]
    values = [entry.get(key) for entry in entries for key in ("question", "similar")]
    questions = [str(text) for value in values for text in _all(value)]
    assert len(questions) > 10
    assert [text for text in questions if is_angry(text)] == []


def _all(value: object) -> list[object]:
    return value if isinstance(value, list) else [value] if value else []


def test_a_long_message_takes_linear_time() -> None:
    assert not is_angry("太太太太" * 5000)
