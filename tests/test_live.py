"""A heatmap drawn with characters."""

import numpy as np

from krypton_onnx.cli.live import drawing
from krypton_onnx.heatmap import Heatmap


def heatmap(drop):
    rows, cols = drop.shape[-2:]
    origins = np.stack(np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij"), axis=-1)
    return Heatmap(-drop.astype(np.float32), 0.0, origins, (2, 2), (rows + 1, cols + 1), 0)


def test_two_cells_stand_in_a_character_red_above_blue_below():
    lines = drawing(heatmap(np.array([[1.0, 0.0], [-1.0, 0.5]])))
    assert lines == [
        "\x1b[38;2;255;0;0;48;2;0;0;255m▀\x1b[38;2;255;255;255;48;2;255;127;127m▀\x1b[0m",
    ]


def test_wide_maps_are_thinned_and_odd_ones_filled():
    assert len(drawing(heatmap(np.ones((5, 5))))) == 3
    lines = drawing(heatmap(np.ones((200, 200))))
    assert lines[0].count("▀") == 50
    assert len(drawing(heatmap(np.zeros((1, 1))))) == 1
    assert len(drawing(heatmap(np.full((2, 2), np.nan)))) == 1
