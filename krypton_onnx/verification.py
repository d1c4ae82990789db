"""Verification: incremental answers against the unmodified model, by the definition of exact.

For every output and every query, with ``full`` the source model on the occluded image, ``base`` on the plain one, and
``noise`` the largest difference that ONNX Runtime itself makes on those images, by its graph optimisation or by running
them in a batch (`noise_of`)::

    |incremental − full| ≤ max(1e-5 · max(1, max|full|), noise)   and   ≤ max(0.01 · max|full − base|, 4 · noise)

Noise only allows more, and to measure it costs more than all the rest: what is exact without is not measured.

Everything has to be finite and integer outputs have to be equal. Models that compute in fewer bits than float32 are
held to ``4 · noise`` alone. Where extents depend on the data, they have to be equal too; and where the base run has
others, so that nothing says how far a query moved the output, the first of the two bounds decides alone.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from krypton_onnx.artifact import Artifact, file_checksum
from krypton_onnx.errors import KryptonError
from krypton_onnx.plan import Plan
from krypton_onnx.random_inputs import random_images, random_input
from krypton_onnx.runtime.arguments import other_inputs
from krypton_onnx.runtime.base import Output, Outputs
from krypton_onnx.runtime.engine import Array
from krypton_onnx.runtime.providers import Provider, chosen
from krypton_onnx.runtime.session import Session
from krypton_onnx.source import Source

RELATIVE = 1e-5
OF_MOVEMENT = 0.01
OF_NOISE = 4.0
ROUNDING = 8
"""Least noise, in units of rounding of the output's largest value. For float32 it decides only about queries that move
an output by less than a two-thousandth of its size. Measured: without it, 3 of 149 random networks fail by float
rounding alone. In fewer bits it is what the runtime leaves open: which values it really rounds, and which it keeps in
float32 because it has no kernel for the shorter type, depends on the nodes around them."""

FLOAT32 = float(np.finfo(np.float32).eps)
"""The unit of rounding of float32."""


@dataclass(frozen=True, slots=True)
class OutputCheck:
    """How one output of the model fared over all queries.

    Attributes:
        name: of the output.
        error: the largest |incremental − full|.
        share: the largest error as a share of what is allowed for its query; at most 1 if the output is exact.
        moved: the largest |full − base|: how much the queries change the output at all.
        noise: of ONNX Runtime, as far as it was measured: no less than rounding.
    """

    name: str
    error: float
    share: float
    moved: float
    noise: float

    @property
    def exact(self) -> bool:
        """Whether every query is within the definition."""
        return self.share <= 1.0


def noise_of(optimised: Output, unoptimised: Output, epsilon: float = FLOAT32) -> float:
    """How far ONNX Runtime's answers for the same images differ, whatever we do.

    At least `ROUNDING` of the output's size: a batch is summed in another order than one image, which two runs of
    single images need not show.

    Args:
        optimised: per query, from the source model with all graph optimisation.
        unoptimised: the same, with none.
        epsilon: unit of rounding of the shortest type that the model computes in (`Plan.epsilon`).
    """
    return max((_noise(a, b, epsilon) for a, b in _pairs(optimised, unoptimised) if a.shape == b.shape), default=0.0)


def _noise(optimised: Array, unoptimised: Array, epsilon: float) -> float:
    if optimised.dtype.kind not in "fc" or not optimised.size:
        return 0.0
    a, b = optimised.astype(np.float64), unoptimised.astype(np.float64)
    # Where the runtime contradicts itself so far that one answer is no number, that says nothing about rounding.
    differences = np.abs(a - b)[np.isfinite(b)]
    return max(float(differences.max(initial=0)), ROUNDING * epsilon * float(np.abs(a).max()))


def _pairs(a: Output, b: Output) -> list[tuple[Array, Array]]:
    """Arrays [q, …] to compare: all queries at once, or, where they are lists, one by one."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return [(a, b)]
    return [(one[None], other[None]) for one, other in zip(a, b, strict=True)]


def check_output(
    name: str, incremental: Output, full: Output, base: Array, noise: float, *, reduced_precision: bool = False
) -> OutputCheck:
    """Hold one output to the definition of exact.

    Args:
        name: of the output.
        incremental: per query, from the incremental graph.
        full: per query, from the source model.
        base: […], from the source model on the plain image.
        noise: see the module.
        reduced_precision: the model computes in fp16, bf16 or int8.
    """
    checks = [_check(name, a, b, base, noise, reduced_precision) for a, b in _pairs(incremental, full)]
    return OutputCheck(
        name,
        max(check.error for check in checks),
        max(check.share for check in checks),
        float(np.max([check.moved for check in checks])),
        checks[0].noise,
    )


def _check(
    name: str, incremental: Array, full: Array, base: Array, noise: float, reduced_precision: bool
) -> OutputCheck:
    if incremental.shape != full.shape:
        return OutputCheck(name, np.inf, np.inf, np.nan, noise)
    queries, comparable = len(full), base.shape == full.shape[1:]
    if full.dtype.kind not in "fc":
        wrong = 0.0 if np.array_equal(incremental, full) else np.inf
        return OutputCheck(name, wrong, wrong, float(not comparable or np.any(full != base)), 0.0)
    exact, ours = full.astype(np.float64).reshape(queries, -1), incremental.astype(np.float64).reshape(queries, -1)
    error = np.abs(ours - exact).max(axis=1, initial=0.0)
    moved = np.full(queries, np.inf)
    if comparable:
        moved = np.abs(exact - base.astype(np.float64).reshape(1, -1)).max(axis=1, initial=0.0)
    allowed = np.maximum(OF_MOVEMENT * moved, OF_NOISE * noise)
    if reduced_precision:
        allowed = np.full(queries, OF_NOISE * noise)
    else:
        size = np.maximum(1.0, np.abs(exact).max(axis=1, initial=0.0))
        allowed = np.minimum(allowed, np.maximum(RELATIVE * size, noise))
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(error == 0, 0.0, error / allowed)
    # NaN compares as false with everything, so that it has to be named.
    share = np.where(np.isfinite(error), share, np.inf)
    return OutputCheck(
        name, float(error.max(initial=0)), float(share.max(initial=0)), float(moved.max(initial=0)), noise
    )


