"""Targets: what a batch's outputs are reduced to, against loops that do the definition's word."""

import gc
import json
import weakref

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import krypton_onnx as kx
from krypton_onnx.runtime.driver import Driver
from krypton_onnx.runtime.scores import Setting
from krypton_onnx.runtime.targets import score_of

SIZE = (24, 32)


def setting(outputs, name=None, channels_last=False):
    return Setting(outputs, name or next(iter(outputs)), SIZE, channels_last)


def scored(target, own, outputs, **kwargs):
    """The scores of a batch, the base run's outputs being `own`."""
    return score_of(target, setting(own, **kwargs)).of(outputs)


# ---------------------------------------------------------------------------------------------------- masks

RNG = np.random.default_rng(0)
MAPS = RNG.standard_normal((3, 4, 6, 8)).astype(np.float32)
MASK = RNG.random((6, 8)) < 0.3


def test_the_mean_of_a_class_map_in_a_mask():
    found = scored(kx.InMask(2, MASK), {"y": MAPS[:1]}, {"y": MAPS})
    expected = [np.mean([MAPS[q, 2, y, x] for y, x in np.argwhere(MASK)]) for q in range(3)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found.dtype == np.float32


def test_maps_with_channels_last():
    expected = scored(kx.InMask(2, MASK), {"y": MAPS[:1]}, {"y": MAPS})
    last = MAPS.transpose(0, 2, 3, 1)
    for target, as_model in ((kx.InMask(2, MASK), True), (kx.InMask(2, MASK, channels_last=True), False)):
        np.testing.assert_array_equal(scored(target, {"y": last[:1]}, {"y": last}, channels_last=as_model), expected)


@pytest.mark.parametrize("axes", [(), (1,)])
@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
def test_the_share_of_a_mask_that_is_labelled(axes, dtype):
    labels = np.expand_dims(MAPS.argmax(axis=1).astype(dtype), axes)
    found = scored(kx.InMask(1, MASK), {"y": labels[:1]}, {"y": labels})
    expected = [(MAPS[q].argmax(axis=0)[MASK] == 1).mean() for q in range(3)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_without_a_mask_the_region_is_the_base_runs_own():
    own, region = MAPS[:1], MAPS[0].argmax(axis=0) == 3
    expected = scored(kx.InMask(3, region), {"y": own}, {"y": MAPS})
    np.testing.assert_array_equal(scored(kx.InMask(3), {"y": own}, {"y": MAPS}), expected)
    labels = MAPS.argmax(axis=1)
    assert scored(kx.InMask(3), {"y": labels[:1]}, {"y": labels})[0] == 1


def test_a_mask_in_the_images_resolution_is_sampled_at_the_cells_centres():
    mask = RNG.random(SIZE) < 0.5  # each cell is 4 × 4 pixels, its centre the pixel (2, 2)
    sampled = np.array([[mask[4 * y + 2, 4 * x + 2] for x in range(8)] for y in range(6)])
    assert 0 < sampled.sum() < sampled.size
    expected = scored(kx.InMask(2, sampled), {"y": MAPS[:1]}, {"y": MAPS})
    np.testing.assert_array_equal(scored(kx.InMask(2, mask), {"y": MAPS[:1]}, {"y": MAPS}), expected)


def test_a_rectangle_is_a_mask():
    mask = np.zeros(SIZE, np.uint8)
    mask[4:13, 8:32] = 255
    expected = scored(kx.InMask(2, mask), {"y": MAPS[:1]}, {"y": MAPS})
    np.testing.assert_array_equal(scored(kx.InMask(2, (4, 8, 13, 32)), {"y": MAPS[:1]}, {"y": MAPS}), expected)


@pytest.mark.parametrize(
    ("target", "own", "message"),
    [
        (kx.InMask(4, MASK), MAPS[:1], "out of range.* 4 maps, 0 to 3"),
        (kx.InMask(1, MASK), MAPS[:1, 0, 0], "about maps"),
        (kx.InMask(1, MASK[:5]), MAPS[:1], "5x8; it must be as large as the output 'y', 6x8, or .* 24x32"),
        (kx.InMask(1, MASK & False), MAPS[:1], "holds no cell"),
        (kx.InMask(1, (0, 0, 1, 1)), MAPS[:1], "holds no cell"),
        (kx.InMask(1, (0, 0, 25, 1)), MAPS[:1], "no part .* 24x32"),
        (kx.InMask(1, MASK.astype(float)), MAPS[:1], "bool or whole numbers"),
        (kx.InMask(1, MASK[0, :4]), MAPS[:1], "bool or whole numbers"),
        (kx.InMask("person"), MAPS[:1], "no index"),
        (kx.InMask(9), MAPS[:1].argmax(axis=1), "no cell .* class 9"),
        (kx.InMask(0), MAPS[:1, :1], "single map"),
        (kx.InMask(0), [MAPS[0]], "depend on the image"),
    ],
)
def test_masks_that_do_not_fit(target, own, message):
    with pytest.raises(kx.KryptonError, match=message):
        score_of(target, setting({"y": own}))


# ---------------------------------------------------------------------------------------------------- boxes

CORNERS = np.array([(2, 3, 12, 15), (2, 4, 13, 17), (10, 20, 22, 30), (0, 0, 24, 32)], np.float32)  # y0, x0, y1, x1
CLASSES = np.array([[0.5, 0.1], [0.75, 0.2], [0.1, 0.875], [0.25, 0.05]], np.float32)
REFERENCE = (2, 3, 12, 15)


def written(corners, coordinates):
    y0, x0, y1, x1 = corners.T
    return {
        "xyxy": np.stack([x0, y0, x1, y1], axis=1),
        "yxyx": corners,
        "xywh": np.stack([x0, y0, x1 - x0, y1 - y0], axis=1),
        "cxcywh": np.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], axis=1),
    }[coordinates]


