"""All that needs a GPU, in one command: exactness, speed beside full inference on the same device, memory, profiles.

    python bench/gpu.py [--models vgg16,resnet18] [--json gpu.json] [--repeats 5]
    python bench/gpu.py --device cpu --models squeezenet1_1

Every case runs in a process of its own. Both sides take turns, in the same ONNX Runtime with the same options, without
TF32. Full inference is run at its best batch size in two ways: as a service would, with images made on the host; and
with one batch that lies on the device already, outputs left there, which asks nothing of it but the arithmetic. Ours
begins with the image on the host and ends with all outputs there. The speedups are over the faster of the two. Where
PyTorch is installed, its own eager inference of the same network is a third baseline. A second table has the whole grid
in other ways: with one run in flight, with CUDA graphs, channels last, in TF32, in float16. With `--device cpu` the
processor is the device, to try the script where there is none: nothing follows from its figures.
"""

import argparse
import importlib.util
import json
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import onnx
from operators import costs, profile_incremental
from results import CASES, GROWTH, Case
from tree import commit

import krypton_onnx as kx
from krypton_onnx import models, plan
from krypton_onnx.benchmark import in_turns, largest_difference, machine
from krypton_onnx.plain_model import BATCHES, PlainModel, timed
from krypton_onnx.runtime import device_driver, session
from krypton_onnx.runtime.engine import Engine
from krypton_onnx.runtime.failures import OutOfMemoryError
from krypton_onnx.runtime.providers import CPU, CUDA, Provider, chosen
from krypton_onnx.runtime.resident import Device
from krypton_onnx.sweep import Sweep

DEVICES: dict[plan.Device, list[Provider]] = {"cuda": [CUDA, CPU], "cpu": [CPU]}

WAYS: dict[plan.Device, dict[str, dict[str, str]]] = {
    "cuda": {
        "one in flight": {},
        "CUDA graphs": {"enable_cuda_graph": "1"},
        "channels last": {"prefer_nhwc": "1"},
        "TF32": {"use_tf32": "1"},
        "float16": {},
    },
    "cpu": {"one in flight": {}, "float16": {}},
}
"""Other ways to answer the whole grid, and what CUDA's provider is told for them."""

HAS_TORCH = importlib.util.find_spec("torch") is not None

APPROXIMATE = {"ssim 0.9": kx.Approximate(ssim=0.9), "speedup 10": kx.Approximate(speedup=10)}

LONG = 2.0
"""Seconds of a run beyond which no larger batch is tried."""

TOP = 6
"""Operators that are named of a profile."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was found for one case; seconds are medians.

    Attributes:
        case: its name.
        queries: of the whole grid.
        batch: full inference's best, on the device.
        plain_seconds: a query of full inference from the host, and on the device.
        torch_seconds: the same by PyTorch, on the device; None where it is not installed.
        seconds: of our whole grid, base run and all outputs included.
        base_seconds: of the base run.
        few_seconds: by number of queries, base run included.
        approximate_seconds: by mode, the heatmap.
        way_seconds: by way, the whole grid.
        difference: the largest |ours − full inference| of any output, and the largest output.
        memory: bytes in use on the device by this process behind both sides; None where nothing tells.
        operators: seconds a query, where they are most.
    """

    case: str
    queries: int
    batch: int
    plain_seconds: tuple[float, float]
    torch_seconds: float | None
    seconds: float
    base_seconds: float
    few_seconds: dict[int, float]
    approximate_seconds: dict[str, float]
    way_seconds: dict[str, float]
    difference: tuple[float, float]
    memory: int | None
    operators: dict[str, float]

    @property
    def plain(self) -> float:
        """Seconds a query of the faster full inference."""
        return min(self.plain_seconds)

    def speedup(self, seconds: float, queries: int) -> float:
        """Over full inference."""
        return self.plain * queries / seconds

    def row(self) -> str:
        """Of the table."""
        few = (f"{self.speedup(seconds, count):.2f}" for count, seconds in self.few_seconds.items())
        soon = (f"{1e3 * seconds:.0f} ms" for seconds in self.approximate_seconds.values())
        used = "" if self.memory is None else f"{self.memory / 1e9:.2f} GB"
        whole = f"{self.speedup(self.seconds, self.queries):.2f} | {1e3 * self.seconds:.0f} ms"
        plain = f"{1e3 * self.plain_seconds[0]:.3g}, {1e3 * self.plain_seconds[1]:.3g} ms ({self.batch})"
        error = f"{self.difference[0]:.1e} of {self.difference[1]:.2g}"
        base = f"{1e3 * self.base_seconds:.1f} ms"
        torch = "" if self.torch_seconds is None else f"{1e3 * self.torch_seconds:.3g} ms"
        return f"| {' | '.join([self.case, plain, torch, whole, *few, *soon, base, error, used])} |"

    def ways(self) -> str:
        """Of the second table: how much sooner than as usual."""
        return f"| {' | '.join([self.case, *(f'{self.seconds / s:.2f}' for s in self.way_seconds.values())])} |"