@dataclass(frozen=True, slots=True)
class Probe:
    """Queries of one patch size about the probed image.

    Attributes:
        origins: int64 [Q, 2].
        content: [Q, C, h, w].
    """

    origins: NDArray[np.int64]
    content: Array

    def images(self, image: Array) -> Array:
        """The occluded images in full: [Q, C, H, W]."""
        height, width = self.content.shape[2:]
        images = np.repeat(image[None], len(self.origins), axis=0)
        for occluded, (y, x), content in zip(images, self.origins, self.content, strict=True):
            occluded[:, y : y + height, x : x + width] = content
        return images


def verify(
    model: str | os.PathLike[str],
    artifact: Artifact,
    *,
    queries: int = 64,
    seed: int = 0,
    inputs: Mapping[str, ArrayLike] | None = None,
    providers: Sequence[Provider] | None = None,
) -> tuple[OutputCheck, ...]:
    """Compare random queries with the source model.

    Half of the queries have the patch that the artifact was compiled for, corners first; the others have random
    sizes from one pixel to the whole image. Content is random, different for each query.

    Args:
        model: the source model.
        artifact: compiled from it.
        queries: how many, at least 8.
        seed: of the random numbers.
        inputs: the model's inputs beside the image, by name; random ones by default.
        providers: for both, see `Session`.

    Returns:
        A verdict per output: of the exact variant, or of the capped one with whole windows if that is worse.

    Raises:
        KryptonError: ONNX Runtime refuses one of the graphs, the model is not the artifact's source, or inputs do not
            fit it.
    """
    path, plan = Path(model), artifact.plan
    if file_checksum(path) != plan.source.sha256:
        raise KryptonError(f"{artifact.folder} was not compiled from {path}: the model's checksum differs.")
    rng = np.random.default_rng(seed)
    others = other_inputs(
        inputs or {info.name: random_input(rng, info) for info in plan.other_inputs}, plan.other_inputs
    )
    where = chosen(providers)
    source, session = Source(path, plan, others, where), Session(artifact, where)
    image = _channels_first(random_images(rng, plan, 1), plan)[0]
    base = session.exact.materialize(image, others)
    base_full = source.run(source.optimised, image[None])
    probes = _probes(rng, plan, max(queries, 8))
    full = [source.run(source.optimised, probe.images(image)) for probe in probes]
    variants = [session.exact, *([] if session.capped is None else [session.capped])]  # exact too, where nothing is cut
    ours = [[v.outputs(base.variant(v), probe.origins, probe.content) for probe in probes] for v in variants]

    def verdict(name: str, noise: float) -> OutputCheck:
        theirs, known, reduced = _joined(full, name), base_full[name][0], plan.reduced_precision
        checks = [check_output(name, _joined(o, name), theirs, known, noise, reduced_precision=reduced) for o in ours]
        return max(checks, key=lambda check: check.share)

    noise = {info.name: 0.0 for info in plan.outputs}
    for second in _second_answers(source, image, probes, full):
        for name, known in noise.items():
            pairs = zip(full, second, strict=False)
            noise[name] = max(known, *(noise_of(one[name], other[name], plan.epsilon) for one, other in pairs))
        checks = tuple(verdict(name, known) for name, known in noise.items())
        if all(check.exact for check in checks):
            break
    return checks


def _second_answers(source: Source, image: Array, probes: list[Probe], full: list[Outputs]) -> Iterator[list[Outputs]]:
    """What the source model answers otherwise, dearer from one to the next: for the first probes, or for all of them.

    The same again, which has the noise of rounding alone; without graph optimisation; in a batch.
    """
    yield full
    yield [source.run(source.unoptimised, probe.images(image)) for probe in probes]
    together = source.run_together(probes[0].images(image), full[0])
    if together is not None:
        yield [together]


def _joined(parts: list[Outputs], name: str) -> Output:
    """One output of all probes' queries."""
    values = [part[name] for part in parts]
    arrays = [one for one in values if isinstance(one, np.ndarray)]
    return np.concatenate(arrays) if len(arrays) == len(values) else [one for part in values for one in part]


def _probes(rng: np.random.Generator, plan: Plan, queries: int) -> list[Probe]:
    planned = _probe(rng, plan, plan.patch, queries - queries // 2)
    limit = np.array(plan.image.shape[1:], np.int64)
    odd = [rng.integers(1, limit + 1) for _ in range(queries // 2)]
    odd[0], odd[-1] = np.ones(2, np.int64), limit
    return [planned, *(_probe(rng, plan, (int(h), int(w)), 1) for h, w in odd)]


def _probe(rng: np.random.Generator, plan: Plan, patch: tuple[int, int], queries: int) -> Probe:
    limit = np.array(plan.image.shape[1:], np.int64) - patch
    origins = rng.integers(0, limit + 1, (queries, 2))
    corners = np.array([(0, 0), (1, 1), (0, 1), (1, 0)]) * limit
    if queries >= len(corners):
        origins[: len(corners)] = corners
    content = _channels_first(random_images(rng, plan, queries), plan)[..., : patch[0], : patch[1]]
    return Probe(origins, content)


def _channels_first(images: Array, plan: Plan) -> Array:
    return images.transpose(0, 3, 1, 2) if plan.channels_last else images
