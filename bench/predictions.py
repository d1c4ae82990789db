"""How far the planner's predictions are off: every segment of the seven models' plans, predicted and measured.

    python bench/predictions.py [--models resnet18,vgg16] [--patch 16] [--stride 4]

One core; full inference, predicted and measured, tells how fast the machine is. Where a segment that takes a fiftieth
of a query's time or more is off by more than a quarter, the cost model (`passes/cost.py`) is to be mended.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from results import Case
from sides import Prepared

import krypton_onnx as kx
from krypton_onnx import models
from krypton_onnx.segment_times import SegmentTime, measure_segments

COUNTS, ALLOWED = 0.02, 0.25
"""Shares: of a query's time from which on a segment counts; of its own time that it may be off."""


def main() -> None:
    """Print the segments that count, and the worst of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(models.NAMES), help="names, separated by commas; all by default")
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--stride", type=int, default=4)
    asked = parser.parse_args()
    for name in asked.models.split(","):
        size = 299 if name == "inception_v3" else 224
        with tempfile.TemporaryDirectory() as folder:
            prepared = Prepared(Case(name, size, asked.patch, asked.stride), Path(folder))
            prepared.prepare()
            artifact = kx.open_artifact(prepared.artifact)
            patch, stride = (asked.patch,) * 2, (asked.stride,) * 2
            report(name, measure_segments(prepared.model, artifact, patch, stride, {}))


def report(name: str, found: Sequence[SegmentTime]) -> None:
    """Print one model's segments."""
    whole = sum(time.measured for time in found)
    print(f"{name}: {sum(t.predicted for t in found) * 1e3:.3f} ms a query predicted, {whole * 1e3:.3f} ms measured")
    for time in (t for t in found if t.measured >= COUNTS * whole):
        off = time.predicted / time.measured - 1
        where = "in windows" if time.segment.windowed else "in full"
        flag = "  <-- more than a quarter" if abs(off) > ALLOWED else ""
        print(f"  {time.segment.extents!s:>12} {where:<10} {time.measured * 1e3:9.3f} ms {off:+5.0%}{flag}", flush=True)


if __name__ == "__main__":
    main()
