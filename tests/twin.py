"""The twin: a compiled model beside its source, asked the same questions. And small models to ask them of."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnxruntime as ort
from nets import Array, Net, Seeded, random_net
from onnx import TensorProto, helper, numpy_helper

import krypton_onnx as kx
from krypton_onnx.passes import planner
from krypton_onnx.plan import Plan, TensorInfo
from krypton_onnx.random_inputs import random_input
from krypton_onnx.runtime.base import Base, Output, Outputs
from krypton_onnx.runtime.engine import Engine, quiet_options
from krypton_onnx.runtime.outputs import Regions, ragged_names
from krypton_onnx.source import Source
from krypton_onnx.verification import OutputCheck, Probe, check_output, noise_of

FLOAT = TensorProto.FLOAT


class UnusableError(Exception):
    """ONNX Runtime does not run the random model, or not to finite numbers."""


STEPS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "Round"})
"""Operators with so many steps that a difference in the last bit of a map surely crosses one now and then."""

JUMPS = STEPS | {"ArgMax", "ArgMin", "TopK", "Hardmax", "MaxUnpool", "Sign", "Shrink", "ThresholdedRelu", "GridSample"}
JUMPS |= {"Greater", "Less", "GreaterOrEqual", "LessOrEqual", "If", "NonZero", "NonMaxSuppression"}
"""Operators that can turn a difference in the last bit into a large one, where cells are (nearly) equal."""

SHAKEN = 3e-5
"""How far weights are moved to see such a crossing: more than rounding, so that a few queries are enough."""


class Original(Source):
    """The source model; runs that only doubtful cases need are made ready where they are asked for.

    Attributes:
        steps: whether rounding is surely magnified on the way (by the operators in `STEPS`, or in float16).
        jumps: whether it can be.
        shaken: models with weights that differ by a little (`SHAKEN`), which show by how much.
    """

    def __init__(self, path: Path, plan: Plan, others: dict[str, Array], optimised: Engine) -> None:
        self._plan, self._others, self._path = plan, others, path
        self.optimised = optimised
        batch = self.optimised.shapes[plan.image.name][0]
        self._batch = batch if isinstance(batch, int) else 1

    @cached_property
    def unoptimised(self) -> Engine:
        return engine(self._path, plain_options())

    @cached_property
    def steps(self) -> bool:
        return self._plan.reduced_precision or self._holds(STEPS)

    @cached_property
    def jumps(self) -> bool:
        return self._plan.reduced_precision or self._holds(JUMPS)

    def _holds(self, operators: frozenset[str]) -> bool:
        nodes = onnx.load(self._path).graph.node
        to_integers = any(n.op_type == "Cast" and n.attribute[0].i == TensorProto.INT32 for n in nodes)
        indices = any(n.op_type == "MaxPool" and len(n.output) > 1 for n in nodes)
        return to_integers or indices or any(n.op_type in operators for n in nodes)

    @cached_property
    def shaken(self) -> list[Engine]:
        return [self._shaken(seed) for seed in range(4)]

    def _shaken(self, seed: int) -> Engine:
        model, path = onnx.load(self._path), self._path.with_name("shaken.onnx")
        rng = np.random.default_rng(seed)
        constants = [n.attribute[0].t for n in model.graph.node if n.op_type == "Constant"]
        resizing = [n for n in model.graph.node if n.op_type in ("Resize", "Upsample")]
        geometry = {name for n in resizing for name in n.input[1:]}  # a scale just below one would lose a cell
        for tensor in (*model.graph.initializer, *constants):
            values = numpy_helper.to_array(tensor)
            if values.dtype.kind == "f" and tensor.name not in geometry:
                size = max(SHAKEN, float(np.finfo(values.dtype).eps))
                moved = values * (1 + size * rng.uniform(-1, 1, values.shape))
                tensor.CopyFrom(numpy_helper.from_array(moved.astype(values.dtype), tensor.name))
        onnx.save(model, path)
        return engine(path, thread_options())


def thread_options() -> ort.SessionOptions:
    """One thread: the nets are small."""
    options = quiet_options()
    options.intra_op_num_threads = 1
    return options


def plain_options() -> ort.SessionOptions:
    """No graph optimisation."""
    options = thread_options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def engine(path: Path, options: ort.SessionOptions) -> Engine:
    """The source model in ONNX Runtime, which itself refuses some, as where it contradicts onnx about an extent."""
    try:
        return Engine(path, options=options)
    except kx.KryptonError as error:
        raise UnusableError(str(error)) from error


def differ(a: Output, b: Output) -> bool:
    """Whether two answers in whole numbers differ."""
    return any(x.dtype.kind != "f" and not np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def map_axes(shape: tuple[int, ...], found: Regions) -> Iterator[tuple[int, int]]:
    """Which axes of an output can be the rows and columns of its regions: outputs lie in any order."""
    for rows, cols in permutations(range(len(shape)), 2):
        others = [a for a in range(len(shape)) if a not in (rows, cols)]
        if (shape[rows], shape[cols]) == found.extents and all(
            w.shape[a] == shape[a] for w in found.windows for a in others
        ):
            yield rows, cols


def pasted(base: Array, found: Regions, axes: tuple[int, int], wanted: Array) -> float:
    """How far the regions, laid over the base run's output, are from the whole outputs."""
    off = 0.0
    for one, window, start in zip(wanted, found.windows, found.starts, strict=True):
        laid, place = base.copy(), [slice(None)] * base.ndim
        for axis, begin in zip(axes, start, strict=True):
            place[axis] = slice(int(begin), int(begin) + window.shape[axis])
        if laid[tuple(place)].shape != window.shape:
            return np.inf
        laid[tuple(place)] = window
        off = max(off, float(np.abs(laid.astype(np.float64) - one.astype(np.float64)).max(initial=0)))
    return off / max(1.0, float(np.abs(wanted).max(initial=0)))


