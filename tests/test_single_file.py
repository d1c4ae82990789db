"""The single file: one ONNX model that emits heatmaps, beside the driver and the source model."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from exports import load_export
from onnx import TensorProto, helper
from twin import average, normal, residual_net, small_net

import krypton_onnx as kx
from krypton_onnx import single_file, single_verification
from krypton_onnx.cli import main
from krypton_onnx.models import build
from krypton_onnx.passes import write
from krypton_onnx.random_inputs import random_images, random_input, random_pictures
from krypton_onnx.runtime.base import Base
from krypton_onnx.runtime.engine import Engine

SHIPPED = resources.files("krypton_onnx.models")
DEMO = Path(str(SHIPPED / "demo.onnx"))
node = helper.make_node


def quiet() -> ort.SessionOptions:
    """ONNX Runtime warns of every input that has a default."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return options


def run(file: Path, **feed: Any) -> dict[str, Any]:
    """Outputs by name."""
    session = ort.InferenceSession(str(file), quiet(), providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feed), strict=True))


def written(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "net.onnx")
    return folder / "net.onnx"


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, kx.SingleFile]:
    path = written(residual_net(), tmp_path_factory.mktemp("residual"))
    return path, kx.compile_single_file(path, path.with_name("heatmap.onnx"), patch=(4, 5), stride=(3, 2))


def assert_as_driven(
    path: Path, made: kx.SingleFile, stride: tuple[int, int], count: int = 2, *, tolerance: float = 1e-6
) -> None:
    """Heatmaps, base scores and outputs are those of a session on the same model, for several pictures at once."""
    rng, plan = np.random.default_rng(5), made.plan
    session = kx.Session(kx.compile(path, path.with_suffix(".krypton"), patch=plan.patch, verify=False))
    images = random_images(rng, plan, count)
    others = {info.name: random_input(rng, info) for info in plan.other_inputs}
    fill = rng.choice([-3, 3], plan.image.shape[0] or 0).astype(np.float32)
    found = run(made.path, image=images, fill=fill, **others)
    assert found["heatmap"].shape == (count, *made.origins.shape[:2])
    for number, image in enumerate(images):
        base = session.materialize(image, others)
        heatmap = session.explain(base, patch=plan.patch, stride=stride, fill=fill, progress=False)
        size = tolerance * max(1.0, float(np.abs(heatmap.scores).max()))
        np.testing.assert_array_equal(heatmap.origins, made.origins)
        assert found["target_index"][number] == heatmap.target
        assert np.ptp(heatmap.scores) > 10 * size
        np.testing.assert_allclose(found["heatmap"][number], heatmap.scores, rtol=0, atol=size)
        np.testing.assert_allclose(found["base_score"][number], heatmap.base_score, rtol=0, atol=size)
        assert_same_outputs(found, base, number, tolerance)


def assert_same_outputs(found: dict[str, Any], base: Base, number: int, tolerance: float) -> None:
    for name, values in base.outputs.items():
        own = np.asarray(values, np.float64)
        atol = tolerance * max(1.0, float(np.abs(own).max()))
        np.testing.assert_allclose(found[name][number : number + 1], own, rtol=0, atol=atol)


# ------------------------------------------------------------------------------------------------- any model


def test_a_residual_net(residual: tuple[Path, kx.SingleFile]) -> None:
    path, made = residual
    assert made.plan.windows
    assert_as_driven(path, made, (3, 2), 3)


@pytest.mark.parametrize("name", ["mobilenet_v2_keras", "shufflenet_v2_ts13"])
def test_exports(name: str, tmp_path: Path) -> None:
    """One takes [N, H, W, C], one loses its batch axis."""
    path = written(load_export(name), tmp_path)
    made = kx.compile_single_file(path, tmp_path / "heatmap.onnx", patch=48, stride=44, verify=False)
    assert_as_driven(path, made, (44, 44))


@pytest.mark.parametrize("name", ["resnet18_fp16_ts17", "resnet18_qdq_ts17"])
def test_reduced_precision(name: str, tmp_path: Path) -> None:
    """What ONNX Runtime rounds depends on the nodes around it, so that the definition of exact judges it."""
    path = written(load_export(name), tmp_path)
    made = kx.compile_single_file(path, tmp_path / "heatmap.onnx", patch=48, stride=44)
    assert made.plan.reduced_precision


