"""Projective field thresholding: windows that are cut to a share of their maps, beside an oracle without overlays."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator
from twin import average, normal, residual_net, small_net

import krypton_onnx as kx
from krypton_onnx import geometry
from krypton_onnx.classes import window_tables
from krypton_onnx.geometry import Sliding, Step, patch_step
from krypton_onnx.passes import planner
from krypton_onnx.plan import Plan, Window

node = helper.make_node
PATCH = (4, 4)


def pooled_net() -> onnx.ModelProto:
    """Strides, a pooling with padding, a concatenation of branches of unequal reach, a linear layer."""
    nodes = [
        node("Conv", ["image", "w1"], ["a"], name="a", strides=[2, 2], pads=[2, 2, 2, 2]),
        node("MaxPool", ["a"], ["b"], name="b", kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1]),
        node("Conv", ["b", "w2"], ["c"], name="c", pads=[2, 2, 2, 2], dilations=[2, 2]),
        node("Concat", ["b", "c"], ["d"], name="d", axis=1),
        node("Conv", ["d", "w3"], ["e"], name="e", pads=[1, 1, 1, 1]),
        node("Tanh", ["e"], ["f"], name="f"),
        *average("f", "flat"),
        node("MatMul", ["flat", "w4"], ["y"], name="y"),
    ]
    weights = {
        "w1": normal(6, 3, 5, 5),
        "w2": normal(5, 6, 3, 3),
        "w3": normal(7, 11, 3, 3),
        "w4": normal(7, 4),
    }
    return small_net(nodes, weights, inputs={"image": ["N", 3, 30, 26]})


def capped_answer(
    model: onnx.ModelProto, plan: Plan, image: np.ndarray, origin: tuple[int, int], content, tau: float
) -> np.ndarray:
    """One query: every node in full, but of its result only the window kept, and the base run's values beyond it."""
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    base, changed = {"image": image[None], **weights}, {"image": image[None].copy(), **weights}
    y, x = origin
    changed["image"][0, :, y : y + PATCH[0], x : x + PATCH[1]] = content
    of_tensor = {name: window for window in plan.windows for name in window.tensors}
    for one in model.graph.node:
        alone = helper.make_model(
            helper.make_graph(
                [one],
                "one",
                [helper.make_tensor_value_info(n, 1, None) for n in one.input],
                [helper.make_tensor_value_info(n, 1, None) for n in one.output],
            ),
            opset_imports=[helper.make_opsetid("", 17)],
        )
        (name,) = one.output
        for values in (base, changed):
            (values[name],) = ReferenceEvaluator(alone).run(None, {n: values[n] for n in one.input})
        if name in of_tensor:
            box = [slice(None)] * 2 + [kept(plan, of_tensor[name].step, axis, origin[axis], tau) for axis in (0, 1)]
            pasted = base[name].copy()
            pasted[tuple(box)] = changed[name][tuple(box)]
            changed[name] = pasted
    return changed["y"][0]


