"""From a reply to parts: what a platform does not take, how many it takes, what comes last."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bot.compose import compose
from bot.connectors.base import Capabilities
from bot.render import measure
from bot.reply import Attachment, Outgoing, Reply, Target

TARGET = Target("wecom-kf", "care", "wm1")
PICTURE = Attachment("image", "chart.png", b"\x89PNG")
LINK = Attachment("link", "退货政策", url="https://shop.test/returns", text="30 天内")


def parts(reply: Reply, **able: object) -> list[Outgoing]:
    return compose(reply, Capabilities(**able), TARGET, 7, "key")


def test_an_attachment_is_a_part_of_its_own_behind_the_text() -> None:
    text, picture = parts(
        Reply("look", attachments=(PICTURE,), feedback=True), attachments=frozenset({"image"})
    )
    assert (text.text, text.attachment, text.feedback, text.final) == ("look", None, True, False)
    assert (picture.attachment, picture.feedback, picture.final) == (PICTURE, False, True)
    assert [text.key, picture.key] == ["key-0", "key-1"]


def test_what_a_platform_does_not_take_is_named() -> None:
    (part,) = parts(Reply("look", attachments=(PICTURE, LINK)))
    assert part.text == "look\n[chart.png]\n退货政策\n30 天内\nhttps://shop.test/returns"


def test_attachments_beyond_what_a_platform_takes_are_named() -> None:
    many = tuple(Attachment("image", f"{number}.png", b"x") for number in range(4))
    found = parts(Reply("look", attachments=many), attachments=frozenset({"image"}), max_parts=3)
    assert [part.text for part in found] == ["look\n[2.png]\n[3.png]", "[0.png]", "[1.png]"]


def test_an_attachment_survives_the_outbox() -> None:
    part = parts(Reply("", attachments=(PICTURE,)), attachments=frozenset({"image"}))[0]
    again = Outgoing.from_json(part.to_json(), id=0, inbox_id=7, key=part.key, part=0, edits=None)
    assert again == part


@given(text=st.text(st.sampled_from("问答。\n a🙂"), max_size=400), most=st.integers(1, 5))
def test_no_more_parts_than_the_platform_takes_and_the_cut_shows(text: str, most: int) -> None:
    whole = parts(Reply(text), max_text=40, unit="bytes")
    found = parts(Reply(text), max_text=40, unit="bytes", max_parts=most)
    assert len(found) == min(len(whole), most)
    assert all(measure(part.text, "bytes") <= 40 for part in found)
    if len(whole) > most:
        assert found[-1].text.endswith("…")
        assert found[-1].final
    else:
        assert found == whole