def header() -> str:
    """Of the table."""
    names = ["case", "full inference: host, device (batch)", "PyTorch", "whole grid ×", "whole grid"]
    names += [f"{n} ×" for n in GROWTH]
    names += [*APPROXIMATE, "base run", "difference", "memory"]
    return f"| {' | '.join(names)} |\n|{'---|' * len(names)}"


def measured(case: Case, kind: plan.Device, repeats: int) -> Found:
    """One case, in this process."""
    device, providers = Device(kind), chosen(DEVICES[kind])
    told: dict[str, Any] = {"device_of": lambda _: device}  # the processor, too
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.multiple(session, **told),
        mock.patch.multiple(device_driver, **told),
    ):
        path = Path(folder) / "model.onnx"
        onnx.save(models.build(case.model, input_size=case.size), path)
        artifact = kx.compile(path, patch=case.patch, device=kind, verify=False)
        ours = kx.Session(artifact, providers)
        rng = np.random.default_rng(0)
        sweep = Sweep.random(artifact.plan, case.patch, case.stride, rng, {})
        plain = PlainModel(path, artifact.plan, providers=providers)
        tried = plain.best_batch(sweep.image, sweep.content)
        best = min(tried, key=lambda size: tried[size])
        resident, batch = on_device(Engine(path, providers), device, sweep)
        torch, torch_batch = on_torch(path, kind, sweep) if HAS_TORCH else (None, 1)
        half = kx.compile(
            path, Path(folder) / "half.krypton", patch=case.patch, device=kind, precision="float16", verify=False
        )
        ways = {
            name: kx.Session(
                half if name == "float16" else artifact,
                chosen([(CUDA, options), CPU] if kind == "cuda" else [CPU]),
                threads=1 if name == "one in flight" else None,
            )
            for name, options in WAYS[kind].items()
        }
        sample = sweep.sample(rng, max(best, 64))
        few = {count: sweep.sample(rng, count) for count in GROWTH if count < len(sweep.origins)}
        explained = {
            name: partial(ours.explain, sweep.image, 0, patch=case.patch, stride=case.stride, mode=mode, progress=False)
            for name, mode in APPROXIMATE.items()
        }
        turns: dict[str, Callable[[], float]] = {
            "host": partial(timed, partial(plain.run, sweep.image, sample, sweep.content, best)),
            "device": partial(timed, resident),
            "ours": partial(sweep.seconds, ours, sweep.origins),
            "base": partial(timed, partial(ours.materialize, sweep.image)),
            **{str(count): partial(sweep.seconds, ours, origins) for count, origins in few.items()},
            **{name: partial(timed, explain) for name, explain in explained.items()},
            **{name: partial(sweep.seconds, session, sweep.origins) for name, session in ways.items()},
            **({} if torch is None else {"torch": partial(timed, torch)}),
        }
        seconds = {name: median(values) for name, values in in_turns(turns, repeats).items()}
        exact = plain.run(sweep.image, sample, sweep.content, best)
        profiled = profile_incremental(artifact, sweep, providers)
        memory = used_memory() if kind == "cuda" else None
        return Found(
            case=case.name,
            queries=len(sweep.origins),
            batch=batch,
            plain_seconds=(seconds["host"] / len(sample), seconds["device"] / batch),
            torch_seconds=None if torch is None else seconds["torch"] / torch_batch,
            seconds=seconds["ours"],
            base_seconds=seconds["base"],
            few_seconds={count: seconds[str(count)] for count in few},
            approximate_seconds={name: seconds[name] for name in APPROXIMATE},
            way_seconds={name: seconds[name] for name in ways},
            difference=(
                largest_difference(ours.infer(sweep.image, sample, sweep.content), exact),
                float(max(np.abs(np.asarray(values)).max() for values in exact.values())),
            ),
            memory=memory,
            operators={one.operator: one.seconds for one in costs(profiled)[:TOP]},
        )


