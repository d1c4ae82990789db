"""Heatmaps: the definition against brute force, plots by their pixels, files by reading them back."""

import doctest
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from krypton_onnx.errors import KryptonError
from krypton_onnx.geometry import grid_axis
from krypton_onnx.heatmap import Heatmap


def grid(image_size, patch, stride, region=None, cover=True):
    y0, x0, y1, x1 = region or (0, 0, *image_size)
    rows = grid_axis(y0, y1, patch[0], stride[0], cover=cover)
    cols = grid_axis(x0, x1, patch[1], stride[1], cover=cover)
    return np.stack(np.meshgrid(rows, cols, indexing="ij"), axis=-1)


def heatmap(drop, origins, patch, image_size, base=1.0, target=3, record=None):
    scores = np.asarray(np.asarray(base)[..., None, None] - np.asarray(drop), np.float32)
    return Heatmap(scores, base, origins, patch, image_size, target, record or {})


def simple(drop, **kwargs):
    """A heatmap whose patches tile the image: 4×4 pixels each, no overlap."""
    drop = np.asarray(drop)
    size = (4 * drop.shape[-2], 4 * drop.shape[-1])
    return heatmap(drop, grid(size, (4, 4), (4, 4)), (4, 4), size, **kwargs)


# ------------------------------------------------------------------------------------------------- numbers


def brute_force_pixels(h):
    height, width = h.image_size
    pixels = np.full((height, width), np.nan)
    for y in range(height):
        for x in range(width):
            covering = [
                float(drop)
                for (top, left), drop in zip(h.origins.reshape(-1, 2), h.drop.ravel(), strict=True)
                if top <= y < top + h.patch[0] and left <= x < left + h.patch[1]
            ]
            if covering and np.isfinite(covering).all():
                pixels[y, x] = sum(covering) / len(covering)
    return pixels


@st.composite
def grids(draw):
    height, width = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    patch = draw(st.integers(1, height)), draw(st.integers(1, width))
    stride = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    y0, x0 = draw(st.integers(0, height - patch[0])), draw(st.integers(0, width - patch[1]))
    region = y0, x0, draw(st.integers(y0 + patch[0], height)), draw(st.integers(x0 + patch[1], width))
    return (height, width), patch, grid((height, width), patch, stride, region, draw(st.booleans()))


@settings(deadline=None)
@given(grids(), st.integers(0, 2**32 - 1), st.sampled_from([1e-6, 1.0, 1e6]))
def test_to_pixels_equals_brute_force(layout, seed, size):
    image_size, patch, origins = layout
    drop = size * np.random.default_rng(seed).standard_normal(origins.shape[:2])
    h = heatmap(drop, origins, patch, image_size, base=0.0)
    pixels, expected = h.to_pixels(), brute_force_pixels(h)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, expected, rtol=2e-7, atol=1e-13 * np.abs(drop).max())


@settings(deadline=None)
@given(grids(), st.sampled_from([np.nan, np.inf, -np.inf]), st.integers(0, 10**6))
def test_a_drop_that_is_not_finite_spoils_its_own_pixels_only(layout, bad, where):
    image_size, patch, origins = layout
    drop = np.random.default_rng(0).standard_normal(origins.shape[:2])
    drop.flat[where % drop.size] = bad
    h = heatmap(drop, origins, patch, image_size, base=0.0)
    np.testing.assert_allclose(h.to_pixels(), brute_force_pixels(h), rtol=2e-7, atol=1e-13)


def test_every_pixel_of_a_large_map_keeps_the_value_of_equal_drops():
    image_size, patch = (512, 512), (32, 32)
    origins = grid(image_size, patch, (4, 4))
    pixels = heatmap(np.full(origins.shape[:2], 0.3), origins, patch, image_size, base=0.0).to_pixels()
    assert np.all(pixels == np.float32(0.3))


def test_drop_is_base_minus_score_for_one_and_for_several_targets():
    origins = grid((2, 3), (1, 1), (1, 1))
    one = Heatmap(np.float32([[0.5, 1.0, 0.25], [0, 0.75, 2.0]]), 0.75, origins, (1, 1), (2, 3), 1)
    assert one.drop.dtype == np.float32
    np.testing.assert_array_equal(one.drop, np.float32([[0.25, -0.25, 0.5], [0.75, 0, -1.25]]))
    scores = np.stack([one.scores, one.scores + 1])
    two = Heatmap(scores, np.float32([0.75, 0.5]), origins, (1, 1), (2, 3), [1, 8])
    np.testing.assert_array_equal(two.drop, np.stack([one.drop, one.drop - 1.25]))
    assert two.to_pixels().shape == (2, 2, 3)
    np.testing.assert_array_equal(two.to_pixels()[1], one.drop - 1.25)