def iou(a, b):
    """By counting pixels."""
    cells = [{(y, x) for y in range(int(c[0]), int(c[2])) for x in range(int(c[1]), int(c[3]))} for c in (a, b)]
    return len(cells[0] & cells[1]) / len(cells[0] | cells[1])


def best(index, reference, min_iou=0.0):
    near = [iou(corners, reference) for corners in CORNERS]
    return max(s * n if n >= min_iou else 0 for s, n in zip(CLASSES[:, index], near, strict=True))


def head_of(head, coordinates="cxcywh", corners=CORNERS, classes=CLASSES):
    """Outputs of one query in a head's form."""
    boxes = written(corners, coordinates)
    match head:
        case "yolov5":
            return {"y": np.concatenate([boxes, np.full((len(boxes), 1), 0.5), classes * 2], axis=1)[None]}
        case "yolov8":
            return {"y": np.concatenate([boxes, classes], axis=1).T[None]}
        case "scores":
            return {"b": boxes[None], "s": classes[None]}
        case "labels":
            count = classes.shape[1]
            labels = np.tile(np.arange(count), len(boxes))
            return {"b": np.repeat(boxes, count, axis=0)[None], "s": classes.reshape(1, -1), "l": labels[None]}


@pytest.mark.parametrize("coordinates", ["xyxy", "yxyx", "xywh", "cxcywh"])
@pytest.mark.parametrize("head", ["yolov5", "yolov8", "scores", "labels"])
@pytest.mark.parametrize("index", [0, 1])
def test_every_head_gives_the_same_score(head, coordinates, index):
    outputs = head_of(head, coordinates)
    target = kx.BoxScore(index, REFERENCE, head=head, outputs=tuple(outputs), coordinates=coordinates)
    found = scored(target, outputs, {name: np.repeat(values, 2, axis=0) for name, values in outputs.items()})
    np.testing.assert_allclose(found, [best(index, REFERENCE)] * 2, rtol=1e-5)


def test_the_best_box_is_not_the_surest_one_nor_the_nearest():
    """Box 1 overlaps less than box 0, and is so much surer that it wins, unless overlaps are held to 0.8."""
    outputs = head_of("yolov8")
    assert best(0, REFERENCE) == pytest.approx(0.75 * iou(CORNERS[1], REFERENCE))
    strict = scored(kx.BoxScore(0, REFERENCE, head="yolov8", min_iou=0.8), outputs, outputs)
    assert strict == pytest.approx(0.5)


def test_near_a_point_counts_what_contains_it():
    outputs = head_of("yolov8")
    assert scored(kx.BoxScore(0, (3, 3), head="yolov8"), outputs, outputs) == pytest.approx(0.5)
    assert scored(kx.BoxScore(0, (23, 1), head="yolov8"), outputs, outputs) == pytest.approx(0.25)


def test_numpy_numbers_and_a_single_name_are_taken():
    outputs = {**head_of("scores"), **head_of("yolov8")}
    near = np.array(REFERENCE)
    target = kx.BoxScore(np.int64(0), near, head="yolov8", outputs="y", min_iou=np.float32(0.1))
    score = score_of(target, setting(outputs))
    assert score.of(outputs) == pytest.approx(best(0, REFERENCE))
    record = {**score.record, "mask": score_of(kx.InMask(np.int8(1), MASK), setting({"y": MAPS[:1]})).record}
    assert json.loads(json.dumps(record)) == record


