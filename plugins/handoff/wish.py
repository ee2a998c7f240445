"""Tells the wish for a person ("转人工", "talk to a human") from talk about persons ("人工费多少").

A message is cut into clauses. A clause asks for a person when it has one of the wish's phrases, refuses
nothing just before it ("不用转人工"), and is no question about the service ("人工客服几点上班").
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from bot.retrieval import normalise

_CLAUSES = re.compile(r"[,.;:!?、。…~()\n]+")
_HAN = re.compile(r"[\u3400-\u9fff]")
_LOOK_BACK = 40
"""Characters before a phrase in which a refusal may stand."""
_EDGE = 500
"""Characters that are read of a long message, at its beginning and at its end."""


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns))


# In what repeats, no two alternatives begin alike, and it gives nothing back (*+): reading takes linear time.
# ---- Chinese: clauses are in Simplified characters and without blanks ----
_HUMAN = r"(?:人工|真人|活人)(?:在线)?(?:客服|服务|坐席|座席)?(?:人员)?"
_STAFF = rf"(?:{_HUMAN}|客服(?:人员|小姐姐|小哥)?)"
_BOT = r"(?:机器人?|人机|ai|电脑|智能客服|自动回复)"
_A = r"(?:一下|下|你们|您们|一?个|一?位|那个|的)*+"
_OTHER = (
    r"(?!的?(?:智能|ai|费|成本|价|电话|来电|短信|通知|号码|热线|邮箱|微信|二维码|人工审|审|复核|核|检|翻译|合成|授精|受精|耳蜗|湖|草|钻|皮|"
    r"秀|照|模特|试|版|cs|图|实拍|出镜|视频|语音|案例|态度|工资|系统|软件|机器人|(?:工作|上班|服务)?时间))"
)
"""What does not follow "人工" and "客服" where they mean somebody to talk to."""
_THEN = (
    r"(?=$|[吧啊呀呢哦嘛哈了么吗我]|来|出|介入|协助|联系|谢谢|回答|回复|接|帮|解决|处理|沟通|聊|谈|说|讲|对话|"
    r"可以|行不|行吗|好吗|在吗|跟|和|给|为|而不|不要|不是)"
)
"""What does, after a verb as weak as "要"."""
_WISH = _any(
    rf"^(?:那|就|还是|直接|我|你好|您好|请问?|麻烦)*+(?:(?:在线)?(?:{_HUMAN})++|在线客服|客服(?=在))"
    r"(?:吧|呢|啊|谢谢|在吗|在么|在不在|介入|处理)?$",
    r"(?:转|接|换|切|跳|进|呼叫|联系|联络|找|叫|喊|连线|安排)(?:转|接|换|入|到|成|给|去|回|至|通|上)?"
    rf"{_A}{_STAFF}{_OTHER}",
    rf"(?:要|请|求|来|没有|没|有|用|让|给我?){_A}{_HUMAN}{_THEN}",
    rf"(?:要|请|求|来|给我?){_A}客服(?:$|[吧啊呀呢]|来|帮|处理|跟我|和我)",
    rf"(?:跟|和|与|同|向|对){_A}{_STAFF}(?:直接|好好)?(?:聊|说|讲|谈|沟通|对话|交流|通话)(?![过完了])",
    rf"(?:找|叫|喊|联系){_A}(?:经理|主管|负责人)(?=$|[吧啊来出跟和帮处说谈投])",
    rf"(?:找不到|找不着|联系不[上到]|接不通|转不[了到]|怎么没){_A}{_STAFF}{_OTHER}",
    rf"(?:不想|不要|别|不愿意?|懒得)(?:再|老|总|让?我)*+(?:(?:跟|和|与|同|对着?|听)"
    rf"{_A}{_BOT}(?:$|[了吧啊])|(?:跟|和|与|同|对着?|听|用|让)?{_A}{_BOT}(?:来|回|聊|说|讲|对话|沟通|客服))",
    rf"(?:叫|找|派|让|换|喊|来){_A}[活真]?人(?:过来|出来|来)?(?:$|吧|行不行|[跟和给帮]我|处理|解决|回[答复])",
    rf"{_HUMAN}(?:在哪|怎么[转找联接叫])",
)
_REFUSED = re.compile(
    r"(?:不|别|甭|无需|无须|没(?:有|想|说|让|必)?|取消|停止|禁止)"
    r"(?:再|又|给|我|你|帮|让|是|用|想|要|需|必|去|急着?|着急|先|老|总|麻烦|一直|直接)*+$"
)
_HARMLESS = re.compile(
    r"能不能|可不可以|能否|可否|行不行|好不好|是不是|不能不|"
    r"(?:怎么|为什么|为啥|干嘛)(?:就|还)?不(?:能|可以|肯|让|给)?|"
    r"(?:怎么|为什么|为啥|干嘛|(?<!我)还)(?:就|还)?没有?(?=[转接给让叫找])|还不(?=[转接给让叫找])|"
    r"不(?=(?:给我?)?转.{2,8}就(?!算|好|行))"
)
"""Questions whose "not" refuses nothing."""
_ABOUT = _any(
    r"(?:人工|真人|客服).{0,8}(?:几点|什么时[候间]|啥时候|上班|下班|收费|要钱|花钱|多少钱|费用|多久|要等|要排队|"
    r"需要什么|什么条件|什么意思|是什么|是啥|区别|靠谱|安全吗)",
    r"(?:人工|真人|客服)(?:说(?!话)|告诉我|答应|让我)|我(?:现在)?是?在(?:跟|和|与).{0,6}吗$",
    r"(?:上次|上回|昨天|前天|前几天|上周|以前|之前|已经?)(?:我|就|还|都|有)?(?:转|找|联系|叫|问|要).{0,4}"
    r"(?:人工|真人|客服)",
    r"(?:要不要|需不需要|用不用|必须|必需|是否|一定要|会不会|应该).{0,4}(?:人工|真人|客服)",
    r"(?:招|当|做|应聘|面试).{0,4}客服",
    r"(?<![我想])(?:需要|要|得|会)(?:转|找|联系|叫|接)?(?:人工|真人|客服).{0,6}吗$",
)
"""Questions about the service, and tales of what it did before."""

# ---- English ----
_KIND = r"(?:(?:real|live|actual|human|customer|support|service|living|different) )*"
"""Gives back: "customer service" may be the end of it, too."""
_WHO = (
    rf"(?:(?:a|an|the|some|your|one of your|any) )?{_KIND}"
    r"(?:humans?|human beings?|persons?|people|agents?|representatives?|reps?|operators?|advis[eo]rs?|"
    r"manager|supervisor|staff(?: members?)?|team member|customer (?:service|support|care)|support(?: team)?|"
    r"human (?:help|support|assistance))"
)
_SOMEONE = rf"(?:{_WHO}|(?:some|any)(?:one|body)(?: (?:real|human|else))?)"
_STOP = (
    r"(?=$| (?:please|pls|now|asap|right|immediately|instead|here|there|to|who|that|for|and|not|on|about|can|"
    r"if|thanks|thank|i|because|so|or|today|directly|rather|at|from|in|with)\b)"
)
_FOR_TALK = rf"{_STOP}(?! to (?!talk|speak|chat|help|assist|answer|take over))"
_SOMEONE_HERE = rf"(?:{_WHO}|(?:some|any)(?:one|body) (?:real|human|from (?:customer )?(?:support|service)))"
_WISH_EN = _any(
    rf"^(?:(?:a|an|hi|hello|hey|just|please|pls|ok|okay|no|now) )*+{_KIND}"
    r"(?:human|human being|person|agent|representative|rep|operator|live (?:chat|support|help)|"
    r"customer (?:service|support))(?: (?:please|pls|now|asap|support|help|chat|needed|wanted|required))*+$",
    r"\btransfer me(?: please| now)?$|^(?:please )?escalate(?: this| it| my case)?(?: please| now)?$",
    rf"\b(?:talk|speak|chat|talking|speaking)(?: directly)? (?:to|with) {_SOMEONE}{_STOP}",
    r"\b(?:connect|transfer|put|forward|pass|hand|switch|escalate)"
    rf"(?: (?:me|us|this|it|over|through|the chat|my case))*+ (?:to|with) {_SOMEONE}{_STOP}",
    rf"\b(?:get|give|send|find|bring|call|fetch)(?: me| us)? {_WHO}{_FOR_TALK}",
    rf"\b(?:get|bring|send|find) (?:me|us) (?:someone|somebody){_FOR_TALK}",
    rf"\b(?:want|need|demand|prefer|require|i'?d like|would like|rather have)(?: to have)? {_WHO}{_FOR_TALK}",
    rf"\b(?:contact|reach|ask for|request|help from) {_WHO}{_STOP}",
    rf"\bthere {_SOMEONE} (?:here )?(?:i|we|that|who|to)(?: can| could)? (?:talk|speak|chat|help)",
    rf"\b(?:can|could|have|let) {_SOMEONE_HERE} (?:please )?(?:call|contact|take over|reply|answer)",
    r"\bcan an? (?:(?:real|live|actual) )*+(?:human|person|agent|representative) (?:please )?(?:help|assist)",
    r"\b(?:don'?t|do not|not) (?:want|wish|like)(?: to)? (?:keep )?(?:talk|speak|chat|deal|talking|speaking|"
    r"chatting) (?:to|with) (?:(?:a|an|this|the|stupid) )*+(?:bot|robot|machine|ai|computer|chatbot)",
)
_REFUSED_EN = re.compile(
    r"\b(?:don'?t|do not|didn'?t|did not|doesn'?t|not|never|can'?t|cannot|couldn'?t|unable|no need|"
    r"without|already|instead of|before)\b"
    r"(?: \w+){0,4} ?$"
)
_HARMLESS_EN = re.compile(
    r"\b(?:why|how come) (?:don'?t|do not|can'?t|won'?t|not)\b|\b(?:don'?t|do not|can'?t) (?:you|i|we)\b"
)
_ABOUT_EN = _any(
    r"^(?:am i|is this|are you|was i|do i (?:have|need) to|should i|must i|will i)\b",
    r"^how to (?:contact|reach)\b|\bwhat time|\bhours\b|\bphone number|\bhow (?:much|long|many)\b|"
    r"\byesterday|\blast (?:time|week|month)\b",
)


def wish(text: str, words: Iterable[str] = ()) -> bool:
    """Whether a message asks for a person; the mere presence of one of `words` says so too.

    A long message is read at its beginning and its end only.
    """
    if len(text) > 2 * _EDGE:
        text = f"{text[:_EDGE]}\n{text[-_EDGE:]}"
    text = normalise(text)
    if any(normalise(word) in text for word in words):
        return True
    return any(
        _chinese(clause) if _HAN.search(clause) else _english(clause) for clause in _CLAUSES.split(text)
    )


def _chinese(clause: str) -> bool:
    clause = _HARMLESS.sub("", clause.replace(" ", ""))
    return not _ABOUT.search(clause) and _asks(clause, _WISH, _REFUSED)


def _english(clause: str) -> bool:
    clause = _HARMLESS_EN.sub("", clause.strip())
    return not _ABOUT_EN.search(clause) and _asks(clause, _WISH_EN, _REFUSED_EN)


def _asks(clause: str, wish: re.Pattern[str], refused: re.Pattern[str]) -> bool:
    """Whether the clause has a phrase of the wish that is not refused."""
    return any(
        not refused.search(clause[max(0, found.start() - _LOOK_BACK) : found.start()])
        for found in wish.finditer(clause)
    )