def test_a_score_equal_to_the_base_drops_by_exactly_zero():
    origins = grid((1, 2), (1, 1), (1, 1))
    h = Heatmap(np.float32([[0.973, 0.1]]), 0.973, origins, (1, 1), (1, 2), 0)  # 0.973 is no float32
    assert h.drop[0, 0] == 0


def test_most_important_is_the_first_of_equal_drops_and_ignores_nan():
    h = simple([[0.0, 0.5, np.nan], [0.5, -9.0, 0.5]])
    assert h.most_important() == (0, 4, 0.5)
    negative = simple([[-2.0, -1.0], [-1.0, -3.0]])
    assert negative.most_important() == (0, 4, -1.0)


def test_most_important_of_a_chosen_target():
    h = simple([[[0.0, 1.0]], [[2.0, 0.0]]], base=np.float32([1, 4]), target=[5, 6])
    assert h.most_important() == h.most_important(0) == (0, 4, 1.0)
    assert h.most_important(index=1) == (0, 0, 2.0)


def test_the_definition_page_holds():
    page = Path(__file__).parent.parent / "docs" / "heatmap.md"
    result = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert result.attempted > 5
    assert result.failed == 0


# --------------------------------------------------------------------------------------------------- plots


def rendered(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)


def panel(figure, pixels, axes):
    """The rendered pixels inside one axes, [h, w, 3]."""
    box = figure.axes[axes].get_window_extent()
    height = len(pixels)
    return pixels[round(height - box.y1) : round(height - box.y0), round(box.x0) : round(box.x1)]


def texts(figure):
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        found += [axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()]
    return found


GREY = np.full((8, 12, 3), 128, np.uint8)


