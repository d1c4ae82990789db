"""How good approximate heatmaps are and how soon they are there, beside Krypton's methods: docs/approximation.md.

    python bench/quality/evaluate.py --models FOLDER [--subjects squeezenet,demo] [--pictures 8]
    python bench/quality/evaluate.py --models FOLDER --oct
    python bench/quality/evaluate.py --render

Every method explains the same pictures of the test half, one after the other in a new order for each picture, base runs
included, and is compared with the exact map. Subjects are kept in the JSON file as soon as they are done: one that is
measured again replaces what is known of it. `--render` only writes the tables and plots anew.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
from calibrate import LEAST_RANGE, pictures_for, question
from measures import Measures, compare
from methods import TAUS, TUNED_FOR, Method, all_methods
from numpy.typing import NDArray
from pareto import Found, OctResult, Sample, SubjectResult, read, write
from subjects import NAMES, Floats, Subject, subject

import krypton_onnx as kx
from krypton_onnx.benchmark import machine
from krypton_onnx.plain_model import PlainModel, timed
from krypton_onnx.runtime.approximate.krypton import drilled_down
from krypton_onnx.runtime.engine import quiet_options
from krypton_onnx.runtime.explain import levels_of
from krypton_onnx.runtime.providers import CPU
from krypton_onnx.runtime.side_by_side import available_cores
from krypton_onnx.runtime.survey import Level, Survey
from krypton_onnx.tuning import parabola_tau

sys.path.append(str(Path(__file__).resolve().parents[1]))

from pages import PAGE, PLOTS, render
from tree import ROOT, commit

RESULTS = ROOT / "docs" / "approximation.json"

CALIBRATING = 5
"""Pictures of the calibration half that Krypton's tau is chosen by."""

OCT = {"vgg16": (0.5, 34.5), "resnet18": (0.7, 14.8), "inception_v3": (0.9, 8.0)}
"""Krypton's tau and the speedup that it published, for retina scans: SIGMOD 2019, section 5."""

OCT_DRILL_DOWN = kx.DrillDown(0.1, 13)
"""The drill-down of all three, with a fine stride of 4."""

PACKAGES = ("krypton-onnx", "onnxruntime-gpu", "onnxruntime", "numpy", "scikit-image", "scikit-learn", "matplotlib")

WARM_UP = 32
"""Positions that every level is asked before anything is timed."""

PLAIN_SECONDS = 0.4
"""Of full inference for each picture, at least."""

SHORT, TURNS = 0.5, 5
"""What takes fewer seconds is timed again, up to so many times while all together do, and the median counts."""


