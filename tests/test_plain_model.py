"""Full inference for comparison: which batches a model takes."""

from pathlib import Path

import numpy as np
import onnx
from onnx import helper
from twin import average, normal, small_net

import krypton_onnx as kx
from krypton_onnx.plain_model import PlainModel

node = helper.make_node


def test_a_model_that_only_declares_batches_is_run_image_by_image(tmp_path: Path) -> None:
    nodes = [node("Conv", ["image", "w"], ["c"]), *average("c", "f"), node("Reshape", ["f", "one"], ["y"])]
    onnx.save(small_net(nodes, {"w": normal(4, 3, 3, 3), "one": np.array([1, 4])}), tmp_path / "net.onnx")
    artifact = kx.compile(tmp_path / "net.onnx", patch=4)
    plain = PlainModel(tmp_path / "net.onnx", artifact.plan)
    assert plain.batch is None
    found = plain.best_batch(np.ones((3, 16, 16), np.float32), np.zeros((3, 4, 4), np.float32))
    assert list(found) == [1]
