"""Where the time of the graphs goes: by operator, and node by node.

    python bench/operators.py MODEL.onnx [--patch 16] [--stride 4] [--top 20]

Both graphs run under ONNX Runtime's profiler: ours on an even sample of the grid's batches, the unmodified model at its
best batch size. Everything is for the mean query. Bytes are those of a node's inputs and outputs, weights too, whole
even where a node reads only part; operations are counted for Conv, Gemm and MatMul from the profile's shapes, padded
channels of blocked kernels among them.
"""

import argparse
import math
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

import krypton_onnx as kx
from krypton_onnx.artifact import Artifact
from krypton_onnx.plain_model import PlainModel
from krypton_onnx.plan import Plan
from krypton_onnx.runtime.providers import CPU, Provider
from krypton_onnx.segment_times import profiled
from krypton_onnx.sweep import SAMPLE, Sweep, answered

ARITHMETIC = ("Conv", "Gemm", "MatMul")
"""Operators whose floating-point operations are counted."""


@dataclass(frozen=True, slots=True)
class OperatorCost:
    """All nodes of one operator, for the mean query.

    Attributes:
        operator: as ONNX Runtime names its kernel, without "Fused".
        seconds: in its kernels.
        bytes: of its inputs and outputs.
        flops: two per multiply-add; 0 where they are not counted.
    """

    operator: str
    seconds: float
    bytes: float
    flops: float


@dataclass(frozen=True, slots=True)
class NodeCost:
    """One node, for the mean query.

    Attributes:
        name: ONNX Runtime's, after its optimisations.
        cost: under its operator.
        shapes: of inputs and output, in the last batch.
    """

    name: str
    cost: OperatorCost
    shapes: str


def profile_incremental(artifact: Artifact, sweep: Sweep, providers: Sequence[Provider] = (CPU,)) -> list[NodeCost]:
    """The nodes of the incremental graph and of the tail, on an even sample of the grid's batches."""

    def run(options: ort.SessionOptions) -> tuple[list[int], int]:
        session = kx.Session(artifact, providers, session_options=options, threads=1)
        batches = sweep.batches(session, sweep.origins, SAMPLE)
        for _ in range(2):  # the first warms up
            sweep.seconds(session, sweep.origins, SAMPLE)
        groups = len({batch.group for batch in batches})
        return [len(batches), *([groups] if artifact.plan.tail else [])], answered(batches)

    return _profile(run)


def profile_plain(model: Path, plan: Plan, sweep: Sweep, batch: int) -> list[NodeCost]:
    """The nodes of the unmodified model, in batches of this size."""

    def run(options: ort.SessionOptions) -> tuple[list[int], int]:
        plain = PlainModel(model, plan, options)
        runs = math.ceil(SAMPLE / batch)
        for _ in range(2):
            plain.run(sweep.image, sweep.origins[: runs * batch], sweep.content, batch)
        return [runs], runs * batch

    return _profile(run)


def costs(nodes: Iterable[NodeCost]) -> tuple[OperatorCost, ...]:
    """By operator, the slowest first."""
    by_operator: defaultdict[str, list[OperatorCost]] = defaultdict(list)
    for node in nodes:
        by_operator[node.cost.operator].append(node.cost)
    return tuple(sorted((total(name, all_) for name, all_ in by_operator.items()), key=lambda c: -c.seconds))


def total(name: str, parts: Iterable[OperatorCost]) -> OperatorCost:
    """The sum of costs, under a name."""
    listed = list(parts)
    return OperatorCost(
        name, sum(c.seconds for c in listed), sum(c.bytes for c in listed), sum(c.flops for c in listed)
    )


# -------------------------------------------------------------------------------------- reading the profile


def _profile(run: Callable[[ort.SessionOptions], tuple[list[int], int]]) -> list[NodeCost]:
    """Nodes of the graphs that `run` opens last; it gives (runs of each to count, the last ones; queries)."""
    (runs, queries), profiles = profiled(run)
    counted = zip(profiles[-len(runs) :], runs, strict=True)
    return [cost for pair in counted for cost in node_costs(_last(*pair), queries)]


def _last(events: list[dict[str, Any]], runs: int) -> list[dict[str, Any]]:
    """The nodes' events of the last runs."""
    begin = [event["ts"] for event in events if event["name"] == "model_run"][-runs]
    return [event for event in events if event["cat"] == "Node" and event["ts"] >= begin]


