"""Keeps every table bounded: rows older than the retention go, a few at a time."""

from __future__ import annotations

import asyncio
import time

import structlog

from bot.desk import Desk
from bot.errors import StoreError
from bot.store import Audit, Tally

log = structlog.get_logger(__name__)
EVERY = 3600.0
PAUSE = 0.05


async def keep_tidy(desk: Desk, days: int) -> None:
    """Expire rows now and every hour until cancelled; one page at a time, so that writers hardly notice."""
    while True:
        try:
            removed = await expire(desk, time.time() - days * 86400.0)
            if removed:
                log.info("old rows removed", rows=removed, older_than_days=days)
        except StoreError as error:
            log.warning("cannot remove old rows", problem=str(error))
        except Exception:
            log.exception("cannot remove old rows")
        await asyncio.sleep(EVERY)


async def expire(desk: Desk, before: float) -> int:
    """Remove what is older than a unix time; returns the number of rows."""
    removed = 0
    for table in (desk.inbox, desk.outbox_table, desk.history, Tally(desk.store), Audit(desk.store)):
        while count := await table.expire(before):
            removed += count
            await asyncio.sleep(PAUSE)
    return removed
