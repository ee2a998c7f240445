"""Questions and escalations by day as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import date


def draw(days: Sequence[tuple[date, int, int]]) -> bytes | None:
    """A PNG; None where matplotlib is not installed, or there are less than two days. Takes half a second."""
    if len(days) < 2:
        return None
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        return None
    figure = Figure(figsize=(8, 3.6), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = range(len(days))
    axes.bar(places, [asked for _, asked, _ in days], color="#7aa6c2", label="questions")
    axes.bar(places, [escalated for _, _, escalated in days], color="#c2573f", label="handed over")
    axes.set_xticks(
        list(places), [f"{day:%m-%d}" for day, _, _ in days], rotation=45 if len(days) > 10 else 0
    )
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    picture = io.BytesIO()
    canvas.print_png(picture)
    return picture.getvalue()
