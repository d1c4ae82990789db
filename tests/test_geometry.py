"""The region algebra against brute force: dependency sets found by pushing marks through real sliding windows."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from krypton_onnx import geometry
from krypton_onnx.geometry import AxisMap, AxisRead, Blend, Expanding, Lookup, Sliding, Step, Transfer, unchanged


def read_by(row: int, axis: AxisMap) -> set[int]:
    """The input rows that one output row reads, padding included."""
    match axis:
        case Sliding():
            return {row * axis.stride - axis.pad + i for i in range(axis.span)}
        case Expanding():
            reach = range((row + axis.pad) // axis.stride + 1)
            return {i for i in reach if 0 <= row + axis.pad - i * axis.stride < axis.span}
        case Lookup():
            return {axis.source[row]}
        case Blend():
            return {math.floor(axis.positions[row]), math.ceil(axis.positions[row])}


def reached(marked: set[int], axis: AxisMap, extent: int) -> set[int]:
    """Output rows that read a marked input row, by looking at every one of them."""
    return {o for o in range(extent) if read_by(o, axis) & marked}


slidings = st.builds(
    Sliding,
    span=st.integers(1, 7),
    stride=st.integers(1, 4),
    pad=st.integers(0, 3),
    pad_end=st.integers(0, 3),
)


@st.composite
def axes(draw, size):
    """What an axis of `size` rows may be read by, and the extent of the result."""
    kind = draw(st.sampled_from(["sliding", "sliding", "expanding", "lookup", "blend"]))
    if kind == "sliding":
        window = draw(slidings)
        return window, window.extent(size)
    if kind == "expanding":
        stride = draw(st.integers(1, 3))
        span = stride + draw(st.integers(0, 3))
        cut = draw(st.integers(0, span - 1))
        return Expanding(span, stride, cut), (size - 1) * stride + span - cut - draw(st.integers(0, 1))
    extent = draw(st.integers(1, 2 * size))
    if kind == "lookup":
        rows = draw(st.lists(st.integers(-1, size - 1), min_size=extent, max_size=extent))
        return Lookup(tuple(sorted(rows) if draw(st.booleans()) else rows), size), extent
    places = st.floats(0, size - 1, width=32)
    return Blend(tuple(sorted(draw(st.lists(places, min_size=extent, max_size=extent)))), size), extent


@st.composite
def chains(draw):
    """A chain of sliding windows, and now and then a merge of two earlier tensors of equal extent."""
    size = draw(st.integers(1, 40))
    steps, extents, windows = [geometry.patch_step(size, size)], [size], [None]
    for _ in range(draw(st.integers(1, 6))):
        source = draw(st.integers(0, len(steps) - 1))
        twins = [i for i, e in enumerate(extents) if e == extents[source] and i != source]
        if twins and draw(st.booleans()):
            other = draw(st.sampled_from(twins))
            carry = unchanged(extents[source])
            steps.append(Step((source, other), carry, carry))
            extents.append(extents[source])
            windows.append(Sliding())
            continue
        window, extent = draw(axes(extents[source]))
        if extent < 1:
            continue
        steps.append(Step((source,), window.transfer(extent), window.transfer(extent)))
        extents.append(extent)
        windows.append(window)
    patch = draw(st.integers(1, size))
    return tuple(steps), windows, size, patch


@given(chains())
@settings(max_examples=400, deadline=None)
def test_regions_are_the_hull_of_what_the_patch_reaches(chain):
    program, windows, size, patch = chain
    origins = np.arange(size - patch + 1)
    exact = geometry.regions(program, 0, origins, patch)
    for q, origin in enumerate(origins):
        hulls: list[tuple[int, int] | None] = []
        for index, (step, window) in enumerate(zip(program, windows, strict=True)):
            if window is None:
                marked = set(range(origin, origin + patch))
            else:
                # the algebra knows intervals, so the input's marks are filled up to their hull first
                known = [hulls[s] for s in step.sources if hulls[s] is not None]
                filled = set(range(min(h[0] for h in known), max(h[1] for h in known) + 1)) if known else set()
                marked = reached(filled, window, step.rows.extent)
            hull = (min(marked), max(marked)) if marked else None
            first, last = (int(side[q]) for side in exact[index])
            if isinstance(window, Lookup):  # a table in any order: the hull is covered, and not always exactly
                assert hull is None or (first <= hull[0] and hull[1] <= last)
                hull = (first, last) if first <= last else None
            hulls.append(hull)
            assert hull == ((first, last) if first <= last else None)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_table_in_ascending_order_is_exact(data):
    size, extent = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 20))
    rows = sorted(data.draw(st.lists(st.integers(0, size - 1), min_size=extent, max_size=extent)))
    carry = Lookup(tuple(rows), size).transfer(extent)
    program = (geometry.patch_step(size, size), Step((0,), carry, carry))
    patch = data.draw(st.integers(1, size))
    origins = np.arange(size - patch + 1)
    first, last = geometry.regions(program, 0, origins, patch)[1]
    for q, origin in enumerate(origins):
        marked = reached(set(range(origin, origin + patch)), Lookup(tuple(rows), size), extent)
        assert (first[q] > last[q]) if not marked else (first[q], last[q]) == (min(marked), max(marked))


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_read_holds_what_its_window_needs(data):
    """For any window, wherever it starts: the rows from `begin` on, `count` of them, and the band around both."""
    size = data.draw(st.integers(1, 16))
    axis, extent = data.draw(axes(size))
    if extent < 1:
        return
    count = data.draw(st.integers(1, extent))
    start = data.draw(st.integers(0, extent - count))
    needed = {i for o in range(start, start + count) for i in read_by(o, axis) if 0 <= i < size}
    first, stop = geometry.band(axis, np.array([start]), count, size)
    assert all(first <= i < stop for i in needed)
    if isinstance(axis, Lookup):
        return
    begin = int(axis.begin(start))
    assert all(begin <= i < begin + axis.count(count) for i in needed)
    if isinstance(axis, Expanding):
        offset = axis.raw_offset(start)
        assert offset >= 0
        assert offset + count <= axis.raw_count(count)
        assert begin * axis.stride - axis.pad + offset == start


@given(chains())
@settings(max_examples=400, deadline=None)
def test_windows_cover_regions_and_stay_inside(chain):
    program, _, size, patch = chain
    origins = np.arange(size - patch + 1)
    sizes = geometry.window_sizes(program, 0, origins, patch).max(axis=1)
    for step, low, (first, last), n in zip(
        program,
        geometry.begins(program, 0, origins),
        geometry.regions(program, 0, origins, patch),
        sizes,
        strict=True,
    ):
        extent = step.rows.extent
        start = geometry.window_start(low, n, extent)
        filled = first <= last
        assert 1 <= n <= extent
        assert np.all((start >= 0) & (start + n <= extent))
        assert np.all(start[filled] <= first[filled])
        assert np.all(start[filled] + n > last[filled])


def test_windows_are_tight_for_plain_chains():
    """Without padding tricks a window computed for one origin alone is the region itself."""
    conv, pool = Sliding(3, 1, 1, 1), Sliding(2, 2, 0, 0)
    program = [geometry.patch_step(32, 32)]
    for window in (conv, conv, pool, conv, pool, conv):
        carry = window.transfer(window.extent(program[-1].rows.extent))
        program.append(Step((len(program) - 1,), carry, carry))
    origins = np.arange(27)
    assert np.array_equal(
        geometry.window_sizes(tuple(program), 0, origins, 6), geometry.region_sizes(tuple(program), 0, origins, 6)
    )


def test_an_upsampling_transfer_composes():
    """ConvTranspose of stride 2 after a stride-2 convolution: mul is not 1."""
    program = (
        geometry.patch_step(16, 16),
        Step((0,), Sliding(1, 2, 0, 0).transfer(8), Sliding(1, 2, 0, 0).transfer(8)),
        Step((1,), Transfer(2, -1, 1, 1, 16), Transfer(2, -1, 1, 1, 16)),
    )
    (_, _, (first, last)) = geometry.regions(program, 0, np.arange(15), 2)
    assert (first[4], last[4]) == (3, 5)
    assert (first[5], last[5]) == (5, 7)


def test_a_stride_can_miss_the_patch():
    program = (geometry.patch_step(8, 8), Step((0,), Sliding(1, 2).transfer(4), Sliding(1, 2).transfer(4)))
    assert geometry.region_sizes(program, 0, np.arange(8), 1)[1].tolist() == [1, 0] * 4
    assert geometry.window_sizes(program, 0, np.arange(8), 1)[1].min() == 1


@pytest.mark.parametrize("upper", [True, False])
def test_same_padding_gives_the_ceiling_extent(upper):
    for size, span, stride in itertools.product(range(1, 20), range(1, 6), range(1, 5)):
        begin, end = geometry.same_padding(size, span, stride, upper=upper)
        assert Sliding(span, stride, begin, end).extent(size) == -(-size // stride)
        assert (begin <= end) if upper else (begin >= end)
        assert abs(begin - end) <= 1


def test_ceil_mode_padding_against_counting_windows():
    """Count windows that start inside the input or its begin padding, as ONNX Runtime does."""
    for size, span, stride, pad, pad_end in itertools.product(
        range(1, 12), range(1, 5), range(1, 5), range(3), range(3)
    ):
        if pad >= span or pad_end >= span or size + pad + pad_end < span:
            continue
        reach = size + pad + pad_end - span
        starts = [k * stride for k in range(-(-reach // stride) + 1) if k == 0 or k * stride < size + pad]
        end = geometry.ceil_mode_padding(size, Sliding(span, stride, pad, pad_end))
        assert 0 <= end < span
        assert Sliding(span, stride, pad, end).extent(size) == len(starts)


def test_cells_inside_counts_real_cells():
    for size, window in [(5, Sliding(3, 1, 1, 1)), (6, Sliding(3, 2, 0, 1)), (4, Sliding(2, 2, 1, 1))]:
        expected = [
            sum(0 <= o * window.stride - window.pad + i < size for i in range(window.span))
            for o in range(window.extent(size))
        ]
        assert geometry.cells_inside(size, window).tolist() == expected


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_overlay_index_reads_what_lies_on_top(data):
    """Every cell: the query's own window first, then the padding outside the tensor, then the view's band."""
    extents = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    own = tuple(data.draw(st.integers(1, e)) for e in extents)
    queries = data.draw(st.integers(1, 3))
    window = data.draw(slidings)
    axes, wanted, wanted_starts, counts = [], [], [], []
    for extent, n in zip(extents, own, strict=True):
        out = window.extent(extent)
        if out < 1:
            return
        count = data.draw(st.integers(1, out))
        starts = np.array([data.draw(st.integers(0, out - count)) for _ in range(queries)])
        own_start = np.array([data.draw(st.integers(0, extent - n)) for _ in range(queries)])
        begin, rows = window.begin(starts), window.count(count)
        axes.append(AxisRead(begin[:, None, None], rows, own_start[:, None, None], n, extent, padded=True))
        wanted.append(begin[:, None] + np.arange(rows))
        wanted_starts.append(starts)
        counts.append(count)
    first, stop = geometry.band(window, wanted_starts[0], counts[0], extents[0])
    pad = (stop - first) * extents[1]
    index = geometry.overlay_index(
        axes[0], axes[1], first, pad, pad + 1 + np.arange(queries)[:, None, None] * own[0] * own[1]
    )
    for q, i, j in np.ndindex(*index.shape):
        y, x = wanted[0][q, i], wanted[1][q, j]
        dy, dx = y - axes[0].own_start[q, 0, 0], x - axes[1].own_start[q, 0, 0]
        if 0 <= dy < own[0] and 0 <= dx < own[1]:
            expected = pad + 1 + (q * own[0] + dy) * own[1] + dx
        elif 0 <= y < extents[0] and 0 <= x < extents[1]:
            expected = (y - first) * extents[1] + x
            assert first <= y < stop
        else:
            expected = pad
        assert index[q, i, j] == expected


def test_patch_pixels_of_every_copy_of_an_image() -> None:
    origins, (h, w), (channels, height, width) = np.array([(0, 0), (3, 1), (2, 4), (3, 4)]), (2, 3), (3, 5, 7)
    marked = np.zeros((len(origins), channels, height, width), np.int64)
    for copy, (y, x) in zip(marked, origins, strict=True):
        copy[:, y : y + h, x : x + w] = np.arange(1, 1 + channels * h * w).reshape(channels, h, w)
    y, x = origins.reshape(-1, 2, 1, 1, 1).swapaxes(0, 1)
    found = geometry.patch_pixels((y, x), (h, w), len(origins), (channels, height, width))
    written = np.zeros_like(marked)
    written.reshape(-1)[found] = np.arange(1, 1 + channels * h * w).reshape(channels, h, w)
    np.testing.assert_array_equal(written, marked)


@pytest.mark.parametrize(
    ("begin", "end", "patch", "stride", "cover", "expected"),
    [
        (0, 10, 4, 3, True, [0, 3, 6]),
        (0, 11, 4, 3, True, [0, 3, 6, 7]),
        (0, 11, 4, 3, False, [0, 3, 6]),
        (2, 9, 4, 5, True, [2, 5]),
        (0, 8, 8, 3, True, [0]),
        (0, 9, 2, 20, True, [0, 7]),
    ],
)
def test_grid(begin, end, patch, stride, cover, expected):
    assert geometry.grid_axis(begin, end, patch, stride, cover=cover).tolist() == expected
