"""glmbot's public API for plugin authors: what is named here stays, everything else may move.

What costs more than a few milliseconds to import is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bot.answered import Answered
from bot.errors import (
    AskCancelled,
    AskTimeout,
    BotError,
    ConfigError,
    ConnectorError,
    DataError,
    ModelBusy,
    ModelError,
    PluginError,
    Undeliverable,
)
from bot.message import Chat, Message, Segment, User
from bot.personal_data import mask as mask_personal_data
from bot.plugin import Commands, Handler, Next, Plugin
from bot.reply import Answer, Attachment, Reply, Stream
from bot.rules import Cooldowns, Facts, Rule, cooldown, group, parse_duration, private, role, to_me, unasked
from bot.session import Session

if TYPE_CHECKING:
    from bot.background import Background
    from bot.catalogue import Catalogue
    from bot.channels import Channels
    from bot.config_values import ConfigPath
    from bot.memory import Memory
    from bot.metrics import Metrics
    from bot.scheduler import cron_trigger
    from bot.upkeep import FileState, Source, glance, keep_index
    from bot.workspace import Workspace, open_workspace, run_command

__all__ = [
    "Answer",
    "Answered",
    "AskCancelled",
    "AskTimeout",
    "Attachment",
    "Background",
    "BotError",
    "Catalogue",
    "Channels",
    "Chat",
    "Commands",
    "ConfigError",
    "ConfigPath",
    "ConnectorError",
    "Cooldowns",
    "DataError",
    "Facts",
    "FileState",
    "Handler",
    "Memory",
    "Message",
    "Metrics",
    "ModelBusy",
    "ModelError",
    "Next",
    "Plugin",
    "PluginError",
    "Reply",
    "Rule",
    "Segment",
    "Session",
    "Source",
    "Stream",
    "Undeliverable",
    "User",
    "Workspace",
    "cooldown",
    "cron_trigger",
    "glance",
    "group",
    "keep_index",
    "mask_personal_data",
    "open_workspace",
    "parse_duration",
    "private",
    "role",
    "run_command",
    "to_me",
    "unasked",
]

_LATER = {
    "Background": "bot.background",
    "Catalogue": "bot.catalogue",
    "Channels": "bot.channels",
    "ConfigPath": "bot.config_values",
    "FileState": "bot.upkeep",
    "Memory": "bot.memory",
    "Metrics": "bot.metrics",
    "Source": "bot.upkeep",
    "Workspace": "bot.workspace",
    "cron_trigger": "bot.scheduler",
    "glance": "bot.upkeep",
    "keep_index": "bot.upkeep",
    "open_workspace": "bot.workspace",
    "run_command": "bot.workspace",
}


def __getattr__(name: str) -> Any:
    home = _LATER.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value
