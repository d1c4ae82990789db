"""`--live`: a heatmap while it is computed, drawn with characters in a terminal, or as the picture written anew."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from krypton_onnx.heatmap import Heatmap

_COLUMNS = 64
"""Of characters; each shows two cells, one above the other."""


def watched(drafts: "Iterable[Heatmap]", output: Path, picture: "NDArray[Any] | None", title: Any) -> "Heatmap":
    """Show every draft and return the last.

    Args:
        drafts: heatmaps, better and better.
        output: the file that is written anew for each, unless standard error is a terminal.
        picture, title: see `Heatmap.save`.
    """
    terminal, last, height = sys.stderr.isatty(), None, 0
    for draft in drafts:
        if terminal:
            drawn = "\n".join([*drawing(draft), _caption(draft)])
            click.echo((f"\x1b[{height}A\x1b[J" if height else "") + drawn, err=True)
            height = drawn.count("\n") + 1
        elif not draft.done:
            draft.save(output, picture, title=title(draft))
        last = draft
    assert last is not None
    return last


def drawing(heatmap: "Heatmap") -> list[str]:
    """Lines of coloured half blocks: red supports the prediction, blue speaks against it."""
    import numpy as np

    drop = heatmap.drop if heatmap.drop.ndim == 2 else heatmap.drop[0]
    rows, cols = drop.shape
    step = max(1, -(-cols // _COLUMNS))
    cells = drop[: rows - rows % step or rows : step, ::step]
    cells = np.nan_to_num(cells, nan=0.0, posinf=0.0, neginf=0.0)
    colours = _colours(cells / (np.abs(cells).max() or 1.0))
    if len(colours) % 2:
        colours = np.concatenate([colours, colours[-1:]])
    return [
        "".join(f"\x1b[38;2;{_rgb(top)};48;2;{_rgb(bottom)}m▀" for top, bottom in zip(upper, lower, strict=True))
        + "\x1b[0m"
        for upper, lower in zip(colours[::2], colours[1::2], strict=True)
    ]


def _colours(values: "NDArray[np.float32]") -> "NDArray[np.int64]":
    """Values from -1 to 1 as [.., .., 3] from blue through white to red."""
    import numpy as np

    pale = 1 - np.abs(values)
    red, blue = np.where(values >= 0, 1.0, pale), np.where(values <= 0, 1.0, pale)
    colours: NDArray[np.int64] = (255 * np.stack([red, pale, blue], axis=-1)).astype(np.int64)
    return colours


def _rgb(colour: "NDArray[np.int64]") -> str:
    return ";".join(str(int(part)) for part in colour)


def _caption(draft: "Heatmap") -> str:
    done = draft.record.get("approximation", {})
    bound = done.get("ssim_bound")
    similar = "" if bound is None else f", SSIM at least {int(bound * 1000) / 1000}"
    return f"{'done' if draft.done else 'so far'}: {draft.record['seconds']:.2f} s{similar}"
