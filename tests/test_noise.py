"""Verification measures the runtime's noise where an answer is in doubt without, and nowhere else."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from twin import residual_net

import krypton_onnx as kx
from krypton_onnx.artifact import file_checksum
from krypton_onnx.runtime.engine import Engine
from krypton_onnx.source import Source


def scaled_net(path: Path, factor: float) -> Path:
    """The same network with its last weights, and so its answers, a little larger."""
    model = residual_net()
    *_, weight = (t for t in model.graph.initializer if len(t.dims) > 1)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(factor), weight.name))
    onnx.save(model, path)
    return path


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Makes the source's answers without graph optimisation a thousandth larger; notes each time they are wanted."""
    asked: list[float] = []
    louder = scaled_net(tmp_path / "louder.onnx", 1.001)

    def unoptimised(self: Source) -> Engine:
        asked.append(1.001)
        return Engine(louder)

    replacement = cached_property(unoptimised)
    replacement.__set_name__(Source, "unoptimised")
    monkeypatch.setattr(Source, "unoptimised", replacement)
    return asked


def test_an_answer_beyond_doubt_needs_no_other_run(tmp_path: Path, measured: list[float]) -> None:
    kx.compile(scaled_net(tmp_path / "net.onnx", 1.0), patch=4)
    assert measured == []


@pytest.mark.parametrize(("factor", "exact"), [(1.0005, True), (1.002, False)])
def test_an_answer_in_doubt_is_held_to_the_measured_noise(
    tmp_path: Path, measured: list[float], factor: float, exact: bool
) -> None:
    """The artifact of a model that answers a little more: by less than the noise, or by more."""
    path = scaled_net(tmp_path / "net.onnx", 1.0)
    artifact = kx.compile(scaled_net(tmp_path / "other.onnx", factor), patch=4, verify=False)
    plan = replace(artifact.plan, source=replace(artifact.plan.source, sha256=file_checksum(path)))
    (check,) = kx.verify(path, replace(artifact, plan=plan), queries=12)
    assert measured == [1.001]
    assert check.exact is exact
    assert check.noise > 0.4 * check.error
