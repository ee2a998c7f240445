"""A connector's place survives the process, one for each bot."""

from __future__ import annotations

from pathlib import Path

from bot.store import Store
from bot.store.cursors import Cursors
from bot.store.migrations import upgrade


async def test_a_cursor_is_moved_and_found_again(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'bot.db'}"
    for expected in (None, "page 2"):
        store = Store(url)
        await upgrade(store)
        store.start()
        cursors = Cursors(store)
        assert await cursors.get("wecom-kf", "care") == expected
        await cursors.put("wecom-kf", "care", "page 1")
        await cursors.put("wecom-kf", "care", "page 2")
        await cursors.put("wecom-kf", "other", "page 9")
        await cursors.put("wecom-kf", "care", "yesterday", "since")
        assert await cursors.get("wecom-kf", "care") == "page 2"
        assert await cursors.get("wecom-kf", "care", "since") == "yesterday"
        await store.close()
