"""Flat messages in, flat answers out, and nothing that XML can do beyond that."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.connectors.wecom.xml import MAX_DEPTH, MAX_ELEMENTS, BadXml, build, parse

BOMB = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
NO_XML = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def test_the_elements_of_a_message_are_its_fields() -> None:
    message = """<?xml version="1.0" encoding="UTF-8"?>
    <xml><ToUserName><![CDATA[ww1]]></ToUserName>
    <Content><![CDATA[ 你好 <b> & ]]]]><![CDATA[> 👋🏽 ]]></Content><Empty/>
    <CreateTime>1700000001</CreateTime><Escaped>&lt;a&gt; &amp; &#20320;</Escaped>
    <SendLocationInfo><Location_X>23</Location_X>
      <Label>a</Label></SendLocationInfo><!-- ? --><Content>later</Content></xml>"""
    assert parse(message.encode()) == {
        "ToUserName": "ww1",
        "Content": " 你好 <b> & ]]> 👋🏽 ",
        "Empty": "",
        "CreateTime": "1700000001",
        "Escaped": "<a> & 你",
        "SendLocationInfo.Location_X": "23",
        "SendLocationInfo.Label": "a",
    }


@pytest.mark.parametrize(
    "start", ["\ufeff", '<?xml version="1.0" encoding="gbk"?>', '<?xml version="1.0"?>\n']
)
def test_every_message_is_read_as_utf8(start: str) -> None:
    assert parse((start + "<xml><A>问</A></xml>").encode()) == {"A": "问"}


def test_pasted_control_characters_do_not_lose_a_message() -> None:
    assert parse(b"<xml><A><![CDATA[a\x0bb\0\tc]]></A></xml>") == {"A": "ab\tc"}


@pytest.mark.parametrize("text", ["<xml/>", "<xml>text</xml>", "<xml> <!-- --> </xml>"])
def test_a_message_may_have_no_fields(text: str) -> None:
    assert parse(text.encode()) == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "{}",
        "text",
        "<a/>",
        "<XML/>",
        '<xml xmlns="urn:a"/>',
        "<xml>",
        "<xml><A></B></xml>",
        "<xml/><xml/>",
        "<xml/>text",
        "<xml a='1' a='2'/>",
        "<xml>&undefined;</xml>",
        "<xml>&#0;</xml>",
        "<xml><A>]]></A></xml>",
        "<xml><A>\ufffe</A></xml>",
        "<!DOCTYPE xml><xml/>",
        "<!DO\x01CTYPE xml><xml/>",
        '<!DOCTYPE xml SYSTEM "http://127.0.0.1:9/a.dtd"><xml/>',
        '<!DOCTYPE xml [<!ENTITY a "x">]><xml>&a;</xml>',
        '<!DOCTYPE xml [<!ENTITY a SYSTEM "file:///etc/passwd">]><xml>&a;</xml>',
        '<!DOCTYPE xml [<!ENTITY % a SYSTEM "file:///etc/passwd"> %a;]><xml/>',
        f'<!DOCTYPE xml [<!ENTITY e0 "x">{BOMB}]><xml>&e9;</xml>',
        "<xml>" + "<a>" * MAX_DEPTH + "</a>" * MAX_DEPTH + "</xml>",
        "<xml>" + "<a>" * 300_000,
        "<xml>" + "<a/>" * MAX_ELEMENTS + "</xml>",
        "<xml>" + "<a/>" * 300_000 + "</xml>",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(BadXml):
        parse(text.encode())


@pytest.mark.parametrize(
    "data", [b"\xff", b"\x00\xff\xfe", b"<xml>\xc3\x28</xml>", "<xml/>".encode("utf-16")]
)
def test_other_encodings_are_refused(data: bytes) -> None:
    with pytest.raises(BadXml):
        parse(data)


@pytest.mark.parametrize("name", ["rot13", "idna", "unicode_escape", "utf-7", "utf-16", "nowhere", "gbk"])
def test_a_declared_encoding_does_nothing(name: str) -> None:
    assert parse(f'<?xml version="1.0" encoding="{name}"?><xml><A>é</A></xml>'.encode()) == {"A": "é"}


def test_a_problem_tells_nothing_of_the_body() -> None:
    for text in ("<xml>&secret;</xml>", '<!DOCTYPE a SYSTEM "secret"><xml/>'):
        with pytest.raises(BadXml) as caught:
            parse(text.encode())
        assert "secret" not in caught.value.problem


@given(
    st.dictionaries(st.from_regex("[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True), st.text() | st.integers())
)
def test_what_is_built_can_be_parsed(fields: dict[str, str | int]) -> None:
    readable = {name: NO_XML.sub("\ufffd", str(value)) for name, value in fields.items()}
    lines = {name: value.replace("\r\n", "\n").replace("\r", "\n") for name, value in readable.items()}
    assert parse(build(fields)) == lines


def test_an_answer_looks_like_the_platforms_own() -> None:
    built = build({"MsgType": "text", "Content": "a]]>b\x01", "CreateTime": 5})
    assert built.decode() == (
        "<xml><MsgType><![CDATA[text]]></MsgType>"
        "<Content><![CDATA[a]]]]><![CDATA[>b\ufffd]]></Content><CreateTime>5</CreateTime></xml>"
    )
