"""The plots of docs/approximation.md. matplotlib is imported when they are drawn."""

from pathlib import Path

from methods import Family
from pareto import SubjectResult, exact_one, frontier

INK = "0.25"
"""Grey of all text and lines."""

SERIES: tuple[tuple[Family, str, str], ...] = (
    ("Krypton's tau", "s", "#d9a05b"),
    ("Krypton's drill-down", "^", "#a8473b"),
    ("ours, fp32", "o", "#1f6f8b"),
    ("ours, int8", "D", "#5b3a8c"),
)
"""Family, mark, colour."""

LEAST = 0.5
"""SSIM; what is worse is not drawn."""

TICKS = (1, 2, 3, 5, 8, 10, 15, 20, 30, 40, 60, 80, 120, 160)


def draw(result: SubjectResult, file: Path) -> None:
    """Speedup and mean SSIM of every setting, a line along the best of each family; the worst SSIM as a faint mark."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    style = {
        "font.size": 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }
    summaries = result.summaries()
    with rc_context(style):
        figure = Figure(figsize=(9, 5), layout="constrained")
        axes = figure.subplots()
        for family, mark, colour in SERIES:
            settings = [one for one in summaries if one.family == family]
            if not settings:
                continue
            speedups = [one.speedup for one in settings]
            axes.plot(speedups, [one.worst for one in settings], mark, color=colour, alpha=0.2, markersize=4)
            axes.plot(speedups, [one.mean for one in settings], mark, color=colour, markersize=6, label=family)
            edge = frontier(settings)
            axes.plot([one.speedup for one in edge], [one.mean for one in edge], color=colour, linewidth=1.2)
        axes.plot(exact_one(summaries).speedup, 1.0, "*", color="black", markersize=11, label="exact")
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        axes.set_xticks(shown := [tick for tick in TICKS if low <= tick <= high], labels=[f"{tick}×" for tick in shown])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(max(LEAST, axes.get_ylim()[0]), 1.01)
        axes.grid(axis="y", color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel("times as fast as full inference")
        axes.set_ylabel("SSIM to the exact heatmap")
        title = f"{result.name}, {result.pictures} pictures: mean, and faintly the worst"
        axes.set_title(title, loc="left", color=INK, fontsize=11)
        figure.legend(loc="outside lower center", ncols=len(SERIES) + 1, frameon=False)
        figure.savefig(file, dpi=100, metadata={"Software": None})
