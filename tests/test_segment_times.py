"""Where time goes, by the plan's segments: names and events by hand, then a real run."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import krypton_onnx as kx
from krypton_onnx import models
from krypton_onnx.cli import main
from krypton_onnx.segment_times import _owner, _seconds, measure_segments

OF_TENSOR = {"a": 0, "block/relu": 1, "block/conv": 2}


@pytest.mark.parametrize(
    ("name", "segment"),
    [
        ("block/relu/window", 1),
        ("block/relu/window_rows", 1),
        ("a/for_block/conv/cells", 2),
        ("block/relu/overlay", 1),
        ("reads/rows/gather", None),
        ("block", None),
    ],
)
def test_tensors_belong_to_the_tensor_that_they_are_named_after(name: str, segment: int | None) -> None:
    assert _owner(name, OF_TENSOR) == segment


def event(name: str, microseconds: int) -> dict[str, object]:
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": microseconds}


def test_what_has_no_name_counts_for_what_follows() -> None:
    run = {"cat": "Session", "name": "model_run", "dur": 99}
    events = [event("x", 5), event("ReorderInput", 2), event("y_nchwc", 10), event("ReorderOutput", 1), run]
    (first, second) = _seconds([*events, event("x", 7), run], {"x": 0, "y": 1}, 2)
    np.testing.assert_allclose(first, [5e-6, 13e-6])
    np.testing.assert_allclose(second, [7e-6, 0])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("segments") / "squeezenet.onnx"
    onnx.save(models.build("squeezenet1_1", input_size=96), path)
    return path


def test_every_segment_takes_time(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("krypton_onnx.sweep.SAMPLE_BATCHES", 2)
    artifact = kx.compile(model, patch=8, verify=False)
    found = measure_segments(model, artifact, (8, 8), (16, 16), {})
    assert [time.segment for time in found] == list(artifact.plan.segments)
    assert all(time.measured > 0 and time.predicted > 0 for time in found)
    computed = [name for segment in artifact.plan.segments for name in segment.tensors]
    assert len(computed) == len(set(computed)) > 60


def test_the_plan_as_text_and_as_json(model: Path) -> None:
    text = CliRunner().invoke(main, ["inspect", str(model), "--patch", "8", "--plan"], catch_exceptions=False).output
    assert "where windows lie" in text
    assert "in windows" in text
    assert "100.0%" in text
    command = ["inspect", str(model), "--patch", "8", "--stride", "16", "--measure"]
    text = CliRunner().invoke(main, command, catch_exceptions=False).output
    assert "measured, ms" in text
    found = json.loads(CliRunner().invoke(main, [*command, "--json"], catch_exceptions=False).output)
    assert len(found["measured"]) == len(found["segments"]) > 3
