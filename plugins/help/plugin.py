"""/help and /start, a greeting, an answer to "hello" and "thanks": what a talk needs beside questions."""

from __future__ import annotations

import difflib
import re
from dataclasses import replace

from bot import Catalogue, Chat, Commands, Cooldowns, Facts, Handler, Message, Plugin, Session, to_me

_COMMAND = re.compile(r"[/／](\w[\w-]{0,31})(?=\s|@|$)")
_HELLO = re.compile(
    r"\W*(?:(?:你|您|大家)好[啊呀]?|(?:早上|上午|中午|下午|晚上)好|早安?|哈[喽啰罗]|嗨|在(?:吗|么|不在)?"
    r"|hi|hello|hey|good (?:morning|afternoon|evening))(?:\W+there)?\W*",
    re.IGNORECASE,
)
_THANKS = re.compile(
    r"\W*(?:(?:好的?|ok)\W*)?(?:(?:多谢|谢谢|感谢|謝謝)(?:你|您|了|啦|啊)*"
    r"|thank(?:s| you)(?: very much| a lot| so much)?|thx)\W*",
    re.IGNORECASE,
)

plugin = Plugin("help", help="lists what users can ask for")


@plugin.command("help", "帮助", help="command_help")
async def tell(
    message: Message, session: Session, commands: Commands, catalogue: Catalogue, facts: Facts
) -> str:
    """How to ask, the commands with what they do, and how to reach a person."""
    lines = [session.text("help_intro")]
    told: set[str] = set()
    for handler in commands.handlers():
        name = _name(handler, session.language)
        if name in told or not handler.help or not _may_use(handler, message, facts):
            continue
        told.add(name)
        known = handler.help in catalogue
        text = session.text(handler.help) if known else handler.help
        lines.append(session.text("help_command", name=name, help=text))
    if message.chat.group:
        lines.append(session.text("help_group"))
    lines.append(session.text("help_more", contact=session.text("contact")))
    return "\n".join(lines)


@plugin.command("start", help="command_start")
async def start(session: Session, chat: Chat) -> str:
    """The greeting."""
    greeting = session.text("start")
    return f"{greeting}\n{session.text('help_group')}" if chat.group else greeting


@plugin.event("entered")
async def greet(session: Session) -> str:
    """A greeting for who has just opened a talk with the bot."""
    return session.text("start")


@plugin.message(to_me, priority=75)
async def unknown_command(message: Message, session: Session, commands: Commands, facts: Facts) -> str | None:
    """The nearest command to an unknown one; after those that look things up, before the model."""
    found = _COMMAND.match(message.text)
    if found is None:
        return None
    name = found[1].casefold()
    listed: list[str] = []
    for handler in commands.handlers():
        if name in map(str.casefold, handler.names):
            return None
        if handler.help and _may_use(handler, message, facts):
            listed += handler.names
    near = difflib.get_close_matches(name, listed, n=1)
    if near:
        return session.text("unknown_command_nearest", command=f"/{found[1]}", nearest=f"/{near[0]}")
    return session.text("unknown_command", command=f"/{found[1]}")


@plugin.message(to_me, priority=70)
async def small_talk(message: Message, session: Session) -> str | None:
    """A bare greeting or thanks, unless the FAQ knows a better answer."""
    if _HELLO.fullmatch(message.text):
        return session.text("start")
    return session.text("welcome") if _THANKS.fullmatch(message.text) else None


def _name(handler: Handler, language: str) -> str:
    """The command's name in the user's script, where it has one."""
    wide = [name for name in handler.names if not name.isascii()]
    return wide[0] if wide and language == "zh" else handler.names[0]


def _may_use(handler: Handler, message: Message, facts: Facts) -> bool:
    """Whether the rules let this user through; a cooldown that runs hides nothing, and none is started."""
    trial = replace(facts, cooldowns=Cooldowns())
    return all(rule(message, trial) for rule in handler.rules)
