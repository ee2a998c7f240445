"""Parts of answers as WeCom's kinds of message hold them, the same for applications, robots and accounts."""

from __future__ import annotations

from bot.connectors.wecom import markdown
from bot.message import clean_text
from bot.reply import Attachment, Outgoing

JPEG_OR_PNG = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
"""How a picture begins that WeCom shows."""
_AMR = b"#!AMR"


def plain_text(outgoing: Outgoing) -> str:
    """The text of a part without markup."""
    text = clean_text(outgoing.text)
    return markdown.plain(text) if outgoing.markdown else text


def article(link: Attachment) -> dict[str, str]:
    """A link as an article of `news`."""
    return {"title": link.name or link.url, "description": link.text, "url": link.url}


def is_playable(recording: Attachment) -> bool:
    """Whether WeCom plays a recording: it must be AMR."""
    return recording.data.startswith(_AMR)