def test_views_behind_a_dequantized_tensor(tmp_path: Path) -> None:
    """ONNX Runtime moves a DequantizeLinear over some operators, and ends the process if that leads it into a Loop."""
    nodes = [
        node("Conv", ["image", "w1"], ["a"]),
        node("QuantizeLinear", ["a", "scale", "zero"], ["q"]),
        node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        node("MaxPool", ["d"], ["p"], kernel_shape=[2, 2]),
        node("Conv", ["p", "w2"], ["b"]),
        node("Conv", ["b", "w2"], ["c"]),
        *average("c", "y"),
    ]
    weights = {
        "w1": normal(4, 3, 3, 3),
        "w2": normal(4, 4, 3, 3),
        "scale": np.float32(0.05),
        "zero": np.uint8(128),
    }
    path = written(small_net(nodes, weights), tmp_path)
    assert_as_driven(path, kx.compile_single_file(path, tmp_path / "heatmap.onnx", patch=3, stride=2), (2, 2))


def test_full_inference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("krypton_onnx.passes.planner.LEAST_SPEEDUP", np.inf)
    path = written(residual_net(), tmp_path)
    made = kx.compile_single_file(path, tmp_path / "heatmap.onnx", patch=4)
    assert made.plan.full_inference
    assert_as_driven(path, made, (4, 4))


def several_outputs() -> onnx.ModelProto:
    """A head that knows no batch axis, one that takes another input, a whole number, and a map."""
    nodes = [
        node("Conv", ["image", "w1"], ["a"], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["map"]),
        *average("map", "pooled"),
        node("Add", ["pooled", "shift"], ["shifted"]),
        node("Reshape", ["map", "shape"], ["lost"]),
        node("ReduceMax", ["lost"], ["largest"], axes=[1], keepdims=0),
        node("ArgMax", ["shifted"], ["label"], axis=1, keepdims=0),
    ]
    weights = {"w1": normal(4, 3, 3, 3), "shape": np.array([8, -1], np.int64)}
    return small_net(
        nodes,
        weights,
        inputs={"image": [1, 3, 16, 16], "shift": [1, 4]},
        outputs={
            "largest": (TensorProto.FLOAT, [8]),
            "shifted": (TensorProto.FLOAT, [1, 4]),
            "label": (TensorProto.INT64, [1]),
            "map": (TensorProto.FLOAT, [1, 4, 16, 16]),
        },
    )


def test_other_inputs_and_any_output(tmp_path: Path) -> None:
    path = written(several_outputs(), tmp_path)
    assert_as_driven(path, kx.compile_single_file(path, tmp_path / "a.onnx", patch=3, stride=5), (5, 5))
    scored = kx.compile_single_file(path, tmp_path / "b.onnx", patch=3, stride=5, scored="shifted")
    rng = np.random.default_rng(0)
    images, shift = random_images(rng, scored.plan, 1), rng.standard_normal((1, 4)).astype(np.float32)
    session = kx.Session(kx.compile(path, verify=False))
    base = session.materialize(images[0], {"shift": shift})
    heatmap = session.explain(base, patch=3, stride=5, output="shifted", progress=False)
    found = run(scored.path, image=images, shift=shift)
    np.testing.assert_allclose(found["heatmap"][0], heatmap.scores, rtol=0, atol=1e-5)
    assert found["largest"].shape == (1, 8)


# ---------------------------------------------------------------------------------------------- its interface


def test_each_picture_is_answered_as_if_alone(residual: tuple[Path, kx.SingleFile]) -> None:
    _, made = residual
    images = random_images(np.random.default_rng(1), made.plan, 3)
    together = run(made.path, image=images)
    for number in range(3):
        alone = run(made.path, image=images[number : number + 1])
        for name, values in alone.items():
            np.testing.assert_array_equal(together[name][number : number + 1], values)


def test_targets(residual: tuple[Path, kx.SingleFile]) -> None:
    path, made = residual
    session = kx.Session(kx.compile(path, verify=False))
    image = random_images(np.random.default_rng(2), made.plan, 1)
    top = run(made.path, image=image)
    chosen = int(top["target_index"][0])
    assert top["y"].shape == (1, 5)
    assert np.argmax(top["y"]) == chosen
    for target in range(5):
        heatmap = session.explain(image[0], target, patch=(4, 5), stride=(3, 2), progress=False)
        found = run(made.path, image=image, target=np.array([target]))
        assert found["target_index"] == [target]
        np.testing.assert_allclose(found["heatmap"][0], heatmap.scores, rtol=0, atol=1e-6)
        assert np.array_equal(found["heatmap"], top["heatmap"]) == (target == chosen)
    with pytest.raises(Exception, match=r"out of bounds|indices element"):
        run(made.path, image=image, target=np.array([5]))