def on_device(engine: Engine, device: Device, sweep: Sweep) -> tuple[Callable[[], object], int]:
    """Full inference of a batch that lies on the device, at the best size; and that size."""
    name = next(iter(engine.shapes))
    found: dict[int, tuple[Callable[[], object], float]] = {}
    for batch in (*BATCHES, 2 * max(BATCHES), 4 * max(BATCHES)):
        try:
            images = device.put(np.repeat(sweep.image[None], batch, axis=0))
            run = partial(engine.run_on, device, {name: images}, dict.fromkeys(engine.outputs))
            run()
            seconds = min(timed(run) for _ in range(4))
        except OutOfMemoryError:
            break
        found[batch] = run, seconds / batch
        if seconds > LONG:
            break
    best = min(found, key=lambda batch: found[batch][1])
    return found[best][0], best


def on_torch(model: Path, kind: plan.Device, sweep: Sweep) -> tuple[Callable[[], object], int]:
    """PyTorch's full inference of a batch that lies on the device, at the best size; and that size."""
    import torch
    from torch_twin import torch_twin

    network = torch_twin(onnx.load(model)).to(kind)
    found: dict[int, tuple[Callable[[], object], float]] = {}
    for batch in BATCHES:
        images = torch.from_numpy(np.repeat(sweep.image[None], batch, axis=0)).to(kind)

        def run(images: torch.Tensor = images) -> None:
            with torch.inference_mode():
                network(images)
            if kind == "cuda":
                torch.cuda.synchronize()

        run()
        seconds = min(timed(run) for _ in range(4))
        found[batch] = run, seconds / batch
        if seconds > LONG:
            break
    best = min(found, key=lambda batch: found[batch][1])
    return found[best][0], best


def used_memory() -> int | None:
    """Bytes that this process has of the device's memory, by the driver's own tool."""
    asked = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    if shutil.which(asked[0]) is None:
        return None
    said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.splitlines()
    mine = [used for pid, used in (line.split(", ") for line in said) if pid == str(os.getpid())]
    return int(mine[0]) * 2**20 if mine and mine[0].isdecimal() else None


def main() -> None:
    """Measure, print the table, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(models.NAMES), help="names, separated by commas; all by default")
    parser.add_argument("--device", choices=DEVICES, default="cuda")
    parser.add_argument("--repeats", type=int, default=5, help="turns")
    parser.add_argument("--json", type=Path, help="file for what was found")
    options = parser.parse_args()
    wanted = options.models.split(",")
    if unknown := set(wanted) - {case.model for case in CASES}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(models.NAMES)}")
    cases = [case for case in CASES if case.model in wanted]
    found = []
    print(header(), flush=True)
    for case in cases:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            found.append(pool.submit(measured, case, options.device, options.repeats).result())
        print(found[-1].row(), flush=True)
        if options.json:
            about = {"commit": commit(), "machine": asdict(machine()), "device": options.device}
            options.json.write_text(json.dumps({**about, "cases": [asdict(one) for one in found]}, indent=1))
    names = ["whole grid, × as usual", *WAYS[options.device]]
    print(f"\n| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for one in found:
        print(one.ways())
    slowest = sorted(found, key=lambda one: one.speedup(one.seconds, one.queries))[:2]
    for one in slowest:
        total = math.fsum(one.operators.values())
        print(f"{one.case}: " + ", ".join(f"{name} {value / total:.0%}" for name, value in one.operators.items()))


if __name__ == "__main__":
    main()
