"""What `evaluate.py` found, to be read: tables, plots, and the places in the documentation where they go.

`bench` is on the path: what writes pages there writes them here, too.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from methods import SSIMS, TUNED_FOR, Family
from pareto import (
    TARGETS,
    Found,
    OctResult,
    Sample,
    SubjectResult,
    Summary,
    exact_one,
    fastest,
    frontier,
    interpolated,
    of_families,
    summary,
)
from plots import draw
from report import README, cells, fill, table
from subjects import NAMES
from tree import ROOT

PAGE = ROOT / "docs" / "approximation.md"
PLOTS = ROOT / "docs" / "images"

KRYPTON: tuple[Family, ...] = ("Krypton's tau", "Krypton's drill-down")
OURS: tuple[Family, ...] = ("ours, fp32", "ours, int8")

README_ROWS = 6

EQUAL = (
    "model",
    "mean SSIM",
    "exact",
    "Krypton's fastest setting",
    "ours, fp32",
    "between settings",
    "÷ Krypton",
    "ours, int8",
    "between settings",
    "÷ Krypton",
)
PROMISES = ("promise", "maps", "kept", "worst shortfall", "mean SSIM", "5 %", "worst", "same place", "arithmetic saved")
SETTINGS = (
    "setting",
    "speedup",
    "mean SSIM",
    "5 %",
    "worst",
    "as pictures",
    "RMSE",
    "Pearson",
    "rank",
    "top tenth",
    "same place",
    "saved",
)
OWN = ("model", "picture", "level", "speedup", "published", "SSIM", "as pictures", "same place")
SHORT = ("model", "exact", "SSIM 0.9 promised", "SSIM, mean (worst)", "Krypton at mean 0.9", "SSIM 0.95 promised")


def render(found: Found, page: Path, plots: Path) -> None:
    """Write the tables, the plots, and, with the documentation's own page, the README's table.

    Args:
        found: to be written.
        page: with the place ``quality``; made if it is not there.
        plots: folder.
    """
    results = [found.subjects[name] for name in NAMES if name in found.subjects and found.subjects[name].samples]
    if not page.is_file():
        page.write_text("<!-- quality -->\n<!-- /quality -->\n", encoding="utf-8")
    if results:
        plots.mkdir(parents=True, exist_ok=True)
        for result in results:
            draw(result, plot_file(plots, result))
    fill(page, "quality", "\n\n".join(_blocks(results, [one for some in found.oct.values() for one in some])))
    if page == PAGE and results:
        fill(README, "approximate", f"{_where(results)}\n\n{table(SHORT, map(_short_row, results[:README_ROWS]))}")


def plot_file(plots: Path, result: SubjectResult) -> Path:
    """Where a subject's plot goes."""
    return plots / f"approximate_{result.name}.png"


def _blocks(results: Sequence[SubjectResult], own: Sequence[OctResult]) -> Iterable[str]:
    if results:
        yield _where(results)
        yield from _equal(results)
        yield from _promises(results)
    if own:
        yield "### Krypton's settings for OCT"
        yield table(OWN, map(_own_row, own))
    if results:
        yield "### The best settings of each kind"
    for result in results:
        rows = map(_setting_row, _best(result.summaries()))
        plot = f"![Speedup and mean SSIM of every setting on {result.name}](images/{plot_file(PLOTS, result).name})"
        yield f"{plot}\n\n<details><summary>{result.name}</summary>\n\n{table(SETTINGS, rows)}\n\n</details>"


def _best(summaries: Sequence[Summary]) -> Iterable[Summary]:
    """The exact map, and of each family what is not slower and worse than another of it."""
    yield exact_one(summaries)
    for family in dict.fromkeys(one.family for one in summaries if one.family != "exact"):
        yield from reversed(frontier(one for one in summaries if one.family == family))


def _where(results: Sequence[SubjectResult]) -> str:
    machines = {f"{m.cpu}, {m.cores} cores, ONNX Runtime {m.onnxruntime}" for m in (one.machine for one in results)}
    commits = ", ".join(sorted({one.commit for one in results}))
    pictures = ", ".join(f"{one.name} {one.pictures}" for one in results)
    return f"{'; '.join(sorted(machines))}; commit {commits}; pictures: {pictures}{_left_out(results)}."


