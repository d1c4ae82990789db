"""Providers: what is chosen, what is passed on, and what is said where CUDA does not work."""

from importlib import resources
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import helper
from twin import small_net

import krypton_onnx as kx
from krypton_onnx.cli import main
from krypton_onnx.runtime import providers
from krypton_onnx.runtime.engine import Engine
from krypton_onnx.runtime.providers import CPU, CUDA, TENSORRT, chosen, why_not_cuda
from krypton_onnx.runtime.resident import Device, device_of
from krypton_onnx.runtime.session import Session
from krypton_onnx.source import Source

AUTOMATIC = providers.automatic
"""Before conftest takes the CPU for granted."""


@pytest.fixture
def works(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if CUDA did."""
    monkeypatch.setattr(providers, "why_not_cuda", lambda: None)


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "why_not_cuda", lambda: "there is no NVIDIA driver")


@pytest.fixture
def asked_anew() -> Any:
    why_not_cuda.cache_clear()
    yield
    why_not_cuda.cache_clear()


@pytest.mark.usefixtures("fails")
def test_without_cuda_graphs_run_on_the_cpu() -> None:
    assert AUTOMATIC() == (CPU,)


@pytest.mark.usefixtures("works")
def test_with_cuda_they_run_there_in_full_precision() -> None:
    (name, options), behind = AUTOMATIC()
    assert (name, behind, options["use_tf32"]) == (CUDA, CPU, "0")


@pytest.mark.usefixtures("works")
@pytest.mark.skipif(CUDA not in ort.get_available_providers(), reason="this ONNX Runtime is built without CUDA")
def test_options_are_passed_on() -> None:
    given = {"use_tf32": "1", "device_id": 1, "gpu_mem_limit": 10**9}
    ((name, options),) = chosen([(CUDA, given)])
    assert name == CUDA
    assert options == providers.CUDA_OPTIONS | given
    assert device_of([(name, options)]) == Device("cuda", 1)
    others = [(TENSORRT, {"trt_fp16_enable": "1"}), CUDA, CPU]
    assert chosen(others)[0] == others[0]
    assert device_of(chosen(others)) == Device("cuda", 0)
    assert device_of([CPU]) is None
    assert device_of([CPU, CUDA]) is None


@pytest.mark.usefixtures("fails")
@pytest.mark.parametrize("name", [CUDA, TENSORRT])
def test_cuda_by_name_says_why_it_does_not_work(name: str) -> None:
    if name not in ort.get_available_providers():
        pytest.skip(f"this ONNX Runtime is built without {name}")
    with pytest.raises(kx.KryptonError, match=r"^CUDA does not work here: there is no NVIDIA driver\.$"):
        chosen([name, CPU])


@pytest.mark.parametrize(
    "given",
    [CPU, [], 3, [3], [(CPU,)], [(CPU, None)], {CPU: 1}, [(CUDA, {"device_id": "one"})], [(CUDA, {"device_id": None})]],
)
def test_what_is_no_list_of_providers_is_refused(given: Any) -> None:
    with pytest.raises(kx.KryptonError, match="providers must be a list of names"):
        chosen(given)


@pytest.mark.usefixtures("asked_anew")
def test_a_missing_driver_is_found_without_a_word(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    if CUDA not in ort.get_available_providers():
        pytest.skip("this ONNX Runtime is built without CUDA")
    monkeypatch.setattr(providers, "_DRIVER", "libnobody-has-this.so")
    assert why_not_cuda() == "there is no NVIDIA driver"
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("asked_anew")
def test_missing_libraries_are_named_and_nothing_is_printed(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    if CUDA not in ort.get_available_providers():
        pytest.skip("this ONNX Runtime is built without CUDA")

    def loaded(name: str) -> None:
        if "providers_cuda" in name:
            raise OSError("libcublasLt.so.13: cannot open shared object file")

    def printing(*_: Any) -> Any:
        print("Failed to load libcudart.so")  # noqa: T201
        raise RuntimeError("CUDA Provider not available")

    monkeypatch.setattr(providers.ctypes, "CDLL", loaded)
    monkeypatch.setattr(ort, "preload_dlls", printing)
    monkeypatch.setattr(ort.OrtValue, "ortvalue_from_shape_and_type", printing)
    reason = why_not_cuda()
    assert reason == (
        "a library is missing (libcublasLt.so.13: cannot open shared object file); the extra 'cuda' of krypton-onnx "
        "brings those that it needs"
    )
    why_not_cuda.cache_clear()
    monkeypatch.setattr(providers.ctypes, "CDLL", lambda _: None)
    assert why_not_cuda() == "ONNX Runtime cannot use the device (CUDA Provider not available)"
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("asked_anew")
def test_another_build_of_onnx_runtime_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    reason = why_not_cuda()
    assert reason is not None
    assert "onnxruntime-gpu" in reason


def test_what_is_named_runs_there_or_not_at_all(tmp_path: Path) -> None:
    """ONNX Runtime would go on with the CPU alone."""
    if CUDA not in ort.get_available_providers() or why_not_cuda() is None:
        pytest.skip("ONNX Runtime is built without CUDA, or CUDA works")
    onnx.save(small_net([helper.make_node("Relu", ["image"], ["y"])], {}), tmp_path / "net.onnx")
    with pytest.raises(kx.KryptonError, match=r"cannot run net\.onnx on CUDAExecutionProvider, only on CPUExecutionP"):
        Engine(tmp_path / "net.onnx", [CUDA, CPU])


@pytest.mark.parametrize("command", ["explain", "verify"])
def test_the_command_line_passes_the_device_on(tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if CUDA not in ort.get_available_providers():
        pytest.skip("this ONNX Runtime is built without CUDA")
    monkeypatch.chdir(tmp_path)
    asked, sources = [], []
    models, session, source = resources.files("krypton_onnx.models"), Session.__init__, Source.__init__

    def opened(self: Session, artifact: Any, given: Any = None, **options: Any) -> None:
        asked.append(given)
        session(self, artifact, [CPU], **options)

    def compared(self: Source, path: Any, plan: Any, others: Any, given: Any = (CPU,)) -> None:
        sources.append(given)
        source(self, path, plan, others)

    monkeypatch.setattr(Session, "__init__", opened)
    monkeypatch.setattr(Source, "__init__", compared)
    picture = [str(models / "pictures" / "nine.png"), "--no-cache"] if command == "explain" else []
    monkeypatch.setattr(providers, "why_not_cuda", lambda: None)
    done = CliRunner().invoke(main, [command, str(models / "demo.onnx"), *picture, "--device", "cuda:3"])
    assert done.exit_code == 0, done.output
    for given in (asked[-1], *([] if command == "explain" else [sources[-1]])):
        assert (given[0][0], given[0][1]["device_id"]) == (CUDA, 3)
