"""CommonMark to plain text and to the subset of WeCom's markdown messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.connectors.wecom.markdown import SUBSET_BYTES, plain, subset
from bot.render import measure


@pytest.mark.parametrize(
    ("markdown", "text", "marked"),
    [
        ("# 退货 **说明** #", "退货 说明", "# 退货 说明"),
        ("### `a` b", "a b", "### `a` b"),
        ("**7 天**内, *注意*", "7 天内, 注意", "**7 天**内, 注意"),
        ("**a `b` c**", "a b c", "**a** `b` **c**"),
        ("**跨\n行**", "跨\n行", "**跨**\n**行**"),
        ("~~99~~ 89 元", "~~99~~ 89 元", "~~99~~ 89 元"),
        ("[官网 **首页**](https://a.cn)", "官网 首页 (https://a.cn)", "[官网 首页](https://a.cn)"),
        ("[a](https://x.cn/b_(c))", "a (https://x.cn/b_(c))", "[a](https://x.cn/b_%28c%29)"),
        ("[`a`](https://x.cn)", "a (https://x.cn)", "[a](https://x.cn)"),
        ("[https://x.cn](https://x.cn)", "https://x.cn", "[https://x.cn](https://x.cn)"),
        ("[a@x.cn](mailto:a@x.cn)", "a@x.cn", "[a@x.cn](mailto:a@x.cn)"),
        ("![图](https://x.cn/i.png)", "图 (https://x.cn/i.png)", "[图](https://x.cn/i.png)"),
        ("<https://x.cn>", "https://x.cn", "https://x.cn"),
        ("* 一\n+ **二**\n  - 三", "- 一\n- 二\n  - 三", "- 一\n- **二**\n  - 三"),
        ("1. 一\n2. 二", "1. 一\n2. 二", "1. 一\n2. 二"),
        ("> 引 *a*\n>> b\n>\n> c\n\nd", "> 引 a\n> b\n>\n> c\n\nd", "> 引 a\n> b\n>\n> c\n\nd"),
        ("***", "---", "---"),
        ("```py\n# a\n\nb='`'\n```", "# a\n\nb='`'", "`# a`\n\nb='`'"),
        ("| a |\n|---|\n| **1** |", "| a |\n|---|\n| 1 |", "| a |\n|---|\n| **1** |"),
        ("\\*a\\* &lt;b&gt;", "*a* <b>", "*a* <b>"),
        ('<font color="info">绿</font> `<font>`', "绿 <font>", '<font color="info">绿</font> `<font>`'),
    ],
)
def test_what_answers_use_is_shown(markdown: str, text: str, marked: str) -> None:
    assert plain(markdown) == text
    assert subset(markdown) == marked


@pytest.mark.parametrize("blank", ["", "```", "&#32;", "> ", "# ", "<font></font>"])
def test_what_would_come_out_blank_stays_as_written(blank: str) -> None:
    assert plain(blank) == blank


@pytest.mark.parametrize("text", ["2 * 3 * 4", "snake_case_name", "**not closed", "[x](/path)", "a\n\n\nb\n"])
def test_what_is_no_markup_stays(text: str) -> None:
    assert plain(text) == subset(text) == text


def test_a_subset_too_long_for_its_message_is_plain_text() -> None:
    code = "```\n" + "a\n" * 900 + "```"
    assert subset(code) == plain(code) == "\n".join("a" * 900)


MARKS = ["*", "**", "_", "~~", "`", "```\n", "[", "[a](https://x.cn)", "> ", ">", "# ", "- ", "***\n", "\\"]
MARKUP = st.lists(
    st.sampled_from(MARKS)
    | st.sampled_from(["\n", " ", "a", "b c", "😀", "中文", "&nGt;", "https://x.cn", "<font>"])
    | st.text(max_size=3),
    max_size=40,
).map("".join)
BARE = st.text(st.sampled_from("aB1 ,.。？中文é😀()\n"), max_size=80).map(
    lambda text: "\n".join(line.rstrip() for line in text.split("\n"))
)


@given(MARKUP)
def test_never_blank_and_never_too_long(markdown: str) -> None:
    length = measure(markdown, "bytes")
    assert measure(plain(markdown), "bytes") <= length
    assert measure(subset(markdown), "bytes") <= max(length, SUBSET_BYTES)
    if markdown.strip():
        assert plain(markdown).strip()
        assert subset(markdown).strip()


@given(MARKUP)
def test_words_are_kept(markdown: str) -> None:
    for shown in (plain(f"{markdown}\n\n重要"), subset(f"{markdown}\n\n重要")):
        assert "重要" in shown
        assert shown.count("😀") >= markdown.count("😀")


@given(BARE)
def test_text_without_markup_is_the_same(text: str) -> None:
    assert plain(text) == text
    assert subset(text) == text
