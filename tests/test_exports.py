"""Real exports: every one loaded, compiled, and held to the definition of exact."""

import gc
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import pytest
from exports import FOLDER, NAMES, Array, load_export
from twin import Original, Twin, probe

import krypton_onnx as kx
from krypton_onnx.random_inputs import random_images, random_input
from krypton_onnx.runtime.base import Outputs
from krypton_onnx.runtime.engine import Engine
from krypton_onnx.verification import OutputCheck, Probe, check_output, noise_of

TYPICAL = 3
"""Queries whose patch is zeros, at any place."""
LARGEST_FILE = 200_000
MOVED = 1e-3
"""Least share of an output's size by which a patch at a typical position shall change it."""


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.onnx")), ids=lambda file: file.stem)
def test_a_fixture_is_small(file: Path) -> None:
    assert file.stat().st_size < LARGEST_FILE


def test_fixtures_and_the_exports_of_the_onnx_wheel_are_found() -> None:
    assert len([name for name in NAMES if name.startswith("light_")]) == 9
    assert len(NAMES) > 50


def test_the_seed_decides_every_byte() -> None:
    first, again, other = (load_export("mobilenet_v2_ts17", seed).SerializeToString() for seed in (3, 3, 4))
    assert first == again
    assert first != other


@pytest.mark.parametrize("name", NAMES)
def test_an_export_is_exact(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.onnx"
    onnx.save(load_export(name), path)
    artifact = kx.compile(path, verify=False)
    pair = beside_its_source(path, artifact)
    asked = list(probes(pair))
    full = [pair.full(probe) for probe in asked]
    for output, share in movement(pair, full[0]).items():
        assert share >= MOVED, output
    checks = held(pair, full, [pair.infer(probe) for probe in asked], full)
    if not all(check.exact for check in checks):
        # Noise only allows more, and to measure it takes longer than all the rest.
        engine = pair.source.unoptimised
        others = [pair.source.run(engine, probe.images(pair.base.image)) for probe in asked]
        checks = held(pair, full, [pair.infer(probe) for probe in asked], others)
    for check in checks:
        assert check.exact, check
    for file in (path, *artifact.folder.iterdir()):  # some hundred megabytes for the largest
        file.unlink()
    gc.collect()


def beside_its_source(path: Path, artifact: kx.Artifact) -> Twin:
    plan, rng = artifact.plan, np.random.default_rng(0)
    others = {info.name: random_input(rng, info) for info in plan.other_inputs}
    session = kx.Session(artifact)
    base = session.materialize(random_images(rng, plan, 1), others)
    return Twin(Original(path, plan, others, Engine(path)), session, base)


def probes(pair: Twin) -> Iterator[Probe]:
    """Queries of the compiled patch, zeros the last few; then one pixel, any size, the whole image."""
    image = pair.base.image
    rng, (_, *extents) = np.random.default_rng(1), image.shape
    planned = probe(rng, image.shape, pair.plan.patch, 4 + TYPICAL, dtype=image.dtype.name)
    planned.origins[4:] = rng.integers(0, np.array(extents) - pair.plan.patch + 1, (TYPICAL, 2))
    content = planned.content.copy()
    content[4:] = 0
    yield Probe(planned.origins, content)
    for height, width in ((1, 1), rng.integers(1, np.array(extents) + 1), extents):
        yield probe(rng, image.shape, (int(height), int(width)), 1, dtype=image.dtype.name)


def held(pair: Twin, full: list[Outputs], ours: list[Outputs], others: list[Outputs]) -> list[OutputCheck]:
    """Hold the answers to all probes to the definition; `others` are further answers of the source."""
    checks = []
    for name, base in pair.base_full.items():
        pairs = zip(full, others, strict=True)
        noise = max(noise_of(one[name], other[name], pair.plan.epsilon) for one, other in pairs)
        checks += [
            check_output(name, mine[name], one[name], base, noise, reduced_precision=pair.plan.reduced_precision)
            for mine, one in zip(ours, full, strict=True)
        ]
    return checks


def movement(pair: Twin, full: Outputs) -> dict[str, float]:
    """How far a patch of zeros, at the median of a few positions, moves each output, as a share of its size."""
    return {
        name: median(relative(np.asarray(changed), pair.base_full[name]) for changed in values[-TYPICAL:])
        for name, values in full.items()
    }


def relative(changed: Array, plain: Array) -> float:
    """The largest difference as a share of the largest value; infinite where shapes differ or numbers are whole."""
    assert np.isfinite(plain).all()
    if changed.shape != plain.shape or plain.dtype.kind != "f":
        return np.inf
    return float(np.abs(changed - plain).max() / np.abs(plain).max())
