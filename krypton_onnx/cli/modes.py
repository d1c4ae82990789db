"""Options that say how exact a heatmap has to be."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from krypton_onnx.errors import KryptonError

if TYPE_CHECKING:
    from krypton_onnx.modes import Mode

Function = TypeVar("Function", bound=Callable[..., Any])


def drill_down(text: str) -> tuple[float, int]:
    """``0.1:13``: the fraction that is asked again, and the coarse grid's stride."""
    fraction, _, stride = text.partition(":")
    try:
        return float(fraction), int(stride)
    except ValueError:
        raise click.BadParameter(
            f"'{text}' is no drill-down: give a fraction and the stride of the coarse grid, such as 0.1:13."
        ) from None


def mode_options(function: Function) -> Function:
    """`--approximate` and what it may promise."""
    for decorator in (
        click.option("--seed", type=int, default=0, show_default=True, help="Of the positions that are checked."),
        click.option(
            "--drill-down",
            type=drill_down,
            metavar="R:S1",
            help="Approximate by Krypton's drill-down: a coarse grid of stride S1, then the lowest fraction R again.",
        ),
        click.option(
            "--tau",
            type=float,
            metavar="T",
            help="Approximate by Krypton's thresholding: windows of up to this share of a map's rows and columns.",
        ),
        click.option(
            "--speedup", type=float, metavar="N", help="Approximate, so many times as fast as full inference."
        ),
        click.option(
            "--ssim", type=float, metavar="S", help="Approximate, with this similarity to the exact heatmap promised."
        ),
        click.option("--approximate", is_flag=True, help="Approximate, with --ssim 0.9."),
    ):
        function = decorator(function)
    return function


def as_mode(options: dict[str, Any]) -> "Mode":
    """The mode that the options ask for; exact without any.

    Raises:
        KryptonError: they contradict one another.
    """
    from krypton_onnx.modes import Approximate, DrillDown, Exact

    asked = {name: options[name] for name in ("ssim", "speedup", "tau") if options[name] is not None}
    drill: DrillDown | None = None
    if options["drill_down"] is not None:
        fraction, stride = options["drill_down"]
        drill = DrillDown(fraction, stride)
    if options["approximate"] and (asked.keys() - {"ssim"} or drill is not None):
        raise KryptonError("--approximate promises a similarity; omit it beside --speedup, --tau and --drill-down.")
    if not (asked or drill or options["approximate"]):
        return Exact()
    return Approximate(**asked, drill_down=drill, seed=options["seed"])


def approximation_text(done: dict[str, Any]) -> str:
    """One line about what was done for an approximate heatmap: a record's ``approximation``."""
    asked = ", ".join(f"{one['queries']} {_how(one['level'])}" for one in done["queries"])
    lines = [f"Approximate: {asked}"]
    if done["ssim_bound"] == 1:
        lines.append("this is the exact heatmap")
    elif done["ssim_bound"] is not None:
        lines.append(f"SSIM to the exact heatmap at least {_down(done['ssim_bound'])} (promised by calibration)")
    if done["rmse"] is not None:
        low, high = done["rmse_interval"]
        lines.append(f"RMSE {done['rmse']:.2g} ({low:.2g} to {high:.2g}) by {done['probes']} exact probes")
    return "; ".join(lines)


def _how(level: str) -> str:
    """How queries of a level are answered, in words."""
    in_bytes, tau = level.startswith("int8"), level.partition("tau ")[2]
    words = (["in bytes"] if in_bytes else []) + ([f"in windows cut to {tau}"] if tau else [])
    return " and ".join(words) or "exactly"


def _down(value: float) -> float:
    """Three digits, rounded towards less."""
    return int(value * 1000) / 1000
