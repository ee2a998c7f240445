"""Who is angry at the service, and who only asks, in both languages."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from plugins.handoff.tone import is_angry

ROOT = Path(__file__).parents[3]
COMPLAINTS = {"complaint", "en-complaint"}
"""Sample FAQ entries whose questions may be angry."""
ANGRY_ZH = """
什么破机器人 | 你这什么垃圾客服 | 垃圾 | 真垃圾！ | 你们的服务太差了 | 客服态度真差 | 服务态度恶心
气死我了 | 烦死人了 | 你是智障吗 | 这个机器人真是弱智 | 答非所问 | 你听不懂人话吗 | 能不能说人话
你们就是骗子公司 | 我要投诉你们 | 我要去投诉你 | 再不退款我就去投诉你们 | 太过分了 | 真是太气人了
我很生气 | 我真的非常失望 | 简直离谱 | 你他妈的 | 傻逼 | 第三次了还没解决
问了五遍了，都问了三次了还是没人管 | 一点用都没有，根本没用 | 完全解决不了问题 | 什么烂服务 | 垃圾公司
这什么破玩意 | 機器人太爛了 | 你們服務太差勁了 | 胡说八道 | 信不信我曝光你们 | 破客服 | 回答太敷衍了
"""
ANGRY_EN = """
this is useless | you are useless | Your bot is terrible | what a stupid bot
worst customer service ever | I'm so angry | I am really frustrated | I'm fed up with this
this is ridiculous | complete waste of time | stop wasting my time | I will sue you
I'm going to report you | this doesn't help at all | bullshit | your service is a joke
That was absolutely useless | I am sick of this | for the third time, where is my order
You’re pathetic | this is unacceptable
"""
CALM_ZH = """
破损怎么办 | 收到的东西破了 | 垃圾袋多少钱 | 垃圾分类怎么做 | 垃圾桶有货吗 | 怎么投诉 | 投诉电话是多少
我要投诉快递员 | 如何投诉商家 | 机器人吸尘器好用吗 | 屏幕太差能换吗 | 这个质量差吗 | 我不生气 | 别生气
有没有智能客服 | 客服在吗 | 第三次购买有优惠吗 | 我要退货！！！！ | 快点！ | 为什么还没发货？？
没用过可以退吗 | 没用完的券怎么办 | 傻瓜相机有吗 | 白痴这本书有货吗 | 恶心想吐能吃这个药吗
烂苹果怎么赔 | 破洞牛仔裤 | 坏了怎么修 | 商品有问题 | 信号很差怎么办 | 投诉 | 客服服务时间 | 服务怎么样
态度决定一切这本书 | 这个没用，怎么设置 | 东西太差可以退吗 | 人工智障是什么意思 | 垃圾短信怎么屏蔽
垃圾邮件太多 | 过分甜吗 | 太离谱英文怎么说 | 效果不差 | 生气的小鸟玩具 | 失望谷在哪 | 废物利用手工
"""
CALM_EN = """
is it useless to reset the router | how do I report a scam | I want to report a damaged parcel
stupid question, sorry | where is my refund | the product is broken | awful lot of packages
how to file a complaint | terrible weather delays | angry birds toy | I am not angry
garbage bags price | trash can size | dumb phone battery | is this a joke gift | is the third item free
sick leave policy | it is not useless | I'm waiting for my order | nothing works
my order hasn't arrived for two weeks | can I return a horrible smelling candle | crap game rules
waste bin
"""


def phrases(text: str) -> list[str]:
    return [phrase.strip() for phrase in re.split(r"[|\n]", text) if phrase.strip()]


@pytest.mark.parametrize("text", phrases(ANGRY_ZH) + phrases(ANGRY_EN))
def test_it_is_anger_at_the_service(text: str) -> None:
    assert is_angry(text)


@pytest.mark.parametrize("text", phrases(CALM_ZH) + phrases(CALM_EN))
def test_it_is_not(text: str) -> None:
    assert not is_angry(text)


@pytest.mark.parametrize("language", ["zh", "en"])
def test_no_neutral_question_is_taken_for_anger(language: str) -> None:
    entries = yaml.safe_load((ROOT / f"plugins/faq/sample/faq.{language}.yaml").read_text("utf-8"))
    texts = [
        (entry["id"], text)
        for entry in entries
        for text in [entry["question"], *entry["similar"], entry["answer"]]
    ]
    held_out = (ROOT / f"tests/data/faq_{language}_heldout.jsonl").read_text("utf-8").splitlines()
    texts += [(row["expected"], row["query"]) for row in map(json.loads, held_out)]
    assert len(texts) > 100
    assert {entry for entry, text in texts if is_angry(text)} <= COMPLAINTS


NEUTRAL = """
怎么退货 | 运费谁出 | 多久到货 | 发票怎么开 | 会员积分 | 地址填错了 | 优惠券用不了 | 尺码偏大吗
支付失败 | 忘记密码
"""
JOINTS = ["，", "？", "请问", "还有", " ", "。谢谢", "和", "，麻烦了，"]


@given(st.lists(st.sampled_from(phrases(NEUTRAL)), min_size=1, max_size=6), st.sampled_from(JOINTS))
def test_neutral_questions_joined_stay_neutral(parts: list[str], joint: str) -> None:
    assert not is_angry(joint.join(parts))


@given(st.sampled_from(phrases(ANGRY_ZH)), st.sampled_from(phrases(NEUTRAL)))
def test_anger_before_or_after_a_question_is_heard(anger: str, question: str) -> None:
    assert is_angry(f"{question}？{anger}")
    assert is_angry(f"{anger}，{question}")


def test_of_a_long_message_both_ends_are_read() -> None:
    assert is_angry("你们的服务太差了。" + "退款一直不到账。" * 1000)
    assert is_angry("退款一直不到账。" * 1000 + "你们的服务太差了")


@pytest.mark.parametrize(
    "piece", ["真是", "怎么这么", "服务太", "这种", "really ", "this is so ", "第三次", "很"]
)
def test_a_long_message_is_read_in_linear_time(piece: str) -> None:
    began = time.process_time()
    for length in (30, 990, 8000):
        is_angry(piece * (length // len(piece)) + "货")
    assert time.process_time() - began < 0.5
