"""How often the demo model's heatmap points at the digit: the figure of the README.

    python bench/demo_quality.py [--scenes 200]

Scenes are fresh (a seed that training never used) and painted from handwriting that training never saw. For each,
the patch that costs the predicted class most must have its centre in the tight box of the digit.
"""

import argparse
import tempfile
from importlib import resources
from pathlib import Path

import numpy as np

import krypton_onnx as kx
from krypton_onnx.models.digits import digit_scene
from krypton_onnx.runtime.providers import CPU

SEED = 13579
SETTINGS = ((16, 8, "mean"), (16, 4, "mean"), (16, 8, "black"), (16, 4, "black"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=200)
    arguments = parser.parse_args()
    files = resources.files("krypton_onnx.models")
    preprocess = kx.Preprocess.from_json(str(files / "demo_preprocess.json"))
    rng = np.random.default_rng(SEED)
    scenes = [digit_scene(rng, "test") for _ in range(arguments.scenes)]
    with tempfile.TemporaryDirectory() as folder:
        artifact = kx.compile(str(files / "demo.onnx"), Path(folder) / "demo", preprocess=preprocess)
        session = kx.Session(artifact, [CPU])
        bases = [session.materialize(preprocess.tensor(scene.picture)) for scene in scenes]
    right = sum(
        int(np.argmax(next(iter(base.outputs.values())))) == scene.label
        for base, scene in zip(bases, scenes, strict=True)
    )
    print(f"recognised: {right / len(scenes):.1%} of {len(scenes)}")
    print("| patch | stride | fill | largest drop on the digit |\n|---|---|---|---|")
    for patch, stride, fill in SETTINGS:
        hits = 0
        for base, scene in zip(bases, scenes, strict=True):
            heatmap = session.explain(base, patch=patch, stride=stride, fill=fill, progress=False)
            hits += scene.holds_centre(heatmap.most_important()[:2], heatmap.patch)
        print(f"| {patch} | {stride} | {fill} | {hits / len(scenes):.1%} |", flush=True)


if __name__ == "__main__":
    main()
