"""Hunt: random nets × random queries, compiled models beside their sources, until the time is up.

    python bench/fuzz.py --graphs 20000 --seed 0 --processes 2 --minutes 60 --report out.json
    python bench/fuzz.py --only 1234            # one seed, in this process, with what goes wrong
    python bench/fuzz.py --shrink 1234 -o x.onnx  # the smallest net that still goes wrong
    python bench/fuzz.py --layers resizing.resize # mostly these layers

Seeds are independent of each other: a hunt goes on where another stopped with `--seed` (the report's `next_seed`).
Each worker is a process of its own, so that a crash costs one seed, which is counted, and not the hunt.
"""

import argparse
import json
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

import krypton_onnx as kx
from krypton_onnx.passes import planner
from krypton_onnx.passes.planner import LEAST_SPEEDUP

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from nets import THEMES, Net, Seeded, focused, random_net
from outcomes import Outcome, Report
from shrinking import shrink
from twin import UnusableError, probes, some_patch, twin

QUERIES, MANY = 12, 150
"""Of the compiled patch, for each graph; about as many of other sizes come along. Some graphs get several batches."""

STILL, FAINT = 1e-6, 3e-5
"""An output that moves by less than the first is rounding alone (terms that cancel, sums over a constant map); ONNX
Runtime adds a batch in another order than one image, which such an output shows up to the second."""

SECONDS = 120
"""A seed that takes longer hangs."""

SCRATCH = "/dev/shm" if Path("/dev/shm").is_dir() else None


# ------------------------------------------------------------------------------------------------------ one seed


def drawn(seed: int, layers: str | None) -> Net:
    """The net of a seed, of all layers or mostly of these."""
    return random_net(Seeded(np.random.default_rng(seed)), seed, focused(layers) if layers else THEMES)


def set_policy(seed: int) -> bool:
    """Let the planner decide as it does, or always for one way of computing: small nets gain by none.

    Returns:
        Whether it decides by itself.
    """
    shipped, full = seed % 8 == 0, seed % 8 == 1
    planner.LEAST_SPEEDUP = LEAST_SPEEDUP if shipped else np.inf if full else 0.0
    return shipped


def attempt(seed: int, net: Net) -> Outcome:
    """Compile the net of a seed and compare."""
    shipped = set_policy(seed)
    rng = np.random.default_rng(seed)
    patch = some_patch(rng, net)
    outcome = Outcome(seed)
    with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
        try:
            pair = twin(net, Path(folder), patch, seed, as_shipped=shipped)
            checks = []
            for probe in probes(rng, net, patch, MANY if seed % 32 == 5 else QUERIES):
                checks += pair.check(probe)
                outcome.queries += len(probe.origins)
        except UnusableError as error:
            return Outcome(seed, "discarded", reason=plain(str(error)))
        except kx.KryptonError as error:
            return Outcome(seed, "refused", reason=plain(str(error)), detail={"message": str(error)})
        except Exception as error:  # whatever a bug raises is a finding
            where = traceback.extract_tb(error.__traceback__)[-1]
            reason = f"{type(error).__name__} in {Path(where.filename).name}:{where.name}: {plain(str(error))}"
            return Outcome(seed, "refused", reason=reason, detail={"message": traceback.format_exc()})
    outcome.still = all(check.moved < 1e-3 for check in checks)
    outcome.frontiers = [plain(node.reason) for node in pair.plan.dense]
    outcome.windowed = windowed_share(net.model, {t for w in pair.plan.windows for t in w.tensors})
    wrong = max((check for check in checks if not check.exact), key=lambda check: check.share, default=None)
    if wrong is not None and wrong.moved < STILL and wrong.error < FAINT:
        outcome.kind = "faint"
    elif wrong is not None:
        outcome.kind = "mismatch"
        outcome.detail = {**asdict(wrong), "operators": sorted({n.op_type for n in net.model.graph.node})}
    return outcome


def plain(message: str) -> str:
    """A message without names and numbers, so that equal causes are counted together."""
    text = message.split("Status Message:")[-1].split(" failed:")[-1].split("shape inference:")[-1]
    text = re.sub(r"/\S*/\S*", "…", text)
    text = re.sub(r"'[^']*'|\([a-z]+\d+(\.\d+)?\)", "'…'", text)
    return re.sub(r"-?\d+(\.\d+)?", "#", text).strip()[:160]