@dataclass
class Twin:
    """A compiled model beside its source, about one image."""

    source: Original
    session: kx.Session
    base: Base

    @property
    def plan(self) -> Plan:
        return self.session.plan

    @property
    def outputs(self) -> list[str]:
        return [o.name for o in self.plan.outputs]

    @cached_property
    def base_full(self) -> dict[str, Array]:
        return {
            name: values[0] for name, values in self.source.run(self.source.optimised, self.base.image[None]).items()
        }

    def full(self, probe: Probe) -> Outputs:
        return self.source.run(self.source.optimised, probe.images(self.base.image))

    def infer(self, probe: Probe) -> Outputs:
        return self.session.infer(self.base, probe.origins, self._content(probe))

    def _content(self, probe: Probe) -> Array:
        return probe.content.transpose(0, 2, 3, 1) if self.plan.channels_last else probe.content

    def probe(self, seed: int, patch: tuple[int, int], queries: int, *, shared: bool = False) -> Probe:
        """Random queries about this twin's image; see `probe`."""
        image = self.base.image
        rng = np.random.default_rng(seed)
        return probe(rng, image.shape, patch, queries, shared=shared, dtype=image.dtype.name)

    def check(self, probe: Probe) -> list[OutputCheck]:
        full, incremental = self.full(probe), self.infer(probe)
        if not all(np.isfinite(one).all() for values in full.values() for one in values):
            raise UnusableError("not finite")
        # Noise only allows more, and to measure it costs as much as all the rest.
        checks = self._held(incremental, full, full)
        if all(check.exact for check in checks):
            return checks + self._pasted(probe, incremental)
        images = probe.images(self.base.image)
        others = [self.source.run(self.source.unoptimised, images)]
        checks = self._held(incremental, full, *others)
        together = None if all(check.exact for check in checks) else self.source.run_together(images, full)
        if together is not None:
            checks = self._held(incremental, full, *others, together)
        if all(check.exact for check in checks) or not self.source.jumps:
            return checks
        shaken = [self.source.run(engine, images) for engine in self.source.shaken]
        checks = self._held(incremental, full, *shaken, jitter=self.jitter)
        # Integers have no noise: where the shaken source counts otherwise too, nobody can say what is right.
        known = {n for n in full if self.jitter[n] < np.inf and not any(differ(full[n], s[n]) for s in shaken)}
        return [check for check in checks if check.error < np.inf or check.name in known]

    def _pasted(self, probe: Probe, whole: Outputs) -> list[OutputCheck]:
        """Hold outputs that come as regions, laid over those of the base run, to the whole outputs."""
        if self.source.steps or all(window is None for window in self.plan.output_windows):
            return []
        checks = []
        for name, found in self.session.infer(self.base, probe.origins, self._content(probe), regions=True).items():
            if isinstance(found, Regions):
                wanted, base = np.asarray(whole[name]), np.asarray(self.base.outputs[name])[0]
                best = min((pasted(base, found, axes, wanted) for axes in map_axes(base.shape, found)), default=np.inf)
                checks.append(OutputCheck(f"{name} in regions", best, best / 1e-5, np.inf, 0.0))
        return checks

    @cached_property
    def jitter(self) -> dict[str, float]:
        """By output, how far random images are from what shaken models answer: one query may cross no step.

        Infinite for whole numbers that differ.
        """
        image = self.base.image
        images = noise(np.random.default_rng(0), (16, *image.shape), image.dtype.name)
        full = self.source.run(self.source.optimised, images)
        others = [self.source.run(engine, images) for engine in self.source.shaken]
        noises = {n: max(noise_of(full[n], other[n], self.plan.epsilon) for other in others) for n in full}
        return {n: np.inf if any(differ(full[n], other[n]) for other in others) else noises[n] for n in full}

    def _held(
        self,
        ours: Outputs,
        full: Outputs,
        *others: Outputs,
        jitter: dict[str, float] | None = None,
    ) -> list[OutputCheck]:
        """Hold every output to the definition; `others` are further answers of the source, which show its noise."""
        reduced = self.plan.reduced_precision or jitter is not None
        checks = []
        for name, wanted in full.items():
            noise = max(
                (jitter or {}).get(name, 0.0), *(noise_of(wanted, other[name], self.plan.epsilon) for other in others)
            )
            base = self.base_full[name]
            checks.append(check_output(name, ours[name], wanted, base, noise, reduced_precision=reduced))
        return checks


