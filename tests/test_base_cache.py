"""The cache of bases: what is asked about again is not run again, and room is made in time."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from twin import normal, residual_net, small_net

import krypton_onnx as kx
from krypton_onnx.runtime.base import Base
from krypton_onnx.runtime.base_cache import BaseCache


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> kx.Session:
    folder = tmp_path_factory.mktemp("net")
    onnx.save(residual_net(), folder / "net.onnx")
    return kx.Session(kx.compile(folder / "net.onnx", folder / "net.krypton", patch=4))


def image(session: kx.Session, seed: int) -> Any:
    return np.random.default_rng(seed).random(session.plan.model_shape, np.float32)


def test_an_image_runs_once(session: kx.Session) -> None:
    cache = BaseCache(10**9)
    first, known = cache.materialize(session, image(session, 0))
    assert not known
    again, known = cache.materialize(session, image(session, 0)[None].astype(np.float64).astype(np.float32))
    assert (again, known) == (first, True)
    other, known = cache.materialize(session, image(session, 1))
    assert (other is first, known) == (False, False)
    np.testing.assert_array_equal(first.image, image(session, 0))
    assert cache.nbytes == first.nbytes + other.nbytes


def test_sessions_do_not_share_bases(session: kx.Session) -> None:
    cache, other = BaseCache(10**9), kx.Session(session.artifact)
    base, _ = cache.materialize(session, image(session, 0))
    of_other, known = cache.materialize(other, image(session, 0))
    assert (of_other is base, known) == (False, False)


def test_a_base_counts_what_it_has_come_to_hold(session: kx.Session) -> None:
    base = session.materialize(image(session, 0))
    before, views = base.nbytes, sum(view.nbytes for view in base.views.values())
    assert before == base.image.nbytes + views
    outputs = sum(np.asarray(output).nbytes for output in base.outputs.values())
    assert base.nbytes == before + outputs
    base.variants[0] = session.materialize(image(session, 1))
    assert base.nbytes == 2 * before + outputs


def test_what_was_not_asked_for_longest_goes_first(session: kx.Session) -> None:
    cache = BaseCache(int(2.5 * session.materialize(image(session, 0)).nbytes))
    for seed in (0, 1, 0, 2):  # 1 has to go
        cache.materialize(session, image(session, seed))
    assert [cache.materialize(session, image(session, seed))[1] for seed in (0, 2, 1)] == [True, True, False]
    assert cache.nbytes <= 2.5 * session.materialize(image(session, 0)).nbytes


def test_what_has_no_room_is_answered_and_not_kept(session: kx.Session) -> None:
    cache = BaseCache(1)
    for _ in range(2):
        base, known = cache.materialize(session, image(session, 0))
        assert not known
        np.testing.assert_array_equal(base.image, image(session, 0))
    assert cache.nbytes == 0


def test_a_base_that_grows_makes_room_when_it_is_asked_for_again(session: kx.Session) -> None:
    one = session.materialize(image(session, 0)).nbytes
    cache = BaseCache(int(2.5 * one))
    cache.materialize(session, image(session, 0))
    base, _ = cache.materialize(session, image(session, 1))
    base.variants[0] = session.materialize(image(session, 1))
    cache.materialize(session, image(session, 1))
    assert cache.nbytes == 2 * one
    assert cache.materialize(session, image(session, 1))[1]


def test_threads_that_ask_at_once_run_an_image_once(session: kx.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, real, all_here = [], session.exact.materialize, threading.Barrier(4)

    def slow(*arguments: Any) -> Base:
        runs.append(threading.get_ident())
        return real(*arguments)

    monkeypatch.setattr(session.exact, "materialize", slow)
    cache = BaseCache(10**9)

    def ask(_: int) -> tuple[Base, bool]:
        all_here.wait()
        return cache.materialize(session, image(session, 5))

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, range(4)))
    assert len(runs) == 1
    assert sorted(known for _, known in found) == [False, True, True, True]
    assert len({id(base) for base, _ in found}) == 1


def test_what_fails_is_not_kept(session: kx.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = BaseCache(10**9)

    def failing(*_: Any) -> Base:
        raise kx.KryptonError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(session.exact, "materialize", failing)
        with pytest.raises(kx.KryptonError, match="no room"):
            cache.materialize(session, image(session, 0))
    assert cache.nbytes == 0
    assert cache.materialize(session, image(session, 0))[1] is False


def test_other_inputs_tell_bases_apart(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["image", "w"], ["c"]), helper.make_node("Mul", ["c", "gain"], ["y"])]
    shapes = {"image": ["N", 1, 8, 8], "gain": [1]}
    onnx.save(small_net(nodes, {"w": normal(2, 1, 3, 3)}, inputs=shapes), tmp_path / "net.onnx")
    session = kx.Session(kx.compile(tmp_path / "net.onnx", tmp_path / "net.krypton", patch=2))
    cache, picture = BaseCache(10**9), image(session, 0)
    (one, _), (two, known) = (cache.materialize(session, picture, {"gain": [gain]}) for gain in (1.0, 2.0))
    assert not known
    np.testing.assert_array_equal(two.outputs["y"], 2 * np.asarray(one.outputs["y"]))
    with pytest.raises(kx.KryptonError, match="missing: gain"):
        cache.materialize(session, picture)
