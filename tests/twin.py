"""The twin: a compiled model beside its source, asked the same questions. And small models to ask them of."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from nets import Array, Net, Seeded, random_net
from onnx import TensorProto, helper, numpy_helper

import krypton_onnx as kx
from krypton_onnx.runtime.base import Base
from krypton_onnx.verification import OutputCheck, Probe, Source, check_output, noise_of

FLOAT = TensorProto.FLOAT


class UnusableError(Exception):
    """ONNX Runtime does not run the random model, or not to finite numbers."""


@dataclass
class Twin:
    """A compiled model beside its source, about one image."""

    source: Source
    session: kx.Session
    base: Base

    @property
    def outputs(self) -> list[str]:
        return [o.name for o in self.session.plan.outputs]

    def full(self, probe: Probe) -> dict[str, Array]:
        return self.source.run(self.source.optimised, probe.images(self.base.image))

    def infer(self, probe: Probe) -> dict[str, Array]:
        return self.session.infer(self.base, probe.origins, probe.content)

    def check(self, probe: Probe) -> list[OutputCheck]:
        full, incremental = self.full(probe), self.infer(probe)
        plain = self.source.run(self.source.unoptimised, probe.images(self.base.image))
        base = self.source.run(self.source.optimised, self.base.image[None])
        if not all(np.isfinite(values).all() for values in full.values()):
            raise UnusableError("not finite")
        return [
            check_output(name, incremental[name], full[name], base[name][0], noise_of(full[name], plain[name]))
            for name in self.outputs
        ]


def twin(net: Net, folder: Path, patch: tuple[int, int], seed: int = 0) -> Twin:
    path = folder / "net.onnx"
    onnx.save(net.model, path)
    runs(path, net)
    artifact = kx.compile(path, folder / f"{patch[0]}x{patch[1]}.krypton", patch=patch, verify=False)
    rng = np.random.default_rng(seed)
    others = {i.name: rng.standard_normal(i.shape).astype(i.dtype) for i in artifact.plan.other_inputs}
    session = kx.Session(artifact)
    image = rng.standard_normal(net.image).astype(np.float32)
    return Twin(Source(path, artifact.plan, others), session, session.materialize(image, others))


def runs(path: Path, net: Net) -> None:
    """ONNX Runtime itself refuses some models, as where it contradicts onnx about an extent."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    levels = ort.GraphOptimizationLevel
    for options.graph_optimization_level in (levels.ORT_ENABLE_ALL, levels.ORT_DISABLE_ALL):
        try:
            session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            inputs = [i for i in session.get_inputs() if i.name == "image" or i.name.startswith("given")]
            feed = {i.name: np.zeros([d if isinstance(d, int) else 1 for d in i.shape], np.float32) for i in inputs}
            session.run(None, feed)
        except Exception as error:  # ONNX Runtime's errors have no common class
            raise UnusableError(str(error)) from error


def probe(
    rng: np.random.Generator, image: tuple[int, ...], patch: tuple[int, int], queries: int, *, shared: bool = False
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
    content = rng.standard_normal((1 if shared else queries, image[0], *patch), np.float32)
    return Probe(origins, np.broadcast_to(content, (queries, *content.shape[1:])))


def probes(rng: np.random.Generator, image: tuple[int, ...], patch: tuple[int, int], queries: int) -> Iterator[Probe]:
    """Queries of the compiled patch, one pixel, the whole image and a random size."""
    odd = (int(rng.integers(1, image[1] + 1)), int(rng.integers(1, image[2] + 1)))
    yield probe(rng, image, patch, queries)
    yield probe(rng, image, (1, 1), 8, shared=True)
    yield probe(rng, image, (image[1], image[2]), 1)
    yield probe(rng, image, odd, 8)


def some_patch(rng: np.random.Generator, net: Net) -> tuple[int, int]:
    """Mostly small against the image, so that windows pay."""
    height, width = net.image[1:]
    if rng.integers(10) == 0:
        return height, width
    return int(rng.integers(1, max(2, height // 2))), int(rng.integers(1, max(2, width // 2)))


def seeded_twins(seeds: range, folder: Path) -> Iterator[Twin]:
    """Twins of seeded nets, without those that ONNX Runtime refuses."""
    for seed in seeds:
        rng = np.random.default_rng(seed)
        net = random_net(Seeded(rng), seed)
        with TemporaryDirectory(dir=folder) as place, suppress(UnusableError):
            yield twin(net, Path(place), some_patch(rng, net), seed)


def close(ours: Array, theirs: Array) -> None:
    """Equal up to rounding."""
    if theirs.dtype.kind != "f":
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