def windowed_share(model: onnx.ModelProto, windowed: set[str]) -> dict[str, tuple[int, int]]:
    """By operator, how many of the nodes that make maps from the image run in windows, and how many there are."""
    moving = {"image"}
    flat = {"Flatten", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "Gemm", "ArgMax", "TopK"}
    counts: dict[str, tuple[int, int]] = {}
    for node in model.graph.node:
        if not moving.intersection(node.input):
            continue
        if node.op_type in flat or (node.op_type.startswith("Reduce") and node.output[0] not in windowed):
            continue
        moving.update(node.output)
        done, total = counts.get(node.op_type, (0, 0))
        counts[node.op_type] = (done + bool(windowed.intersection(node.output)), total + 1)
    return counts


# ---------------------------------------------------------------------------------------------------- the hunt


def work(pipe: Connection, layers: str | None) -> None:
    """A worker: seeds in, outcomes out."""
    ort.set_default_logger_severity(4)
    while True:
        seed = pipe.recv()
        pipe.send(attempt(seed, drawn(seed, layers)))


class Worker:
    """A process, and the seed that it is busy with."""

    def __init__(self, layers: str | None) -> None:
        context = get_context("spawn")
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=work, args=(end, layers), daemon=True)
        self.process.start()
        end.close()
        self.seed, self.since = -1, 0.0

    def give(self, seed: int) -> None:
        """Let it try a seed."""
        self.seed, self.since = seed, time.monotonic()
        self.pipe.send(seed)

    def take(self) -> Outcome:
        """The outcome, or a crash."""
        try:
            outcome: Outcome = self.pipe.recv()
        except EOFError:
            return Outcome(self.seed, "crash")
        return outcome

    def stop(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.join()


def hunt(seeds: range, processes: int, minutes: float, layers: str | None) -> Iterator[Outcome]:
    """Outcomes of the seeds, in the order in which they are done."""
    end = time.monotonic() + 60 * minutes
    waiting = iter(seeds)
    workers: list[Worker] = []
    while True:
        while len(workers) < processes and time.monotonic() < end and (seed := next(waiting, None)) is not None:
            workers.append(Worker(layers))
            workers[-1].give(seed)
        if not workers:
            return
        wait([w.pipe for w in workers], timeout=1.0)
        for worker in list(workers):
            if worker.pipe.poll():
                outcome = worker.take()
            elif time.monotonic() - worker.since > SECONDS:
                outcome = Outcome(worker.seed, "crash")
            else:
                continue
            yield outcome
            seed = None if outcome.kind == "crash" or time.monotonic() > end else next(waiting, None)
            if seed is None:
                worker.stop()
                workers.remove(worker)
            else:
                worker.give(seed)


def main() -> None:
    """Read the command line and hunt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=int, default=1000, help="seeds to try")
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--layers", help="draw mostly these, as in resizing.conv_transpose,channels.LAYERS")
    parser.add_argument("--report", type=Path, help="JSON file, written every minute")
    parser.add_argument("--only", type=int, help="replay this seed")
    parser.add_argument("--shrink", type=int, help="reduce the net of this seed")
    parser.add_argument("-o", "--output", type=Path, help="where --only and --shrink write the net")
    arguments = parser.parse_args()
    ort.set_default_logger_severity(4)
    if arguments.only is not None or arguments.shrink is not None:
        replay(arguments.only if arguments.shrink is None else arguments.shrink, arguments)
        return
    report, begin, written = Report(next_seed=arguments.seed), time.monotonic(), 0.0
    seeds = range(arguments.seed, arguments.seed + arguments.graphs)
    for outcome in hunt(seeds, arguments.processes, arguments.minutes, arguments.layers):
        report.add(outcome)
        report.seconds = time.monotonic() - begin
        if outcome.kind in ("mismatch", "crash"):
            print(outcome.kind, outcome.seed, outcome.detail, flush=True)
        if arguments.report and report.seconds - written > 60:
            written = report.seconds
            arguments.report.write_text(json.dumps(report.summary(), indent=1))
    text = json.dumps(report.summary(), indent=1)
    if arguments.report:
        arguments.report.write_text(text)
    print(text)


def replay(seed: int, arguments: argparse.Namespace) -> None:
    """Show what goes wrong with one seed, reduced on demand."""
    net = drawn(seed, arguments.layers)
    outcome = attempt(seed, net)
    if arguments.shrink is not None:
        net, outcome = shrink(net, outcome, lambda smaller: attempt(seed, smaller))
    for part in (onnx.printer.to_text(net.model), outcome.kind, outcome.reason, outcome.detail):
        print(part)
    if arguments.output:
        onnx.save(net.model, arguments.output)


if __name__ == "__main__":
    main()
