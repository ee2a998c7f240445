"""/help and /start: a greeting, and the commands that this user may use."""

from __future__ import annotations

from dataclasses import replace

from bot import Catalogue, Chat, Commands, Cooldowns, Facts, Handler, Message, Plugin, Session

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


def _name(handler: Handler, language: str) -> str:
    """The command's name in the user's script, where it has one."""
    wide = [name for name in handler.names if not name.isascii()]
    return wide[0] if wide and language == "zh" else handler.names[0]


def _may_use(handler: Handler, message: Message, facts: Facts) -> bool:
    """Whether the rules let this user through; a cooldown that runs hides nothing, and none is started."""
    trial = replace(facts, cooldowns=Cooldowns())
    return all(rule(message, trial) for rule in handler.rules)
