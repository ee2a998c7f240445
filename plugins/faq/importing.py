"""Takes entries of any file into the table, where they stay whatever the configured files say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import time

from bot.retrieval import Entry
from bot.store import Tally
from plugins.faq.entries import Doubles, Record
from plugins.faq.tables import IMPORTED, FaqTable


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did: numbers of entries, `total` being all imported ones afterwards."""

    new: int
    changed: int
    unchanged: int
    removed: int
    total: int


async def import_records(
    table: FaqTable, records: Sequence[tuple[Path, Record]], *, replace: bool = False
) -> Imported:
    """Add entries, change those with a known id; with `replace` drop all other imported ones.

    Raises DataError for a question or id that stands elsewhere; nothing is written then. Raises StoreError.
    """
    stored = await table.by_origin()
    before = {entry.id: entry for entry in stored.pop(IMPORTED, [])}
    coming = {record.entry.id for _, record in records}
    kept = {} if replace else {key: entry for key, entry in before.items() if key not in coming}
    doubles = Doubles()
    for origin, entries in {"the imported entries": kept.values(), **stored}.items():
        for entry in entries:
            doubles.note(entry, Path(origin).name)
    for file, record in records:
        doubles.add(record.entry, f"{file.name}, row {record.row}", file=file, row=record.row)
    fresh = [record.entry for _, record in records]
    order = {key: position for position, key in enumerate(before)}
    merged = sorted([*kept.values(), *fresh], key=lambda entry: order.get(entry.id, len(order)))
    now = time()
    noted = [
        Tally.add(now, "", "changed", f"{'~' if entry.id in before else '+'}{entry.texts[0]}")
        for entry in fresh
        if not _same(before.get(entry.id), entry)
    ]
    if replace:
        noted += [
            Tally.add(now, "", "changed", f"-{entry.texts[0]}")
            for key, entry in before.items()
            if key not in coming
        ]
    await table.write({IMPORTED: merged}, noted=noted)
    new = sum(entry.id not in before for entry in fresh)
    same = sum(_same(before.get(entry.id), entry) for entry in fresh)
    removed = len(before.keys() - coming) if replace else 0
    return Imported(new, len(fresh) - new - same, same, removed, len(merged))


def _same(old: Entry | None, entry: Entry) -> bool:
    return old is not None and (old.texts, old.answer, old.tags) == (entry.texts, entry.answer, entry.tags)
