"""What a request asks, in whichever protocol."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from krypton_onnx.errors import KryptonError
from krypton_onnx.modes import Approximate, DrillDown, Exact, Mode
from krypton_onnx.plan import Plan, TensorInfo
from krypton_onnx.runtime.engine import Array
from krypton_onnx.runtime.questions import Question, pair
from krypton_onnx.runtime.targets import Target
from krypton_onnx.service.images import Image
from krypton_onnx.target_text import Boxed, Masked, as_target, read_target

_MOST = 2**31
"""No parameter is so large a number; numpy's would overflow. (As a constraint of msgspec's, beside an array of fixed
length, it would crash the process: version 0.23.)"""

TOP = -1
"""As a class: the picture's largest, as in the single file."""


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request's parameters, by the names that `Session.explain` gives them.

    Attributes:
        target: a class, or several; "top" or -1 for the picture's largest; "mask:21" and the like, see `read_target`.
        patch: by default the one that the model was compiled for.
        stride, fill, edge, region, output: see `Session.explain`.
        approximate: whether an approximate heatmap will do; each of the following but the seed says that, too.
        ssim, speedup, tau, seed: see `Approximate`.
        drill_down: (fraction, coarse stride), see `DrillDown`.
        box_head, box_outputs, box_coordinates, box_normalized, box_activation, box_min_iou: how a detector writes its
            boxes, for a target of one; see `BoxScore`.
    """

    target: int | list[int] | str = "top"
    patch: int | tuple[int, int] | None = None
    stride: int | tuple[int, int] = 4
    fill: Any = 0.0
    edge: Literal["cover", "stop"] = "cover"
    region: tuple[int, int, int, int] | None = None
    output: str | None = None
    approximate: bool | None = None
    ssim: float | None = None
    speedup: float | None = None
    tau: float | None = None
    drill_down: tuple[float, float] | None = None
    seed: int | None = None
    box_head: str | None = None
    box_outputs: str | None = None
    box_coordinates: str | None = None
    box_normalized: bool | None = None
    box_activation: str | None = None
    box_min_iou: float | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Options":
        """Parameters as they are given.

        Raises:
            KryptonError: one of them is unknown, or of a wrong type.
        """
        try:
            made = msgspec.convert(given, cls)
        except msgspec.ValidationError as error:
            raise KryptonError(
                f"The parameters are malformed: {error}; they are {', '.join(cls.__struct_fields__)}."
            ) from error
        for name, value in given.items():
            values = value if isinstance(value, list) else [value]
            if name != "fill" and any(isinstance(one, int | float) and not abs(one) < _MOST for one in values):
                raise KryptonError(f"The parameter {name} is not a number below {_MOST}.")
        return made

    def question(self, plan: Plan) -> Question:
        """What to ask a model.

        Raises:
            KryptonError: a size is none.
        """
        patch = plan.patch if self.patch is None else pair(self.patch, "patch")
        stride = pair(self.stride, "stride")
        return Question(self._target(), patch, stride, self.fill, self.edge, self.region, self.output)

    def _target(self) -> Target:
        read = read_target(self.target) if isinstance(self.target, str) else self.target
        given = {name: value for name, value in msgspec.structs.asdict(self).items() if name.startswith("box_")}
        if isinstance(read, Masked) and read.file is not None:
            raise KryptonError("A mask's file cannot be named in a request: give a rectangle, mask:CLASS:Y0,X0,Y1,X1.")
        if isinstance(read, Boxed) and self.box_head is None:
            raise KryptonError("A box target needs box_head, which says how the detector writes its boxes.")
        misplaced = [name for name, value in given.items() if value is not None]
        if misplaced and not isinstance(read, Boxed):
            raise KryptonError(f"{misplaced[0]} goes with a target box:CLASS; omit it.")
        return "top" if read in (TOP, [TOP]) else as_target(read, given)

    def mode(self) -> Mode:
        """How to answer.

        Raises:
            KryptonError: the parameters contradict one another, or are out of range.
        """
        asked = {name: getattr(self, name) for name in ("ssim", "speedup", "tau") if getattr(self, name) is not None}
        drill = None
        if self.drill_down is not None:
            fraction, stride = self.drill_down  # a tensor has but one type
            drill = DrillDown(fraction, int(stride) if stride.is_integer() else None)
        if asked or drill or self.approximate:
            if self.approximate is False:
                raise KryptonError("approximate is false, and another parameter asks for an approximate heatmap.")
            return Approximate(**asked, drill_down=drill, seed=self.seed or 0)
        if self.seed is not None:
            raise KryptonError("seed goes with an approximate heatmap; omit it.")
        return Exact()


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A request.

    Attributes:
        images: to be made one by one.
        inputs: the model's other inputs, by name; the same for all images.
        options: what to ask about each.
        heatmap: whether heatmaps are wanted.
        outputs: which of the model's own outputs are wanted.
    """

    images: tuple[Image, ...]
    inputs: Mapping[str, Array]
    options: Options
    heatmap: bool
    outputs: tuple[TensorInfo, ...]
