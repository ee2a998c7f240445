"""Tells anger at the service from questions in plain words, by rule: rather too seldom than too often."""

from __future__ import annotations

import re

from bot.retrieval import normalise

_LONGEST = 500
_ANGRY = re.compile(
    r"(?:什么|啥|这|你们|真是|太)?(?:垃圾|破|烂|狗屁)(?:客服|服务|公司|平台|机器人|玩意儿?|态度)|"
    r"(?:我要|要|必须|马上|立刻|现在就)(?:去)?(?:投诉|举报|曝光)(?:你们|你|他们)?(?!的?(?:流程|渠道|电话|方式|入口|建议)|怎么|如何|找谁|去哪|吗)|"
    r"(?:投诉|举报|曝光)你们|(?:打|拨)12315|(?:找|去|到)(?:消协|消费者协会)(?:投诉|告)|"
    r"(?:骗子|骗人|忽悠|坑人|耍我|玩我|敷衍)(?:的?公司|呢|吗|啊|吧|[!！。]|$)|"
    r"(?:气死|烦死|急死|无语死)(?:我|人)?了|(?:太|真|实在)(?:过分|离谱|坑人?|差劲|恶心)了?|"
    r"(?:忍|受)不了你们|(?:什么|啥)态度|有没有人管|到底(?:有没有人|管不管|解不解决|处不处理)|"
    r"(?:答非所问|听不懂人话|说人话|智障|弱智|人工智障)"
)
_ANGRY_EN = re.compile(
    r"\b(?:terrible|horrible|awful|worst|pathetic|useless|garbage|crap|shitty|ridiculous|disgusting)"
    r" (?:service|support|company|customer|bot|experience|app|answer)s?\b|"
    r"\b(?:this is|you are|you're|that's|it's|what a)(?: an?| so| such| absolutely| totally| just)*"
    r" (?:ridiculous|unacceptable|outrageous|pathetic|useless|joke|scam|rip-?off|disgrace)\b|"
    r"\b(?:i am|i'm) (?:so |very |really |extremely |absolutely )?(?:furious|angry|pissed|fed up|sick of)\b|"
    r"\bi (?:want|will|am going|'m going) to (?:file a |make a )?(?:complain|complaint|sue|report you)\b|"
    r"\b(?:wtf|stupid bot|you idiots?)\b"
)


def is_angry(text: str) -> bool:
    """Whether a message says that its writer is angry; a long one is read at its beginning only."""
    text = normalise(text[:_LONGEST])
    return bool(_ANGRY.search(text.replace(" ", "")) or _ANGRY_EN.search(text))
