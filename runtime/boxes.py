"""`BoxScore`: the target for detectors, whatever their head gives: a table of boxes, or lists of detections."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Literal, NoReturn, get_args

import numpy as np
from numpy.typing import NDArray

from krypton_onnx.errors import KryptonError
from krypton_onnx.runtime.base import Output
from krypton_onnx.runtime.engine import Array
from krypton_onnx.runtime.scores import NamedTarget, Score, Setting, class_index

Head = Literal["yolov5", "yolov8", "scores", "labels"]
Coordinates = Literal["xyxy", "yxyx", "xywh", "cxcywh"]
Activation = Literal["sigmoid", "softmax"]
Floats = NDArray[np.float64]

_PARTS = {"yolov5": 1, "yolov8": 1, "scores": 2, "labels": 3}
_SHAPES = {
    "yolov5": "[N, 5 + classes]",
    "yolov8": "[4 + classes, N]",
    "scores": "boxes [N, 4] and scores [N, classes]",
    "labels": "boxes [N, 4], scores [N] and labels [N]",
}


@dataclass(frozen=True, slots=True)
class BoxScore(NamedTarget):
    """How surely a detector finds a class near a place: the maximum over its boxes of score × nearness.

    Near a box, nearness is the intersection over union with it (0 if less than `min_iou`); near a point, 1 for boxes
    that contain it and 0 for others. No box at all scores 0.

    Attributes:
        index: the class.
        near: the place, in pixels of the model's image: a box (y0, x0, y1, x1) or a point (y, x); None for the base
            run's own best box of the class.
        head: what the outputs of one query are: "yolov5" [N, 5 + classes], rows of a box, how sure an object is
            there, and a share per class; "yolov8" [4 + classes, N]; "scores", boxes [N, 4] and scores [N, classes];
            "labels", boxes [N, 4], scores [N] and labels [N], of any N, as detections are listed after suppression.
        outputs: the names of these outputs, in that order; by default, for a head of one, the chosen output.
        coordinates: of a box: "xyxy" (x0, y0, x1, y1), "yxyx", "xywh" (corner and size) or "cxcywh" (centre and
            size); the yolo heads have "cxcywh" unless told.
        normalized: whether coordinates are shares of the image's width and height, in place of pixels.
        activation: what turns scores into probabilities, if the model does not: "sigmoid", of "yolov5" also how sure an
            object is there; or "softmax" over the classes, for "yolov8" and "scores".
        min_iou: boxes that overlap less than this count as elsewhere.
    """

    index: int
    near: Sequence[float] | None = None
    _: KW_ONLY
    head: Head
    outputs: str | Sequence[str] = ()
    coordinates: Coordinates | None = None
    normalized: bool = False
    activation: Activation | None = None
    min_iou: float = 0.0

    def score(self, setting: Setting) -> Score:
        """See `NamedTarget.score`."""
        self._check()
        names, size = self._names(setting), setting.image_size
        own = [setting.output(name)[0] for name in names]
        place = _place(self.near, size) if self.near is not None else self._best_box(own, size)
        if not self._best_score(own, place, size) > 0:
            raise KryptonError(
                f"The base run has no box of class {self.index} near {place.tolist()}, so that nothing can drop: "
                "give another place or class, and see that coordinates and normalized suit the model."
            )

        def scores(outputs: Mapping[str, Output]) -> NDArray[np.float32]:
            queries = zip(*(outputs[name] for name in names), strict=True)
            return np.array([self._best_score(parts, place, size) for parts in queries], np.float32)

        return Score(class_index(self.index), scores, self._record(place, names))

    def _check(self) -> None:
        class_index(self.index)
        for what, value, known in (("head", self.head, Head), ("coordinates", self.coordinates, Coordinates)):
            if value not in get_args(known) and not (value is None and what == "coordinates"):
                raise KryptonError(f"BoxScore's {what} is {value!r}; it can be {', '.join(get_args(known))}.")
        if self.activation not in (None, *get_args(Activation)):
            raise KryptonError(f"BoxScore's activation is {self.activation!r}; it can be None, sigmoid or softmax.")
        if self.coordinates is None and not self.head.startswith("yolo"):
            raise KryptonError(
                f"BoxScore must know how the head '{self.head}' writes a box: give coordinates, one of "
                f"{', '.join(get_args(Coordinates))}, and normalized=True if they are shares of the image."
            )
        if self.activation == "softmax" and self.head in ("labels", "yolov5"):
            raise KryptonError(f"The head '{self.head}' has no scores of all classes side by side; omit softmax.")
        if not 0 <= self.min_iou <= 1:
            raise KryptonError(f"BoxScore's min_iou is {self.min_iou}; it must be from 0 to 1.")

    def _names(self, setting: Setting) -> tuple[str, ...]:
        names = (self.outputs,) if isinstance(self.outputs, str) else tuple(self.outputs) or (setting.name,)
        if len(names) != _PARTS[self.head]:
            raise KryptonError(
                f"The head '{self.head}' is {_SHAPES[self.head]}: give BoxScore the names of {_PARTS[self.head]} "
                f"outputs, in this order, out of {', '.join(setting.outputs)}."
            )
        return names

    def _best_score(self, parts: Sequence[Array], place: Floats, image_size: tuple[int, int]) -> float:
        """The largest score × nearness of one query; 0 without boxes."""
        corners, rows = self._detections(parts, image_size)
        nearness = _nearness(corners, place, self.min_iou)
        near = nearness > 0  # few of thousands, and only their scores matter
        return float((self._scores([part[near] for part in rows]) * nearness[near]).max(initial=0.0))

    def _best_box(self, parts: Sequence[Array], image_size: tuple[int, int]) -> Floats:
        corners, rows = self._detections(parts, image_size)
        scores = self._scores(rows)
        if not scores.max(initial=0.0) > 0:
            raise KryptonError(f"The base run has no box of class {self.index}: give another class.")
        return np.asarray(corners[np.argmax(scores)])

    def _detections(self, parts: Sequence[Array], image_size: tuple[int, int]) -> tuple[Floats, list[Array]]:
        """One query's boxes, [N, 4] as (y0, x0, y1, x1) in pixels, and what stands beside each of them, [N, …]."""
        if self.head.startswith("yolo"):
            table = self._table(parts[0])
            boxes, rows = table[:, :4].astype(np.float64), [table[:, 4:]]
        else:
            boxes, rows = self._box_rows(parts[0]), list(parts[1:])
            if any(len(row) != len(boxes) or row.ndim != (2 if self.head == "scores" else 1) for row in rows):
                self._refuse(parts)
        scale = np.tile(image_size, 2) if self.normalized else 1.0
        return _corners(boxes, self.coordinates or "cxcywh") * scale, rows

    def _scores(self, rows: Sequence[Array]) -> Floats:
        """The class's scores, [N]."""
        match self.head:
            case "yolov5":
                scores = self._of_class(rows[0][:, 1:]) * self._activated(rows[0][:, 0])
            case "labels":
                scores = np.where(rows[1] == self.index, self._activated(rows[0]), 0.0)
            case _:
                scores = self._of_class(rows[0])
        if (scores < 0).any():
            raise KryptonError(
                f"The scores of class {self.index} go down to {scores.min():.3g}, so that they are no probabilities: "
                "give BoxScore activation='sigmoid' or 'softmax', or name the output behind it."
            )
        return scores

    def _table(self, values: Array) -> Array:
        """Rows of a yolo head."""
        head = 5 if self.head == "yolov5" else 4
        table = values.T if self.head == "yolov8" else values
        if table.ndim != 2 or table.shape[1] <= head:
            self._refuse([values])
        return table

    def _box_rows(self, values: Array) -> Floats:
        if values.ndim < 2 or values.shape[-1] != 4:
            self._refuse([values])
        return values.reshape(-1, 4).astype(np.float64)

    def _of_class(self, scores: Array) -> Floats:
        """[N] of [N, classes]."""
        if not 0 <= self.index < scores.shape[1]:
            raise KryptonError(
                f"The class {self.index} is out of range: the detector has {scores.shape[1]} classes, 0 to "
                f"{scores.shape[1] - 1}."
            )
        if self.activation == "softmax":
            logits = scores.astype(np.float32)
            raised = np.exp(logits - logits.max(axis=1, keepdims=True))
            return np.asarray(raised[:, self.index] / raised.sum(axis=1, dtype=np.float64))
        return self._activated(scores[:, self.index])

    def _activated(self, scores: Array) -> Floats:
        values = scores.astype(np.float64)
        return 0.5 * (1 + np.tanh(values / 2)) if self.activation == "sigmoid" else values

    def _refuse(self, parts: Sequence[Array]) -> NoReturn:
        found = " and ".join(str(list(part.shape)) for part in parts)
        raise KryptonError(
            f"The head '{self.head}' is {_SHAPES[self.head]}, and one query's outputs are {found}: name other outputs, "
            "or another head."
        )

    def _record(self, place: Floats, names: tuple[str, ...]) -> dict[str, object]:
        return {
            "class": int(self.index),
            "near": "base run" if self.near is None else "given",
            "place": [round(float(number), 3) for number in place],
            "head": self.head,
            "outputs": list(names),
            "coordinates": self.coordinates or "cxcywh",
            "normalized": self.normalized,
            "activation": self.activation,
            "min_iou": float(self.min_iou),
        }