def node_costs(events: Iterable[dict[str, Any]], queries: int) -> list[NodeCost]:
    """Costs by node, in the order in which they ran.

    Args:
        events: the profile's, of nodes.
        queries: that the runs answered.
    """
    by_name: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        if event["name"].endswith("_kernel_time"):
            by_name[event["name"].removesuffix("_kernel_time")].append(event)
    return [_node_cost(name, runs, queries) for name, runs in by_name.items()]


def _node_cost(name: str, runs: list[dict[str, Any]], queries: int) -> NodeCost:
    arguments = [event["args"] for event in runs]
    sizes = ("activation_size", "parameter_size", "output_size")
    cost = OperatorCost(
        operator=_operator(arguments[0]),
        seconds=sum(event["dur"] for event in runs) / 1e6 / queries,
        bytes=sum(int(one[size]) for one in arguments for size in sizes) / queries,
        flops=sum(map(_flops, arguments)) / queries,
    )
    read, made = (_shapes(arguments[-1], way) for way in ("input", "output"))
    return NodeCost(name, cost, f"{' '.join(map(_text, read))} → {_text(made[0])}")


def _operator(arguments: dict[str, Any]) -> str:
    return str(arguments["op_name"]).removeprefix("Fused")


def _flops(arguments: dict[str, Any]) -> int:
    if _operator(arguments) not in ARITHMETIC:
        return 0
    read, (made, *_) = _shapes(arguments, "input"), _shapes(arguments, "output")
    return 2 * math.prod(made) * (math.prod(read[1][1:]) if _operator(arguments) == "Conv" else read[0][-1])


def _shapes(arguments: dict[str, Any], way: str) -> list[list[int]]:
    return [shape for typed in arguments[f"{way}_type_shape"] for shape in typed.values()]


def _text(shape: list[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


# ------------------------------------------------------------------------------------------------- printing


def table(ours: tuple[OperatorCost, ...], plain: tuple[OperatorCost, ...]) -> str:
    """Operators of ours beside the plain graph's, in text."""
    others = {cost.operator: cost for cost in plain}
    whole = total("all", ours)
    lines = [f"{'operator':<20}{'ms':>9}{'share':>7}{'MB':>9}{'GFLOP/s':>9}   {'plain ms':>9}{'MB':>9}{'GFLOP/s':>9}"]
    for cost in (*ours, whole):
        other = total("all", plain) if cost is whole else others.get(cost.operator, OperatorCost("", 0, 0, 0))
        lines.append(
            f"{cost.operator:<20}{cost.seconds * 1e3:9.3f}{cost.seconds / whole.seconds:7.1%}{cost.bytes / 1e6:9.2f}"
            f"{_rate(cost)}   {other.seconds * 1e3:9.3f}{other.bytes / 1e6:9.2f}{_rate(other)}"
        )
    return "\n".join(lines)


def top(nodes: list[NodeCost], count: int) -> str:
    """The slowest nodes, in text."""
    slowest = sorted(nodes, key=lambda node: -node.cost.seconds)[:count]
    return "\n".join(
        f"{n.cost.seconds * 1e6:9.1f} us{n.cost.bytes / 1e6:9.2f} MB{_rate(n.cost)} GFLOP/s  "
        f"{n.cost.operator:<12} {n.name[-60:]:<60} {n.shapes}"
        for n in slowest
    )


def _rate(cost: OperatorCost) -> str:
    return f"{cost.flops / cost.seconds / 1e9:9.0f}" if cost.flops else " " * 9


def main() -> None:
    """Profile and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--stride", type=int, default=4)
    parser.add_argument("--top", type=int, default=20, help="slowest nodes to print of each graph")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        artifact = kx.compile(arguments.model, Path(folder) / "artifact", patch=arguments.patch, verify=False)
        sweep = Sweep.random(artifact.plan, arguments.patch, arguments.stride, np.random.default_rng(0), {})
        tried = PlainModel(arguments.model, artifact.plan).best_batch(sweep.image, sweep.content)
        batch = min(tried, key=lambda size: tried[size])
        ours = profile_incremental(artifact, sweep)
        plain = profile_plain(arguments.model, artifact.plan, sweep, batch)
    print(f"For the mean query; plain at batch {batch}\n\n{table(costs(ours), costs(plain))}")
    print(f"\nSlowest nodes of the incremental graph\n{top(ours, arguments.top)}")
    print(f"\nSlowest nodes of the plain graph\n{top(plain, arguments.top)}")


if __name__ == "__main__":
    main()
