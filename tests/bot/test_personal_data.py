"""Personal data are masked wherever they stand; numbers that are none stay as they are."""

from __future__ import annotations

import time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bot.personal_data import mask


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("13812345678", "138****5678"),
        ("电话13812345678，谢谢", "电话138****5678，谢谢"),
        ("tel13812345678.", "tel138****5678."),
        ("138-1234-5678", "138-****-5678"),
        ("138 1234 5678", "138 **** 5678"),
        ("138 123 45678", "138 *** *5678"),
        ("+8613812345678", "+86138****5678"),
        ("+86 138 1234 5678", "+86 138 **** 5678"),
        ("0086-13812345678", "0086-138****5678"),
        ("１３８１２３４５６７８", "１３８****５６７８"),
        ("010-62345678", "010-****5678"),
        ("(0755) 2634567", "(0755) ***4567"),
        ("0571 8765 4321", "0571 **** 4321"),
        ("+86 10 6234 5678", "+86 10 **** 5678"),
        ("11010519491231002X", "110105********002X"),
        ("身份证11010519491231002x。", "身份证110105********002x。"),
        ("110105 19491231 002X", "110105 ******** 002X"),
        ("130503670401001", "130503*****1001"),
        ("6222 0212 3456 7894", "6222 **** **** 7894"),
        ("4111111111111111", "4111********1111"),
        ("5500-0000-0000-0004", "5500-****-****-0004"),
        ("3782 822463 10005", "3782 ****** *0005"),
        ("zhang.san@example.com", "z********@example.com"),
        ("写信到a@b.cn吧", "写信到*@b.cn吧"),
        ("ａｂｃ＠example.com（０１０）6234－5678", "ａ**＠example.com（０１０）****－5678"),
        ("打 13812345678 或 13912345678", "打 138****5678 或 139****5678"),
        ("20240117 13812345678", "20240117 138****5678"),
    ],
)
def test_is_masked(text: str, masked: str) -> None:
    assert mask(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "订单号 20240117123456",  # a time
        "202401171234567890",  # eighteen digits of an order
        "110105194912310021",  # the check digit is wrong
        "110105194913310020",  # there is no 13th month
        "6222021234567893",  # Luhn's sum is wrong
        "7992739871300008",  # of no issuer
        "990503670401001",  # of no province
        "运单 SF1234567890123",
        "2026-11-27T06:16:25.123456+00:00",
        "1700000000000",
        "12345678901",
        "138123456789",
        "1381234567",
        "400-000-0199",
        "-1001381234567",
        "192.168.100.200",
        "价格 150 200 300 40",
        "3f13812345678abc",
        "@someone, a@b, 3@4",
        "圆周率 3.14159265358979",
    ],
)
def test_stays(text: str) -> None:
    assert mask(text) == text


DIGITS = st.text("0123456789", min_size=8, max_size=8)


@given(
    DIGITS, st.sampled_from("3456789"), st.text("，。 a的x", max_size=20), st.text("，。 的x", max_size=20)
)
def test_a_mobile_number_is_masked_in_any_text(rest: str, second: str, before: str, after: str) -> None:
    assume(not after[:1].isascii() or not after[:1].isalnum())
    number = f"1{second}{rest}0"
    masked = mask(before + number + after)
    assert masked == f"{before}{number[:3]}****{number[-4:]}{after}"


@given(
    st.dates().filter(lambda day: 1800 <= day.year < 2100), st.integers(0, 999), st.sampled_from(["11", "65"])
)
def test_every_valid_identity_number_is_masked(day: object, serial: int, province: str) -> None:
    body = f"{province}0105{day:%Y%m%d}{serial:03}"
    weights = [2 ** (17 - place) % 11 for place in range(17)]
    check = "10X98765432"[sum(w * int(d) for w, d in zip(weights, body, strict=True)) % 11]
    assert mask(f"我是{body}{check}") == f"我是{body[:6]}********{body[-3:]}{check}"
    wrong = "0" if check != "0" else "1"
    assert mask(f"我是{body}{wrong}") == f"我是{body}{wrong}" or body.startswith("6")


@given(st.text(alphabet=st.sampled_from("0123456789 -+()@.aXx电话"), max_size=300))
def test_masking_again_changes_nothing_and_only_asterisks_are_put_in(text: str) -> None:
    masked = mask(text)
    assert mask(masked) == masked
    assert all(new in (old, "*") for old, new in zip(text, masked, strict=True))


@pytest.mark.parametrize(
    "piece", ["1 ", "1", "138-", "0", "a@", "a.", "a@b.", "6222 ", "1101051949123100", "(0"]
)
def test_any_text_takes_time_by_its_length_only(piece: str) -> None:
    def seconds(size: int) -> float:
        text = (piece * size)[:size]
        began = time.perf_counter()
        mask(text)
        return time.perf_counter() - began

    assert min(seconds(200_000) for _ in range(2)) < 0.8