def test_without_a_place_it_is_the_base_runs_best_box():
    outputs = head_of("yolov8")
    score = score_of(kx.BoxScore(1, head="yolov8"), setting(outputs))
    assert score.record["place"] == [10, 20, 22, 30]
    assert score.of(outputs) == pytest.approx(0.875)
    moved = head_of("yolov8", corners=CORNERS + np.float32([0, 1, 0, 1]))
    assert score.of(moved) == pytest.approx(0.875 * 9 / 11)


def test_coordinates_as_shares_of_the_image():
    shares = CORNERS / np.float32([24, 32, 24, 32])
    outputs = head_of("scores", "xyxy", corners=shares)
    target = kx.BoxScore(1, REFERENCE, head="scores", outputs=("b", "s"), coordinates="xyxy", normalized=True)
    assert scored(target, outputs, outputs) == pytest.approx(best(1, REFERENCE))


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_logits_become_probabilities(activation):
    logits = np.float32([[-200.0, -3.0], [1, 2], [3, 90], [-1, 0]])
    exact = 1 / (1 + np.exp(-logits.astype(float)))
    if activation == "softmax":
        exact = np.exp(logits - logits.max(axis=1, keepdims=True)) / np.exp(
            logits - logits.max(axis=1, keepdims=True)
        ).sum(axis=1, keepdims=True)
    found = [
        scored(kx.BoxScore(1, head="yolov8", activation=a), outputs, outputs)
        for a, outputs in ((activation, head_of("yolov8", classes=logits)), (None, head_of("yolov8", classes=exact)))
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_the_sigmoid_of_a_yolov5_head_takes_both_factors():
    outputs = head_of("yolov5")
    outputs["y"][0, :, 4] = -1.0
    outputs["y"][0, :, 5:] = [0.5, 3.0]
    found = scored(kx.BoxScore(1, REFERENCE, head="yolov5", activation="sigmoid"), outputs, outputs)
    assert found == pytest.approx(1 / (1 + np.exp(1)) / (1 + np.exp(-3)))


def test_lists_of_detections_and_none_at_all():
    """After suppression every query has boxes of its own, in a list; a query without any scores 0."""
    own = head_of("labels", "xyxy")
    ragged = {
        "b": [own["b"][0], own["b"][0, 2:4], np.zeros((0, 4), np.float32)],
        "s": [own["s"][0], own["s"][0, 2:4], np.zeros(0, np.float32)],
        "l": [own["l"][0], own["l"][0, 2:4], np.zeros(0, np.int64)],
    }
    target = kx.BoxScore(0, REFERENCE, head="labels", outputs=("b", "s", "l"), coordinates="xyxy")
    found = scored(target, {name: values[:1] for name, values in ragged.items()}, ragged)
    second = 0.75 * iou(CORNERS[1], REFERENCE)
    np.testing.assert_allclose(found, [best(0, REFERENCE), second, 0], rtol=1e-5)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"head": "ssd"}, "head is 'ssd'"),
        ({"head": "scores", "outputs": ("b", "s")}, "give coordinates, one of xyxy"),
        ({"head": "scores", "coordinates": "xyxy"}, "the names of 2 outputs"),
        ({"head": "yolov8", "outputs": ("nothing",)}, "no output 'nothing'"),
        ({"head": "yolov8", "outputs": ("b",)}, r"\[4 \+ classes, N\], .* \[4, 4\]"),
        ({"head": "yolov5", "outputs": ("s",)}, r"\[N, 5 \+ classes\]"),
        ({"head": "scores", "outputs": ("s", "b"), "coordinates": "xyxy"}, r"boxes \[N, 4\] and scores"),
        ({"head": "labels", "outputs": ("b", "s", "s"), "coordinates": "xyxy"}, r"labels \[N\]"),
        ({"index": 1.0}, "no index"),
        ({"index": 7}, "out of range: the detector has 2 classes"),
        ({"near": (0, 0, 30, 4)}, "no box"),
        ({"near": (5, 5, 5, 9)}, "no box"),
        ({"near": (1, 2, 3)}, "a box .* or a point"),
        ({"near": (20, 0, 24, 2), "min_iou": 0.5}, "no box of class 0 near"),
        ({"min_iou": 2}, "from 0 to 1"),
        ({"activation": "relu"}, "activation"),
        ({"head": "yolov5", "activation": "softmax"}, "omit softmax"),
        ({"outputs": ("negative",)}, "go down to -1: .*|go down to -1, .* activation='sigmoid'"),
    ],
)
def test_boxes_that_mean_nothing(asked, message):
    base = {"head": "yolov8", "outputs": ("y",), "index": 0, **asked}
    outputs = {**head_of("yolov8"), **head_of("scores")}
    outputs["negative"] = outputs["y"] - 1.1
    with pytest.raises(kx.KryptonError, match=message):
        score_of(kx.BoxScore(**base), setting(outputs))


