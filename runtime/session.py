"""The session: materialize a base once, then ask it any number of queries."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal, overload

import numpy as np
import onnxruntime as ort
from numpy.typing import ArrayLike

from krypton_onnx.artifact import CAPPED_FILES, EXACT_FILES, INT8_FILES, Artifact, Files, open_artifact
from krypton_onnx.errors import KryptonError
from krypton_onnx.heatmap import Heatmap
from krypton_onnx.modes import Approximate, Exact, Mode
from krypton_onnx.plan import Plan
from krypton_onnx.preprocess import Fill
from krypton_onnx.runtime.arguments import image_tensor, other_inputs, patch_origins, patch_tensor
from krypton_onnx.runtime.base import Base, Output, Outputs
from krypton_onnx.runtime.captured_driver import CapturedDriver
from krypton_onnx.runtime.device_driver import DeviceDriver
from krypton_onnx.runtime.driver import Driver, Resources
from krypton_onnx.runtime.engine import workers_for
from krypton_onnx.runtime.explain import explain, explain_progressively
from krypton_onnx.runtime.lent_weights import LentWeights
from krypton_onnx.runtime.memory import view_bytes
from krypton_onnx.runtime.outputs import Regions, gathered_regions, no_answers, region_windows
from krypton_onnx.runtime.providers import TENSORRT, Provider, captures, chosen, in_tf32, name_of
from krypton_onnx.runtime.questions import Edge, Pair, Question, pair
from krypton_onnx.runtime.resident import device_of
from krypton_onnx.runtime.side_by_side import available_cores
from krypton_onnx.runtime.survey import Progress
from krypton_onnx.runtime.targets import Target

EXACT = Exact()


class Session:
    """A compiled model, ready to be asked. Immutable; threads may share it.

    Args:
        artifact: an `Artifact`, or the path of one.
        providers: ONNX Runtime's execution providers, names or (name, options); by default CUDA's where it works, and
            the CPU's. On CUDA everything but the scores stays on the device. Of CUDA's options, ``enable_cuda_graph``
            captures runs and replays them, of models that were compiled for it, and ``use_tf32`` rounds operands to 10
            bits: answers are then not exact.
        session_options: ONNX Runtime's options, used for all graphs, each of which then has weights of its own on a
            device. Batches then run one after another, each on as
            many threads as they say; side by side only if they give a run a single one, and `threads` is more.
        memory_budget: bytes that all but the weights may take at the peak, by which the batch size is chosen; None for
            no limit. On a device ONNX Runtime's arenas can exceed it by a sixth; with session options, by more.
        threads: cores to use, by default all that this process may, with `session_options` one. On the CPU a batch
            runs on one thread, and as many batches side by side: so no thread ever waits for another within a batch.
            On a device two batches are in flight, or one if this is one.

    Attributes:
        artifact: as opened.
        providers: that the graphs run on, with their options.
        exact: the driver of exact answers.
        capped: of the variant whose windows may be cut; None if the artifact has none.
        int8: of the one that computes in bytes and whose windows may be cut, likewise; None on a device.

    Raises:
        KryptonError: the artifact is not whole, ONNX Runtime refuses it, a provider does not work here, or the budget
            is too small for one query.
    """

    def __init__(
        self,
        artifact: Artifact | str | os.PathLike[str],
        providers: Sequence[Provider] | None = None,
        session_options: ort.SessionOptions | None = None,
        memory_budget: int | None = None,
        threads: int | None = None,
    ) -> None:
        self.artifact = artifact if isinstance(artifact, Artifact) else open_artifact(artifact)
        budget = _checked_count(memory_budget, "memory_budget must be a whole number of bytes")
        given = _checked_count(threads, "threads must be a whole number of cores, at least 1")
        cores = given or (available_cores() if session_options is None else 1)
        self.providers = chosen(providers)
        workers = workers_for(cores, self.providers, session_options)
        device = device_of(self.providers)
        # Options say which weights a graph is lent, and the user's are for all; TensorRT wants weights on the host.
        own = session_options is not None or name_of(self.providers[0]) == TENSORRT
        lent = None if device is None or own else LentWeights(self.artifact, device)
        self._resources = Resources(self.providers, session_options, cores, workers, budget, lent)
        self._driver = _driver_for(self.providers)
        self.exact = self._driver(self.artifact.folder, EXACT_FILES, self.plan, self._resources)
        self.exact.open()
        self.capped = self._variant(CAPPED_FILES, self.plan.capped)
        # Devices have no kernels for convolutions in bytes: each would go to the host and back.
        self.int8 = self._variant(INT8_FILES, self.plan.int8) if self._driver is Driver else None

    @property
    def plan(self) -> Plan:
        """What the compiler decided."""
        return self.artifact.plan

    @property
    def precision(self) -> str:
        """What is computed in: "float32", or the model's own; "float16"; or "tf32", where CUDA was told to."""
        return "tf32" if in_tf32(self.providers) and self.plan.precision == "float32" else self.plan.precision

    def _variant(self, files: Files, plan: Plan | None) -> Driver | None:
        if plan is None:
            return None
        resources, budget = self._resources, self._resources.budget
        if budget is not None:
            resources = replace(resources, budget=max(0, budget - view_bytes(self.plan)))  # those stay beside its own
        try:
            return self._driver(self.artifact.folder, files, plan, resources, like=self.exact)
        except KryptonError:  # the budget has no room for it: approximate heatmaps then do without
            return None

    # -------------------------------------------------------------------------------------------- base run

    def materialize(self, image: ArrayLike, inputs: Mapping[str, ArrayLike] | None = None) -> Base:
        """Run the base graph on one image and keep its views.

        Args:
            image: the model's input tensor [C, H, W], without or with a leading 1, of its dtype or castable to it;
                [H, W, C] for a model that takes channels last.
            inputs: the model's other inputs by name, in full shape.

        Raises:
            KryptonError: wrong shape, type or names, or values that are not finite.
        """
        tensor = image_tensor(image, self.plan)
        others = other_inputs(inputs or {}, self.plan.other_inputs)
        return self.exact.materialize(tensor, others)

    # -------------------------------------------------------------------------------------------- queries

    @overload
    def infer(
        self, base: Base | ArrayLike, origins: ArrayLike, patch_content: ArrayLike, regions: Literal[False] = False
    ) -> Outputs: ...

    @overload
    def infer(
        self, base: Base | ArrayLike, origins: ArrayLike, patch_content: ArrayLike, regions: Literal[True]
    ) -> dict[str, Output | Regions]: ...

    def infer(
        self, base: Base | ArrayLike, origins: ArrayLike, patch_content: ArrayLike, regions: bool = False
    ) -> Outputs | dict[str, Output | Regions]:
        """The model's outputs for images in which one rectangle each is replaced.

        Args:
            base: from `materialize`, or an image tensor.
            origins: integers [Q, 2], (y, x) of each rectangle's top-left pixel.
            patch_content: [C, h, w] or [1, C, h, w] for all queries, or [Q, C, h, w]; castable to the model's dtype;
                channels last for a model that takes them so.
            regions: give of maps that are computed in windows only the part that can differ from the base run's. Whole
                maps are then neither copied nor kept; ONNX Runtime assembles them nonetheless.

        Returns:
            By output name, an array [Q, …]; for an output whose extents depend on the data a list of Q arrays; with
            `regions`, `Regions` for an output that is computed in windows.

        Raises:
            KryptonError: wrong shapes or types, or a rectangle that leaves the image.
        """
        base = self._as_base(base)
        content = patch_tensor(patch_content, self.plan)
        places = patch_origins(origins, self.plan, content.shape[2:])
        if len(content) not in (1, len(places)):
            raise KryptonError(
                f"patch_content is for {len(content)} queries and there are {len(places)} origins; give one or as many."
            )
        if regions:
            batches = self.exact.answers(base, places, content, names=self._region_names())
            return gathered_regions(self.plan, batches, len(places))
        return self.exact.outputs(base, places, content) if len(places) else no_answers(self.plan)

    def _region_names(self) -> dict[str, str]:
        """Per output of the model, the incremental graph's output that holds its windows, or the map."""
        windows = region_windows(self.plan)
        first = len(self.plan.outputs) - len(self.plan.tail.outputs if self.plan.tail else ())
        names = dict(zip(windows, self.exact.output_names[first : first + len(windows)], strict=True))
        return {info.name: names.get(info.name, info.name) for info in self.plan.outputs}

    # ------------------------------------------------------------------------------------------- heatmaps

    def explain(
        self,
        base: Base | ArrayLike,
        target: Target = "top",
        *,
        patch: Pair = 16,
        stride: Pair = 4,
        fill: Fill | ArrayLike = 0.0,
        edge: Edge = "cover",
        region: tuple[int, int, int, int] | None = None,
        output: str | None = None,
        mode: Mode = EXACT,
        progress: Progress = None,
    ) -> Heatmap:
        """Slide a patch over the image and record the score at every position.

        Args:
            base: from `materialize`, or an image tensor.
            target: what is scored: an index into the flattened output, a list of T indices, "top" (the largest of the
                base run), `InMask` for segmentations, `BoxScore` for detections, `Cosine` for embeddings, or a function
                from a batch's outputs (by name, [q, …]) to [q] floats.
            patch: its (height, width) in pixels; any size, whatever the model was compiled for.
            stride: pixels between neighbouring positions, (y, x).
            fill: what the patch shows: a number, a value per channel, or an image tensor to cut it from, in units of
                the input tensor. If the model was compiled with its preprocessing, numbers are pixels (0 to 255), and
                names work too: black, gray, white. Whatever the model: "mean", the image's mean colour; "blur" or
                "blur:SIGMA", the image under a Gaussian; "noise" or "noise:SEED".
            edge: "cover" adds the last position that fits, so that every pixel is covered; "stop" does not.
            region: (y0, x0, y1, x1), to ask about part of the image.
            output: name of the output to score; the first by default.
            mode: `Exact`, or `Approximate` with a quality or a speed to keep to.
            progress: True for a progress bar, False for none; by default one if standard error is a terminal. Or a
                function, called after every batch with the number of queries answered and that of all, None where it
                is not known beforehand. What it raises ends the computing and is raised here.

        Returns:
            The heatmap; docs/heatmap.md defines it.

        Raises:
            KryptonError: anything that does not fit the model or the image.
        """
        question = Question(target, pair(patch, "patch"), pair(stride, "stride"), fill, edge, region, output)
        return explain(self, self._as_base(base), question, _checked_mode(mode), progress)

    def explain_progressively(
        self,
        base: Base | ArrayLike,
        target: Target = "top",
        *,
        patch: Pair = 16,
        stride: Pair = 4,
        fill: Fill | ArrayLike = 0.0,
        edge: Edge = "cover",
        region: tuple[int, int, int, int] | None = None,
        output: str | None = None,
        mode: Mode = EXACT,
        progress: Progress = False,
    ) -> Iterator[Heatmap]:
        """The same as `explain`, from coarse to fine: a rough heatmap early, and better ones after it.

        Args:
            base, target, patch, stride, fill, edge, region, output, mode, progress: see `explain`.

        Yields:
            Heatmaps; the last is `done` and equal to what `explain` returns, but for rounding where `explain` asks all
            positions at once.

        Raises:
            KryptonError: see `explain`.
        """
        question = Question(target, pair(patch, "patch"), pair(stride, "stride"), fill, edge, region, output)
        return explain_progressively(self, self._as_base(base), question, _checked_mode(mode), progress)

    # ------------------------------------------------------------------------------------------- checking

    def _as_base(self, base: Base | ArrayLike) -> Base:
        if not isinstance(base, Base):
            return self.materialize(base)
        if base.plan is not self.plan and base.plan != self.plan:
            raise KryptonError(
                f"The base is of another compiled model ({base.plan.source.file}): materialize the image in this "
                "session."
            )
        return base


def _driver_for(providers: Sequence[Provider]) -> type[Driver]:
    if device_of(providers) is None:
        return Driver
    return CapturedDriver if captures(providers) else DeviceDriver


def _checked_mode(mode: object) -> Mode:
    if isinstance(mode, Exact | Approximate):
        return mode
    raise KryptonError(f"The mode must be krypton_onnx.Exact() or krypton_onnx.Approximate(...), not {mode!r}.")


def _checked_count(given: object, form: str) -> int | None:
    if given is None:
        return None
    if isinstance(given, int | np.integer) and not isinstance(given, bool) and given >= 1:
        return int(given)
    raise KryptonError(f"{form}, not {given!r}.")
