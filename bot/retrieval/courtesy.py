"""What people write around a question: greetings, thanks and emoji, which no index should weigh."""

from __future__ import annotations

import re

from bot.retrieval.text import MAX_KEY, key_of, normalise

_EMOJI = "\u20e3\u2300-\u23ff\u25a0-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff\U000e0020-\U000e007f"
_GAP = r"\s,.!~;:。、"
_ENDS = rf"(?=[?{_GAP}{_EMOJI}]|$)"
_CLOSED = rf"(?:[啊呀哦]?{_ENDS}|(?=请|我|想|问|麻烦|在吗))"
"""After a greeting that could begin a sentence (你好贵): its end, or what a question begins with."""
_LEADING = (
    rf"(?:[你您]们?好|大家好|(?:早上|上午|中午|下午|晚上)好|早安|晚安){_CLOSED}",
    rf"(?:嗨|嘿|哈喽|哈啰|亲(?:爱的|们)?){_ENDS}",
    r"(?:客服|老板|小二)(?=[,!、。]|\s*(?:[你您]好|在吗|在么))",
    r"(?:有人)?在(?:[吗么]|不在)|有人[吗么]",
    r"不好意思|打扰(?:一下|了)|麻烦(?=请问|问)",
    r"(?:我?想)?请问(?:一下|下)?|我?想(?:问|咨询)(?:一下|下|问)|(?:请教|咨询|问)(?:一下|下)",
    r"(?:hi|hello|hey|hiya)(?![a-z'])(?: (?:there|all|team|guys)(?![a-z]))?",
    r"good (?:morning|afternoon|evening|day)(?![a-z])",
    r"(?:谢谢(?:[你您]们?)?|thanks|thank you)(?=[,!.。])",
    r"excuse me|sorry to bother you|may i ask|(?:please|pls|plz)(?![a-z])",
)
_TRAILING = (
    r"(?:非常|十分)?(?:(?<![说道写讲])谢谢|多谢|感谢)(?:[你您]们?|大家|了|啦|啊)*",
    r"(?:麻烦|拜托)(?:[你您]了?|了)|求(?:解答?|告知|回复|助)|在线等|(?<=[,!。、 ])急+",
    r"(?<![a-z])(?:please|pls|plz|thx|cheers|(?:many )?thanks(?: a lot| so much| in advance)?)",
    r"(?<![a-z])thank you(?: very much| so much| in advance)?",
    r"(?<=[ ,!.])(?:[你您]好|hi|hello)",
)
_BEFORE = re.compile(rf"[{_GAP}]*(?:[{_EMOJI}]+|{'|'.join(_LEADING)})[{_GAP}]*")
_AFTER = re.compile(rf"[{_GAP}]*(?:[{_EMOJI}]+|{'|'.join(_TRAILING)})[{_GAP}?]*$")
_WORD = re.compile(r"[^\W_]")
_WINDOW = 48
_PARTICLES = "呢呀啊哦哈"


def without_courtesy(normalised: str) -> str:
    """A normalised text less the courtesy at its edges; all of it where nothing else remains."""
    rest = normalised
    while found := _BEFORE.match(rest):
        rest = rest[found.end() :]
    while found := _AFTER.search(rest, max(0, len(rest) - _WINDOW)):
        rest = rest[: found.start()]
    return rest if _WORD.search(rest) else normalised


def exact_keys(text: str) -> tuple[str, str]:
    """The exact key of a text, and that of its question without courtesy and final particle."""
    if len(text) > MAX_KEY:
        return "", ""
    normalised = normalise(text)
    bare = key_of(without_courtesy(normalised))
    return key_of(normalised), bare.rstrip(_PARTICLES) or bare
