"""The unmodified model in ONNX Runtime: what incremental answers are compared with."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime as ort

from krypton_onnx.errors import KryptonError
from krypton_onnx.plain_model import same_rows, with_free_batch
from krypton_onnx.plan import Plan
from krypton_onnx.runtime.base import Outputs
from krypton_onnx.runtime.engine import Array, Engine, quiet_options
from krypton_onnx.runtime.outputs import ragged_names
from krypton_onnx.runtime.providers import CPU, Provider, in_full


class Source:
    """The unmodified model in ONNX Runtime, with and without graph optimisation.

    Args:
        path: the ONNX file.
        plan: describes its inputs and outputs.
        others: values for its inputs beside the image.
        providers: to run on, as `providers.chosen` gives them.

    Raises:
        KryptonError: ONNX Runtime refuses the model, for instance because it has no kernel for a node.
    """

    def __init__(
        self, path: Path, plan: Plan, others: dict[str, Array], providers: Sequence[Provider] = (CPU,)
    ) -> None:
        self._path, self._plan, self._others, self._providers = path, plan, others, in_full(providers)
        self.optimised = Engine(path, self._providers)
        batch = self.optimised.shapes[plan.image.name][0]
        self._batch = batch if isinstance(batch, int) else 1

    @cached_property
    def unoptimised(self) -> Engine:
        """Made when it is first asked for: it runs several times slower, and few verdicts need it."""
        plain = quiet_options()
        plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        return Engine(self._path, self._providers, plain)

    def run(self, engine: Engine, images: Array) -> Outputs:
        """Outputs for images [Q, C, H, W], each in a run of its own, in the batch that was exported."""
        results: dict[str, list[Array]] = {o.name: [] for o in self._plan.outputs}
        for image in images.transpose(0, 2, 3, 1) if self._plan.channels_last else images:
            feed = {self._plan.image.name: np.repeat(image[None], self._batch, axis=0), **self._others}
            for info, values in zip(self._plan.outputs, engine.run(feed), strict=True):
                results[info.name].append(values[0] if values.ndim > len(info.shape) else values)
        ragged = ragged_names(self._plan)
        return {name: values if name in ragged else np.stack(values) for name, values in results.items()}

    def run_together(self, images: Array, alone: Outputs) -> Outputs | None:
        """Outputs for images [Q, C, H, W] in one run; None where the model does not take or keep such a batch.

        Args:
            images: as for `run`.
            alone: what `run` gives for them.
        """
        if ragged_names(self._plan):
            return None
        engine = self.optimised
        if isinstance(engine.shapes[self._plan.image.name][0], int):
            freed = with_free_batch(engine, self._path, self._plan, None, self._others)
            if freed is None:
                return None
            engine = freed
        batch = images.transpose(0, 2, 3, 1) if self._plan.channels_last else images
        try:
            values = engine.run({self._plan.image.name: batch, **self._others})
        except KryptonError:
            return None
        rows: Outputs = {info.name: found for info, found in zip(self._plan.outputs, values, strict=True)}
        agree = all(same_rows(np.asarray(rows[name]), [np.asarray(alone[name])]) for name in rows)
        return rows if agree else None
