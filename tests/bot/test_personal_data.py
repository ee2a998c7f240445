"""What tells who somebody is becomes stars; what only looks like it stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.personal_data import mask


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("我的手机13812345678，谢谢", "我的手机138****5678，谢谢"),
        ("138 1234 5678", "138 **** 5678"),
        ("138-1234-5678。", "138-****-5678。"),
        ("+86 13812345678", "+86 *******5678"),
        ("电话１３８１２３４５６７８", "电话１３８****５６７８"),
        ("0571-87654321", "0571-******21"),
        ("(0571)87654321", "(057*)******21"),
        ("身份证11010519491231002X", "身份证110*************2X"),
        ("身份证 110105491231002 的", "身份证 110**********02 的"),
        ("卡号6222 0212 3456 7890 128", "卡号6222 **** **** **** 128"),
        ("4111111111111111", "4111********1111"),
        ("写信给 zhang.san+a@mail.example.com。", "写信给 z****.***+*@mail.example.com。"),
        ("张三@例子", "张三@例子"),
    ],
)
def test_the_ends_stay(text: str, masked: str) -> None:
    assert mask(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "订单号 20240117123456",
        "订单 2024011712345678 什么时候发货？",
        "¥12345678901",
        "编号 A13812345678",
        "110105194912310021",  # the check digit is wrong
        "4111111111111112",
        "2026-11-27 10:30:00",
        "版本 1.3.81234.5678",
        "价格 1999-2999",
        "",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert mask(text) == text


@given(
    before=st.text("你好 ,。abc", max_size=10),
    number=st.from_regex(r"1[3-9][0-9]{9}", fullmatch=True),
    after=st.text("你好 ,。", max_size=10),
)
def test_a_mobile_number_is_never_left_whole(before: str, number: str, after: str) -> None:
    text = f"{before} {number}{after}"
    masked = mask(text)
    assert len(masked) == len(text)
    assert number not in masked
    assert masked.startswith(before)
    assert masked.endswith(after)


@given(st.text())
def test_masking_keeps_the_length_and_is_done_once(text: str) -> None:
    masked = mask(text)
    assert len(masked) == len(text)
    assert mask(masked) == masked
    assert all(new == old or new == "*" for old, new in zip(text, masked, strict=True))