POLICIES = ((0.75, 0.75), (1.01, 1.0))
"""Where windows end, and which branches share them: fixed, so that small nets have windows whatever they would cost.
Beyond 1, windows end at operators that have no rule only."""


def twin(net: Net, folder: Path, patch: tuple[int, int], seed: int = 0, *, as_shipped: bool = False) -> Twin:
    """Compile a net beside its source, by one of the policies or as the planner decides.

    Raises:
        UnusableError: ONNX Runtime does not run the source.
    """
    path = folder / "net.onnx"
    onnx.save(net.model, path)
    optimised = engine(path, thread_options())
    image, others = random_feed(net, optimised, seed)
    target = folder / f"{patch[0]}x{patch[1]}.krypton"
    coverage, join = POLICIES[seed % len(POLICIES)]
    policy = {} if as_shipped else {"COVERAGES": (coverage,), "JOINS": (join,)}
    with mock.patch.dict(planner.__dict__, policy):
        artifact = kx.compile(path, target, patch=patch, image_input="image", verify=False)
    session = kx.Session(artifact, session_options=thread_options())
    base = session.materialize(image.transpose(1, 2, 0) if net.channels_last else image, others)
    return Twin(Original(path, artifact.plan, others, optimised), session, base)


def random_feed(net: Net, source: Engine, seed: int) -> tuple[Array, dict[str, Array]]:
    """An image [C, H, W] and values for the other inputs, with which the source has run."""
    rng = np.random.default_rng(seed)
    image = noise(rng, net.image, net.dtype)
    weights = {w.name for w in net.model.graph.initializer}
    others = {}
    for given in (i for i in net.model.graph.input if i.name not in weights and i.name != "image"):
        kind = given.type.tensor_type
        shape = [d.dim_value or 1 for d in kind.shape.dim]
        others[given.name] = noise(rng, shape, helper.tensor_dtype_to_np_dtype(kind.elem_type).name)
    one = image.transpose(1, 2, 0) if net.channels_last else image
    batch = source.shapes["image"][0]
    try:
        source.run({"image": np.repeat(one[None], batch if isinstance(batch, int) else 1, axis=0), **others})
    except kx.KryptonError as error:
        raise UnusableError(str(error)) from error
    return image, others


def noise(rng: np.random.Generator, shape: Sequence[int], dtype: str) -> Array:
    return random_input(rng, TensorInfo("noise", dtype, tuple(shape)))


def probe(
    rng: np.random.Generator,
    image: tuple[int, ...],
    patch: tuple[int, int],
    queries: int,
    *,
    shared: bool = False,
    dtype: str = "float32",
) -> Probe:
    """Random queries, the four corners and the four borders among them."""
    limit = np.array(image[1:]) - patch
    origins = rng.integers(0, limit + 1, (queries, 2))
    corners = np.array([(0, 0), (1, 1), (0, 1), (1, 0)])[:queries] * limit
    origins[: len(corners)] = corners
    borders = origins[4:8]
    borders[:2, 0], borders[2:, 1] = (
        np.array([0, limit[0]])[: len(borders)],
        np.array([0, limit[1]])[: len(borders[2:])],
    )
    content = noise(rng, (1 if shared else queries, image[0], *patch), dtype)
    return Probe(origins, np.broadcast_to(content, (queries, *content.shape[1:])))


