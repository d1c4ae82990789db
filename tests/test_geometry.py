"""The region algebra against brute force: dependency sets found by pushing marks through real sliding windows."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from krypton_onnx import geometry
from krypton_onnx.geometry import (
    NOWHERE,
    AxisMap,
    Blend,
    Expanding,
    Lines,
    Lookup,
    Sliding,
    Step,
    Transfer,
    unchanged,
)


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
    first, stop = (int(rows[0]) for rows in geometry.bands(axis, np.array([start]), np.array([count]), size))
    assert all(first <= i < stop for i in needed)
    if isinstance(axis, Lookup):
        return
    begin = int(axis.begin(start))
    assert all(begin <= i < begin + axis.count(count) for i in needed)
    if isinstance(axis, Expanding):
        offset = axis.raw_offset(start)
        assert offset >= 0
        assert offset + count <= (axis.count(count) - 1) * axis.stride + axis.span
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


@pytest.mark.parametrize("window", [Sliding(3, 1, 1, 1), Sliding(5, 2, 3, 1), Sliding(17, 1, 8, 8), Sliding(1)])
@pytest.mark.parametrize("dilation", [1, 2, 4, 8])
def test_taps_inside_are_what_each_of_a_kernel_reads(window, dilation):
    size, taps = 9, range(0, window.span, dilation)
    starts = [o * window.stride - window.pad for o in range(window.extent(size))]
    expected = [np.mean([0 <= start + tap < size for start in starts]) for tap in taps]
    np.testing.assert_allclose(geometry.taps_inside(size, window, dilation), expected)
    assert geometry.taps_inside(size, window, dilation).sum() * len(starts) == pytest.approx(
        geometry.cells_inside(size, window, dilation).sum()
    )


def test_cells_inside_counts_real_cells():
    for size, window in [(5, Sliding(3, 1, 1, 1)), (6, Sliding(3, 2, 0, 1)), (4, Sliding(2, 2, 1, 1))]:
        expected = [
            sum(0 <= o * window.stride - window.pad + i < size for i in range(window.span))
            for o in range(window.extent(size))
        ]
        assert geometry.cells_inside(size, window).tolist() == expected


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_tables_hold_what_every_window_wants(data):
    size = data.draw(st.integers(1, 16))
    axis, extent = data.draw(axes(size))
    if extent < 1:
        return
    tables = geometry.wanted_tables(axis, extent)
    for count in range(1, extent + 1):
        for start in range(extent - count + 1):
            begin, length = tables.begins[start], tables.counts[count]
            rows = tables.rows[begin : begin + length].tolist()
            assert len(rows) == length
            assert {i for o in range(start, start + count) for i in read_by(o, axis) if 0 <= i < size} <= set(rows)
            if isinstance(axis, Lookup):
                assert rows == list(axis.source[start : start + count])
            else:
                assert rows == list(range(axis.begin(start), axis.begin(start) + axis.count(count)))


@st.composite
def axis_reads(draw, queries):
    """One axis of a read: its map, what each query wants of it, the own windows, and the band to hold."""
    extent = draw(st.integers(1, 9))
    axis, out = draw(axes(extent).filter(lambda drawn: drawn[1] >= 1))
    count, own = draw(st.integers(1, out)), draw(st.integers(1, extent))
    starts = np.array([draw(st.integers(0, out - count)) for _ in range(queries)])
    own_starts = np.array([draw(st.integers(0, extent - own)) for _ in range(queries)])
    tables = geometry.wanted_tables(axis, out)
    wanted = [tables.rows[begin : begin + tables.counts[count]] for begin in tables.begins[starts]]
    firsts, stops = geometry.bands(axis, starts, np.full_like(starts, count), extent)
    band = int(firsts.min()), int(stops.max())
    return extent, own, own_starts, np.array(wanted), tables.rows, tables.begins[starts], band


def lines_of(reads, strides, firsts, own_strides, own_firsts):
    """The same axis of several reads, through tables that stand behind each other."""
    extents, own_sizes, own_starts, wanted, rows, begins, _ = zip(*reads, strict=True)
    shifts = np.cumsum([0, *(len(table) for table in rows)])[:-1, None]
    return Lines(
        counts=np.array([w.shape[1] for w in wanted]),
        begins=np.array(begins) + shifts,
        steps=1,
        sources=np.concatenate(rows),
        extents=np.array(extents),
        strides=strides,
        firsts=firsts,
        own_sizes=np.array(own_sizes),
        own_starts=np.array(own_starts),
        own_strides=own_strides,
        own_firsts=own_firsts,
    )


def parts(lines):
    """The terms of each read."""
    return zip(*(np.split(t, np.cumsum(lines.counts)[:-1], axis=1) for t in geometry.line_terms(lines)), strict=True)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_overlay_index_reads_what_lies_on_top(data):
    """Every cell of every read: the query's own window first, then the padding outside the tensor, then the band."""
    queries, count = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    down = [data.draw(axis_reads(queries)) for _ in range(count)]
    across = [data.draw(axis_reads(queries)) for _ in range(count)]
    width, own_width = np.array([a[0] for a in across]), np.array([a[1] for a in across])
    own_cells = np.array([d[1] for d in down]) * own_width
    first_rows = np.array([d[-1][0] for d in down])
    rows = lines_of(
        down,
        width,
        1 + queries * own_cells - first_rows * width,
        own_width,
        1 + own_cells[:, None] * np.arange(queries),
    )
    cols = lines_of(across, 1, 0, 1, 0)
    for d, a, row_terms, col_terms in zip(down, across, parts(rows), parts(cols), strict=True):
        index = geometry.overlay_index(
            tuple(t[:, :, None] for t in row_terms), tuple(t[:, None, :] for t in col_terms), padded=True
        )
        (height, own_height, own_y, wanted_y, _, _, (first, stop)), (width_, own_w, own_x, wanted_x, *_) = d, a
        assert index.shape == (queries, wanted_y.shape[1], wanted_x.shape[1])
        for q, i, j in np.ndindex(*index.shape):
            y, x = wanted_y[q, i], wanted_x[q, j]
            dy, dx = y - own_y[q], x - own_x[q]
            if 0 <= dy < own_height and 0 <= dx < own_w:
                expected = 1 + (q * own_height + dy) * own_w + dx
            elif 0 <= y < height and 0 <= x < width_:
                expected = 1 + queries * own_height * own_w + (y - first) * width_ + x
                assert first <= y < stop
            else:
                expected = 0
            assert index[q, i, j] == expected