class Bench:
    """A subject, compiled and opened, beside full inference on as many cores.

    Args:
        model: the subject.
        folder: where the artifact is kept.

    Attributes:
        session: of the compiled model.
        batch: full inference's best batch size.
        plain_seconds: a query of full inference, once a picture.
    """

    def __init__(self, model: Subject, folder: Path) -> None:
        self.model = model
        self.session = kx.Session(kx.compile(model.path, folder / f"{model.name}.krypton"), [CPU])
        self._plain = PlainModel(model.path, self.session.plan, quiet_options(available_cores()))
        self._content = np.broadcast_to(np.array(model.fill, np.float32)[:, None, None], (3, 16, 16))
        seconds = self._plain.best_batch(np.zeros((3, model.size, model.size), np.float32), self._content)
        self.batch = min(seconds, key=lambda size: seconds[size])
        self.plain_seconds: list[float] = []

    def time_plain(self, image: Floats) -> float:
        """Seconds a query of full inference; also kept."""
        run = partial(self._plain.run, image, np.zeros((self.batch, 2), np.int64), self._content, self.batch)
        run()
        runs: list[float] = []
        while sum(runs) < PLAIN_SECONDS:
            runs.append(timed(run))
        self.plain_seconds.append(sum(runs) / len(runs) / self.batch)
        return self.plain_seconds[-1]

    def warm_up(self, image: Floats) -> None:
        """Open all variants, and make the tables of all levels."""
        with Survey(self.session.materialize(image), question(self.model), progress=False) as survey:
            for level in levels_of(self.session, survey.base):
                survey.ask(level, survey.places[:WARM_UP])
        for tau in TAUS:
            corner = (0, 0, self.model.size // 4, self.model.size // 4)
            self.explain(image, kx.Approximate(tau=tau), region=corner)

    def explain(
        self, image: Floats, mode: kx.Exact | kx.Approximate, region: tuple[int, int, int, int] | None = None
    ) -> kx.Heatmap:
        """The heatmap, from the image on."""
        return self.session.explain(image, mode=mode, fill=self.model.fill, region=region, progress=False)

    def drilled_in_bytes(self, image: Floats, tau: float) -> kx.Heatmap:
        """Krypton's drill-down on the variant in bytes, which no mode asks for."""
        driver = self.session.int8
        assert driver is not None, f"{self.model.name} has no variant in bytes"
        with Survey(self.session.materialize(image), question(self.model), progress=False) as survey:
            level = Level(f"int8 tau {tau:g}", driver, survey.base, tau)
            *_, draft = drilled_down(survey, level, OCT_DRILL_DOWN)
            return survey.heatmap(draft.scores, {}, done=True)


def measured(heatmap: kx.Heatmap, exact: kx.Heatmap) -> Measures:
    """How alike the two are, in as many digits as mean anything."""
    found = asdict(compare(heatmap.scores, exact.scores, exact.origins, exact.patch, exact.image_size))
    return Measures(**{name: one if isinstance(one, bool) else round(one, 6) for name, one in found.items()})


def clocked(make: Callable[[], kx.Heatmap]) -> tuple[kx.Heatmap, float]:
    """A heatmap and the seconds that it took, or their median."""
    turns: list[float] = []
    while not turns or (len(turns) < TURNS and sum(turns) < SHORT):
        started = time.perf_counter()
        heatmap = make()
        turns.append(time.perf_counter() - started)
    return heatmap, median(turns)


def seen(bench: Bench, method: Method, name: str, image: Floats, exact: kx.Heatmap) -> Sample:
    """One method on one picture.

    Raises:
        KryptonError: what it asks for cannot be had.
    """
    with method.restricted():
        heatmap, seconds = clocked(lambda: bench.explain(image, method.mode))
    alike = measured(heatmap, exact)
    sample = Sample(name, method.family, method.name, method.target, seconds, alike)
    if done := heatmap.record.get("approximation"):
        told = {key: done[key] for key in ("ssim_bound", "level", "share_asked", "flops_saved")}
        sample = replace(sample, **told)
    return sample


def tuning_samples(bench: Bench) -> Iterator[tuple[float, float]]:
    """(tau, SSIM) of pictures of the calibration half; at 1 the map is the exact one."""
    for _, picture in pictures_for(bench.model, "calibration", CALIBRATING):
        image = bench.model.tensor(picture)
        exact = bench.explain(image, kx.Exact())
        if np.ptp(exact.drop) >= LEAST_RANGE:
            for tau in TAUS:
                yield tau, measured(bench.explain(image, kx.Approximate(tau=tau)), exact).ssim
            yield 1.0, 1.0


def evaluated(model: Subject, folder: Path, count: int) -> SubjectResult:
    """All methods on so many pictures of the test half."""
    bench = Bench(model, folder)
    pictures = list(pictures_for(model, "test", count))
    bench.warm_up(model.tensor(pictures[0][1]))
    points = np.array(list(tuning_samples(bench))).reshape(-1, 2)
    taus, ssims = (tuple(column.tolist()) for column in points.T)
    methods = all_methods(parabola_tau(taus, ssims, TUNED_FOR), in_bytes=bench.session.int8 is not None)
    samples: list[Sample] = []
    skipped, refused, positions = [], [], 0
    for number, (name, picture) in enumerate(pictures):
        image = model.tensor(picture)
        exact = bench.explain(image, kx.Exact())
        positions = exact.drop.size
        if np.ptp(exact.drop) < LEAST_RANGE:
            skipped.append(name)
            continue
        bench.time_plain(image)
        found, denied = on_picture(bench, methods, name, image, exact, number)
        samples, refused = samples + found, refused + denied
        print(f"{model.name:14} {name:24} {sum(one.seconds for one in found):6.0f} s", flush=True)
    return SubjectResult(
        name=model.name,
        size=model.size,
        positions=positions,
        trained=model.trained,
        commit=commit(),
        machine=machine(),
        versions=versions(),
        batch=bench.batch,
        plain_seconds=tuple(bench.plain_seconds),
        skipped=tuple(skipped),
        refused=tuple(refused),
        krypton_taus=taus,
        krypton_ssims=ssims,
        samples=tuple(samples),
    )


def on_picture(
    bench: Bench, methods: list[Method], name: str, image: Floats, exact: kx.Heatmap, number: int
) -> tuple[list[Sample], list[str]]:
    """Samples of a picture in the order of the methods, which run in another; and which could not be had."""
    found: dict[int, Sample] = {}
    for place in np.random.default_rng(number).permutation(len(methods)):
        try:
            found[place] = seen(bench, methods[place], name, image, exact)
        except kx.KryptonError:
            if not methods[place].may_be_refused:
                raise
    refused = [f"{one.family}: {one.name}" for place, one in enumerate(methods) if place not in found]
    return [found[place] for place in sorted(found)], refused


def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    known = {}
    for package in PACKAGES:
        try:
            known[package] = version(package)
        except ModuleNotFoundError:
            continue
    return known


def oct_settings(model: Subject, folder: Path) -> list[OctResult]:
    """Krypton's own setting on one picture; for VGG16 in bytes, too."""
    bench = Bench(model, folder)
    tau, published = OCT[model.name]
    name, picture = usable_picture(bench)
    image = model.tensor(picture)
    ways = {f"tau {tau:g}": partial(bench.explain, image, kx.Approximate(tau=tau, drill_down=OCT_DRILL_DOWN))}
    if model.name == "vgg16":
        ways[f"int8 tau {tau:g}"] = partial(bench.drilled_in_bytes, image, tau)
    exact = bench.explain(image, kx.Exact())
    full = bench.time_plain(image) * exact.drop.size
    found = []
    for level, way in ways.items():
        way()  # what the first run costs is no part of it
        heatmap, seconds = clocked(way)
        found.append(OctResult(model.name, name, level, published, full, seconds, measured(heatmap, exact)))
    return found


def usable_picture(bench: Bench) -> tuple[str, NDArray[np.uint8]]:
    """The first of the test half whose map has a range, by a coarse look."""
    for name, picture in pictures_for(bench.model, "test", 8):
        drop = bench.session.explain(bench.model.tensor(picture), stride=16, fill=bench.model.fill, progress=False).drop
        if np.ptp(drop) >= 2 * LEAST_RANGE:
            return name, picture
    raise ValueError(f"no picture moves {bench.model.name}")


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="folder for the subjects' files")
    parser.add_argument("--subjects", help=f"separated by commas, of {', '.join(NAMES)}; all by default")
    parser.add_argument("--pictures", type=int, default=8, metavar="N", help="of the test half, for each subject")
    parser.add_argument("--oct", action="store_true", help="measure Krypton's own settings instead")
    parser.add_argument("--render", action="store_true", help="measure nothing")
    parser.add_argument("--json", type=Path, default=RESULTS, help="what was found, kept")
    parser.add_argument("--report", type=Path, default=PAGE, help="the page whose tables are written")
    parser.add_argument("--plots", type=Path, default=PLOTS, help="folder for the plots")
    options = parser.parse_args()
    known = tuple(OCT) if options.oct else NAMES
    options.wanted = options.subjects.split(",") if options.subjects else list(known)
    if unknown := set(options.wanted) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    if not (options.render or options.models):
        parser.error("--models says where the subjects' files are kept")
    return options


def main() -> None:
    """Measure and write."""
    options = parsed()
    found: Found = read(options.json)
    for name in () if options.render else options.wanted:
        model = subject(name, options.models)
        if options.oct:
            found.oct[name] = oct_settings(model, options.models)
        else:
            found.subjects[name] = evaluated(model, options.models, options.pictures)
        write(options.json, found)
    render(found, options.report, options.plots)


if __name__ == "__main__":
    main()
