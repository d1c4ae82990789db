"""Options of the test run, and what all tests share."""

import pytest

from krypton_onnx.passes import planner


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write what the compiler makes now to tests/golden, and skip"
    )


@pytest.fixture(autouse=True)
def windows_whatever_they_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nets of these tests are too small to gain by windows, and shall have them all the same."""
    monkeypatch.setattr(planner, "LEAST_SPEEDUP", 0.0)
