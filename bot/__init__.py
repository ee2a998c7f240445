"""glmbot's public API for plugin authors: what is named here stays, everything else may move."""

from bot.errors import AskCancelled, AskTimeout, BotError, ConfigError, DataError, ModelBusy, PluginError
from bot.message import Chat, Message, Segment, User
from bot.plugin import Handler, Next, Plugin
from bot.reply import Answer, Reply, Stream
from bot.rules import Rule, cooldown, group, private, role, to_me, unasked
from bot.session import Session

__all__ = [
    "Answer",
    "AskCancelled",
    "AskTimeout",
    "BotError",
    "Chat",
    "ConfigError",
    "DataError",
    "Handler",
    "Message",
    "ModelBusy",
    "Next",
    "Plugin",
    "PluginError",
    "Reply",
    "Rule",
    "Segment",
    "Session",
    "Stream",
    "User",
    "cooldown",
    "group",
    "private",
    "role",
    "to_me",
    "unasked",
]
