"""The chart of docs/benchmarks.md. matplotlib is imported when it is drawn."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from results import Result, Side

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "0.25"
"""Grey of all text and lines."""

BARS: tuple[tuple[Side, str, str], ...] = (
    ("incremental", "krypton-onnx", "#1f6f8b"),
    ("uniform", "krypton-onnx with Krypton's uniform windows", "#9ec5d1"),
    ("captum", "Captum's Occlusion, PyTorch", "#d9a05b"),
)
"""Side, what the legend calls it, colour."""

BAR = 0.27
"""Thickness of a bar; cases are 1 apart."""


def draw(results: Sequence[Result], file: Path) -> None:
    """Every case's bars; beside them growth with the queries and with the image."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "svg.hashsalt": "",  # the same figures give the same file
    }
    with rc_context(style):
        figure = Figure(figsize=(10, 1.6 + 0.5 * max(len(results), 6)), layout="constrained")
        panels = figure.subplot_mosaic([["cases", "queries"], ["cases", "size"]], width_ratios=[1.7, 1])
        _cases(panels["cases"], results)
        _queries(panels["queries"], [result for result in results if result.growth])
        _sizes(panels["size"], results)
        figure.legend(loc="outside lower center", ncols=len(BARS) + 1, frameon=False)
        figure.savefig(file, metadata={"Date": None})


def _cases(axes: "Axes", results: Sequence[Result]) -> None:
    """Bars to the right of 1 are faster than full inference, bars to the left slower: equal ratios, equal lengths."""
    for number, (side, label, colour) in enumerate(BARS):
        there = [(place + (number - 1) * BAR, r.speedup(side)) for place, r in enumerate(results) if side in r.sides]
        axes.barh([place for place, _ in there], [g - 1 for _, g in there], BAR, left=1, color=colour, label=label)
        for place, gain in there:
            _figure(axes, place, gain)
    for place, result in enumerate(results):
        ends = [place - 1.5 * BAR, place + 1.5 * BAR]
        axes.plot([result.bound] * 2, ends, color="black", linewidth=1.5, label=None if place else "bound")
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.02)
    axes.set_xticks([0.25, 0.5, 1, 2, 4, 8, 16], labels=["¼×", "½×", "1×", "2×", "4×", "8×", "16×"])
    axes.minorticks_off()
    axes.set_yticks(range(len(results)), labels=[result.case.name for result in results])
    axes.invert_yaxis()
    axes.set_title("Times as fast as full inference on ONNX Runtime", loc="left", color=INK, fontsize=9)


def _figure(axes: "Axes", place: float, gain: float) -> None:
    """The figure across the line from its bar, where nothing else stands."""
    shift, side = (-3, "right") if gain >= 1 else (3, "left")
    look = {"fontsize": 7, "color": INK, "va": "center_baseline", "ha": side}
    axes.annotate(f"{gain:.2f}", (1, place), xytext=(shift, 0), textcoords="offset points", **look)


def _queries(axes: "Axes", results: Sequence[Result]) -> None:
    for result in results:
        _line(axes, result.case.model, result.growth_speedups)
    axes.set_xscale("log")
    axes.set_xticks([16, 64, 256, 1024, 4096], labels=["16", "64", "256", "1024", "4096"])
    axes.minorticks_off()
    _finish(axes, "… by number of queries, base run included")


def _sizes(axes: "Axes", results: Sequence[Result]) -> None:
    points: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
    for result in results:
        points[result.case.model].append((result.case.size, result.speedup("incremental")))
    grown = {model: sorted(line) for model, line in points.items() if len(line) > 1}
    for model, line in grown.items():
        _line(axes, model, line)
    axes.set_xticks(sorted({size for line in grown.values() for size, _ in line}))
    _finish(axes, "… by size of the image, pixels along a side")


def _line(axes: "Axes", model: str, points: Sequence[tuple[int, float]]) -> None:
    (line,) = axes.plot(*zip(*points, strict=True), marker="o", markersize=3)
    colour = line.get_color()
    axes.annotate(model, points[-1], xytext=(5, -3), textcoords="offset points", fontsize=8, color=colour)


def _finish(axes: "Axes", title: str) -> None:
    axes.axhline(1, color=INK, linewidth=0.8, linestyle=":")
    axes.margins(x=0.25)
    axes.set_ylim(bottom=0)
    axes.set_title(title, loc="left", color=INK, fontsize=9)
