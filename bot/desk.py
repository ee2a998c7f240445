"""What every turn works with."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from bot.catalogue import Catalogue
from bot.metrics import Metrics
from bot.outbox import Outbox
from bot.store.engine import Store
from bot.store.history import History
from bot.store.inbox import Inbox
from bot.store.outbox import OutboxTable
from model.types import ChatModel


@dataclass(frozen=True, slots=True)
class Desk:
    """What every turn works with; one per running bot."""

    store: Store
    inbox: Inbox
    outbox: Outbox
    outbox_table: OutboxTable
    history: History
    catalogue: Catalogue
    metrics: Metrics
    model: ChatModel | None
    deadline: float
    history_budget: int
    history_rounds: int
    current: dict[asyncio.Task[Any], str] = field(default_factory=dict)
