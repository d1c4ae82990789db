"""What every target becomes: a score, settled once by the base run and then taken from each batch of queries."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from krypton_onnx.errors import KryptonError
from krypton_onnx.runtime.base import Output
from krypton_onnx.runtime.engine import Array
from krypton_onnx.runtime.outputs import Pick


@dataclass(frozen=True, slots=True)
class Score:
    """The scalar, or the T scalars, that are explained.

    Attributes:
        target: the class index or indices; None where the score belongs to no class.
        of: a batch's outputs to float32 [q] or, for a list of targets, [q, T].
        record: the target in plain JSON values.
        pick: the elements that the scores are, where they are nothing else.
    """

    target: int | list[int] | None
    of: Callable[[Mapping[str, Output]], NDArray[np.float32]]
    record: Any
    pick: Pick | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """What a target is settled by.

    Attributes:
        outputs: the image's own outputs.
        name: of the output to score, where the target names no other.
        image_size: (H, W) of the model's image.
        channels_last: whether the model takes [H, W, C].
    """

    outputs: Mapping[str, Output]
    name: str
    image_size: tuple[int, int]
    channels_last: bool

    def output(self, name: str) -> Output:
        """One of the image's own outputs.

        Raises:
            KryptonError: the model has no such output.
        """
        if name not in self.outputs:
            raise KryptonError(f"The model has no output '{name}'; its outputs are {', '.join(self.outputs)}.")
        return self.outputs[name]

    def array(self) -> Array:
        """The output to score, [1, …].

        Raises:
            KryptonError: there is none, or its extents depend on the data.
        """
        return array_of(self.output(self.name), self.name)


def array_of(values: Output, name: str) -> Array:
    """An output as [q, …].

    Raises:
        KryptonError: its extents depend on the data.
    """
    if isinstance(values, list):
        raise KryptonError(
            f"The extents of the output '{name}' depend on the image, so that no index means the same in two queries: "
            "ask for detections near a place with krypton_onnx.BoxScore (--target box:CLASS:Y0,X0,Y1,X1), or give a "
            "function of the outputs."
        )
    return values


def class_index(value: Any) -> int:
    """A class's index as an int.

    Raises:
        KryptonError: it is no whole number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise KryptonError(f"The class {value!r} is no index: give a whole number.")
    return int(value)


class NamedTarget(ABC):
    """A target with a name and parameters: `InMask`, `BoxScore`, `Cosine`."""

    __slots__ = ()

    @abstractmethod
    def score(self, setting: Setting) -> Score:
        """The score, settled by the base run.

        Raises:
            KryptonError: the model's outputs are not what this target is about.
        """