def test_rows_at_even_steps_need_no_table() -> None:
    rows = Lookup((1, 3, 5, 7), 9), Lookup((4, 3, 2), 9), Sliding(3, 1, 1, 1), Lookup((0, 0, 1), 9), Lookup((6,), 9)
    assert geometry.wanted_tables(rows[2], 9).step == 1
    looked_up = [geometry.wanted_tables(axis, len(axis.source)) for axis in rows if isinstance(axis, Lookup)]
    assert [tables.step for tables in looked_up] == [2, -1, None, 1]
    begins, counts, steps = np.array([[-1, 3], [7, 1]]), np.array([3, 2]), np.array([2, -3])
    stepped = Lines(counts, begins, steps, None, np.array([6, 8]), 1, 0, np.array([2, 1]), abs(begins), 1, 0)
    table = np.array([-1, 1, 3, 5, 7, 7, 4, 1, -2])
    tabled = replace(stepped, begins=np.array([[0, 2], [5, 7]]), steps=1, sources=table)
    for found, expected in zip(geometry.line_terms(stepped), geometry.line_terms(tabled), strict=True):
        np.testing.assert_array_equal(found, expected)
    view, _ = geometry.line_terms(stepped)
    assert view.tolist() == [[-NOWHERE, 1, 3, 7, 4], [3, 5, -NOWHERE, 1, -NOWHERE]]


def test_a_box_in_maps_that_hold_it() -> None:
    starts = np.array([(0, 1), (2, 0)]).T.reshape(2, 2, 1, 1)
    maps = np.arange(2 * 4 * 5).reshape(2, 4, 5)
    found = geometry.box_index(starts, (2, 3), 5, 20 * np.arange(2)[:, None, None])
    np.testing.assert_array_equal(found, [maps[0, 0:2, 1:4], maps[1, 2:4, 0:3]])


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


def test_a_stride_counts_what_lies_below() -> None:
    for count, step in itertools.product(range(12), range(1, 15)):
        for first in range(step):
            assert geometry.strided_count(count, first, step) == len(range(first, count, step))
