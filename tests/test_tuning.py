"""Calibration: what it learns from sights, what it refuses, and that it is stored in one step."""

import json
import math
from dataclasses import replace
from importlib import resources

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import krypton_onnx as kx
from krypton_onnx import tuning
from krypton_onnx.calibration import FLOOR, LEAST_SHARE
from krypton_onnx.cli import main
from krypton_onnx.cli.modes import approximation_text
from krypton_onnx.models.digits import digit_scene
from krypton_onnx.runtime.approximate import refinement
from krypton_onnx.runtime.questions import Question
from krypton_onnx.tuning import Sight, calibrated, krypton_tau, tune

FILES = resources.files("krypton_onnx.models")


def made_up(rng, images=40, spread=0.2):
    """Sights whose true loss is 2 · loss^0.8, times what differs from image to image."""
    for _ in range(images):
        luck = math.exp(spread * rng.standard_normal())
        image = []
        for level in ("tau 0.5", "exact"):
            for share in np.linspace(0.07, 1, 12):
                loss = 0.4 * math.exp(-4 * share) + (0.01 if level != "exact" else 0.0)
                true = luck * 2 * (loss + FLOOR) ** 0.8 if share < 1 or level != "exact" else 0.0
                image.append(Sight(level, loss, float(share), 48, true))
        yield image


def test_the_fit_finds_how_loss_depends_on_what_is_seen():
    found = calibrated(list(made_up(np.random.default_rng(0), spread=0.05)))
    assert found.images == 40
    assert found.power == pytest.approx(0.8, abs=0.05)
    assert found.scale == pytest.approx(math.log(2), abs=0.1)
    assert found.between(0.5) == pytest.approx(2 * (0.4 * math.exp(-2) + FLOOR) ** 0.8, rel=0.3)
    ((level, loss),) = found.levels.items()
    assert level == "tau 0.5"
    assert 0.005 < loss < 0.1


@pytest.mark.parametrize("spread", [0.05, 0.3])
def test_the_margin_keeps_promises_on_other_images(spread):
    """Refinement that stops by it has, on images that it has not seen, reached the target as often as it says."""
    rng = np.random.default_rng(1)
    known, kept = calibrated(list(made_up(rng, 400, spread))), []
    for image in made_up(rng, 300, spread):
        for level in ("tau 0.5", "exact"):
            for target in (0.8, 0.9, 0.95):
                steps = (s for s in image if s.level == level and s.share >= LEAST_SHARE)
                stop = next((s for s in steps if known.ssim_bound(s.loss) >= target), None)
                kept.append(stop is None or 1 - stop.true >= target)
    assert 0.94 <= np.mean(kept) < 1.0


def test_images_that_teach_nothing_are_refused():
    with pytest.raises(kx.KryptonError, match="differ too little"):
        calibrated([[Sight("exact", 0.0, 1.0, 48, 0.0)]] * 30)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    preprocess = kx.Preprocess.from_json(str(FILES / "demo_preprocess.json"))
    folder = tmp_path_factory.mktemp("demo") / "demo.krypton"
    return kx.compile(str(FILES / "demo.onnx"), folder, preprocess=preprocess), preprocess


def test_tune_stores_what_it_learned_and_leaves_the_artifact_whole(demo, monkeypatch):
    artifact, preprocess = demo
    monkeypatch.setattr(tuning, "FEWEST", 3)
    rng = np.random.default_rng(5)
    images = [preprocess.tensor(digit_scene(rng, "test").picture) for _ in range(3)]
    found = tune(artifact, images, Question("top", (16, 16), (8, 8), "mean", "cover", None, None))
    opened = kx.open_artifact(artifact.folder)
    assert opened.plan.calibration == found
    assert opened.plan == replace(artifact.plan, calibration=found)
    assert [allowed for _, allowed in found.promises] == sorted(allowed for _, allowed in found.promises)
    record = kx.Session(opened).explain(images[0], mode=kx.Approximate(), progress=False).record
    assert record["approximation"]["calibrated_on"] == 3
    assert not [file for file in artifact.folder.parent.iterdir() if file.name.startswith(".")]
    assert {file.name for file in artifact.folder.iterdir()} >= {"plan.json", "weights.bin"}


def test_tune_refuses_too_little(demo):
    artifact, preprocess = demo
    image = preprocess.tensor(digit_scene(np.random.default_rng(5), "test").picture)
    with pytest.raises(kx.KryptonError, match="too small to approximate"):
        tune(artifact, [image], Question("top", (16, 16), (32, 32), 0.0, "cover", None, None))
    with pytest.raises(kx.KryptonError, match="1 pictures are too few"):
        tune(artifact, [image], Question("top", (16, 16), (8, 8), 0.0, "cover", None, None))
    with pytest.raises(kx.KryptonError, match="Two of the pictures are the same"):
        tune(artifact, [image] * 20, Question("top", (16, 16), (8, 8), 0.0, "cover", None, None))