def test_parts_together_are_the_heatmap(residual: tuple[Path, kx.SingleFile]) -> None:
    _, made = residual
    image = random_images(np.random.default_rng(3), made.plan, 1)
    whole = run(made.path, image=image)["heatmap"]
    assert np.isfinite(whole).all()
    for count in (2, 3, made.batches, made.batches + 4):
        parts = [run(made.path, image=image, part=np.array([n, count]))["heatmap"] for n in range(count)]
        known = np.isfinite(parts)
        assert (known.sum(axis=0) == 1).all()
        np.testing.assert_array_equal(np.nansum(parts, axis=0, dtype=np.float32), whole)
    nothing = run(made.path, image=image, part=np.array([10**9 - 1, 10**9]))
    assert np.isnan(nothing["heatmap"]).all()
    assert np.isfinite(nothing["base_score"]).all()


def test_inputs_and_outputs_are_what_is_said(residual: tuple[Path, kx.SingleFile]) -> None:
    _, made = residual
    model = onnx.load(made.path)
    for tensors, ports in ((model.graph.input, made.inputs), (model.graph.output, made.outputs)):
        assert [t.name for t in tensors] == [port.name for port in ports]
        for tensor, port in zip(tensors, ports, strict=True):
            kind = tensor.type.tensor_type
            assert helper.tensor_dtype_to_np_dtype(kind.elem_type) == port.dtype
            assert [d.dim_param or d.dim_value for d in kind.shape.dim] == list(port.shape)
    assert [port.name for port in made.inputs] == ["image", "target", "fill", "part"]
    assert [port.name for port in made.outputs] == ["y", "heatmap", "base_score", "target_index"]


def test_inputs_without_defaults_have_to_be_given(tmp_path: Path) -> None:
    path = written(residual_net(), tmp_path)
    made = kx.compile_single_file(path, tmp_path / "heatmap.onnx", patch=4, defaults=False)
    image = random_images(np.random.default_rng(0), made.plan, 1)
    with pytest.raises(ValueError, match="target"):
        run(made.path, image=image)
    fill = np.zeros(3, np.float32)
    assert np.isfinite(run(made.path, image=image, target=[-1], fill=fill, part=[0, 1])["heatmap"]).all()


def test_only_standard_operators(residual: tuple[Path, kx.SingleFile]) -> None:
    model = onnx.load(residual[1].path)
    assert [o.domain for o in model.opset_import] == [""]


def test_it_says_what_it_is(residual: tuple[Path, kx.SingleFile], tmp_path: Path) -> None:
    own = onnx.load(residual[0])
    helper.set_model_props(own, {"author": "somebody"})
    again = kx.compile_single_file(written(own, tmp_path), tmp_path / "h.onnx", labels=list("abcde"), edge="stop")
    properties = {p.key: p.value for p in onnx.load(again.path).metadata_props}
    assert properties["author"] == "somebody"
    said = {key.removeprefix("krypton_onnx."): value for key, value in properties.items() if "krypton" in key}
    assert json.loads(said["patch"]) == [16, 16]
    assert json.loads(said["stride"]) == [4, 4]
    assert json.loads(said["labels"]) == list("abcde")
    assert (said["edge"], said["output"], said["image_input"], said["definition"]) == ("stop", "y", "image", "1")
    assert said["source_sha256"] == again.plan.source.sha256
    assert said["source_file"] == "net.onnx"


# --------------------------------------------------------------------------------------------- preprocessing


@pytest.mark.parametrize(
    ("order", "mean", "scale"),
    [("RGB", (123.7, 116.3, 103.5), (1 / 58.4, 1 / 57.1, 1 / 57.4)), ("BGR", (103.9, 116.8, 123.7), (1.0,))],
)
def test_pictures_in_pixels(order: str, mean: tuple[float, ...], scale: tuple[float, ...], tmp_path: Path) -> None:
    path = written(residual_net(), tmp_path)
    preprocess = {"crop": (20, 26), "mean": mean, "scale": scale, "channel_order": order}
    made = kx.compile_single_file(path, tmp_path / "heatmap.onnx", patch=4, preprocess=preprocess)
    session = kx.Session(kx.compile(path, patch=4, preprocess=preprocess, verify=False))
    pictures = random_pictures(np.random.default_rng(4), made.plan, 2)
    fill = np.array([200, 30, 90], np.float32)
    found = run(made.path, image=pictures, fill=fill)
    for number, picture in enumerate(pictures):
        tensor = kx.Preprocess.from_dict(preprocess).tensor(picture)
        heatmap = session.explain(tensor, patch=4, fill=fill, progress=False)
        size = 1e-6 * max(1.0, float(np.abs(heatmap.scores).max()))
        np.testing.assert_allclose(found["heatmap"][number], heatmap.scores, rtol=0, atol=size)