def kept(plan: Plan, step: int, axis: int, origin: int, tau: float) -> slice:
    """Rows of the window of one query: all that can change, or the middle of what the patch reaches."""
    at = np.array([origin])
    extent = plan.program[step].extents[axis]
    size = int(geometry.window_sizes(plan.program, axis, at, PATCH[axis])[step][0])
    low = int(geometry.begins(plan.program, axis, at)[step][0])
    high = int(geometry.ends(plan.program, axis, at, PATCH[axis])[step][0])
    cap = max(1, int(tau * extent + 0.5))
    if size <= cap:
        first = min(max(low, 0), extent - size)
        return slice(first, first + size)
    first = min(max((low + high + 1 - cap) // 2, 0), extent - cap)
    return slice(first, first + cap)


@pytest.mark.parametrize(
    ("make", "tau"),
    [*((residual_net, tau) for tau in (0.2, 0.35)), *((pooled_net, tau) for tau in (0.2, 0.35, 0.5, 0.7))],
)
def test_capped_windows_are_what_an_oracle_pastes(make, tau: float, tmp_path: Path) -> None:
    model = make()
    onnx.save(model, tmp_path / "net.onnx")
    artifact = kx.compile(tmp_path / "net.onnx", patch=PATCH)
    session, plan = kx.Session(artifact), artifact.plan.capped
    assert plan is not None
    assert sum(len(window.tensors) for window in plan.windows) >= 6
    rng = np.random.default_rng(1)
    image = rng.standard_normal(plan.model_shape).astype(np.float32)
    base, capped = session.materialize(image), session.capped
    assert capped is not None
    limit = np.array(image.shape[1:]) - PATCH
    differs = False
    for origin in [(0, 0), tuple(limit), (0, int(limit[1])), *map(tuple, rng.integers(0, limit + 1, (5, 2)))]:
        content = rng.standard_normal((1, 3, *PATCH)).astype(np.float32)
        found = capped.outputs(base.variant(capped), np.array([origin]), content, tau)["y"][0]
        np.testing.assert_allclose(found, capped_answer(model, plan, image, origin, content[0], tau), atol=2e-5)
        differs |= not np.allclose(found, session.infer(base, [origin], content)["y"][0], atol=1e-4)
    assert differs  # else nothing was cut


def test_uncut_windows_are_exact(tmp_path: Path) -> None:
    onnx.save(pooled_net(), tmp_path / "net.onnx")
    session = kx.Session(kx.compile(tmp_path / "net.onnx", patch=PATCH))
    base, capped = session.materialize(np.ones((3, 30, 26), np.float32)), session.capped
    assert capped is not None
    origins = np.random.default_rng(0).integers(0, 22, (40, 2))
    content = normal(40, 3, *PATCH)
    exact = session.infer(base, origins, content)["y"]
    np.testing.assert_allclose(capped.outputs(base.variant(capped), origins, content)["y"], exact, atol=1e-6)
    cut = capped.outputs(base.variant(capped), origins, content, 0.3)["y"]
    assert np.abs(cut - exact).max() > 1e-3


def test_caps_are_rounded_shares_and_leave_one_row() -> None:
    assert geometry.share_cap(np.array([13, 7, 1, 10]), 0.5).tolist() == [7, 4, 1, 5]
    assert geometry.share_cap(np.array([13, 3]), 0.1).tolist() == [1, 1]
    assert geometry.share_cap(np.arange(1, 50), 1.0).tolist() == list(range(1, 50))


def test_a_cut_window_lies_where_the_patch_does_at_borders_too() -> None:
    """Not in the middle of what is left of the region there, which would leave out the nearest cells."""
    program = (patch_step(32, 32),)
    for _ in range(6):
        axis = Sliding(span=3, pad=1, pad_end=1)
        program = (*program, Step((len(program) - 1,), axis.transfer(32), axis.transfer(32)))
    windows = [Window(6, ("t",), 1, 1.0)]
    rows, _ = window_tables(program, windows, (4, 4), 0.25)
    assert rows.sizes.max() == 8
    starts = geometry.window_start(rows.begins[0], rows.sizes[0], 32)
    # the patch's own rows are always inside
    origins = np.arange(29)
    assert (starts <= origins).all()
    assert (starts + rows.sizes[0] >= origins + 4).all()


def test_an_artifact_has_cut_windows_only_where_they_gain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "LEAST_SPEEDUP", 1e9)
    onnx.save(pooled_net(), tmp_path / "net.onnx")
    artifact = kx.compile(tmp_path / "net.onnx", patch=PATCH)
    assert artifact.plan.capped is None
    assert not (artifact.folder / "capped_base.onnx").exists()
    session = kx.Session(artifact)
    image = np.ones((3, 30, 26), np.float32)
    exact = session.explain(image, patch=4, stride=2, progress=False)
    cut = session.explain(image, patch=4, stride=2, mode=kx.Approximate(tau=0.3), progress=False)
    np.testing.assert_array_equal(cut.scores, exact.scores)
    assert cut.record["approximation"]["level"] == "exact"
