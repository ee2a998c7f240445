"""The core's tables and the machinery plugins with tables build on."""

from bot.store.base import Base
from bot.store.engine import Step, Store
from bot.store.history import History, Round

__all__ = ["Base", "History", "Round", "Step", "Store"]
