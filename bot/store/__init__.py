"""The core's tables and the machinery plugins with tables build on."""

from bot.store.audit import TERMINAL, Audit
from bot.store.base import Base
from bot.store.engine import Step, Store
from bot.store.history import History, Round
from bot.store.tally import QUARTER, Count, Tally

__all__ = ["QUARTER", "TERMINAL", "Audit", "Base", "Count", "History", "Round", "Step", "Store", "Tally"]