def test_red_supports_blue_opposes_and_what_does_not_matter_stays_grey():
    h = simple([[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
    figure = h.plot(GREY)
    overlay = panel(figure, rendered(figure), 1)
    rows, cols = overlay.shape[0], overlay.shape[1]
    red, green, blue = overlay[rows // 4, cols // 6]
    assert red > blue + 40
    assert red > green + 40
    red, green, blue = overlay[rows // 4, cols * 5 // 6]
    assert blue > red + 40
    np.testing.assert_allclose(overlay[rows * 3 // 4, cols // 2], 128, atol=2)


def test_equal_drops_of_opposite_sign_are_equally_strong():
    figure = simple([[0.2, -0.2, 0.0], [0.0, 0.0, 0.0]]).plot(GREY)
    low, high = figure.axes[2].get_ylim()
    assert low == pytest.approx(-0.2, rel=1e-6)
    assert high == pytest.approx(0.2, rel=1e-6)
    assert figure.axes[2].get_ylabel() == "drop in score"
    bar = panel(figure, rendered(figure), 2)[:, 3]
    assert bar[3, 0] > bar[3, 2] + 40  # red above
    assert bar[-3, 2] > bar[-3, 0] + 40


def test_the_picture_is_shown_beside_the_overlay():
    image = np.zeros((8, 12, 3), np.uint8)
    image[:, :6] = 200, 40, 20
    figure = simple(np.zeros((2, 3))).plot(image)
    pixels = rendered(figure)
    left = panel(figure, pixels, 0)
    np.testing.assert_allclose(left[left.shape[0] * 3 // 4, left.shape[1] // 6], (200, 40, 20), atol=2)
    overlay = panel(figure, pixels, 1)
    luma = 0.299 * 200 + 0.587 * 40 + 0.114 * 20
    np.testing.assert_allclose(overlay[overlay.shape[0] * 3 // 4, overlay.shape[1] // 6], luma, atol=2)


@pytest.mark.parametrize("shape", [(8, 12), (8, 12, 1)])
def test_a_grey_picture_equals_its_colour_copy(shape):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 12, 1), dtype=np.uint8)
    h = simple([[1.0, 0.0, -1.0], [0.0, 0.5, 0.0]])
    expected = rendered(h.plot(np.repeat(image, 3, axis=2)))
    np.testing.assert_array_equal(rendered(h.plot(image.reshape(shape))), expected)


def test_the_most_important_patch_is_outlined_in_both_panels():
    h = simple([[0.0, 0.0, 0.4], [0.0, 0.0, 0.0]])
    for axes in h.plot(GREY).axes[:2]:
        boxes = {(patch.get_x(), patch.get_y(), patch.get_width(), patch.get_height()) for patch in axes.patches}
        assert boxes == {(8, 0, 4, 4)}


def test_pixels_that_no_patch_covers_are_paler_not_coloured():
    origins = grid((8, 12), (4, 4), (4, 4), region=(0, 0, 4, 12))
    h = heatmap([[0.5, 0.0, 0.5]], origins, (4, 4), (8, 12))
    figure = h.plot(GREY)
    overlay = panel(figure, rendered(figure), 1)
    below = overlay[overlay.shape[0] * 3 // 4]
    np.testing.assert_allclose(below, round(127.5 + 64), atol=2)


@pytest.mark.parametrize("size", [(128, 128), (16, 16), (300, 40), (40, 300)])
@pytest.mark.parametrize("with_image", [True, False])
def test_small_and_odd_pictures_give_a_wide_plot(size, with_image):
    origins = grid(size, (8, 8), (8, 8))
    h = heatmap(np.random.default_rng(0).random(origins.shape[:2]), origins, (8, 8), size)
    pixels = rendered(h.plot(np.zeros((*size, 3), np.uint8) if with_image else None))
    assert pixels.shape[1] >= 1600
    assert pixels.shape[0] <= 1600


def test_a_plot_says_what_it_shows():
    h = simple([[0.25, 0.0], [0.0, 0.0]], base=0.75, target=207)
    assert "class 207" in texts(h.plot())
    shown = texts(h.plot(title="cash $5 machine, $1 fee"))
    assert "cash $5 machine, $1 fee" in shown
    assert "score 0.75\nlargest drop 0.25 (outlined)" in shown
    assert "score" in texts(simple([[0.0]], target=None).plot())
    assert all(len(text) < 80 for text in texts(h.plot(title="a very long name " * 30)))


def test_dollar_signs_are_not_read_as_mathematics(recwarn):
    rendered(simple([[0.5]]).plot(title=r"$\undefined{$"))
    two = simple(np.zeros((2, 2, 2)), base=np.float32([0, 0]), target=[1, 2])
    rendered(two.plot(title=[r"$\undefined{$", r"$\frac$"]))
    assert not recwarn


def test_a_list_of_targets_gives_a_panel_each():
    drop = np.stack([np.eye(2), -np.eye(2), 0.5 * np.eye(2)])
    h = simple(drop, base=np.float32([1, 1, 1]), target=[7, 8, 9])
    figure = h.plot(np.zeros((8, 8), np.uint8), title=["cat", "dog", "eel"])
    assert len(figure.axes) == 1 + 2 * 3
    assert [t for t in texts(figure) if t in ("cat", "dog", "eel")] == ["cat", "dog", "eel"]
    assert {"class 7", "class 8", "class 9", "three animals"} <= set(texts(h.plot(title="three animals")))
    boxes = [axes.get_window_extent() for axes in figure.axes]
    for i, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[i + 1 :])


@pytest.mark.parametrize("count", [2, 4, 5, 12])
def test_many_panels_lie_inside_the_figure(count):
    h = simple(np.zeros((count, 2, 2)), base=np.zeros(count, np.float32), target=list(range(count)))
    figure = h.plot(np.zeros((8, 8), np.uint8))
    page = figure.bbox
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert box.x0 >= page.x0
        assert box.y0 >= page.y0
        assert box.x1 <= page.x1
        assert box.y1 <= page.y1


@pytest.mark.parametrize("value", [0.0, 1e-12, -1e30, np.nan])
def test_flat_tiny_huge_and_missing_drops_can_be_drawn(value, recwarn):
    rendered(simple(np.full((2, 3), value), base=0.0).plot(GREY))
    assert not recwarn


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.zeros((8, 11, 3), np.uint8), "[8, 11, 3]"),
        (np.zeros((8, 12, 4), np.uint8), "[8, 12, 4]"),
        (np.zeros((3, 8, 12), np.uint8), "[3, 8, 12]"),
        (np.zeros((8, 12, 3), np.float32), "float32"),
    ],
)
def test_an_image_that_does_not_fit_is_refused(image, says):
    with pytest.raises(KryptonError) as error:
        simple(np.zeros((2, 3))).plot(image)
    assert says in str(error.value)
    assert "uint8 [8, 12, 3]" in str(error.value)


def test_wrong_titles_and_too_many_targets_are_refused():
    two = simple(np.zeros((2, 2, 2)), base=np.float32([0, 0]), target=[1, 2])
    with pytest.raises(KryptonError, match="3 names for 2 targets"):
        two.plot(title=["a", "b", "c"])
    many = simple(np.zeros((13, 2, 2)), base=np.zeros(13, np.float32), target=list(range(13)))
    with pytest.raises(KryptonError, match=r"up to 12 targets, not 13.*\.npz"):
        many.plot()


def test_drawing_leaves_pyplot_and_import_time_alone():
    code = (
        "import sys, numpy as np, krypton_onnx.heatmap as k, krypton_onnx.preprocess\n"
        "heavy = {'matplotlib', 'PIL', 'onnx', 'onnxruntime'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "h = k.Heatmap(np.zeros((1, 1), np.float32), 0.0, np.zeros((1, 1, 2), int), (4, 4), (4, 4), 0)\n"
        "h.plot().canvas.draw()\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --------------------------------------------------------------------------------------------------- files


def test_npy_holds_the_scores(tmp_path):
    h = simple([[0.25, 0.5]])
    h.save(tmp_path / "h.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "h.npy", allow_pickle=False), h.scores)


@pytest.mark.parametrize("several", [False, True])
def test_npz_holds_everything(tmp_path, several):
    drop = np.float32([[0.25, 0.5], [0.0, -0.5]])
    record = {"stride": [4, 4], "labels": "Käse", "seconds": 0.125}
    if several:
        h = simple(np.stack([drop, 2 * drop]), base=np.float32([1, 2]), target=[1, 2], record=record)
    else:
        h = simple(drop, record=record)
    h.save(str(tmp_path / "h.npz"))
    with np.load(tmp_path / "h.npz", allow_pickle=False) as saved:
        assert set(saved) == {"scores", "drop", "origins", "base_score", "pixels", "record"}
        for name in ("scores", "drop", "origins", "base_score"):
            np.testing.assert_array_equal(saved[name], getattr(h, name))
        np.testing.assert_array_equal(saved["pixels"], h.to_pixels())
        assert json.loads(str(saved["record"])) == record


def test_png_is_the_plot(tmp_path):
    h = simple([[0.25, 0.5, 0.0], [0.0, -0.5, 0.0]])
    h.save(tmp_path / "H.PNG", GREY, title="frog")
    with Image.open(tmp_path / "H.PNG") as saved:
        pixels = np.asarray(saved.convert("RGB")).astype(int)
    np.testing.assert_array_equal(pixels, rendered(h.plot(GREY, title="frog")))


def test_saving_replaces_an_older_file_and_honours_the_umask(tmp_path):
    path = tmp_path / "h.npy"
    path.write_bytes(b"old")
    before = os.umask(0o027)
    try:
        simple([[0.25]]).save(path)
    finally:
        os.umask(before)
    assert np.load(path).shape == (1, 1)
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["h.npy"]


@pytest.mark.parametrize("name", ["h.jpg", "h", "h.npz.gz"])
def test_another_suffix_is_refused(tmp_path, name):
    with pytest.raises(KryptonError, match=r"use \.png, \.npy or \.npz"):
        simple([[0.25]]).save(tmp_path / name)
    assert not os.listdir(tmp_path)


def test_a_folder_that_is_missing_or_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "taken.npy").mkdir()
    for name in ("missing/h.npy", "file/h.npy", "taken.npy"):
        with pytest.raises(KryptonError, match=r"cannot write .*: choose a folder"):
            simple([[0.25]]).save(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["file", "taken.npy"]


@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(KryptonError, match="Permission denied"):
            simple([[0.25]]).save(tmp_path / "h.npy")
    finally:
        tmp_path.chmod(0o700)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Every longer write fails with OSError, as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".png"])
def test_a_full_disk_leaves_the_older_file_and_nothing_else(tmp_path, suffix):
    path = tmp_path / f"h{suffix}"
    path.write_bytes(b"old")
    big = simple(np.zeros((64, 64)))
    with largest_file(1000), pytest.raises(KryptonError, match="cannot write"):
        big.save(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [path.name]