def probes(rng: np.random.Generator, net: Net, patch: tuple[int, int], queries: int) -> Iterator[Probe]:
    """Queries of the compiled patch, one pixel, the whole image and a random size."""
    image, dtype = net.image, net.dtype
    odd = (int(rng.integers(1, image[1] + 1)), int(rng.integers(1, image[2] + 1)))
    yield probe(rng, image, patch, queries, dtype=dtype)
    yield probe(rng, image, (1, 1), 8, shared=True, dtype=dtype)
    yield probe(rng, image, (image[1], image[2]), 1, dtype=dtype)
    yield probe(rng, image, odd, 8, dtype=dtype)


def some_patch(rng: np.random.Generator, net: Net) -> tuple[int, int]:
    """Mostly small against the image, so that windows pay."""
    height, width = net.image[1:]
    if rng.integers(10) == 0:
        return height, width
    return int(rng.integers(1, max(2, height // 2))), int(rng.integers(1, max(2, width // 2)))


def seeded_twins(seeds: range, folder: Path) -> Iterator[Twin]:
    """Twins of seeded nets, except where ONNX Runtime refuses, rounding is magnified, or outputs are lists."""
    for seed in seeds:
        rng = np.random.default_rng(seed)
        net = random_net(Seeded(rng), seed)
        with TemporaryDirectory(dir=folder) as place, suppress(UnusableError):
            pair = twin(net, Path(place), some_patch(rng, net), seed)
            if not pair.source.steps and not ragged_names(pair.plan):
                yield pair


def close(ours: Output, theirs: Output) -> None:
    """Equal up to rounding."""
    if isinstance(ours, list) or isinstance(theirs, list):
        for one, other in zip(ours, theirs, strict=True):
            close(one, other)
    elif theirs.dtype.kind != "f":
        np.testing.assert_array_equal(ours, theirs)
    elif theirs.size:
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * max(1, float(np.abs(theirs).max())))


# ------------------------------------------------------------------------------------------------- small models


def normal(*shape: int, scale: float = 0.4) -> Array:
    """Seeded by the shape, so that equal shapes share numbers and no order of calls matters."""
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32) * np.float32(scale)


def average(source: str, result: str) -> list[onnx.NodeProto]:
    """GlobalAveragePool and Flatten."""
    pooled = f"{result}/pooled"
    return [
        helper.make_node("GlobalAveragePool", [source], [pooled]),
        helper.make_node("Flatten", [pooled], [result]),
    ]


def small_net(
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, Any],
    *,
    inputs: dict[str, Sequence[Any]] | None = None,
    outputs: dict[str, tuple[int, Sequence[Any] | None]] | None = None,
    opset: int = 17,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model of these nodes.

    Args:
        nodes: in topological order.
        weights: by name.
        inputs: shapes by name; an image [N, 3, 16, 16] by default.
        outputs: element types and shapes (None if open) by name; a float output "y" by default.
        opset: of the standard domain.
        domains: further domains, of version 1.
    """
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(n, FLOAT, s) for n, s in (inputs or {"image": ["N", 3, 16, 16]}).items()],
        [helper.make_tensor_value_info(n, *of) for n, of in (outputs or {"y": (FLOAT, None)}).items()],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    version = helper.find_min_ir_version_for(opsets)
    return helper.make_model(
        graph, opset_imports=[*opsets, *(helper.make_opsetid(d, 1) for d in domains)], ir_version=version
    )


def residual_net() -> onnx.ModelProto:
    """conv, relu, a residual block and a strided one, on a 20 × 26 image; five logits."""
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["conv1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv1"], ["relu1"], name="relu1"),
        helper.make_node("Conv", ["relu1", "w2"], ["conv2"], name="conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["conv2", "relu1"], ["add"], name="add"),
        helper.make_node("Relu", ["add"], ["relu2"], name="relu2"),
        helper.make_node("Conv", ["relu2", "w3"], ["conv3"], name="conv3", strides=[2, 2], pads=[0, 0, 1, 1]),
        *average("conv3", "y"),
    ]
    weights = {"w1": normal(4, 3, 3, 3), "b1": normal(4), "w2": normal(4, 4, 3, 3), "w3": normal(5, 4, 3, 3)}
    return small_net(nodes, weights, inputs={"image": ["N", 3, 20, 26]})
