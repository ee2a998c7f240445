"""Who asks for a person, and who only talks about persons, in both languages."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import yaml

from plugins.handoff.wish import wish

ROOT = Path(__file__).parents[3]
ASKED = {"human", "en-human", "en-complaint"}
"""Sample FAQ entries whose questions may be the wish for a person."""
ASKS_ZH = """
转人工 | 转人工客服 | 轉人工 | 请帮我转人工 | 請幫我轉真人客服 | 人工 | 人工客服 | 人工服务 | 真人
真人客服 | 我要人工 | 我要找真人 | 找人工 | 找客服 | 找人工客服 | 叫个人来 | 叫人来 | 来个人 | 来个真人
换个人跟我说 | 换人工 | 我想和人工客服说话 | 我要和真人聊 | 怎么转人工？ | 如何转人工服务
怎么联系人工客服？ | 能不能转人工 | 可以帮我转一下人工吗 | 能转接人工客服吗 | 麻烦转接人工 | 转接人工坐席
接人工 | 切换到人工 | 呼叫人工客服 | 有没有人工客服 | 有没有活人 | 有人工吗 | 怎么没有人工
为什么不给我转人工 | 不想跟机器人说话 | 别跟我机器对话了，叫个真人来 | 不要机器人，转人工
不用了，还是转人工吧 | 你答非所问，我要人工！！ | 退款一直不到账，给我转人工 | 联系客服 | 我要联系客服
帮我联系一下客服 | 转 人 工 | ZRG 转人工 | 【转人工】 | 转人工🙏 | 在哪里可以找人工 | 人工客服在哪
我需要人工服务 | 给我人工 | 我要真人服务 | 让人工来回答 | 麻烦找个客服处理一下 | 人工处理一下，转人工
你是机器人吧，我要找活人 | 让你们的人工客服联系我 | 找你们客服 | 能找个真人跟我说吗 | 我不要跟ai聊了
转人工客服，我要投诉 | 换成真人 | 叫你们客服出来 | 请安排人工客服 | 想要人工客服帮我处理 | 还不转人工？
怎么还不转人工 | 转人工转人工转人工 | hello 转人工 | 我想转人工 | 帮忙转下人工 | 可以转人工吗
转一下人工客服呗 | 人工客服呢 | 人工！！ | 人工人工人工 | 快转人工 | 赶紧给我转人工！ | 我要求转人工
请转人工，谢谢 | 能帮我接通人工吗 | 麻烦帮我转接一下客服 | 转客服 | 找客服！ | 客服在哪，我要找客服
我要客服 | 要人工 | 叫客服 | 叫你们人工过来 | 有没有真人 | 有真人客服吗 | 你们有没有人工服务啊
哪里能联系到人工 | 怎样才能联系上人工客服 | 怎么才能找到真人客服 | 联系不上客服怎么办，我要人工 | 真人在吗
能不能让真人来 | 能不能换个真人 | 请让真人客服回复 | 你不懂，换人 | 你这机器人听不懂人话，转人工
机器人别说了给我转人工 | 别机器人了，人工 | 不要智能客服，要人工客服 | 不想和ai说话 | 我不想跟机器人聊天
我要跟活人说话 | 给我找个活人 | 派个人来处理 | 让人来跟我说 | 能找人跟我聊吗 | 找个人跟我说 | 来个活人行不行
直接转人工吧 | 那就转人工 | 好吧转人工 | 还是人工吧 | 我要人工客服，不要机器人 | 需要人工帮助 | 需要人工协助
我需要联系客服 | 转人工服务台 | 申请人工服务 | 请求人工介入 | 要求人工介入 | 人工介入
我的问题你解决不了，请转人工 | 转接客服人员 | 为什么转不了人工 | 怎么转不到人工 | 转人工啊啊啊 | wo要转人工
我要投诉，转人工 | 请问人工客服在吗 | 进入人工服务 | 怎么没有转人工 | 还没转人工？ | 不转人工就投诉 | 人工处理
在线客服 | 客服在吗 | 找经理 | 换个人来帮我 | 叫你们经理来 | 不要再跟机器人聊
"""
ASKS_EN = """
human | Human please | HUMAN!!! | agent | Agent please | real person | a real person please | representative
operator | live agent | live chat | talk to an agent | speak to a human | I want to speak to a human
let me speak with a real person | can I talk to a person? | Can I please speak with someone?
I'd like to talk to a human being | I want a human | I need a human | i need an agent
I need a real person to help me | connect me to support | connect me with an agent
please transfer me to a representative | transfer me to a human | put me through to someone
How can I talk to a person? | how do I contact customer service | how do i reach a human
get me a real person | stop the bot and get me a real person | give me a human
I don't want to talk to a bot | I do not want to speak with a robot | can a human help me
Is there someone I can talk to? | is there a real person here I can speak to
this is useless, I want a person | hand me over to an agent | escalate this to a manager
I want to talk to your supervisor | I need to speak with customer support | no, human | human support
customer service | customer service please | Can you get me an agent? | why can't I talk to a human?
I would like a live agent | please contact an agent for me | I just want to talk to somebody real
not helpful. agent! | No bots. Give me a human. | hello, can I chat with a live person | talk to human
human agent | speak to agent | get me an agent | need human help | I need help from a human
I need to talk to someone | can I speak with a live agent please | could you connect me to a human?
let me talk to a real human | I'd like to speak to a representative | could I get a real person on this
want to chat with a human | I want to talk to a real person, not a bot | You're not helping, I need a person
pass me to a human | transfer me | put me through to a real person | I'd rather talk to a human
is there anyone I can speak to? | is there a human I could talk to | contact support
I want customer service | can someone from support call me | please have an agent call me
please let a human answer | switch to human | switch to a live agent | agent!! | speak with customer care
I demand to speak with a human being | I need live support | let me chat with support | call an agent
could you please transfer me | human agent needed | escalate | Please escalate this | can someone human reply
can't you connect me to a person? | get me a person to talk to
"""
OTHER_ZH = """
人工智能是什么 | 人工费多少 | 不用转人工 | 不要转人工 | 别给我转人工 | 不需要人工客服 | 先不转人工
我不想找人工 | 我没说要转人工 | 不是要转人工 | 取消转人工 | 人工客服几点上班 | 人工客服什么时间在
人工服务收费吗 | 转人工要收费吗 | 人工审核要多久 | 订单转人工审核了是什么意思 | 联系客服人工审核
你是真人吗 | 你是人工还是机器人 | 你是不是真人 | 我在和真人聊天吗 | 真人试穿图有吗 | 有真人照片吗
我要真人试穿图 | 客服电话是多少 | 给我客服电话 | 打不通客服电话 | 为什么客服电话打不通
你们招聘客服吗，工资多少 | 我想应聘人工客服 | 投诉客服态度差 | 客服下班了吗 | 客服几点上班 | 现在有人在吗
你好，有人吗我要退货 | 人工湖附近有门店吗 | 人工耳蜗可以退吗 | 人工降雨 | 人工翻译多少钱 | 退货要找客服吗
需要转人工吗 | 退款需要联系客服吗 | 昨天找客服说三天到账，怎么还没到 | 上次转人工等了半小时
已经联系客服了还没退款 | 客服让我加微信转账 | 接到自称你们客服的电话是真的吗 | 客服说今天发货
转账到对公账户 | 转运费谁出 | 找个人代收可以吗 | 有人打电话说要给我退款 | 家里没人可以送快递柜吗
我要换个尺码 | 叫什么名字 | 可以换货吗 | 机器人吸尘器怎么保养 | 扫地机器人不要了可以退吗 | 我要买机器人
找你们领导 | 人工智能音箱怎么连接wifi | 换人收货可以吗 | 送货的人不来 | 怎么转让会员 | 要不要转人工看情况
我要人工智能书 | 联系方式怎么改 | 这是人工回复吗 | 人工成本太高 | 转人工是什么意思 | 不要人工 | 无需人工
真人秀 | 人工智能和机器学习有什么区别 | 你是人吗 | 你是ai吗 | 你们是人工客服吗 | 我不需要转人工
暂时不用人工 | 不必转人工了 | 别转人工 | 不找客服 | 不想联系客服 | 千万别转人工 | 人工客服电话多少
人工客服电话 | 人工服务热线 | 客服的工作时间 | 客服工作时间是几点 | 人工客服周末上班吗 | 人工几点下班
转人工后要等多久 | 人工排队要多久 | 人工费是多少钱一小时 | 安装人工费 | 人工安装收费吗 | 人工检测多久出结果
人工审核不通过怎么办 | 真人发假发多少钱 | 真人比例手办 | 真人版 | 客服回复我说可以退 | 刚才客服答应给我补发
客服微信是多少 | 我要联系卖家 | 怎么联系快递员 | 怎么联系物流 | 怎么叫快递上门 | 叫外卖 | 找不到订单
找回密码 | 转给朋友可以吗 | 礼品卡能转让吗 | 转到微信零钱 | 有没有人工草坪卖 | 人工钻石和天然钻石
有人工服务费吗 | 来个优惠券 | 给我个折扣 | 给我发票 | 要多久到 | 让快递员送上门 | 换个颜色 | 换人工皮的
我是人工智能专业的学生 | 机器人可以退货吗 | 不想要机器人吸尘器了 | 别给我推送ai广告 | 机器人教程
不要送货上门 | 家里有人才送 | 找人代付 | 找人帮忙签收行吗 | 叫个人签收可以吗 | 让人代取 | 你好 | 谢谢 | 人呢
接电话 | 我还不想转人工 | 我不要机器人玩具 | 叫人来取件 | 派人来安装 | 派个人来修 | 能派人来修吗 | 让人来收货
叫个人来取 | 换人来收 | 接到客服的电话 | 跟客服聊过了 | 转人工客服需要什么条件 | 不要机器人 | 我还没转人工呢
不转人工就算了 | 客服你好 | 产品经理是谁
"""
OTHER_EN = """
is this agent a bot | are you a human? | are you a real person | am I talking to a real person?
is this a real person | I don't want to talk to a human | no need for a human | no need to talk to an agent
don't transfer me to an agent | please do not connect me with a representative | not a human please
real estate agent fees | travel agent discount | what is a user agent | cleaning agent for carpets
I need a cleaning agent | human hair wig | human resources email | I want a human size teddy bear
how much does an agent earn | when are agents available | what time does customer care close
customer service phone number | customer service hours | support opening hours | is support open on Sunday
is anyone there at night | someone else signed for my package | delivered to the wrong person
can I see the products in person | how many people can use one account | table for one person
I never got a call from an agent | an agent told me yesterday to wait | I talked to an agent yesterday
I already talked to an agent | the agent was rude | can someone help me return this
does the agent speak English | machine learning for humans | I want to return a robot vacuum
robot vacuum does not work | is my personal data safe | contact lenses | support for wheelchairs
do I have to talk to an agent to cancel? | should I contact support for a refund
how long do I wait for an agent | will a person deliver it | what is human milk oligosaccharide
person of the year shirt | I want personal shopping | what does customer service do
does it need an operator license | agency fees | is there a manager discount | what can an agent do
are you an AI or a human | is there a human behind this | are humans answering here | I don't need an agent
I do not want an agent | please don't escalate | I'd rather not talk to a person
without talking to a person | do not connect me to anyone | how long until an agent answers
agent opening hours | is support available 24/7 | who is the agent for Shanghai | insurance agent
real estate agent | i am an agent for the brand | I work in customer service | customer support jobs
the operator of the crane | human rights | person on the box looks weird | gift for a person who likes tea
how many people work here | can I give it to someone | send to another person
can I send it to a person abroad | someone stole my parcel | I want to send someone a gift
need a tent for two people | I need people counters | does a person need to sign | my agent number is 5
support the team | thank you | can someone call me about my order | send a person to fix it
I can't reach the support | how to contact support | I need a person to fix my washing machine
"""


def phrases(text: str) -> list[str]:
    return [phrase.strip() for phrase in re.split(r"[|\n]", text) if phrase.strip()]


@pytest.mark.parametrize("text", phrases(ASKS_ZH) + phrases(ASKS_EN))
def test_it_is_the_wish_for_a_person(text: str) -> None:
    assert wish(text)


@pytest.mark.parametrize("text", phrases(OTHER_ZH) + phrases(OTHER_EN))
def test_it_is_not(text: str) -> None:
    assert not wish(text)


@pytest.mark.parametrize("language", ["zh", "en"])
def test_of_the_sample_questions_only_those_about_people_are_the_wish(language: str) -> None:
    entries = yaml.safe_load((ROOT / f"plugins/faq/sample/faq.{language}.yaml").read_text("utf-8"))
    asking = {
        entry["id"] for entry in entries for text in [entry["question"], *entry["similar"]] if wish(text)
    }
    held_out = (ROOT / f"tests/data/faq_{language}_heldout.jsonl").read_text("utf-8").splitlines()
    asking |= {row["expected"] for row in map(json.loads, held_out) if wish(row["query"])}
    assert asking <= ASKED
    assert asking & {"human", "en-human"}


def test_further_words_ask_for_a_person_too() -> None:
    assert not wish("阿姨在吗")
    assert wish("阿姨在吗", ["阿姨", "Auntie"])
    assert wish("call AUNTIE", ["阿姨", "Auntie"])


def test_of_a_long_message_both_ends_are_read() -> None:
    assert wish("转人工。" + "退款一直不到账。" * 1000)
    assert wish("退款一直不到账。" * 1000 + "我要转人工")


PIECES_ZH = """
人工 | 要 | 不想 | 你们的 | 您们的 | 一下 | 一个 | 一位 | 那个 | 的 | 个 | 转 | 转接 | 不要
别再 | 让我 | 没有 | 还没 | 怎么没 | 人工在线客服人员 | 直接 | 一直直接 | 着急着 | 请问 | 在线 | 客服 | 机器人
跟 | 找你们的 | 叫个 | 不转 | 是不是 | 已经 | 昨天找 | 急着急 | 我在跟
"""
PIECES_EN = """
talk to a | real | don't want to | human | customer service | support | connect me | through | please
not | hi | an agent | stupid | get me | can someone | want a | do not | one of your | there | someone real
escalate | transfer me | a
"""


@pytest.mark.parametrize("before", ["", "转", "不想", "找", "talk to ", "connect ", "i want ", "don't "])
@pytest.mark.parametrize("piece", [*phrases(PIECES_ZH), *(f"{piece} " for piece in phrases(PIECES_EN))])
def test_a_long_message_is_read_in_linear_time(before: str, piece: str) -> None:
    began = time.process_time()
    for length in (30, 990, 8000):
        wish(before + piece * (length // len(piece)) + "货")
    assert time.process_time() - began < 0.5
