"""Single files in other hosts: seconds a heatmap, beside the Python driver. Writes the table of docs/embedding.md.

    tests/hosts/install DIR
    KRYPTON_HOSTS=DIR python bench/hosts.py [--models demo,squeezenet1_1] [--stride 8] [--rounds 3]
    python bench/hosts.py --render

Every host explains the same picture with the same model, in turns, of which the first run only warms up. Within this
process that is the driver, the single file in one run, and the single file in parts, one on each core with one thread.
The others are programs of their own, made of the snippets of docs/embedding.md as its tests make them; the page runs in
Chromium, its time is what it shows. What is not installed has no figure.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from PIL import Image
from report import cells, fill, table
from tree import ROOT, commit

import krypton_onnx as kx
from krypton_onnx import models
from krypton_onnx.benchmark import machine
from krypton_onnx.runtime.side_by_side import available_cores

sys.path.insert(0, str(ROOT / "tests"))
from hosting import HOSTS, build_program, lay_scripts, served

RESULTS = ROOT / "docs" / "hosts.json"
PAGE = ROOT / "docs" / "embedding.md"
SHIPPED = ROOT / "models"
COLUMNS = {
    "driver": "Python driver, s",
    "one run": "one run",
    "parts": "a part a core",
    "c++": "C++, a part a core",
    "node": "onnxruntime-node",
    "wasm": "onnxruntime-web in Node",
    "page": "exported page in Chromium",
}


def measure(name: str, stride: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Seconds of every host for one model."""
    path, preprocess = _model(name, folder)
    question = {"stride": stride, "preprocess": preprocess, "verify": False}
    artifact = kx.compile(path, folder / "a.krypton", preprocess=preprocess, verify=False)
    single = kx.compile_single_file(path, folder / "single.onnx", **question)
    bare = kx.compile_single_file(path, folder / "bare.onnx", defaults=False, **question)
    height, width = (extent or 0 for extent in artifact.plan.image.shape[1:])
    picture = _picture(height, width)
    Image.fromarray(picture).save(folder / "picture.png")
    (folder / "picture.bin").write_bytes(picture.tobytes())
    hosts: dict[str, Callable[[], float]] = _here(artifact, single, picture, preprocess, stride)
    hosts |= _elsewhere(folder, single.path, bare.path, (height, width), path, question)
    here = machine()
    seconds: dict[str, list[float]] = {host: [] for host in hosts}
    for _ in range(rounds):
        for host, run in hosts.items():
            seconds[host].append(run())
    return {
        "model": name,
        "image": f"{height}×{width}",
        "stride": stride,
        "queries": single.origins.size // 2,
        "bytes": {"model": path.stat().st_size, "single file": single.path.stat().st_size,
                  "artifact": sum(file.stat().st_size for file in artifact.folder.iterdir())},
        "seconds": {host: median(times) for host, times in seconds.items()},
        "machine": f"{here.cpu}, {here.cores} cores, ONNX Runtime {here.onnxruntime}, {here.system}",
        "commit": commit(),
    }  # fmt: skip


def _model(name: str, folder: Path) -> tuple[Path, kx.Preprocess]:
    if name == "demo":
        return SHIPPED / "demo.onnx", kx.Preprocess.from_json(SHIPPED / "demo_preprocess.json")
    path = folder / f"{name}.onnx"
    onnx.save(models.build(name), path)
    size = 299 if name == "inception_v3" else 224
    return path, kx.Preprocess.for_input((3, size, size))


def _picture(height: int, width: int) -> Any:
    image = kx.open_picture(SHIPPED / "pictures" / "nine.png")
    return np.array(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))


