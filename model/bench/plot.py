"""A roofline: what was reached, under what reading and multiplying allow (Williams et al. 2009)."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from model.bench.report import Report
from model.types import ModelError

_MARKERS = {"glmbot": "o", "llama.cpp": "s", "chatglm.cpp": "^"}


def check_plot() -> None:
    """Raise ModelError where matplotlib is missing: before hours are spent measuring."""
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError:
        remedy = "run: pip install 'glmbot[bench]', or leave --plot out"
        raise ModelError("a plot needs matplotlib, which is not installed", remedy=remedy) from None


def plot(report: Report, file: Path) -> None:
    """Write the PNG. Raises ModelError where matplotlib or the probes are missing."""
    check_plot()
    from matplotlib.figure import Figure

    figures = [figure for figure in report.figures if figure.reached and figure.unit == "tok/s"]
    if not figures:
        problem = "there is no roofline without the native library, which probes the machine"
        raise ModelError(problem, file=file, remedy="leave --plot out")
    picture = Figure(figsize=(8, 5), layout="constrained")
    axes = picture.subplots()
    limits = [limit for figure in figures for one in figure.reached for limit in (one.before, one.after)]
    bandwidth, peak = median(one.bandwidth for one in limits), median(one.macs for one in limits)
    knee, intensities = peak / bandwidth, [figure.intensity for figure in figures]
    low, high = min(knee, *intensities) / 2, max(knee, *intensities) * 2
    label = f"limits: {bandwidth / 1e9:.0f} GB/s, {peak / 1e9:.0f} GMAC/s"
    axes.plot([low, knee, high], [low * bandwidth / 1e9, peak / 1e9, peak / 1e9], "k", label=label)
    for subject, marker in _MARKERS.items():
        own = [figure for figure in figures if figure.subject == subject]
        reached = [median(one.macs for one in figure.reached) / 1e9 for figure in own]
        if own:
            axes.plot([figure.intensity for figure in own], reached, marker, label=subject)
        for figure, macs in zip(own, reached, strict=True):
            name = figure.name.replace("decode, batch ", "×").replace("prefill, ", "").replace(" tokens", "t")
            place = (figure.intensity, macs)
            axes.annotate(name, place, fontsize=7, xytext=(4, -9), textcoords="offset points")
    axes.set(xscale="log", yscale="log", xlabel="products for each byte read", ylabel="GMAC/s")
    axes.set_title(report.title, fontsize=8)
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend()
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(file, dpi=150)