def test_black_is_the_default_colour_of_pixels(tmp_path: Path) -> None:
    fields = json.loads(Path(str(SHIPPED / "demo_preprocess.json")).read_text())
    made = kx.compile_single_file(DEMO, tmp_path / "heatmap.onnx", stride=16, preprocess=fields)
    picture = kx.open_picture(str(SHIPPED / "pictures" / "nine.png"))
    seen = kx.Preprocess.from_dict(fields).picture(picture)
    found = run(made.path, image=seen[None])
    session = kx.Session(kx.compile(DEMO, tmp_path / "d.krypton", preprocess=fields, verify=False))
    heatmap = session.explain(kx.Preprocess.from_dict(fields).tensor(seen), fill="black", stride=16, progress=False)
    np.testing.assert_allclose(found["heatmap"][0], heatmap.scores, rtol=0, atol=1e-6)
    assert found["target_index"][0] == 9


def test_a_model_of_bytes(tmp_path: Path) -> None:
    """Pixels and colours are rounded and cut off as numpy does it."""
    model = residual_net()
    model.graph.node[0].input[0] = "floats"
    model.graph.node.insert(0, node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    path = written(model, tmp_path)
    preprocess = {"crop": (20, 26), "scale": (1.1,), "mean": (3.0,)}
    made = kx.compile_single_file(path, tmp_path / "heatmap.onnx", patch=4, preprocess=preprocess)
    plain = kx.compile_single_file(path, tmp_path / "plain.onnx", patch=4)
    picture = random_pictures(np.random.default_rng(6), made.plan, 1)
    tensor = np.clip(np.rint(kx.Preprocess.from_dict(preprocess).tensor(picture[0])), 0, 255).astype(np.uint8)
    ours = run(made.path, image=picture, fill=np.array([250, 2, 100], np.float32))
    theirs = run(plain.path, image=tensor[None], fill=np.array([255, 0, 106.7], np.float32))
    np.testing.assert_array_equal(ours["heatmap"], theirs["heatmap"])


# ------------------------------------------------------------------------------------------- size and speed


def test_weights_are_stored_once(tmp_path: Path) -> None:
    path = written(build("squeezenet1_1", input_size=64), tmp_path)
    made = kx.compile_single_file(path, tmp_path / "heatmap.onnx", stride=16, verify=False)
    # beside the weights: the graph, small constants, and tables of the axes
    assert made.path.stat().st_size < 1.15 * path.stat().st_size


def test_convolutions_are_as_fast_as_the_artifacts(tmp_path: Path) -> None:
    """ONNX Runtime computes in blocks of channels only where weights are constants of the same graph."""
    path = written(build("resnet18", input_size=64), tmp_path)
    folder = kx.compile(path, verify=False).folder
    made = kx.compile_single_file(path, tmp_path / "heatmap.onnx", stride=16, verify=False)
    plain, _ = convolutions(folder / "incremental.onnx", tmp_path)
    if not plain["blocked"]:
        pytest.skip("ONNX Runtime computes no convolution in blocks on this processor")
    blocked, inner = convolutions(made.path, tmp_path)
    assert inner == 2  # a Scan's body, and a Loop's in it
    assert blocked["plain"] == 0
    assert blocked["blocked"] >= plain["blocked"]


def convolutions(file: Path, folder: Path) -> tuple[dict[str, int], int]:
    """How many convolutions ONNX Runtime computes in blocks and how many not; and how many graphs are nested."""
    options = quiet()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    counts, depth = {"blocked": 0, "plain": 0}, 0
    graphs = [onnx.load(folder / "optimized.onnx", load_external_data=False).graph]
    while graphs:
        graph, *graphs = graphs
        for one in graph.node:
            if one.op_type in ("Conv", "FusedConv"):
                counts["blocked" if one.domain.endswith("nchwc") else "plain"] += 1
            inner = [a.g for a in one.attribute if a.type == onnx.AttributeProto.GRAPH]
            graphs, depth = graphs + inner, depth + len(inner)
    return counts, depth


# ---------------------------------------------------------------------------------------------------- errors


def test_a_wrong_file_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, schedule_of = written(residual_net(), tmp_path), single_file.schedule_of

    def misplaced(*arguments: Any) -> Any:
        origins, schedule = schedule_of(*arguments)
        schedule.places[:2] = schedule.places[1::-1]
        return origins, schedule

    monkeypatch.setattr(single_file, "schedule_of", misplaced)
    with pytest.raises(kx.KryptonError, match="does not reproduce the output 'heatmap'"):
        kx.compile_single_file(path, tmp_path / "heatmap.onnx", patch=4, stride=12)
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]


