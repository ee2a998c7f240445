"""A store that breaks off in the middle of its work."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncSession

from bot.errors import StoreError
from bot.store import Store


class Cut(Store):
    """A store that breaks off after some transactions, as a crash would."""

    left = 10**6

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        self.left -= 1
        if self.left < 0:
            raise StoreError("cut")
        async with super().session() as session:
            yield session
