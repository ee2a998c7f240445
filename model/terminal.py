"""What commands show besides their results, all of it on stderr: progress and the log."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def log_to_stderr() -> None:
    """Standard output is for answers."""
    import structlog

    structlog.configure(
        processors=[
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def console() -> Console:
    """Progress goes to stderr, so that stdout holds results only."""
    from rich.console import Console

    return Console(stderr=True)