def timed(run: Callable[[], object]) -> float:
    """Seconds of a second run."""
    run()
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _here(
    artifact: kx.Artifact, single: kx.SingleFile, picture: Any, preprocess: kx.Preprocess, stride: int
) -> dict[str, Callable[[], float]]:
    session, cores = kx.Session(artifact, providers=["CPUExecutionProvider"]), available_cores()
    tensor = preprocess.tensor(picture)

    def loaded(threads: int) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, threads
        return ort.InferenceSession(str(single.path), options, providers=["CPUExecutionProvider"])

    whole, apart, pool = loaded(cores), loaded(1), ThreadPoolExecutor(cores)

    def in_parts() -> None:
        def part(number: int) -> object:
            return apart.run(["heatmap"], {"image": picture[None], "part": np.array([number, cores])})

        list(pool.map(part, range(cores)))

    return {
        "driver": lambda: timed(lambda: session.explain(tensor, stride=stride, progress=False)),
        "one run": lambda: timed(lambda: whole.run(None, {"image": picture[None]})),
        "parts": lambda: timed(in_parts),
    }


def _elsewhere(
    folder: Path, single: Path, bare: Path, size: tuple[int, int], model: Path, question: dict[str, Any]
) -> dict[str, Callable[[], float]]:
    picture, found = folder / "picture.bin", {}
    if (HOSTS / "include").exists():
        program, cores = build_program(folder), available_cores()

        def cpp() -> float:
            command = [program, "single", single, picture, *size, cores, -1, 2]
            return float(_run(command, folder).stderr.split()[-1])

        found["c++"] = cpp
    if (HOSTS / "node_modules").exists():
        scripts = lay_scripts(folder)

        def node(package: str, provider: str) -> float:
            command = ["node", "single.mjs", package, provider, bare, picture, *size, -1, 2]
            return float(json.loads(_run(command, scripts).stdout)["seconds"][-1])

        found |= {"node": partial(node, "onnxruntime-node", "cpu"), "wasm": partial(node, "onnxruntime-web", "wasm")}
        found["page"] = _page(folder, model, question)
    return found


def _page(folder: Path, model: Path, question: dict[str, Any]) -> Callable[[], float]:
    page, packages = folder / "page", HOSTS / "node_modules"
    kx.export_web(model, page, samples=[folder / "picture.png"], runtime=packages / "onnxruntime-web", **question)

    def opened() -> float:
        driver = ROOT / "tests" / "hosts" / "browser.mjs"
        with served(page) as address:
            command = ["node", driver, f"{address}?picture=samples/picture.png", folder / "page.png"]
            found = json.loads(_run(command, folder).stdout)
        return float(found["result"]["seconds"])

    return opened


def _run(command: list[Any], folder: Path) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)


def render(results: list[dict[str, Any]]) -> None:
    """Write the table."""
    heading = ("model, image, stride", "queries", "MB: model, single file, artifact", *COLUMNS.values())
    machines = "; ".join(dict.fromkeys(f"{one['machine']}, commit {one['commit']}" for one in results))
    fill(PAGE, "hosts", f"{machines}; medians. Behind the driver's seconds, times as multiples of it.\n\n"
         + table(heading, (cells(*_row(one)) for one in results)))  # fmt: skip


def _row(result: dict[str, Any]) -> tuple[str, ...]:
    seconds = result["seconds"]
    cells = [f"{seconds['driver']:.2f}"]
    cells += [f"{seconds[host] / seconds['driver']:.2f}×" if host in seconds else "" for host in list(COLUMNS)[1:]]
    sizes = ", ".join(f"{count / 1e6:.2f}" for count in result["bytes"].values())
    return f"{result['model']} {result['image']}, {result['stride']}", str(result["queries"]), sizes, *cells


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="demo,squeezenet1_1,mobilenet_v2,resnet18", help="with commas between them")
    parser.add_argument("--stride", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--render", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for name in () if arguments.render else arguments.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            found = measure(name, arguments.stride, arguments.rounds, Path(folder))
        results = [one for one in results if one["model"] != name] + [found]
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(" | ".join(_row(found)), flush=True)
    render(results)


if __name__ == "__main__":
    main()