def test_kryptons_tau_is_where_its_parabola_reaches_the_target(demo):
    artifact, preprocess = demo
    session, rng = kx.Session(artifact), np.random.default_rng(7)
    images = [preprocess.tensor(digit_scene(rng, "test").picture) for _ in range(2)]
    question = Question("top", (16, 16), (8, 8), "mean", "cover", None, None)
    low, high = (krypton_tau(session, images, target, question) for target in (0.5, 0.97))
    assert 0.3 <= low < high <= 1.0
    assert krypton_tau(session, images, 1.5, question) == 1.0


# ------------------------------------------------------------------------------------------ the command line


@pytest.fixture
def place(tmp_path, monkeypatch, demo):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(refinement, "QUICK_SECONDS", 0.0)  # the demo model is so small
    rng = np.random.default_rng(2)
    for number in range(4):
        Image.fromarray(digit_scene(rng, "test").picture).save(f"{number}.png")
    return demo[0].folder


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def test_tune_from_the_command_line(place, monkeypatch):
    monkeypatch.setattr(tuning, "FEWEST", 4)
    pictures = [f"{number}.png" for number in range(4)]
    found = json.loads(run("tune", place, *pictures, "--stride", 8, "--fill", "mean", "--json").stdout)
    assert found["pictures"] == 4
    stored = kx.open_artifact(place).plan.calibration
    assert [list(pair) for pair in stored.promises] == found["promises"]


def test_tune_from_the_command_line_refuses(place):
    assert "4 pictures are too few" in run("tune", place, *(f"{n}.png" for n in range(4)), code=2).stderr
    assert "is no compiled model" in run("tune", "0.png", "1.png", code=2).stderr


def test_explain_approximately_says_what_it_did(place):
    found = run("explain", place, "0.png", "--approximate", "--fill", "mean")
    assert "Approximate: " in found.stdout
    assert "SSIM to the exact heatmap at least 0.9" in found.stdout
    assert "by 48 exact probes" in found.stdout
    report = json.loads(run("explain", place, "0.png", "--ssim", 0.8, "--seed", 3, "--json").stdout)
    assert report["approximation"]["asked"] == {"ssim": 0.8, "seed": 3}
    report = json.loads(run("explain", place, "0.png", "--speedup", 4, "--json").stdout)
    assert report["approximation"]["asked"]["speedup"] == 4
    report = json.loads(run("explain", place, "0.png", "--tau", 0.5, "--drill-down", "0.1:13", "--json").stdout)
    assert report["approximation"]["asked"]["drill_down"] == {"fraction": 0.1, "stride": 13, "speedup": None}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ssim", "2"], "must lie between 0 and 1"),
        (["--ssim", "0.9", "--speedup", "3"], "takes one of ssim, speedup, and tau"),
        (["--approximate", "--tau", "0.5"], "--approximate promises a similarity"),
        (["--drill-down", "13"], "'13' is no drill-down"),
        (["--drill-down", "2:13"], "fraction of a drill-down is 2.0"),
        (["--speedup", "100000"], "ask for a speedup of up to"),
        (["--seed", "-1", "--approximate"], "seed is -1"),
    ],
)
def test_explain_approximately_refuses(place, options, said):
    result = run("explain", place, "0.png", *options, code=2)
    assert said in result.stderr
    assert not list(place.parent.glob("*.heatmap.png"))


def test_live_writes_the_picture_again_and_again(place, monkeypatch):
    written = []
    save = kx.Heatmap.save
    monkeypatch.setattr(
        kx.Heatmap, "save", lambda self, path, *a, **k: (written.append(self.done), save(self, path, *a, **k))[1]
    )
    run("explain", place, "0.png", "--live", "--approximate", "-o", "live.png")
    assert written.count(True) == 1
    assert len(written) >= 2
    with Image.open("live.png") as picture:
        assert picture.width >= 1600


def test_an_exact_heatmap_is_called_so():
    done = {"queries": [{"level": "exact", "queries": 841}], "ssim_bound": 1.0, "rmse": None}
    assert approximation_text(done) == "Approximate: 841 exactly; this is the exact heatmap"
    assert "at least 0.912 (promised" in approximation_text(done | {"ssim_bound": 0.9129})
    assert approximation_text(done | {"ssim_bound": None}) == "Approximate: 841 exactly"
