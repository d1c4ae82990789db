"""What the base run of one image leaves behind for its queries, and what queries answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from krypton_onnx.plan import Plan
from krypton_onnx.runtime.batches import Integers
from krypton_onnx.runtime.engine import Array
from krypton_onnx.runtime.memory import view_bytes

if TYPE_CHECKING:
    from krypton_onnx.runtime.driver import Driver

Output = Array | list[Array]
"""One output of all queries: an array [Q, …], or, if its extents depend on the data, Q arrays, each […] of its own."""

Outputs = dict[str, Output]
"""By output name."""

Content = Callable[[Integers], Array]
"""Patch content of the queries at these positions: [1 or q, C, h, w]."""


@dataclass(frozen=True, eq=False)
class Base:
    """The base run of one image. Keep it and ask many questions; threads may share it.

    Attributes:
        plan: of the compiled model that ran.
        image: the image tensor [C, H, W], in the model's dtype.
        inputs: the model's other inputs, as given.
        views: the activations as rows, by view name: arrays, or `Resident` ones on a device, the other inputs among
            these.
        answer: runs the query that gives the outputs for the image itself.
        variants: of the same image, by other drivers; see `variant`.
    """

    plan: Plan
    image: Array
    inputs: Mapping[str, Array]
    views: Mapping[str, Any]
    answer: "Callable[[Base], Outputs]"
    variants: "dict[int, Base]" = field(default_factory=dict)

    def variant(self, driver: "Driver") -> "Base":
        """The base run of the same image by another driver of the model, made when it is first asked for."""
        if driver.plan is self.plan:
            return self
        if id(driver) not in self.variants:
            self.variants[id(driver)] = driver.materialize(self.image, self.inputs)
        return self.variants[id(driver)]

    @property
    def nbytes(self) -> int:
        """Bytes that it takes as far as it has been asked for, its variants included."""
        arrays = [self.image, *self.inputs.values()]
        for output in self.__dict__.get("outputs", {}).values():  # if they have been computed
            arrays += output if isinstance(output, list) else [output]
        held = sum(array.nbytes for array in arrays) + view_bytes(self.plan)
        return held + sum(variant.nbytes for variant in list(self.variants.values()))

    @cached_property
    def outputs(self) -> Outputs:
        """The model's outputs for the image itself, by name, for one query; computed when first asked for."""
        return self.answer(self)
