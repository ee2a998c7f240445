"""Tells anger at the service ("什么破机器人", "this is useless") from talk about angry things ("破损怎么办").

By rule, and rather too seldom than too often: a phrase must be aimed at the bot, the service or the answer,
or be an insult or a threat to complain that nobody writes into a neutral question.
"""

from __future__ import annotations

import re

from bot.retrieval import normalise

_EDGE = 500
"""Characters that are read of a long message, at its beginning and at its end."""
_SHOUT = re.compile(r"[!?]{4,}")

# ---- Chinese: in Simplified characters, without blanks ----
_BOT = r"(?:机器人|智能客服|人工智障|客服|服务|回复|回答|答复|态度)"
_YOU = r"(?:你们?|您们?|这|这个|这种|什么)"
_BAD = (
    r"(?:垃圾|太差|真差|差劲|好差|很差|真烂|太烂|好烂|真垃圾|太垃圾|有病|弱智|智障|脑残|没用|白痴|废物|蠢|傻|恶心|"
    r"一塌糊涂|气死|坑人|骗人|敷衍)"
)
_ANGRY = re.compile(
    "|".join(
        (
            rf"{_BOT}(?:真是|真的|真|太|也太|就是|简直|怎么这么|这么|好|很|是){{0,3}}{_BAD}(?!的?(?:分类|桶|袋|处理|回收|话费))",
            rf"^{_YOU}{{0,2}}(?:是不是|是|真是|真的|真|太|也太|就是|简直|怎么这么|这么){{0,3}}(?:垃圾|弱智|智障|脑残|废物|白痴|蠢货|蠢|傻[逼x]?)(?:$|[吧啊吗])",
            r"(?:什么|这)(?:破|烂|垃圾)(?:机器人|客服|服务|公司|平台|店|系统|玩意|东西|回答|态度)(?!怎么|如何|能|可以)",
            r"(?:垃圾|破|烂)(?:机器人|客服|服务|公司|平台)(?:$|[!啊吧])",
            r"(?:气死|烦死|恶心死|坑死|急死)(?:我|人)(?:了|啦)",
            r"(?:太|真|真是|简直)(?:气人|过分|离谱|恶心|坑人|欺负人|不像话|让人生气|令人失望|让人失望|敷衍)(?:$|了|啦|啊)",
            r"(?:我|真|很|非常|特别|太)(?:真的|很|非常|特别|太){0,3}(?:生气|愤怒|恼火|失望)(?:$|了|啦|啊|极了)",
            r"(?:答非所问|听不懂人话|说的什么鬼|胡说八道|鬼话连篇|废话连篇|能不能说人话|不说人话|骗子公司|忽悠人)",
            r"(?:我要|我一定|马上|再不.{1,12}(?:我)?就|信不信我)(?:去)?(?:投诉(?:你|您|到|死)|举报(?:你|您)|曝光(?:你|您)|打12315|找12315|起诉(?:你|您))",
            r"(?:他妈|妈的|草泥马|操你|滚蛋|去死|傻逼|煞笔|王八蛋|tmd|nmsl|狗屁)",
            r"(?:第|都(?:问|说|催|打)?了?)(?:[三四五六七八九十几]|\d+)(?:次|遍)(?:了|问).{0,12}(?:还|都|仍)(?:是)?(?:没|不)",
            r"(?:一点|完全|根本)(?:都|也)?(?:没用|没有用|不管用|没帮助|没有帮助|解决不了问题|不解决问题)",
        )
    )
)
_CALM = re.compile(
    r"(?:怎么|如何|哪里|在哪|能否|可以)(?:去)?(?:投诉|举报)|不(?:是很|太|算|会)?(?:生气|失望|差|垃圾)|别生气|不要生气"
)
"""Questions about complaints, and anger denied."""

# ---- English ----
_SERVICE = r"(?:bot|service|support|answers?|company|chat)"
_THIS = rf"(?:you|this|it|that|your {_SERVICE}|the bot|this {_SERVICE})"
_IS = r"(?:'re| are|'s| is| was| were)"
_AWFUL = (
    r"(?:useless|terrible|awful|horrible|pathetic|ridiculous|garbage|rubbish|stupid|dumb|a joke|crap|"
    r"unacceptable|the worst|idiotic|infuriating|disgusting|outrageous)"
)
_VERY = r"(?:(?:so|really|very|just|absolutely|completely|totally|simply|such|extremely|getting) ){0,3}"
_MAD = r"(?:angry|furious|fed up|sick of|frustrated|outraged|pissed)"
_ANGRY_EN = re.compile(
    "|".join(
        (
            rf"\b{_THIS}{_IS} {_VERY}{_AWFUL}\b",
            rf"\b(?:useless|stupid|dumb|idiotic|terrible|worthless) (?:robot|chatbot|{_SERVICE})\b",
            r"\b(?:worst|terrible|awful|horrible) (?:customer )?(?:service|support|experience)\b",
            rf"\bi(?:'m| am) {_VERY}{_MAD}\b",
            r"\b(?:fuck|fucking|bullshit|wtf|piss off|screw you|idiots?|morons?)\b",
            r"\bwaste of (?:my )?time\b|\bstop wasting my time\b",
            r"\bi(?:'ll| will| am going to|'m going to) (?:sue|report) you\b",
            r"\b(?:doesn't|does not|didn't|did not) (?:help|answer my question) at all\b",
            r"\bfor the (?:third|fourth|fifth|tenth|hundredth|\d+(?:rd|th)) time\b",
        )
    )
)
_CALM_EN = re.compile(
    r"\bnot (?:angry|furious|frustrated|upset|useless|stupid)\b|\bisn't (?:useless|stupid)\b"
)
_HAN = re.compile(r"[\u3400-\u9fff]")


def is_angry(text: str) -> bool:
    """Whether a message is angry at the service; of a long one both ends are read."""
    if len(text) > 2 * _EDGE:
        text = f"{text[:_EDGE]}\n{text[-_EDGE:]}"
    text = normalise(text).replace("’", "'")
    if _HAN.search(text):
        bare = text.replace(" ", "")
        parts = _CALM.sub("\0", bare)
        return any(_ANGRY.search(part) for part in re.split(r"[,.;:!?、。…~\n]+", parts)) or (
            _SHOUT.search(bare) is not None and "投诉" in bare and not _CALM.search(bare)
        )
    return _ANGRY_EN.search(_CALM_EN.sub("\0", text)) is not None