def test_parts_are_about_equally_long(tmp_path: Path) -> None:
    path = written(build("resnet18", input_size=64), tmp_path)
    made = kx.compile_single_file(path, tmp_path / "heatmap.onnx", patch=8, stride=2, verify=False)
    _, schedule = single_file.schedule_of(made.plan, (2, 2), "cover")
    cells = schedule.window_sizes.prod(axis=2) @ np.array([window.seconds for window in made.plan.windows])
    seconds = cells * np.diff(schedule.ends)
    image = random_images(np.random.default_rng(0), made.plan, 1)
    counts = [np.isfinite(run(made.path, image=image, part=np.array([n, 2]))["heatmap"]).sum() for n in (0, 1)]
    assert counts == [np.diff(schedule.ends)[n::2].sum() for n in (0, 1)]
    assert seconds[::2].sum() == pytest.approx(seconds[1::2].sum(), rel=0.25)


def test_names_that_the_graph_uses_itself(tmp_path: Path) -> None:
    """Of nodes and of tensors, also with the prefixes that the graph gives."""
    model = several_outputs()
    renamed = {"a": "batch/begin", "pooled": "target/index", "shift": "queries/a", "largest": "image/a"}
    for one, name in zip(model.graph.node, ("batches", "pictures", "", "part/mul", "batch/scores"), strict=False):
        one.name = name
    for one in model.graph.node:
        one.input[:] = [renamed.get(name, name) for name in one.input]
        one.output[:] = [renamed.get(name, name) for name in one.output]
    for value in (*model.graph.input, *model.graph.output):
        value.name = renamed.get(value.name, value.name)
    path = written(model, tmp_path)
    assert_as_driven(path, kx.compile_single_file(path, tmp_path / "h.onnx", patch=3, stride=5), (5, 5))


def test_scores_that_are_missing_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(Engine):
        def run(self, *arguments: Any) -> Any:
            outputs = dict(zip(self.outputs, super().run(*arguments), strict=True))
            return list((outputs | {"heatmap": np.full_like(outputs["heatmap"], np.nan)}).values())

    monkeypatch.setattr(single_verification, "Engine", Forgetful)
    with pytest.raises(kx.KryptonError, match="does not reproduce the output 'heatmap'"):
        kx.compile_single_file(written(residual_net(), tmp_path), tmp_path / "h.onnx", patch=4, stride=8)


@pytest.mark.parametrize("name", ["net.onnx", "notes.txt", "weights.data"])
def test_only_single_files_are_replaced(name: str, tmp_path: Path) -> None:
    path = written(residual_net(), tmp_path)
    for other in ("notes.txt", "weights.data"):
        (tmp_path / other).write_text("mine")
    before = (tmp_path / name).read_bytes()
    with pytest.raises(kx.KryptonError, match="exists and is no single file"):
        kx.compile_single_file(path, tmp_path / name, patch=4)
    assert (tmp_path / name).read_bytes() == before


def test_a_single_file_is_replaced(tmp_path: Path) -> None:
    path, target = written(residual_net(), tmp_path), tmp_path / "h.onnx"
    first = kx.compile_single_file(path, target, patch=4, stride=8)
    second = kx.compile_single_file(path, target, patch=4, stride=6)
    assert first.origins.shape != second.origins.shape
    assert run(target, image=np.zeros((1, 3, 20, 26), np.float32))["heatmap"].shape[1:] == second.origins.shape[:2]


