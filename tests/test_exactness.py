"""Exactness: random small nets × random queries, where the incremental answer has to be that of the full model."""

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from nets import Net, Seeded, nets, random_net
from onnx import helper, numpy_helper
from twin import (
    FLOAT,
    Twin,
    UnusableError,
    average,
    close,
    normal,
    plain_options,
    probe,
    probes,
    residual_net,
    seeded_twins,
    small_net,
    some_patch,
    twin,
)

import krypton_onnx as kx
from krypton_onnx import geometry
from krypton_onnx.geometry import Sliding, programs
from krypton_onnx.models import build
from krypton_onnx.verification import OutputCheck, Probe, check_output

# The same examples on every run; a longer hunt only has to raise max_examples and drop derandomize.
RANDOM = settings(
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # to shrink a net takes minutes; bench/fuzz.py does it better
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


# ------------------------------------------------------------------------------------------- incremental = full


@pytest.mark.parametrize("queries", [1, 5, 40, 150])
def test_incremental_equals_full(queries: int) -> None:
    @settings(RANDOM, max_examples=30 if queries == 150 else 75)
    @given(net=nets(), seed=st.integers(0, 1 << 16))
    def run(net: Net, seed: int) -> None:
        rng = np.random.default_rng(seed)
        patch = some_patch(rng, net)
        with TemporaryDirectory() as folder:
            try:
                pair = twin(net, Path(folder), patch, seed)
                checks = [c for p in probes(rng, net, patch, queries) for c in pair.check(p)]
            except UnusableError:
                assume(False)
        assert [c for c in checks if not c.exact] == []

    run()


def test_random_nets_are_worth_testing(tmp_path: Path) -> None:
    """Most have windows and outputs that move, and every way of computing occurs."""
    seen = moved = windowed = several = alone = 0
    for pair in seeded_twins(range(60), tmp_path):
        plan = pair.session.plan
        queries = pair.probe(0, plan.patch, 24)
        full = pair.full(queries)
        base = pair.source.run(pair.source.optimised, pair.base.image[None])
        change = max(np.abs(full[n] - base[n]).max() / max(np.abs(base[n]).max(), 1e-9) for n in full)
        seen += 1
        moved += bool(change >= 1e-3)
        windowed += bool(plan.windows)
        several += len(plan.views) > 2
        alone += plan.per_query is not None
    assert seen >= 40
    assert moved >= 0.8 * seen
    assert windowed >= 0.8 * seen
    assert min(several, alone) >= 0.1 * seen


# ------------------------------------------------------------------------------------------------- metamorphic


def test_a_patch_that_shows_the_image_changes_nothing(tmp_path: Path) -> None:
    for pair in seeded_twins(range(1000, 1025), tmp_path):
        image = pair.base.image
        full = pair.source.run(pair.source.optimised, image[None])
        for y, x, h, w in [(0, 0, 1, 1), (1, 2, 3, 2), (0, 0, *image.shape[1:])]:
            outputs = pair.infer(Probe(np.array([(y, x)]), image[None, :, y : y + h, x : x + w]))
            for name in pair.outputs:
                close(outputs[name], full[name])
                close(pair.base.outputs[name], full[name])


def test_permuting_queries_permutes_outputs_and_one_query_is_its_row(tmp_path: Path) -> None:
    for pair in seeded_twins(range(2000, 2020), tmp_path):
        plan = pair.plan
        queries = pair.probe(0, plan.patch, 2 * plan.batch + 3)
        together = pair.infer(queries)
        order = np.random.default_rng(0).permutation(len(queries.origins))
        permuted = pair.infer(Probe(queries.origins[order], queries.content[order]))
        for name, values in together.items():
            close(permuted[name], values[order])
        for q in order[:4]:
            alone = pair.infer(Probe(queries.origins[[q]], queries.content[[q]]))
            for name, values in together.items():
                close(alone[name], values[[q]])


def test_the_patch_that_a_model_is_compiled_for_does_not_matter(tmp_path: Path) -> None:
    for seed in range(3000, 3012):
        net = random_net(Seeded(np.random.default_rng(seed)), seed)
        height, width = net.image[1:]
        with suppress(UnusableError):
            pairs = [twin(net, tmp_path, p, seed) for p in [(1, 1), (height // 2, 2), (height, width)]]
            if pairs[0].source.steps:
                continue
            queries = probe(np.random.default_rng(seed), net.image, (3, 2), 12, dtype=net.dtype)
            first, *others = [pair.infer(queries) for pair in pairs]
            for other in others:
                for name, values in first.items():
                    close(other[name], values)


def test_shared_content_is_the_same_content_for_each_query(tmp_path: Path) -> None:
    for pair in seeded_twins(range(4000, 4010), tmp_path):
        queries = pair.probe(0, (2, 3), 20, shared=True)
        shared = pair.infer(Probe(queries.origins, queries.content[:1]))
        for name, values in pair.infer(queries).items():
            close(shared[name], values)


# ------------------------------------------------------------------------------------------- unknown operators


def supported_net() -> onnx.ModelProto:
    """A residual block, pooling, a concatenation and an upsampling, on a 40 × 44 image; five logits."""
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["conv1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv1"], ["relu1"], name="relu1"),
        helper.make_node("Conv", ["relu1", "w2"], ["conv2"], name="conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["conv2", "relu1"], ["add"], name="add"),
        helper.make_node("MaxPool", ["add"], ["pool"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["pool", "w2"], ["conv3"], name="conv3", pads=[1, 1, 1, 1]),
        helper.make_node("Concat", ["conv3", "pool"], ["concat"], name="concat", axis=1),
        helper.make_node("Resize", ["concat", "", "scales"], ["up"], name="up", mode="nearest"),
        helper.make_node("Conv", ["up", "w3"], ["conv4"], name="conv4"),
        *average("conv4", "y"),
    ]
    weights = {"w1": normal(4, 3, 3, 3), "w2": normal(4, 4, 3, 3), "w3": normal(5, 8, 3, 3, scale=0.2)}
    weights["scales"] = np.array([1, 1, 2, 2], np.float32)
    return small_net(nodes, weights, inputs={"image": ["N", 3, 40, 44]}, outputs={"y": (FLOAT, ["N", 5])})


def with_unknown(model: onnx.ModelProto, domain: str, position: int) -> tuple[onnx.ModelProto, set[str]]:
    """The model with an operator that has no window rule, and the tensors that do not depend on it.

    Args:
        model: of which node `position` gets the operator behind it, before the first for −1.
        domain: "" for CumSum, of which every row sees all rows above; com.microsoft for one that is not part of ONNX.
        position: of a node.
    """
    before = "image" if position < 0 else model.graph.node[position].output[0]
    nodes, after = [], {"unknown"}
    for index, original in enumerate(model.graph.node):
        node = onnx.NodeProto()
        node.CopyFrom(original)
        if index > position:
            node.input[:] = ["unknown" if name == before else name for name in node.input]
            after |= set(node.output) if after.intersection(node.input) else set()
        nodes.append(node)
    if domain:
        unknown = helper.make_node("QuickGelu", [before], ["unknown"], domain=domain, name="unknown", alpha=1.5)
        model.opset_import.append(helper.make_opsetid(domain, 1))
    else:
        unknown = helper.make_node("CumSum", [before, "rows"], ["unknown"], name="unknown")
        model.graph.initializer.append(numpy_helper.from_array(np.array(2), "rows"))
    nodes.insert(position + 1, unknown)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model, {node.output[0] for node in nodes} - after


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What runs in windows where every operator is known."""
    names = windowed(twin(Net(supported_net(), (3, 40, 44)), tmp_path_factory.mktemp("supported"), (3, 3)))
    assert {"conv1", "add", "conv3", "concat"} <= names
    return names


@pytest.mark.parametrize("domain", ["", "com.microsoft"])
@pytest.mark.parametrize("position", range(-1, 9))
def test_an_unknown_operator_costs_speed_only(known: set[str], tmp_path: Path, domain: str, position: int) -> None:
    image, patch = (3, 40, 44), (3, 3)
    model, before = with_unknown(supported_net(), domain, position)
    pair = twin(Net(model, image), tmp_path, patch)
    for queries in (pair.probe(0, patch, 12), pair.probe(1, (1, 5), 4), pair.probe(2, image[1:], 1)):
        assert [check for check in pair.check(queries) if not check.exact] == []
    assert windowed(pair) == known & before


def windowed(pair: Twin) -> set[str]:
    """The tensors that a compiled model computes in windows."""
    return {tensor for window in pair.plan.windows for tensor in window.tensors}


# ----------------------------------------------------------------------------------------------------- explain


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> Twin:
    """A small residual net on a 20 × 26 image, compiled for patches of 4 × 4."""
    return twin(Net(residual_net(), (3, 20, 26)), tmp_path_factory.mktemp("residual"), (4, 4))


@pytest.mark.parametrize(
    ("patch", "stride", "edge", "region", "fill"),
    [
        ((4, 4), (3, 3), "cover", None, 0.0),
        ((3, 6), (2, 5), "stop", None, 0.5),
        ((2, 2), (7, 9), "cover", None, [0.1, -0.2, 0.3]),
        ((5, 3), (4, 4), "cover", (2, 3, 17, 20), "image"),
        ((20, 26), (1, 1), "cover", None, 0.0),
        ((1, 1), (4, 6), "cover", None, -1.0),
    ],
)
def test_explain_is_infer_is_the_loop(
    residual: Twin,
    patch: tuple[int, int],
    stride: tuple[int, int],
    edge: str,
    region: tuple[int, int, int, int] | None,
    fill: object,
) -> None:
    image = residual.base.image
    shown = np.random.default_rng(5).standard_normal(image.shape).astype(np.float32) if fill == "image" else fill
    heatmap = residual.session.explain(
        residual.base, 2, patch=patch, stride=stride, edge=edge, region=region, fill=shown, progress=False
    )
    y0, x0, y1, x1 = region or (0, 0, *image.shape[1:])
    rows = positions(y0, y1 - patch[0], stride[0], cover=edge == "cover")
    cols = positions(x0, x1 - patch[1], stride[1], cover=edge == "cover")
    assert heatmap.origins.tolist() == [[[y, x] for x in cols] for y in rows]
    places = heatmap.origins.reshape(-1, 2)
    picture = shown if fill == "image" else np.broadcast_to(np.reshape(shown, (-1, 1, 1)), image.shape)
    content = np.stack([picture[:, y : y + patch[0], x : x + patch[1]] for y, x in places]).astype(np.float32)
    queries = Probe(places, content)
    name = residual.outputs[0]
    close(heatmap.scores.reshape(-1), residual.full(queries)[name][:, 2])
    close(heatmap.scores.reshape(-1), residual.infer(queries)[name][:, 2])
    close(np.float32(heatmap.base_score), residual.base.outputs[name][0, 2])
    assert all(check.exact for check in residual.check(queries))


def positions(first: int, last: int, stride: int, *, cover: bool) -> list[int]:
    """Origins along one axis, by the definition of the grid."""
    found = list(range(first, last + 1, stride))
    return found + [last] * (cover and found[-1] != last)


# ---------------------------------------------------------------------------------------------------- soundness


def test_cells_outside_the_region_are_unchanged(residual: Twin, tmp_path: Path) -> None:
    probe_soundness(residual, residual_net(), tmp_path, origins=[(0, 0), (16, 22), (7, 9), (3, 22), (16, 1)])


def test_cells_outside_the_region_are_unchanged_in_resnet18(tmp_path: Path) -> None:
    model = build("resnet18", seed=1, input_size=64)
    pair = twin(Net(model, (3, 64, 64)), tmp_path, (6, 6))
    assert len(pair.session.plan.windows) >= 4
    probe_soundness(pair, model, tmp_path, origins=[(0, 0), (58, 58), (23, 40)])


def probe_soundness(pair: Twin, model: onnx.ModelProto, folder: Path, origins: list[tuple[int, int]]) -> None:
    """Run the source with every tensor as an output, and hold the changed cells against regions and windows."""
    plan = pair.session.plan
    named = {o for node in model.graph.node for o in node.output}
    watched = {t: w for w in plan.windows for t in w.tensors if t in named}
    assert len(watched) >= len(plan.windows) > 0
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    present = {o.name for o in model.graph.output}
    probed.graph.output.extend(onnx.ValueInfoProto(name=t) for t in watched if t not in present)
    onnx.save(probed, folder / "probed.onnx")
    source = ort.InferenceSession(str(folder / "probed.onnx"), plain_options(), providers=["CPUExecutionProvider"])
    image, (h, w) = pair.base.image, plan.patch
    before = dict(zip(watched, source.run(list(watched), {plan.image.name: image[None]}), strict=True))
    queries = Probe(np.array(origins), np.random.default_rng(1).standard_normal((len(origins), 3, h, w), np.float32))
    reached = 0
    for query, occluded in enumerate(queries.images(image)):
        after = dict(zip(watched, source.run(list(watched), {plan.image.name: occluded[None]}), strict=True))
        for name, window in watched.items():
            changed = np.argwhere((after[name] != before[name]).any(axis=(0, 1)))
            for axis in (0, 1):
                at = queries.origins[[query], axis]
                (first,), (last,) = geometry.regions(plan.program, axis, at, (h, w)[axis])[window.step]
                assert (changed[:, axis] >= first).all(), name
                assert (changed[:, axis] <= last).all(), name
                size = geometry.window_sizes(plan.program, axis, at, (h, w)[axis])[window.step]
                begin = geometry.begins(plan.program, axis, at)[window.step]
                start = geometry.window_start(begin, size, plan.program[window.step].extents[axis])
                assert (changed[:, axis] >= start).all(), name
                assert (changed[:, axis] < start + size).all(), name
            reached += len(changed) > 0
    assert reached >= 0.8 * len(watched) * len(origins)


# ------------------------------------------------------------------------------------------ the check can fail


@pytest.fixture
def too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows that are one row and one column smaller than needed."""
    right = programs.window_sizes
    monkeypatch.setattr(programs, "window_sizes", lambda *args: np.maximum(right(*args) - 1, 1))


@pytest.mark.usefixtures("too_small")
def test_a_window_that_is_too_small_is_seen(tmp_path: Path) -> None:
    pair = twin(Net(residual_net(), (3, 20, 26)), tmp_path, (4, 4))
    checks = pair.check(probe(np.random.default_rng(0), pair.base.image.shape, (4, 4), 12))
    assert not any(check.exact for check in checks)


@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_window_in_the_wrong_place_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: int) -> None:
    right = Sliding.begin
    monkeypatch.setattr(Sliding, "begin", lambda axis, *args: right(axis, *args) + wrong * (axis.pad > 0))
    pair = twin(Net(residual_net(), (3, 20, 26)), tmp_path, (4, 4))
    checks = pair.check(probe(np.random.default_rng(0), pair.base.image.shape, (4, 4), 12))
    assert not any(check.exact for check in checks)


def test_a_wrong_padding_value_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pooled = small_net(
        [
            helper.make_node("Conv", ["image", "w"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("MaxPool", ["c"], ["p"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            *average("p", "y"),
        ],
        {"w": normal(4, 3, 3, 3), "below": np.float32(-5)},
    )
    queries = probe(np.random.default_rng(0), (3, 16, 16), (4, 4), 12)
    (right,) = twin(Net(pooled, (3, 16, 16)), tmp_path, (4, 4)).check(queries)
    assert right.exact
    monkeypatch.setattr("krypton_onnx.passes.rules.sliding.lowest", lambda dtype: np.zeros((), dtype))
    (wrong,) = twin(Net(pooled, (3, 16, 16)), tmp_path, (4, 4)).check(queries)
    assert not wrong.exact


@pytest.mark.parametrize(
    ("error", "moved", "exact"),
    [
        (2e-5, 1.0, False),  # beyond 1e-5 of the output's size
        (5e-6, 1.0, True),
        (5e-6, 1e-4, False),  # within that, and yet a twentieth of a faint heatmap
        (5e-7, 1e-4, True),
        (np.nan, 1.0, False),
        (np.inf, 1.0, False),
    ],
)
def test_the_definition_of_exact(error: float, moved: float, exact: bool) -> None:
    base = np.linspace(-1, 1, 5, dtype=np.float32)
    full = (base + np.float32(moved) * np.array([1, 0, 0.5, 0, -1], np.float32))[None].repeat(3, axis=0)
    ours = full.astype(np.float64)
    ours[1, 2] += error
    assert check_output("y", ours, full, base, noise=0.0).exact is exact


def test_integers_and_shapes_have_to_be_equal() -> None:
    full = np.arange(6).reshape(3, 2)
    assert check_output("y", full.copy(), full, full[0], 0.0).exact
    assert not check_output("y", full + np.eye(3, 2, dtype=int), full, full[0], 0.0).exact
    assert not check_output("y", full[:, :1], full, full[0], 0.0).exact


@pytest.mark.usefixtures("too_small")
def test_verify_reports_a_wrong_artifact_and_compile_writes_none(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(residual_net(), path)
    artifact = kx.compile(path, tmp_path / "wrong.krypton", patch=4, verify=False)
    assert not all(check.exact for check in kx.verify(path, artifact, queries=12))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(kx.KryptonError, match="does not reproduce"):
        kx.compile(path, tmp_path / "refused.krypton", patch=4)
    assert sorted(tmp_path.iterdir()) == before


def test_a_refused_recompilation_leaves_the_old_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, target = tmp_path / "net.onnx", tmp_path / "net.krypton"
    onnx.save(residual_net(), path)
    kx.compile(path, target, patch=4)
    before = {p.name: p.read_bytes() for p in target.iterdir()}
    wrong = OutputCheck("y", 1.0, 2.0, 1.0, 0.0)
    monkeypatch.setattr("krypton_onnx.compiler.verify_artifact", lambda *args, **kwargs: (wrong,))
    with pytest.raises(kx.KryptonError, match="does not reproduce"):
        kx.compile(path, target, patch=5)
    assert {p.name: p.read_bytes() for p in target.iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.krypton", "net.onnx"]


def test_verify_passes_a_right_artifact(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(residual_net(), path)
    artifact = kx.compile(path, patch=4)
    for check in kx.verify(path, artifact, queries=32):
        assert check.exact
        assert check.moved > 1e-3
    changed = residual_net()
    changed.graph.name = "another"
    onnx.save(changed, path)
    with pytest.raises(kx.KryptonError, match="checksum"):
        kx.verify(path, artifact)
