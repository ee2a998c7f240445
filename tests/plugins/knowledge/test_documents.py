"""Documents of every kind as sections and passages: words and headings stay, markup goes."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot import DataError
from plugins.knowledge.documents import SUFFIXES, find_documents, read_document
from plugins.knowledge.outline import Document, Section
from plugins.knowledge.passages import passages


def read(text: str | bytes, name: str = "guide.md") -> Document:
    return read_document(Path(name), text if isinstance(text, bytes) else text.encode())


def flat(document: Document) -> list[tuple[str, ...]]:
    """(headings..., paragraph) of every paragraph."""
    return [(*section.path, text) for section in document.sections for text in section.paragraphs]


# -- Markdown --------------------------------------------------------------------------------


def test_markdown_headings_make_paths() -> None:
    text = (
        "# 配送说明\n\n前言。\n\n## 偏远地区 ##\n新疆包邮。\n### 西藏\n也包邮。\n"
        "## 自提\n到店取。\n\nSecond\n------\nend"
    )
    assert flat(read(text)) == [
        ("配送说明", "前言。"),
        ("配送说明", "偏远地区", "新疆包邮。"),
        ("配送说明", "偏远地区", "西藏", "也包邮。"),
        ("配送说明", "自提", "到店取。"),
        ("配送说明", "Second", "end"),
    ]
    assert read(text).title == "配送说明"


def test_markdown_markup_goes_and_words_stay() -> None:
    text = (
        "A **bold** and *slanted* `code` with [a link](http://x/y) and ![a picture](z.png), "
        "<b>tags</b>, <https://shop.example>, ~~gone~~ &amp; 3 \\* 4 * 5, snake_case_name.\n"
        "<!-- hidden\nnote -->\n[ref]: http://example.com\n"
    )
    [(paragraph,)] = flat(read(text))
    assert paragraph == (
        "A bold and slanted code with a link and a picture, tags, https://shop.example, gone & 3 * 4 * 5, "
        "snake_case_name."
    )


def test_markdown_lists_are_paragraphs_and_tables_are_sentences() -> None:
    text = (
        "# T\n- one\n  goes on\n- [x] two\n1. first\n\n"
        "| 地区 | 运费 |\n| --- | :-: |\n| 江浙沪 | 免费；当天发 |\n| a\\|b | |\n\nend"
    )
    assert [row[-1] for row in flat(read(text))] == [
        "one\ngoes on",
        "two",
        "1. first",
        "地区：江浙沪 · 运费：免费，当天发。",
        "地区：a|b。",
        "end",
    ]


def test_markdown_in_a_code_block_is_text() -> None:
    assert flat(read("# T\n```sh\n# not a heading\n| a | b |\n```\nafter")) == [
        ("T", "# not a heading\n| a | b |"),
        ("T", "after"),
    ]


def test_front_matter_gives_the_title() -> None:
    document = read("---\ntitle: '售后政策'\ndate: x\n---\n\n七天内可退。")
    assert document == Document("售后政策", (Section((), ("七天内可退。",)),))


def test_the_file_name_is_the_last_resort_for_a_title() -> None:
    assert read("just text", "delivery.zh.md").title == "delivery"


@given(st.text(alphabet="#*_`[]()!<>|-=~&\\ \nab中。", max_size=80))
def test_any_markdown_is_read_or_refused(text: str) -> None:
    try:
        document = read(text)
    except DataError:
        return
    assert all(paragraph.strip() for section in document.sections for paragraph in section.paragraphs)


@pytest.mark.parametrize("text", ["*" * 20_000, "[" * 20_000, "<" * 20_000, "_a" * 10_000, "`" * 20_001])
def test_markdown_made_to_be_slow_is_not(text: str) -> None:
    with suppress(DataError):
        read(text)


# -- plain text ------------------------------------------------------------------------------


def test_short_lines_alone_are_headings_in_plain_text() -> None:
    text = (
        "青禾配送说明\n\n一、仓库\n\n我们有四个仓库。\n分布在各地。\n\n"
        "二、派送\n1. 每天八点。\n2. 当面签收。\n"
    )
    assert flat(read(text, "delivery.txt")) == [
        ("青禾配送说明", "一、仓库", "我们有四个仓库。\n分布在各地。"),
        ("青禾配送说明", "二、派送", "1. 每天八点。"),
        ("青禾配送说明", "二、派送", "2. 当面签收。"),
    ]


# -- HTML ------------------------------------------------------------------------------------


def test_html_shows_what_a_reader_sees() -> None:
    page = """<html><head><title> 礼品卡 说明 </title><style>p{}</style></head><body><nav>首页</nav>
    <h1>礼品卡说明</h1><p>可以<b>全场</b>使用，<br>包括门店。</p><h2>有效期</h2><ul><li>三年<li>可延期</ul>
    <table><tr><th>种类<th>面值</tr><tr><td>电子卡<td>50 元；100 元</tr></table>
    <script>alert(1)</script><p hidden>secret</p><footer>©</footer></body></html>"""
    document = read(page, "cards.html")
    assert document.title == "礼品卡 说明"
    assert flat(document) == [
        ("礼品卡说明", "可以全场使用，\n包括门店。"),
        ("礼品卡说明", "有效期", "三年"),
        ("礼品卡说明", "有效期", "可延期"),
        ("礼品卡说明", "有效期", "种类：电子卡 · 面值：50 元，100 元。"),
    ]


def test_html_nested_without_end_is_read() -> None:
    page = "<div>" * 5_000 + "deep" + "</div>" * 5_000
    assert flat(read(page, "deep.html")) == [("deep",)]


@given(st.text(alphabet="<>/ =\"'abhlprtd1&;!-中\n", max_size=120))
def test_any_html_is_read_or_refused(text: str) -> None:
    try:
        read(text, "page.html")
    except DataError:
        return


def test_html_declares_its_encoding() -> None:
    page = '<meta charset="big5"><p>運費多少</p>'.encode("big5")
    assert flat(read(page, "page.html")) == [("運費多少",)]


# -- encodings, folders ----------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_text_is_read_in_usual_encodings(encoding: str) -> None:
    assert flat(read("# 标题\n\n说明文字。".encode(encoding))) == [("标题", "说明文字。")]


@pytest.mark.parametrize(
    ("raw", "name", "problem"),
    [
        (b"\x00\x01\x02", "a.md", "not a text file"),
        (b"\xff\xff\xff", "a.md", "encoding is not known"),
        (b" \n\n", "a.md", "no text"),
        (b"<p></p>", "a.html", "no text"),
        (b"text", "a.pdf", "cannot read .pdf"),
    ],
)
def test_what_cannot_be_read_names_the_file(raw: bytes, name: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        read(raw, name)
    assert caught.value.file == Path(name)


def test_folders_are_walked_without_hidden_files_and_loops(tmp_path: Path) -> None:
    for name in ("b.md", "a.txt", "sub/c.html", ".hidden.md", ".git/d.md", "sub/e.pdf", "~$f.md"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("x")
    os.symlink(tmp_path, tmp_path / "sub" / "loop")
    os.symlink(tmp_path / "gone", tmp_path / "broken.md")
    assert [str(path.relative_to(tmp_path)) for path in find_documents(tmp_path)] == [
        "a.txt",
        "b.md",
        "sub/c.html",
    ]


# -- passages --------------------------------------------------------------------------------


def test_passages_cite_their_headings_once() -> None:
    document = read("# 配送说明\n前言。\n## 偏远地区\n新疆包邮。")
    assert list(passages(document)) == [("配送说明", "前言。"), ("配送说明 › 偏远地区", "新疆包邮。")]


@given(st.lists(st.text(alphabet="字。，a b.\n", min_size=1, max_size=900).filter(str.strip), min_size=1))
def test_passages_lose_nothing_and_stay_short(texts: list[str]) -> None:
    document = Document("t", (Section((), tuple(texts)),))
    cut = [text for _, text in passages(document)]
    assert all(len(text) <= 1_100 for text in cut)
    assert "".join("".join(cut).split()) == "".join("".join(texts).split())


def test_the_samples_are_read_whole() -> None:
    folder = Path(__file__).parents[3] / "plugins/knowledge/sample"
    files = list(find_documents(folder))
    assert {file.suffix for file in files} <= set(SUFFIXES)
    titles = {title for file in files for title, _ in passages(read_document(file, file.read_bytes()))}
    assert "青禾优选退换货政策 › 一、各类商品的期限" in titles
    assert "Shipping and Returns Guide › Delivery times" in titles
