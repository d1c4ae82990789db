"""What an approximate map may promise for models that have not been tuned, learned from the calibration half.

    python bench/quality/calibrate.py --models FOLDER [--sights sights.json]

Prints `krypton_onnx.calibration.UNTUNED`. Every picture counts alike.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pictures import Half, crops, scenes
from subjects import Subject, subject

import krypton_onnx as kx
from krypton_onnx.calibration import EXACT
from krypton_onnx.runtime.providers import CPU
from krypton_onnx.runtime.questions import Question
from krypton_onnx.runtime.survey import Survey
from krypton_onnx.tuning import Sight, calibrated, sights

PICTURES = {"squeezenet": 15, "demo": 15, "mobilenet_v2": 4, "resnet18": 4}
"""Of each subject: the light ones, for every picture is explained exactly and at every level."""

LEAST_RANGE = 0.02
"""Of a map; below it rounding shows."""


def pictures_for(model: Subject, half: Half, count: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Names and pictures of one half, evenly chosen."""
    if model.name == "demo":
        found = [(one.name, one.picture) for one in scenes(2 * count) if one.half == half]
    else:
        found = [(one.name, one.picture) for one in crops(model.size) if one.half == half]
    for place in np.unique(np.linspace(0, len(found) - 1, count).round().astype(int)):
        yield found[place]


def question(model: Subject) -> Question:
    """Patch 16, stride 4, the mean colour."""
    return Question("top", (16, 16), (4, 4), np.array(model.fill, np.float32), "cover", None, None)


def seen_by(model: Subject, folder: Path, count: int) -> Iterator[list[Sight]]:
    """The sights of a subject's pictures, but for maps of no range."""
    session = kx.Session(kx.compile(model.path, folder / f"{model.name}.krypton"), [CPU])
    for name, picture in pictures_for(model, "calibration", count):
        with Survey(session.materialize(model.tensor(picture)), question(model), progress=False) as survey:
            found = sights(survey, session)
            exact = survey.known(EXACT)
        if np.ptp(exact) >= LEAST_RANGE:
            print(f"{model.name:14} {name:24} range {np.ptp(exact):.3f}, {len(found)} maps", flush=True)
            yield found


def main() -> None:
    """Compute, or read again, the sights, and print the calibration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="folder for the subjects' files")
    parser.add_argument("--sights", type=Path, help="file to keep what was seen, read if it is there")
    options = parser.parse_args()
    if options.sights and options.sights.is_file():
        images = [[Sight(**one) for one in image] for image in json.loads(options.sights.read_text())]
    else:
        images = [
            image
            for name, count in PICTURES.items()
            for image in seen_by(subject(name, options.models), options.models, count)
        ]
        if options.sights:
            options.sights.write_text(json.dumps([[asdict(one) for one in image] for image in images]))
    print(calibrated(images))


if __name__ == "__main__":
    main()