def test_a_disk_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(residual_net(), tmp_path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(single_file.os, "replace", full)
    with pytest.raises(kx.KryptonError, match=r"h.onnx cannot be written: No space left"):
        kx.compile_single_file(path, tmp_path / "h.onnx", patch=4)
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize("name", ["heatmap", "target_index"])
def test_names_of_its_own(name: str, tmp_path: Path) -> None:
    model = residual_net()
    model.graph.node[-1].output[0] = model.graph.output[0].name = name
    with pytest.raises(kx.KryptonError, match=f"'{name}'.* rename"):
        kx.compile_single_file(written(model, tmp_path), tmp_path / "h.onnx", patch=4)


def test_the_image_may_have_any_name(tmp_path: Path) -> None:
    model = residual_net()
    model.graph.node[0].input[0] = model.graph.input[0].name = "target"
    model.graph.node[1].output[0] = "image"
    for one in model.graph.node:
        one.input[:] = ["image" if name == "relu1" else name for name in one.input]
    path = written(model, tmp_path)
    assert_as_driven(path, kx.compile_single_file(path, tmp_path / "h.onnx", patch=4), (4, 4))


def test_extents_that_depend_on_the_picture(tmp_path: Path) -> None:
    nodes = [node("Conv", ["image", "w1"], ["a"]), node("NonZero", ["a"], ["y"])]
    model = small_net(nodes, {"w1": normal(4, 3, 3, 3)}, outputs={"y": (TensorProto.INT64, ["a", "b"])})
    with pytest.raises(kx.KryptonError, match="known only when the model runs"):
        kx.compile_single_file(written(model, tmp_path), tmp_path / "h.onnx", patch=4)


def test_weights_of_more_than_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "MOST_WEIGHT_BYTES", 1000)
    with pytest.raises(kx.KryptonError, match=r"holds no more than 2 GB.*--single-file"):
        kx.compile_single_file(written(residual_net(), tmp_path), tmp_path / "h.onnx", patch=4)
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "."}, "is a folder"),
        ({"output": None}, "output must be a path, not a NoneType"),
        ({"output": "none/h.onnx"}, "no folder none"),
        ({"scored": "z"}, "no output 'z'; its outputs are y"),
        ({"patch": 21}, "does not fit"),
        ({"stride": 0}, "stride must be a whole number"),
        ({"edge": "wrap"}, "'cover' or 'stop'"),
        ({"labels": ["a"]}, "1 labels, and the model has 5"),
        ({"preprocess": {"crop": (8, 8)}}, "input is"),
        ({"device": "tpu"}, "'cpu' or 'cuda'"),
    ],
)
def test_what_cannot_be(options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = written(residual_net(), tmp_path)
    with pytest.raises(kx.KryptonError, match=message):
        kx.compile_single_file(path, **{"output": "h.onnx", "patch": 4, **options})
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]


# ---------------------------------------------------------------------------------------------- command line


def test_command_line(tmp_path: Path) -> None:
    path, target = written(residual_net(), tmp_path), tmp_path / "heatmap.onnx"
    arguments = ["compile", path, "--single-file", target, "--patch", "4", "--stride", "8", "--edge", "stop"]
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    for words in ("heatmaps of 3x3 positions", "image float32 [N, 3, 20, 26]", "heatmap float32 [N, 3, 3]", "Verified"):
        assert words in result.output
    assert run(target, image=np.zeros((1, 3, 20, 26), np.float32))["heatmap"].shape == (1, 3, 3)
    report = json.loads(CliRunner().invoke(main, [str(a) for a in (*arguments, "--json", "--no-verify")]).output)
    assert (report["grid"], report["verified"], report["bytes"]) == ([3, 3], False, target.stat().st_size)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["heatmap.onnx", "net.onnx"]


def test_command_line_without_defaults(tmp_path: Path) -> None:
    path, target = written(residual_net(), tmp_path), tmp_path / "heatmap.onnx"
    arguments = ["compile", path, "--single-file", target, "--patch", "4", "--no-defaults", "--output-name", "y"]
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    graph = onnx.load(target).graph
    assert not {t.name for t in graph.input} & {t.name for t in graph.initializer}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stride", "8"], "--stride is for a single file"),
        (["--edge", "stop"], "--edge is for a single file"),
        (["--output-name", "y"], "--output-name is for a single file"),
        (["--no-defaults"], "--no-defaults is for a single file"),
        (["--single-file", "h.onnx", "-o", "x.krypton"], "give one of them"),
    ],
)
def test_options_that_do_not_go_together(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["compile", str(written(residual_net(), tmp_path)), *arguments])
    assert result.exit_code == 2
    assert message in result.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