def _corners(boxes: Floats, coordinates: Coordinates) -> Floats:
    """[N, 4] as (y0, x0, y1, x1)."""
    first, second = boxes[:, :2], boxes[:, 2:]
    match coordinates:
        case "yxyx":
            return boxes
        case "xywh":
            second = first + second
        case "cxcywh":
            first, second = first - second / 2, first + second / 2
    return np.concatenate([first[:, ::-1], second[:, ::-1]], axis=1)


def _place(near: Sequence[float], image_size: tuple[int, int]) -> Floats:
    """A box or a point, inside the image.

    Raises:
        KryptonError: it is neither.
    """
    place = np.asarray(near)
    if place.shape not in ((2,), (4,)) or place.dtype.kind not in "iuf":
        raise KryptonError("BoxScore's place must be a box (y0, x0, y1, x1) or a point (y, x), in pixels.")
    place = place.astype(np.float64)
    inside = ((place >= 0) & (place <= np.resize(image_size, place.shape))).all()
    if not inside or (len(place) == 4 and not (place[:2] < place[2:]).all()):
        form = "box (y0,x0,y1,x1)" if len(place) == 4 else "point (y,x)"
        raise KryptonError(f"{place.tolist()} is no {form} in the {image_size[0]}x{image_size[1]} image.")
    return place


def _nearness(corners: Floats, place: Floats, min_iou: float) -> Floats:
    """Of each box to a box or a point, [N]."""
    if len(place) == 2:
        inside = (corners[:, :2] <= place).all(axis=1) & (place <= corners[:, 2:]).all(axis=1)
        return np.asarray(inside, np.float64)
    overlap = _iou(corners, place)
    return np.asarray(np.where(overlap >= min_iou, overlap, 0.0))


def _iou(corners: Floats, box: Floats) -> Floats:
    """Intersection over union of each box with one, 0 where neither has an area."""
    common = np.minimum(corners[:, 2:], box[2:]) - np.maximum(corners[:, :2], box[:2])
    shared = np.maximum(common, 0).prod(axis=1)
    union = np.maximum(corners[:, 2:] - corners[:, :2], 0).prod(axis=1) + (box[2:] - box[:2]).prod() - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))
