"""Approximate heatmaps: promises are kept, records say what was done, Krypton's methods are Krypton's."""

import json
from dataclasses import replace
from importlib import resources
from itertools import pairwise, product

import numpy as np
import pytest
from skimage.metrics import structural_similarity

import krypton_onnx as kx
from krypton_onnx import calibration
from krypton_onnx.models.digits import digit_scene
from krypton_onnx.modes import DrillDown
from krypton_onnx.runtime import explain as explaining
from krypton_onnx.runtime.approximate import anchors as anchoring
from krypton_onnx.runtime.approximate import lattice as lattices
from krypton_onnx.runtime.approximate import refinement
from krypton_onnx.runtime.approximate.anchors import Anchors, Judged
from krypton_onnx.runtime.approximate.lattice import Lattice
from krypton_onnx.runtime.approximate.outlook import Outlook
from krypton_onnx.runtime.approximate.quality import Check, loss_between, ssim, structural_loss
from krypton_onnx.runtime.approximate.sketch import around_lowest, sketches
from krypton_onnx.runtime.explain import levels_of
from krypton_onnx.runtime.questions import Question
from krypton_onnx.runtime.survey import LOOKING, PLANNING, PLANNING_QUERY, Survey

FILES = resources.files("krypton_onnx.models")


@pytest.fixture(autouse=True)
def whatever_it_takes(monkeypatch):
    """The demo model is so small that exact answers would be sooner there."""
    monkeypatch.setattr(refinement, "QUICK_SECONDS", 0.0)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A session of the demo model, and images of its kind."""
    preprocess = kx.Preprocess.from_json(str(FILES / "demo_preprocess.json"))
    folder = tmp_path_factory.mktemp("demo") / "demo.krypton"
    session = kx.Session(kx.compile(str(FILES / "demo.onnx"), folder, preprocess=preprocess))
    rng = np.random.default_rng(11)
    return session, [preprocess.tensor(digit_scene(rng, "test").picture) for _ in range(6)]


def similarity(a, b):
    return structural_similarity(a.astype(float), b.astype(float), win_size=7, data_range=float(np.ptp(b)))


def ask(session, image, mode, **settings):
    return session.explain(image, fill="mean", mode=mode, progress=False, **settings)


# ---------------------------------------------------------------------------------------------- the promise


@pytest.mark.parametrize("target", [0.8, 0.9, 0.95])
def test_a_promised_similarity_is_kept_with_fewer_operations(demo, target):
    session, images = demo
    kept, saved = [], []
    for image in images:
        exact, found = ask(session, image, kx.Exact()), ask(session, image, kx.Approximate(ssim=target))
        done = found.record["approximation"]
        assert done["ssim_bound"] >= target
        assert done["asked"]["ssim"] == target
        kept.append(similarity(found.scores, exact.scores) - target)
        saved.append(done["flops_saved"])
    assert min(kept) >= -0.05
    assert np.mean(np.array(kept) >= 0) > 0.8
    least = 0.7  # the exact map saves about that much
    assert min(saved) > least
    assert np.mean(saved) > {0.8: 0.8, 0.9: 0.75, 0.95: least}[target]


def test_what_is_recorded_is_what_was_done(demo):
    session, (image, *_) = demo
    exact, found = ask(session, image, kx.Exact()), ask(session, image, kx.Approximate())
    done = found.record["approximation"]
    assert found.record["mode"] == "approximate"
    assert (done["asked"], done["probes"]) == ({"ssim": 0.9, "seed": 0}, 48)
    asked = {one["level"]: one["queries"] for one in done["queries"]}
    assert asked["exact"] >= 48
    assert sum(asked.values()) < exact.scores.size
    assert done["share_asked"] * exact.scores.size <= asked[done["level"]] + 1
    low, high = done["rmse_interval"]
    assert low <= done["rmse"] <= high
    real = np.sqrt(np.mean((found.scores - exact.scores) ** 2))
    assert low / 2 <= real <= 2 * high


def test_the_largest_drop_is_exact(demo):
    session, images = demo
    for image in images:
        exact, found = ask(session, image, kx.Exact()), ask(session, image, kx.Approximate())
        row, col = np.unravel_index(found.drop.argmax(), found.drop.shape)
        np.testing.assert_allclose(found.scores[row, col], exact.scores[row, col], atol=1e-6)


def test_a_promise_that_no_cheap_level_keeps_ends_in_the_exact_map(demo):
    session, (image, *_) = demo
    exact, found = ask(session, image, kx.Exact()), ask(session, image, kx.Approximate(ssim=0.99999))
    np.testing.assert_allclose(found.scores, exact.scores, atol=1e-6)
    assert (found.record["approximation"]["level"], found.record["approximation"]["ssim_bound"]) == ("exact", 1.0)


def test_results_are_reproducible_and_depend_on_the_seed(demo):
    session, (image, *_) = demo
    first, again, other = (ask(session, image, kx.Approximate(seed=seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.scores, again.scores)
    assert (first.scores != other.scores).any()


@pytest.mark.parametrize("speedup", [4, 8])
def test_a_speedup_is_kept_to_in_predicted_time(demo, speedup, monkeypatch):
    session, (image, *_) = demo
    surveys = []
    made = Survey.__init__
    monkeypatch.setattr(Survey, "__init__", lambda self, *a: (made(self, *a), surveys.append(self))[0])
    found = ask(session, image, kx.Approximate(speedup=speedup))
    plan = session.plan
    spent = surveys[-1].fixed + sum(one.seconds for one in surveys[-1].spent.values())
    budget = plan.full_seconds * found.scores.size / speedup
    assert 0.85 * budget <= spent <= 1.05 * budget
    assert found.record["approximation"]["asked"]["speedup"] == speedup


def test_a_speedup_that_exact_answers_have_gives_them(demo):
    session, (image, *_) = demo
    exact = ask(session, image, kx.Exact())
    np.testing.assert_array_equal(ask(session, image, kx.Approximate(speedup=1)).scores, exact.scores)


def test_a_speedup_out_of_reach_says_what_is_in_reach(demo):
    session, (image, *_) = demo
    with pytest.raises(kx.KryptonError, match=r"cannot be answered 1000 times .* up to (\d+)") as error:
        ask(session, image, kx.Approximate(speedup=1000))
    most = int(str(error.value).rsplit(" ", 1)[1].rstrip("."))
    ask(session, image, kx.Approximate(speedup=most))


def test_lists_of_targets_and_other_grids(demo):
    session, (image, *_) = demo
    exact = ask(session, image, kx.Exact(), target=[3, 8], stride=5)
    found = ask(session, image, kx.Approximate(ssim=0.8), target=[3, 8], stride=5)
    assert found.scores.shape == exact.scores.shape
    assert min(similarity(a, b) for a, b in zip(found.scores, exact.scores, strict=True)) > 0.7
    part = {"region": (0, 0, 128, 36)}
    np.testing.assert_array_equal(
        ask(session, image, kx.Approximate(), **part).scores, ask(session, image, kx.Exact(), **part).scores
    )  # too few columns for similarity to mean anything


# ---------------------------------------------------------------------------------------------- Krypton's methods


def test_drill_down_is_bilinear_and_then_the_lowest_again(demo):
    session, (image, *_) = demo
    exact = ask(session, image, kx.Exact())
    found = ask(session, image, kx.Approximate(drill_down=DrillDown(0.1, 13)))
    rows = cols = np.append(np.arange(0, 112, 13), 112)
    base = session.materialize(image)
    coarse = session.explain(base, fill="mean", stride=13, progress=False)
    np.testing.assert_array_equal(coarse.origins[:, 0, 0], rows)
    expected = np.empty_like(exact.scores)
    for r, c in np.ndindex(expected.shape):
        y, x = exact.origins[r, c]
        i, j = min(np.searchsorted(rows, y, "right") - 1, 8), min(np.searchsorted(cols, x, "right") - 1, 8)
        v, u = (y - rows[i]) / (rows[i + 1] - rows[i]), (x - cols[j]) / (cols[j + 1] - cols[j])
        corners = coarse.scores[i : i + 2, j : j + 2]
        expected[r, c] = np.array([1 - v, v]) @ corners @ np.array([1 - u, u])
    lowest = np.argsort(expected, axis=None, kind="stable")[: round(0.1 * expected.size)]
    expected.flat[lowest] = exact.scores.flat[lowest]
    np.testing.assert_allclose(found.scores, expected, atol=2e-6)
    assert found.record["approximation"]["queries"] == [{"level": "exact", "queries": 100 + len(lowest)}]


def test_both_of_kryptons_methods_together(demo):
    session, (image, *_) = demo
    cut = ask(session, image, kx.Approximate(tau=0.4))
    both = ask(session, image, kx.Approximate(tau=0.4, drill_down=DrillDown(0.2, 8)))
    lowest = np.argsort(both.scores, axis=None)[:40]
    np.testing.assert_allclose(both.scores.flat[lowest], cut.scores.flat[lowest], atol=1e-6)
    assert np.abs(cut.scores - ask(session, image, kx.Exact()).scores).max() > 1e-3


@pytest.mark.parametrize(
    ("fraction", "speedup", "stride", "coarse"), [(0.25, 3, 4, 14), (0.1, 5, 4, 13), (0.4, 2, 4, 13)]
)
def test_the_coarse_stride_follows_kryptons_formula(fraction, speedup, stride, coarse):
    assert DrillDown(fraction, speedup=speedup).coarse_stride((stride, stride)) == (coarse, coarse)


# ---------------------------------------------------------------------------------------------- progressive results


def one_level(mode):
    return isinstance(mode, kx.Exact) or (mode.tau is not None and mode.drill_down is None)


@pytest.mark.parametrize(
    "mode",
    [
        kx.Exact(),
        kx.Approximate(ssim=0.95),
        kx.Approximate(speedup=4),
        kx.Approximate(tau=0.5),
        kx.Approximate(drill_down=DrillDown(0.1, 13)),
    ],
    ids=["exact", "ssim", "speedup", "tau", "drill-down"],
)
def test_drafts_get_better_and_end_in_what_explain_returns(demo, mode):
    session, (image, *_) = demo
    drafts = list(session.explain_progressively(image, fill="mean", mode=mode))
    assert len(drafts) > 1
    assert [draft.done for draft in drafts] == [False] * (len(drafts) - 1) + [True]
    final = ask(session, image, mode)
    assert final.done
    # One level, asked at once or step by step: batches of other sizes may round otherwise.
    np.testing.assert_allclose(drafts[-1].scores, final.scores, rtol=0, atol=1e-6 if one_level(mode) else 0)
    errors = [np.abs(draft.scores - drafts[-1].scores).mean() for draft in drafts]
    assert errors[0] == max(errors) > 0


# ---------------------------------------------------------------------------------------------- the parts


@pytest.mark.parametrize("shape", [(9, 9), (53, 53), (10, 7), (8, 23), (12, 1), (1, 1), (6, 4)])
def test_stages_reach_every_position_from_positions_before(shape):
    lattice = Lattice(*shape)
    stages = lattice.stages
    assert stages.shape == shape
    assert stages.min() == 0
    assert stages.max() <= lattices.STAGES
    assert (stages[[0, -1]][:, [0, -1]] == 0).all()
    values = np.random.default_rng(0).standard_normal((*shape, 2))
    for stage in range(lattices.STAGES + 1):
        known = stages <= stage
        maps, spread = lattice.expected(values, known)
        assert np.isfinite(maps).all()
        assert np.isfinite(spread).all()
        np.testing.assert_array_equal(maps[known], values[known])
        assert (spread[known] == 0).all()


def test_planes_are_expected_exactly_inside():
    rows, cols = np.mgrid[:13, :17].astype(float)
    plane = (2 * rows - cols)[..., None]
    maps, spread = Lattice(13, 17).expected(plane, Lattice(13, 17).stages == 0)
    np.testing.assert_allclose(maps, plane, atol=1e-12)
    assert spread.max() > 0


def test_positions_nobody_knows_do_not_count():
    lattice = Lattice(9, 9)
    known = lattice.stages <= 1
    values = np.where(known, 1.0, np.nan)[..., None]
    np.testing.assert_array_equal(lattice.expected(values, known)[0], np.ones((9, 9, 1)))


def test_similarity_is_that_of_scikit_image():
    rng = np.random.default_rng(0)
    for shape in ((20, 31), (7, 7), (53, 53)):
        exact = rng.standard_normal(shape).cumsum(0).cumsum(1)
        for noise in (0.1, 1.0, 10.0):
            approximate = exact + noise * rng.standard_normal(shape)
            assert ssim(approximate, exact) == pytest.approx(similarity(approximate, exact), abs=1e-9)
    assert ssim(np.ones((9, 9)), np.ones((9, 9))) == 1.0


def test_both_losses_are_near_the_loss_of_similarity():
    rng = np.random.default_rng(1)
    exact = rng.standard_normal((60, 60)).cumsum(0).cumsum(1) + 1e4  # far from zero, where means hardly count
    none = np.zeros_like(exact)
    for noise in (0.3, 1.0, 3.0):
        error = noise * rng.standard_normal(exact.shape)
        everywhere = np.arange(exact.size)
        true = 1 - similarity(exact + error, exact)
        at_probes = structural_loss(exact + error, none, error.reshape(-1), everywhere)
        between = loss_between(exact + error, np.full_like(exact, noise**2))
        assert (at_probes, between) == (pytest.approx(true, rel=0.5), pytest.approx(true, rel=0.5))
    assert structural_loss(exact, none, np.zeros(9), np.arange(9)) == 0
    assert structural_loss(np.ones((9, 9)), none[:9, :9], np.zeros(9), np.arange(9)) == 0
    assert loss_between(exact, none) == 0


def test_errors_of_means_matter_near_zero():
    """All of a window is wrong by the same: its structure is right, and SSIM loses by its mean alone."""
    exact = 0.01 * np.random.default_rng(2).standard_normal((40, 40)) + np.linspace(-1, 1, 40)
    error = np.full(exact.size, 0.05)
    near, far = (
        structural_loss(exact + offset, np.zeros_like(exact), error, np.arange(exact.size)) for offset in (0, 100)
    )
    lost = [1 - similarity(exact + offset + 0.05, exact + offset) for offset in (0, 100)]
    assert lost[0] - lost[1] > 0.02
    # The estimate takes some of the errors of a window to cancel; here none does.
    assert 0.1 * (lost[0] - lost[1]) < near - far < lost[0] - lost[1]
    between = [loss_between(exact + offset, np.full_like(exact, 0.05**2)) for offset in (0, 100)]
    assert between[0] - between[1] == pytest.approx(near - far, rel=0.3)


def test_errors_matter_less_where_the_map_is_known_to_vary_more():
    flat, errors, places = np.ones((9, 9)), np.full(5, 0.1), np.arange(5)
    losses = [structural_loss(flat, np.full((9, 9), v), errors, places) for v in (0.0, 0.01, 0.1)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] == 1.0


def asked(demo):
    session, (image, *_) = demo
    survey = Survey(session.materialize(image), Question("top", (16, 16), (4, 4), "mean", "cover", None, None), False)
    return survey, levels_of(session, survey.base)


def anchored(demo, count=30):
    survey, levels = asked(demo)
    *_, sketch = sketches(survey, levels[0])
    return Anchors(survey, levels[-1], count, seed=3), levels[0], sketch


def test_a_sketch_asks_as_many_as_it_is_told_and_not_twice_as_many_as_it_knows(demo):
    survey, (level, *_) = asked(demo)
    drawing = sketches(survey, level)
    first = next(drawing)
    second = drawing.send(10)
    third = drawing.send(10_000)
    assert second.known.sum() == first.known.sum() + 10
    assert third.known.sum() == 2 * second.known.sum() + 1
    assert survey.spent[level.name].queries == third.known.sum()
    assert (third.doubt[third.known] == 0).all()
    assert (third.doubt[~third.known] >= 0).all()


def test_surprises_are_the_errors_of_what_was_expected(demo):
    survey, (level, *_) = asked(demo)
    drawing = sketches(survey, level)
    first, second = next(drawing), drawing.send(40)
    new = second.known & ~first.known
    answers = survey.at(level, np.flatnonzero(new))
    assert second.surprises[0] == pytest.approx(((answers - first.maps[new]) ** 2).sum(axis=0))
    assert second.surprises[1] == pytest.approx(first.doubt[new].sum(axis=0))


def test_residuals_are_what_the_other_anchors_leave(demo):
    anchors, level, sketch = anchored(demo)
    probes, flat = anchors.probes, sketch.maps.reshape(-1, 1)
    errors = anchors.truth(probes) - flat[probes]
    _, left = anchors._fit(errors)
    for one in (0, 7, 29):
        others = np.delete(probes, one)
        gram = anchors._alike(others, others) + anchoring.SURPRISE * np.eye(29)
        predicted = anchors._alike(probes[[one]], others) @ np.linalg.solve(gram, np.delete(errors, one, axis=0))
        np.testing.assert_allclose(left[one], errors[one] - predicted[0], atol=1e-9)
    check = anchors.judged(level, sketch).check
    assert check.rmse == pytest.approx(np.sqrt(np.mean(left**2)))  # every position has been asked
    assert check.between == 0 < check.level


def test_a_corrected_map_is_exact_at_the_anchors_and_nearer_elsewhere(demo):
    anchors, level, sketch = anchored(demo, 48)
    maps = sketch.maps
    around = around_lowest(anchors.judged(level, sketch).maps, anchoring.PEAK)
    judged = anchors.settle(level, sketch)
    truth = anchors.truth(np.arange(maps.size))
    np.testing.assert_array_equal(judged.maps.reshape(-1, 1)[anchors.probes], truth[anchors.probes])
    lowest = around_lowest(judged.maps, 0)
    np.testing.assert_array_equal(judged.maps.reshape(-1, 1)[lowest], truth[lowest])
    np.testing.assert_array_equal(judged.maps.reshape(-1, 1)[around], truth[around])
    assert np.abs(judged.maps.reshape(-1, 1) - truth).mean() < np.abs(maps.reshape(-1, 1) - truth).mean()


def test_what_is_only_expected_is_never_the_largest_drop(demo, monkeypatch):
    anchors, level, sketch = anchored(demo, 48)
    judged = anchors.judged(level, sketch)
    unknown = np.setdiff1d(np.arange(judged.maps.size), anchors.probes)[::40]
    maps = judged.maps.copy()
    maps.reshape(-1)[unknown] = -9.0 - np.arange(len(unknown))
    nowhere = np.setdiff1d(np.arange(maps.size), [*anchors.probes, *unknown])[5]
    maps.reshape(-1)[nowhere] = np.nan
    monkeypatch.setattr(anchors, "judged", lambda *_: Judged(maps, judged.check))
    settled = anchors.settle(level, sketch).maps.reshape(-1, 1)
    assert len(anchors._places) <= 48 + 2 * 9
    lowest = int(np.nanargmin(settled))
    assert settled[lowest] == anchors.truth(np.array([lowest]))[0]
    assert np.isnan(settled[nowhere])
    assert (settled[unknown].astype(np.float32) >= np.float32(settled[lowest])).all()


def test_more_anchors_lie_apart_and_leave_smaller_errors(demo):
    anchors, level, sketch = anchored(demo, 16)
    few = anchors.judged(level, sketch)
    anchors.extend(150, sketch.known)
    many = anchors.judged(level, sketch)
    assert (len(anchors), len(anchors.probes)) == (150, 16)
    places = anchors._places
    assert len(np.unique(places)) == 150
    apart = np.linalg.norm(sketch_places(sketch)[places[:, None]] - sketch_places(sketch)[places], axis=2)
    assert np.sort(apart[16:], axis=1)[:, 1].min() > 1.0  # never a neighbour, while there is room elsewhere
    truth = anchors.truth(np.arange(sketch.maps.size)).reshape(sketch.maps.shape)
    assert np.abs(many.maps - truth).mean() < 0.8 * np.abs(few.maps - truth).mean()
    anchors.extend(400, np.zeros_like(sketch.known))
    assert len(anchors) == 150


def sketch_places(sketch):
    return np.stack(np.meshgrid(*map(np.arange, sketch.known.shape), indexing="ij"), axis=-1).reshape(-1, 2)


def test_the_neighbours_of_the_lowest_score_stay_inside():
    maps = np.ones((4, 5, 2))
    maps[0, 4, 0], maps[3, 0, 1] = 0, np.nan
    maps[2, 2, 1] = -1
    assert around_lowest(maps[..., :1], 1).tolist() == [3, 4, 8, 9]
    assert around_lowest(maps[..., 1:], 1).tolist() == [6, 7, 8, 11, 12, 13, 16, 17, 18]


# ---------------------------------------------------------------------------------------------- calibration


def test_more_is_promised_for_less_loss():
    known = calibration.UNTUNED
    assert known.ssim_bound(0.0) > 0.98
    for less, more in pairwise([0.0, 0.01, 0.1, 0.5]):
        assert known.ssim_bound(less) > known.ssim_bound(more)
    assert known.ssim_bound(1.0) >= 0
    for target in (0.8, 0.9, 0.95):
        loss = next(x for x in np.linspace(0.3, 0, 3001) if known.expected(x) <= known.expected_for(target))
        assert known.ssim_bound(loss) == pytest.approx(target, abs=2e-3)
    assert 0.2 <= known.least_share(0.5) < known.least_share(0.9) < known.least_share(0.98) <= 1.0


# ---------------------------------------------------------------------------------------------- the outlook


class Desk:
    """An outlook, and the sketches that it looks at."""

    def __init__(self, survey, levels):
        self.survey, self.levels, self.drawn = survey, levels, {}
        self.anchors = Anchors(survey, levels[-1], 48, 0)
        self.outlook = Outlook(survey, levels, self.anchors, calibration.UNTUNED, self.drawn, self.begin)
        self.first = {}

    def begin(self, level):
        if level.name not in self.drawn:
            self.first[level.name] = sketches(self.survey, level)
            self.drawn[level.name] = next(self.first[level.name])
        return self.drawn[level.name]

    def show(self, level, share, between, loss):
        """As if so many positions had been asked."""
        sketch = self.begin(level)
        known = np.arange(sketch.known.size).reshape(sketch.known.shape) < share * sketch.known.size
        self.drawn[level.name] = replace(sketch, known=known)
        self.outlook.learn(level, Check(48, 1.0, (0.9, 1.1), between, loss))


@pytest.fixture
def desk(demo):
    return Desk(*asked(demo))


def test_better_promises_take_longer_and_larger_budgets_lose_less(desk):
    targets = (0.7, 0.9, 0.95, 0.99)
    ways = [desk.outlook.soonest(target) for target in targets]
    assert [way.seconds for way in ways] == sorted(way.seconds for way in ways)
    assert ways[0].share < 1
    assert ways[0].seconds < 0.7 * ways[-1].seconds
    for way, target in zip(ways, targets, strict=True):
        assert way.loss <= calibration.UNTUNED.expected_for(target) * (1 + 1e-6)
    within = [desk.outlook.best(lambda budget=budget: budget, desk.levels) for budget in (0.01, 0.02, 0.04, 0.08)]
    losses = [way.loss for way in within]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]
    assert desk.outlook.best(lambda: 0.0, desk.levels) is None


def test_a_budget_is_spent_to_the_last_step(desk):
    way = desk.outlook.best(lambda: 0.04, desk.levels)
    desk.show(way.level, 0.1, 0.1, 0.01)
    for budget in np.linspace(0.006, 0.02, 200):
        assert desk.outlook.best(lambda budget=budget: budget, [way.level]).seconds == pytest.approx(budget)


@pytest.mark.parametrize(("loss", "helped"), [(0.02, True), (0.05, False)])
def test_anchors_that_do_not_help_are_no_way_to_go_on(desk, loss, helped):
    level = desk.levels[0]
    desk.show(level, 1.0, 0.0, 0.05)
    desk.anchors.extend(96, np.ones(desk.survey.origins.shape[:2], bool))
    desk.show(level, 1.0, 0.0, loss)
    assert (desk.outlook.loss(level, 192) < 0.75 * desk.outlook.loss(level, 96)) is helped


def test_what_one_level_loses_says_something_of_the_others(desk):
    one, other = desk.levels[0], desk.levels[1]
    usual = calibration.UNTUNED.level_loss(one.name)
    before = desk.outlook.loss(other, 48)
    desk.show(one, 1.0, 0.0, min(1.0, 10 * usual))
    assert desk.outlook.loss(one, 48) > usual
    assert before < desk.outlook.loss(other, 48) <= 1
    assert desk.outlook.loss(desk.levels[-1], 48) == 0


def test_what_one_variant_loses_says_nothing_of_another(desk):
    one, other = (next(level for level in desk.levels if level.name == name) for name in ("tau 0.5", "int8 tau 0.5"))
    before = desk.outlook.loss(other, 48)
    desk.show(one, 1.0, 0.0, 0.9)
    assert desk.outlook.loss(other, 48) == before


@pytest.mark.parametrize("exact_alone", [False, True])
def test_the_first_sketch_tells_how_smooth_the_map_is_before_a_way_is_taken(demo, monkeypatch, exact_alone):
    survey, levels = asked(demo)
    shares = []
    for between in (0.3, 0.8):
        desk = Desk(survey, levels[-1:] if exact_alone else levels)
        check = Check(48, 1.0, (0.9, 1.1), between, 0.001)
        monkeypatch.setattr(desk.anchors, "judged", lambda _, sketch, check=check: Judged(sketch.maps, check))
        shares.append(desk.outlook.soonest(0.9).share)
    assert shares[0] < 0.8 * shares[1]


def test_smoothness_is_what_between_makes_of_it():
    for share, smooth in product((0.1, 0.5, 0.9), (0.3, 1.0, 3.0)):
        between = calibration.UNTUNED.between(share, smooth)
        assert calibration.UNTUNED.smoothness(share, between) == pytest.approx(smooth)
        assert calibration.UNTUNED.share_between(between, smooth) == pytest.approx(share, abs=1e-3)
    assert calibration.UNTUNED.smoothness(0.5, 0.9) == 0  # more than is left can not be lost
    assert calibration.UNTUNED.smoothness(0.5, 0.0) > 5
    odd = replace(calibration.UNTUNED, lattice=(0.3, -0.3))
    assert all(odd.smoothness(share, 0.05) > 0 for share in (0.0, 0.5, 0.9))


def test_a_map_turns_out_rougher_as_it_is_asked(desk):
    level = desk.levels[-1]
    desk.show(level, 0.3, 0.02, 0.0)
    smooth = desk.outlook.soonest(0.9).share
    desk.show(level, 0.3, 0.3, 0.0)
    assert desk.outlook.soonest(0.9).share > smooth
    desk.show(level, 0.5, 0.0, 0.0)
    assert desk.outlook.soonest(0.95).loss < 0.01


def test_a_flat_map_is_soon_there(demo):
    session, (image, *_) = demo
    for mode in (kx.Approximate(ssim=0.9), kx.Approximate(speedup=3)):
        found = ask(session, np.zeros_like(image), mode)
        assert np.isfinite(found.scores).all()


def test_trying_is_charged(desk):
    before = desk.survey.fixed
    desk.outlook._try(desk.levels[0])
    one = desk.survey.fixed
    desk.outlook._try(desk.levels[1])
    assert one - before > LOOKING * len(desk.survey.places)
    assert desk.survey.fixed - one > LOOKING * len(desk.survey.places)


def test_a_budget_is_kept_where_all_drops_are_alike(demo):
    """The largest drop is then always another one."""
    session, (image, *_) = demo
    rng = np.random.default_rng(5)
    noise = rng.standard_normal(image.shape).astype(np.float32)
    question = Question([0, 1, 2], (7, 20), (3, 5), "mean", "cover", None, None)
    with Survey(session.materialize(noise), question, progress=False) as survey:
        whole = survey.base.plan.full_seconds * len(survey.places)
        *_, last = refinement.until_spent(survey, levels_of(session, survey.base), whole / 8, calibration.UNTUNED, 0)
        assert survey.seconds < 1.3 * whole / 8
        lowest = around_lowest(last.scores.reshape(*survey.origins.shape[:2], 3), 0)
        exact = survey.at(levels_of(session, survey.base)[-1], lowest)
        np.testing.assert_allclose(last.scores[lowest], exact, rtol=1e-6)


def test_a_way_that_is_taken_is_cheaper_to_go_on(desk):
    way = desk.outlook.soonest(0.95)
    desk.show(way.level, way.share - 0.1, way.loss / 2, way.loss / 2)
    assert desk.outlook.soonest(0.95).seconds < way.seconds


def test_every_level_has_been_calibrated(desk):
    names = {level.name for level in desk.levels}
    assert len(names) > 5
    assert names - {"exact"} <= calibration.UNTUNED.levels.keys()


def test_speed_on_the_exact_level_alone_ends_once(demo, monkeypatch):
    """Queries of a corner are cheaper than the mean, so that a budget may be more than enough."""
    session, (image, *_) = demo
    monkeypatch.setattr(explaining, "levels_of", lambda session, base: levels_of(session, base)[-1:])
    for speedup in (1.9, 2.5, 3.5):
        settings = {"region": (0, 0, 72, 72), "mode": kx.Approximate(speedup=speedup), "fill": "mean"}
        drafts = list(session.explain_progressively(image, **settings))
        assert [draft.done for draft in drafts] == [False] * (len(drafts) - 1) + [True]


def test_without_probes_nothing_is_promised_and_nothing_shifted(demo):
    survey, levels = asked(demo)
    anchors = Anchors(survey, levels[-1], 0, 0)
    *_, sketch = sketches(survey, levels[0])
    judged = anchors.settle(levels[0], sketch)
    assert judged.check is None
    assert 0 < (judged.maps != sketch.maps).sum() <= 2 * 9
    session, (image, *_) = demo
    fast = ask(session, image, kx.Approximate(speedup=11))
    assert fast.record["approximation"]["probes"] == 0
    assert fast.record["approximation"]["ssim_bound"] is None


def test_nothing_is_promised_of_very_few_positions(demo):
    session, (image, *_) = demo
    for draft in session.explain_progressively(image, fill="mean", mode=kx.Approximate(ssim=0.9)):
        done = draft.record["approximation"]
        assert (done["ssim_bound"] is None) is (done["share_asked"] < calibration.LEAST_SHARE)


def test_an_image_is_charged_for_each_variant_once(demo):
    survey, levels = asked(demo)
    level = levels[0]
    assert survey.image_seconds(level) > 0 == survey.image_seconds(levels[-1])
    before = survey.fixed
    survey.at(level, np.arange(10))
    first = survey.fixed - before
    survey.at(level, np.arange(10, 20))
    assert survey.image_seconds(level) == 0
    planning = PLANNING + 10 * PLANNING_QUERY
    assert survey.fixed - before - first == pytest.approx(planning)
    assert first > 1.5 * planning


# ---------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: kx.Approximate(ssim=0.9, speedup=2), "one of ssim, speedup, and tau"),
        (lambda: kx.Approximate(ssim=0.9, tau=0.5), "one of ssim, speedup, and tau"),
        (lambda: kx.Approximate(ssim=1.0), "SSIM is 1.0; it must lie between 0 and 1"),
        (lambda: kx.Approximate(ssim=float("nan")), "must lie between 0 and 1"),
        (lambda: kx.Approximate(speedup=0.5), "speedup is 0.5; it must be 1 or more"),
        (lambda: kx.Approximate(speedup=float("inf")), "it must be 1 or more"),
        (lambda: kx.Approximate(tau=0), "tau is 0; it must be over 0"),
        (lambda: kx.Approximate(tau=1.5), "up to 1"),
        (lambda: kx.Approximate(drill_down=(0.1, 13)), "must be a krypton_onnx.DrillDown"),
        (lambda: kx.Approximate(seed=-1), "seed is -1; it must be a whole number"),
        (lambda: DrillDown(1.0, 13), "fraction of a drill-down is 1.0"),
        (lambda: DrillDown(0.1), "either the stride of its coarse grid or a speedup"),
        (lambda: DrillDown(0.1, 13, 2), "either the stride of its coarse grid or a speedup"),
        (lambda: DrillDown(0.1, 0), "it must be whole pixels from 1 on"),
        (lambda: DrillDown(0.5, speedup=2), "cannot be 2 times as fast"),
    ],
)
def test_modes_refuse_what_makes_no_sense(make, said):
    with pytest.raises(kx.KryptonError, match=said):
        make()


@pytest.mark.parametrize(
    "settings", [{"ssim": "0.9"}, {"speedup": "2"}, {"tau": [0.5]}, {"speedup": True}, {"seed": 1.5}]
)
def test_modes_take_numbers(settings):
    with pytest.raises(kx.KryptonError, match="must be a"):
        kx.Approximate(**settings)


def test_numbers_of_numpy_are_numbers(demo):
    session, (image, *_) = demo
    modes = [
        kx.Approximate(ssim=np.float32(0.9), seed=np.int64(3)),
        kx.Approximate(speedup=np.int64(4)),
        kx.Approximate(tau=np.float32(0.5), drill_down=DrillDown(np.float32(0.1), np.int64(13))),
    ]
    for mode in modes:
        found = ask(session, image, mode)
        json.dumps(found.record)
        assert found.done is True


def test_a_mode_is_a_mode(demo):
    session, (image, *_) = demo
    with pytest.raises(kx.KryptonError, match=r"mode must be krypton_onnx\.Exact"):
        session.explain(image, mode="fast")
    with pytest.raises(kx.KryptonError, match=r"mode must be krypton_onnx\.Exact"):
        list(session.explain_progressively(image, mode=0.9))


def test_a_budget_without_room_for_cheap_levels_leaves_the_exact_one(demo):
    session, (image, *_) = demo
    with pytest.raises(kx.KryptonError, match="needs") as error:
        kx.Session(session.artifact, memory_budget=1)
    least = float(str(error.value).split("needs ")[1].split(" MB")[0])
    tight = kx.Session(session.artifact, memory_budget=int(least * 1.02e6))
    assert tight.capped is None
    assert ask(tight, image, kx.Approximate()).record["approximation"]["level"] == "exact"


def test_what_is_soon_answered_exactly_is(demo, monkeypatch):
    session, (image, *_) = demo
    monkeypatch.setattr(refinement, "QUICK_SECONDS", 1.0)
    found = ask(session, image, kx.Approximate())
    np.testing.assert_array_equal(found.scores, ask(session, image, kx.Exact()).scores)


def test_infinite_scores_end_in_the_exact_map(demo):
    session, (image, *_) = demo
    own = session.materialize(image).outputs["probabilities"][0, 0]

    def score(outputs):
        return np.where(outputs["probabilities"][:, 0] > 3 * own, -np.inf, outputs["probabilities"][:, 0])

    exact = ask(session, image, kx.Exact(), target=score)
    found = ask(session, image, kx.Approximate(ssim=0.8), target=score)
    assert np.isinf(exact.scores).any()
    np.testing.assert_allclose(found.scores, exact.scores, atol=1e-6)


def test_scores_that_are_no_numbers_stay_where_they_are(demo):
    session, (image, *_) = demo
    own = session.materialize(image).outputs["probabilities"][0, 0]

    def score(outputs):
        values = outputs["probabilities"][:, 0].copy()
        values[values > 3 * own] = np.nan
        return values

    exact = ask(session, image, kx.Exact(), target=score)
    found = ask(session, image, kx.Approximate(ssim=0.95), target=score)
    assert 0 < np.isnan(exact.scores).mean() < 0.5
    assert np.isfinite(found.scores).mean() > 0.3
    both = np.isfinite(exact.scores) & np.isfinite(found.scores)
    assert np.abs(found.scores - exact.scores)[both].mean() < 0.2 * np.ptp(exact.scores[both])
