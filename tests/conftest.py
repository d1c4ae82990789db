"""Options of the test run, and what all tests share."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from krypton_onnx.cache import FOLDER
from krypton_onnx.passes import planner
from krypton_onnx.runtime import providers


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write what the compiler makes now to tests/golden, and skip"
    )


@pytest.fixture(autouse=True, scope="session")
def on_the_processor() -> Iterator[None]:
    """Sessions that are told nothing run on the CPU, also where CUDA works: tests of that name it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(providers, "automatic", lambda: (providers.CPU,))
        yield


@pytest.fixture(autouse=True, scope="session")
def windows_whatever_they_gain() -> Iterator[None]:
    """The nets of these tests are too small to gain by windows, and shall have them all the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "LEAST_SPEEDUP", 0.0)
        yield


@pytest.fixture(autouse=True)
def a_cache_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests find nothing that others have compiled, nor what the one who runs them has."""
    monkeypatch.setenv(FOLDER, str(tmp_path_factory.getbasetemp() / "caches" / uuid4().hex))