# ---------------------------------------------------------------------------------------- cosine, and the rest


def test_the_cosine_to_the_image_itself():
    own = MAPS[:1]
    outputs = np.concatenate([own, -2 * own, own + 1, np.zeros_like(own)])
    found = scored(kx.Cosine(), {"y": own}, {"y": outputs})
    a, b = own.ravel().astype(float), (own + 1).ravel().astype(float)
    expected = [1, -1, a @ b / np.sqrt((a @ a) * (b @ b)), 0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    with pytest.raises(kx.KryptonError, match="no direction"):
        score_of(kx.Cosine(), setting({"y": own * 0}))


@pytest.mark.parametrize("target", [3, "top", [1, 2], kx.Cosine()])
def test_ragged_outputs_have_no_index(target):
    with pytest.raises(kx.KryptonError, match="BoxScore"):
        score_of(target, setting({"y": [np.zeros((5, 4))]}))


# -------------------------------------------------------------------------------------------------- whole way


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    """A model of class maps [1, 3, 24, 32] and their argmax."""
    rng = np.random.default_rng(5)
    weights = {"w": rng.standard_normal((6, 3, 3, 3)) / 3, "v": rng.standard_normal((3, 6, 3, 3)) / 3}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "v"], ["maps"], pads=[1, 1, 1, 1]),
        helper.make_node("ArgMax", ["maps"], ["labels"], axis=1, keepdims=0),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "segmenter",
        [info("x", TensorProto.FLOAT, [1, 3, *SIZE])],
        [info("maps", TensorProto.FLOAT, [1, 3, *SIZE]), info("labels", TensorProto.INT64, [1, *SIZE])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    path = tmp_path_factory.mktemp("segmenter") / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return kx.compile(path, patch=4)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(6).standard_normal((3, *SIZE)).astype(np.float32)


def test_named_targets_on_a_model(segmenter, image):
    session = kx.Session(segmenter)
    base = session.materialize(image)
    ask = {"patch": 4, "stride": 4, "progress": False}
    region = base.outputs["maps"][0].argmax(axis=0) == 1
    heatmap = session.explain(base, kx.InMask(1), **ask)
    own = session.explain(base, lambda outputs: outputs["maps"][:, 1][:, region].mean(axis=1), **ask)
    np.testing.assert_allclose(heatmap.scores, own.scores, atol=1e-6)
    assert heatmap.scores.std() > 1e-3
    assert heatmap.target == 1
    assert heatmap.record["target"] == {"class": 1, "mask": {"of": "base run", "cells": int(region.sum())}}
    shares = session.explain(base, kx.InMask(1), output="labels", **ask)
    assert shares.base_score == 1
    assert shares.scores.min() < 1
    similar = session.explain(base, kx.Cosine(), **ask)
    assert similar.base_score == pytest.approx(1)
    assert similar.target is None


@pytest.mark.parametrize("target", [kx.InMask(1), kx.InMask(1, (0, 0, 12, 12)), kx.Cosine(), 5])
def test_outputs_are_dropped_batch_by_batch(segmenter, image, target, monkeypatch):
    """A sweep holds the batch that is being scored and the one before it, never all maps."""
    alive, most, batches = [], 0, 0
    whole = Driver.run

    def watched(self, *arguments):
        nonlocal most, batches
        for batch, outputs in whole(self, *arguments):
            alive.append(weakref.ref(next(iter(outputs.values()))))
            yield batch, outputs
            batches += 1
            gc.collect()
            most = max(most, sum(ref() is not None for ref in alive))

    session = kx.Session(segmenter)
    base = session.materialize(image)
    monkeypatch.setattr(Driver, "run", watched)
    gc.freeze()  # so that each collection looks at what is new
    try:
        session.explain(base, target, patch=4, stride=1, progress=False)
    finally:
        gc.unfreeze()
    assert batches > 5
    assert 1 <= most <= 2