def _left_out(results: Sequence[SubjectResult]) -> str:
    skipped = sum(len(one.skipped) for one in results)
    return f"; {skipped} more left out, whose exact maps hardly vary" if skipped else ""


# ------------------------------------------------------------------------------------------------ equal quality


def _equal(results: Sequence[SubjectResult]) -> Iterable[str]:
    yield "### At equal quality"
    yield table(EQUAL, (_equal_row(result, target) for result in results for target in TARGETS))


def _equal_row(result: SubjectResult, target: float) -> str:
    summaries = result.summaries()
    exact = exact_one(summaries)
    theirs = fastest(of_families(summaries, *KRYPTON), target)
    ours = [text for family in OURS for text in _ours(summaries, family, target, theirs.speedup)]
    return cells(result.name, target, f"{exact.speedup:.1f}×", f"{theirs.speedup:.1f}× ({theirs.method})", *ours)


def _ours(summaries: Sequence[Summary], family: Family, target: float, theirs: float) -> tuple[str, str, str]:
    """Our fastest setting, the speedup between settings, and the first over Krypton's."""
    settings = of_families(summaries, family)
    if not any(one.family == family for one in settings):
        return "", "", ""
    best = fastest(settings, target)
    between = interpolated(settings, target)
    return f"**{best.speedup:.1f}×** ({best.method})", f"{between:.1f}×", f"{best.speedup / theirs:.2f}"


# ----------------------------------------------------------------------------------------------------- promises


def _promises(results: Sequence[SubjectResult]) -> Iterable[str]:
    """Over all subjects, each map counting alike."""
    yield "### Promises"
    rows = [_promise_row(results, family, target) for target in SSIMS for family in OURS]
    yield table(PROMISES, [*filter(None, rows), _promise_row(results, "Krypton, tuned", TUNED_FOR)])


def _promise_row(results: Sequence[SubjectResult], family: Family, target: float) -> str:
    found = [s for result in results for s in result.samples if s.family == family and s.target == target]
    if not found:
        return ""
    one = _together(found)
    assert one.kept is not None
    return cells(
        f"{target:g}, {family}",
        one.pictures,
        f"{one.kept:.1%}",
        f"{one.shortfall:.3f}",
        f"{one.mean:.3f}",
        f"{one.low:.3f}",
        f"{one.worst:.3f}",
        f"{one.means['same_place']:.0%}",
        "" if one.saved is None else f"{one.saved:.1%}",
    )


def _together(found: Sequence[Sample]) -> Summary:
    return summary(found, 0.0)


# ----------------------------------------------------------------------------------------------------- settings


def _setting_row(one: Summary) -> str:
    means = one.means
    return cells(
        f"{one.family}: {one.method}" if one.family != "exact" else "exact",
        f"{one.speedup:.1f}×",
        f"{one.mean:.3f}",
        f"{one.low:.3f}",
        f"{one.worst:.3f}",
        f"{means['ssim_rendered']:.3f}",
        f"{means['rmse']:.3f}",
        f"{means['pearson']:.3f}",
        f"{means['rank']:.3f}",
        f"{means['overlap']:.0%}",
        f"{means['same_place']:.0%}",
        "" if one.saved is None else f"{one.saved:.1%}",
    )


def _own_row(one: OctResult) -> str:
    alike = one.measures
    return cells(
        one.subject,
        one.picture,
        one.level,
        f"{one.full_seconds / one.seconds:.1f}×",
        f"{one.published:.1f}×" if not one.level.startswith("int8") else "",
        f"{alike.ssim:.3f}",
        f"{alike.ssim_rendered:.3f}",
        "yes" if alike.same_place else "no",
    )


def _short_row(result: SubjectResult) -> str:
    summaries = result.summaries()
    exact = exact_one(summaries)
    theirs = fastest(of_families(summaries, *KRYPTON), TUNED_FOR)
    family = OURS[1] if any(one.family == OURS[1] for one in summaries) else OURS[0]
    good, better = (
        next(one for one in summaries if (one.family, one.target) == (family, target)) for target in (0.9, 0.95)
    )
    return cells(
        result.name,
        f"{exact.speedup:.1f}×",
        f"**{good.speedup:.1f}×**",
        f"{good.mean:.3f} ({good.worst:.3f})",
        f"{theirs.speedup:.1f}×",
        f"**{better.speedup:.1f}×**",
    )
