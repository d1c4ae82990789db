"""Real exports: every one loaded, compiled, and held to the definition of exact."""

import gc
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import pytest
from exports import FOLDER, NAMES, Array, load_export

import krypton_onnx as kx
from krypton_onnx.plan import Plan
from krypton_onnx.random_inputs import random_images
from krypton_onnx.runtime.arguments import other_inputs
from krypton_onnx.runtime.engine import Engine

QUERIES = 8
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
    for output, share in movement(path, artifact.plan).items():
        assert share >= MOVED, output
    for check in kx.verify(path, artifact, queries=QUERIES):
        assert check.exact, check
    for file in (path, *artifact.folder.iterdir()):  # some hundred megabytes for the largest
        file.unlink()
    gc.collect()


def movement(path: Path, plan: Plan) -> dict[str, float]:
    """How far a patch of zeros, at the median of a few positions, moves each output, as a share of its size."""
    engine, rng = Engine(path), np.random.default_rng(0)
    image = random_images(rng, plan, 1)
    left_over = other_inputs({}, plan.other_inputs)
    base = engine.run({plan.image.name: image, **left_over})
    shares: dict[str, list[float]] = {output: [] for output in engine.outputs}
    _, *limits = plan.image.shape
    for y, x in rng.integers(0, np.array(limits) - 15, (3, 2)):
        occluded = image.copy()
        channels_first = np.moveaxis(occluded, -1, 1) if plan.channels_last else occluded
        channels_first[:, :, y : y + 16, x : x + 16] = 0
        for output, plain, changed in zip(
            shares, base, engine.run({plan.image.name: occluded, **left_over}), strict=True
        ):
            shares[output].append(relative(changed, plain))
    return {output: median(values) for output, values in shares.items()}


def relative(changed: Array, plain: Array) -> float:
    """The largest difference as a share of the largest value; infinite where shapes differ or numbers are whole."""
    assert np.isfinite(plain).all()
    if changed.shape != plain.shape or plain.dtype.kind != "f":
        return np.inf
    return float(np.abs(changed - plain).max() / np.abs(plain).max())
