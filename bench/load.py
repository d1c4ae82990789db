"""The service under load: throughput, latency, memory, wrong answers. Writes the table of docs/serving.md.

    python bench/load.py [--models demo,squeezenet1_1] [--running 2] [--requests 48]
    python bench/load.py --render

For each model a service is started, on the loopback, and asked by KServe's own client from this process, on the same
cores: a heatmap a request, of one of eight pictures, whose base runs are in the cache after a first turn that warms up.
Every answer is compared with the driver's, bit for bit. The driver in this process, asked one heatmap after the other
before and after, is what throughput is measured by.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
from report import cells, fill, table
from tree import ROOT, commit

import krypton_onnx as kx
from krypton_onnx import models
from krypton_onnx.benchmark import machine

sys.path.insert(0, str(ROOT / "tests"))
from serving import InferenceRESTClient, RESTConfig, Service, arrays, asked, started, tensor

RESULTS = ROOT / "docs" / "serving.json"
PAGE = ROOT / "docs" / "serving.md"
LOADS = (1, 4, 16)
PICTURES = 8
TIMEOUT = 600.0


def measure(name: str, stride: int, running: int, requests: int, folder: Path) -> dict[str, Any]:
    """One model."""
    path = folder / f"{name}.onnx"
    onnx.save(onnx.load(ROOT / "models" / "demo.onnx") if name == "demo" else models.build(name), path)
    artifact = kx.compile(path, folder / f"{name}.krypton", verify=False)
    session = kx.Session(artifact, ["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    pictures = [generator.random(artifact.plan.model_shape, np.float32) for _ in range(PICTURES)]
    expected = [session.explain(picture, stride=stride, progress=False).scores for picture in pictures]
    here = machine()
    options = (f"{name}={artifact.folder}", "--running", running, "--device", "cpu")
    with started(folder, *options) as service:
        question = (name, pictures, expected, stride)
        asyncio.run(
            _load(service, *question, max(LOADS), max(LOADS))
        )  # every picture, and as many threads as there will be
        alone = [_driver(session, pictures, stride)]
        loads = [asyncio.run(_load(service, *question, concurrent, requests)) for concurrent in LOADS]
        alone.append(_driver(session, pictures, stride))
    return {
        "model": name,
        "stride": stride,
        "queries": expected[0].size,
        "running": running,
        "driver": median(alone),
        "loads": loads,
        "machine": f"{here.cpu}, {here.cores} cores, ONNX Runtime {here.onnxruntime}, {here.system}",
        "commit": commit(),
    }


def _driver(session: kx.Session, pictures: list[Any], stride: int) -> float:
    """Seconds a heatmap in this process, of pictures whose base is there."""
    bases = [session.materialize(picture) for picture in pictures]
    started_ = time.perf_counter()
    for base in bases:
        session.explain(base, stride=stride, progress=False)
    return (time.perf_counter() - started_) / len(bases)


async def _load(
    service: Service,
    name: str,
    pictures: list[Any],
    expected: list[Any],
    stride: int,
    concurrent: int,
    requests: int,
) -> dict[str, Any]:
    """So many requests, so many of them at a time."""
    rest, seconds, wrong = iter(range(requests)), [], 0
    before = service.resident
    clients = [InferenceRESTClient(RESTConfig(protocol="v2", timeout=TIMEOUT)) for _ in range(concurrent)]

    async def ask(client: InferenceRESTClient) -> None:
        nonlocal wrong
        for number in rest:
            which = number % len(pictures)
            begun = time.perf_counter()
            request = asked([tensor("image", pictures[which][None])], stride=stride)
            response = await client.infer(service.url, request, model_name=name)
            seconds.append(time.perf_counter() - begun)
            wrong += not np.array_equal(arrays(response.outputs)["heatmap"][0], expected[which])

    begun = time.perf_counter()
    await asyncio.gather(*map(ask, clients))
    total = time.perf_counter() - begun
    for client in clients:
        await client.close()
    return {
        "concurrent": concurrent,
        "requests": requests,
        "a second": requests / total,
        "percentiles": dict(zip(("50", "90", "99"), np.percentile(seconds, (50, 90, 99)).tolist(), strict=True)),
        "wrong": wrong,
        "resident": [before, service.resident],
    }


def render(results: list[dict[str, Any]]) -> None:
    """Write the table."""
    heading = ("model, stride", "at a time", "heatmaps a second", "of the driver's", "50 %, s", "90 %, s", "99 %, s",
               "wrong", "MB before, after")  # fmt: skip
    machines = "; ".join(dict.fromkeys(f"{one['machine']}, commit {one['commit']}" for one in results))
    rows = (cells(*_row(one, load)) for one in results for load in one["loads"])
    fill(PAGE, "load", f"{machines}; {results[0]['running']} computed at a time.\n\n{table(heading, rows)}")


def _row(result: dict[str, Any], load: dict[str, Any]) -> tuple[str, ...]:
    percentiles = [f"{load['percentiles'][which]:.2f}" for which in ("50", "90", "99")]
    memory = ", ".join(f"{size / 1e6:.0f}" for size in load["resident"])
    share = f"{load['a second'] * result['driver']:.2f}×"
    name = f"{result['model']}, {result['stride']} ({result['queries']} queries)"
    asked_ = f"{load['concurrent']} of {load['requests']}"
    return name, asked_, f"{load['a second']:.2f}", share, *percentiles, str(load["wrong"]), memory


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="demo,squeezenet1_1,resnet18", help="with commas between them")
    parser.add_argument("--stride", type=int, default=8)
    parser.add_argument("--running", type=int, default=2)
    parser.add_argument("--requests", type=int, default=48, help="at each concurrency")
    parser.add_argument("--render", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    if not arguments.render:
        for name in arguments.models.split(","):
            with tempfile.TemporaryDirectory() as folder:
                found = measure(name, arguments.stride, arguments.running, arguments.requests, Path(folder))
            print(json.dumps(found, indent=1), flush=True)
            results = [one for one in results if one["model"] != name] + [found]
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    render(results)


if __name__ == "__main__":
    main()
