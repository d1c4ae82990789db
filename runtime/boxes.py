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
        activation: what turns scores into probabilities, if the model does not: "sigmoid", or "softmax" over classes.
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
        names = self._names(setting)
        own = self._detections({name: setting.output(name) for name in names}, names, setting.image_size)[0]
        place = _place(self.near, setting.image_size) if self.near is not None else self._best(own)
        if not _nearest(own, place, self.min_iou) > 0:
            raise KryptonError(
                f"The base run has no box of class {self.index} near {place.tolist()}, so that nothing can drop: "
                "give another place or class, and see that coordinates and normalized suit the model."
            )

        def scores(outputs: Mapping[str, Output]) -> NDArray[np.float32]:
            found = self._detections(outputs, names, setting.image_size)
            return np.array([_nearest(one, place, self.min_iou) for one in found], np.float32)

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

    def _detections(
        self, outputs: Mapping[str, Output], names: tuple[str, ...], image_size: tuple[int, int]
    ) -> list["_Boxes"]:
        """What a batch's outputs say of the class, per query."""
        parts = [outputs[name] for name in names]
        return [self._boxes([part[query] for part in parts], image_size) for query in range(len(parts[0]))]

    def _boxes(self, parts: Sequence[Array], image_size: tuple[int, int]) -> "_Boxes":
        boxes, scores = self._decoded(parts)
        if (scores < 0).any():
            raise KryptonError(
                f"The scores of class {self.index} go down to {scores.min():.3g}, so that they are no probabilities: "
                "give BoxScore activation='sigmoid' or 'softmax', or name the output behind it."
            )
        scale = np.tile(image_size, 2) if self.normalized else 1.0
        return _Boxes(_corners(boxes, self.coordinates or "cxcywh") * scale, scores)

    def _decoded(self, parts: Sequence[Array]) -> tuple[Floats, Floats]:
        """(boxes as written [N, 4], the class's scores [N]) of one query."""
        match self.head:
            case "yolov5" | "yolov8":
                table = self._table(parts[0])
                boxes, sure = table[:, :4], table[:, 4].astype(np.float64) if self.head == "yolov5" else 1.0
                return boxes.astype(np.float64), self._of_class(table[:, 5 if self.head == "yolov5" else 4 :]) * sure
            case "scores":
                boxes = self._box_rows(parts[0])
                if parts[1].ndim != 2 or len(parts[1]) != len(boxes):
                    self._refuse(parts)
                return boxes, self._of_class(parts[1])
            case "labels":
                boxes = self._box_rows(parts[0])
                if any(part.shape != (len(boxes),) for part in parts[1:]):
                    self._refuse(parts)
                chosen = parts[2] == self.index
                return boxes[chosen], self._activated(parts[1][chosen])

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
            raised = np.exp(scores - scores.max(axis=1, keepdims=True), dtype=np.float64)
            return np.asarray(raised[:, self.index] / raised.sum(axis=1))
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

    def _best(self, own: "_Boxes") -> Floats:
        if not len(own.scores):
            raise KryptonError(f"The base run has no box of class {self.index}: give another class.")
        return np.asarray(own.corners[np.argmax(own.scores)])

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


@dataclass(frozen=True, slots=True, eq=False)
class _Boxes:
    """One class in one image.

    Attributes:
        corners: [N, 4], (y0, x0, y1, x1) in pixels of the model's image.
        scores: [N].
    """

    corners: Floats
    scores: Floats


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


def _nearest(boxes: _Boxes, place: Floats, min_iou: float) -> float:
    """The largest score × nearness; 0 without boxes."""
    if len(place) == 2:
        near = (boxes.corners[:, :2] <= place).all(axis=1) & (place <= boxes.corners[:, 2:]).all(axis=1)
        return float((boxes.scores * near).max(initial=0.0))
    overlap = _iou(boxes.corners, place)
    return float((boxes.scores * np.where(overlap >= min_iou, overlap, 0.0)).max(initial=0.0))


def _iou(corners: Floats, box: Floats) -> Floats:
    """Intersection over union of each box with one, 0 where neither has an area."""
    common = np.minimum(corners[:, 2:], box[2:]) - np.maximum(corners[:, :2], box[:2])
    shared = np.maximum(common, 0).prod(axis=1)
    union = np.maximum(corners[:, 2:] - corners[:, :2], 0).prod(axis=1) + (box[2:] - box[:2]).prod() - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))
