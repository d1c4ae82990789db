"""Execution providers: which ones a session's graphs run on, and whether CUDA's works on this machine."""

import ctypes
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from krypton_onnx.errors import KryptonError

Provider = str | tuple[str, dict[str, Any]]

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

CUDA_OPTIONS = {
    # Rounds the operands of convolutions and products to 10 bits: no answer would be exact.
    "use_tf32": "0",
    # Windows have many shapes, and an exhaustive search would run every algorithm for each of them.
    "cudnn_conv_algo_search": "HEURISTIC",
    "cudnn_conv_use_max_workspace": "1",
}
"""What CUDA is told unless the user says otherwise."""

CAPTURE = "enable_cuda_graph"
"""The option by which CUDA's provider captures what it runs."""

TF32 = "use_tf32"
"""The option by which it rounds operands to 10 bits."""

_DRIVER, _CUDNN = ("nvcuda.dll", "cudnn64_9.dll") if sys.platform == "win32" else ("libcuda.so.1", "libcudnn.so.9")


def chosen(given: object) -> tuple[Provider, ...]:
    """The providers to run on, the preferred first.

    Args:
        given: a list of names or (name, options); None for CUDA where it works, and the CPU.

    Raises:
        KryptonError: no such list, a provider that this ONNX Runtime lacks, or CUDA where it does not work.
    """
    if given is None:
        return automatic()
    providers = _checked(given)
    unknown = {name_of(provider) for provider in providers} - set(ort.get_available_providers())
    if unknown:
        raise KryptonError(
            f"This ONNX Runtime has no {', '.join(sorted(unknown))}; "
            f"it offers {', '.join(ort.get_available_providers())}."
        )
    on_cuda = any(name_of(provider) in (CUDA, TENSORRT) for provider in providers)
    if on_cuda and (reason := why_not_cuda()):
        raise KryptonError(f"CUDA does not work here: {reason}.")
    return tuple(_with_defaults(provider) for provider in providers)


def automatic() -> tuple[Provider, ...]:
    """What is taken where nothing is named."""
    return (CPU,) if why_not_cuda() else ((CUDA, dict(CUDA_OPTIONS)), CPU)


def name_of(provider: Provider) -> str:
    """Its name."""
    return provider if isinstance(provider, str) else provider[0]


def options_of(provider: Provider) -> dict[str, Any]:
    """Its options."""
    return {} if isinstance(provider, str) else provider[1]


def captures(providers: Sequence[Provider]) -> bool:
    """Whether CUDA graphs are to be captured."""
    return any(_is_on(options_of(one).get(CAPTURE)) for one in providers)


def in_tf32(providers: Sequence[Provider]) -> bool:
    """Whether CUDA rounds the operands of convolutions and products to 10 bits."""
    return name_of(providers[0]) == CUDA and _is_on(options_of(providers[0]).get(TF32))


def uncaptured(providers: Sequence[Provider]) -> list[Provider]:
    """The same, but none is to capture: what is captured is bound to places, which few runs keep."""
    return [_without(one, CAPTURE) for one in providers]


def in_full(providers: Sequence[Provider]) -> list[Provider]:
    """The same, but CUDA is neither to capture nor to round: as a model is run that others are compared with."""
    return [_with_defaults(_without(_without(one, CAPTURE), TF32)) for one in providers]


@cache
def why_not_cuda() -> str | None:
    """Why no graph can run on CUDA in this process; None if it can. Prints nothing, whatever fails.

    Asks once: for a provider, a driver, the libraries, and a few bytes on the device. Where there is a driver, ONNX
    Runtime's default logger says only errors and worse from then on.
    """
    if CUDA not in ort.get_available_providers():
        return "this build of ONNX Runtime has no CUDA provider; install onnxruntime-gpu"
    try:
        ctypes.CDLL(_DRIVER)
    except OSError:
        return "there is no NVIDIA driver"
    ort.set_default_logger_severity(4)
    _let_memory_grow_as_asked()
    try:
        with redirect_stdout(StringIO()):
            with suppress(Exception):  # of what is missing the allocation tells
                ort.preload_dlls()
            ort.OrtValue.ortvalue_from_shape_and_type([1], np.float32, "cuda", 0)
            ctypes.CDLL(_CUDNN)  # of which ONNX Runtime finds out when it first makes a session
    except Exception as error:  # ONNX Runtime raises a class of its own per status code
        if missing := (str(error) if isinstance(error, OSError) else _missing_library()):
            return f"a library is missing ({missing}); the extra 'cuda' of krypton-onnx brings those that it needs"
        return f"ONNX Runtime cannot use the device ({' '.join(str(error).split())[-200:]})"
    finally:
        ort.set_default_logger_severity(3)  # it would warn, for every session, of what only plugins need
    return None


def _let_memory_grow_as_asked() -> None:
    """Of what is put on a device by itself, weights among it: by doubling, VGG16's would take twice their size."""
    with suppress(AttributeError):  # another build of ONNX Runtime
        state = ort.capi.onnxruntime_pybind11_state
        state.set_arena_extend_strategy(state.ArenaExtendStrategy.kSameAsRequested)


def _without(provider: Provider, option: str) -> Provider:
    if isinstance(provider, str):
        return provider
    return provider[0], {key: value for key, value in provider[1].items() if key != option}


def _is_on(option: object) -> bool:
    return str(option).lower() in ("1", "true")


def _missing_library() -> str | None:
    """What the system says of the provider's libraries where they do not load."""
    windows = sys.platform == "win32"
    for name in ("onnxruntime_providers_shared", "onnxruntime_providers_cuda"):
        try:
            ctypes.CDLL(str(Path(ort.__file__).parent / "capi" / (f"{name}.dll" if windows else f"lib{name}.so")))
        except OSError as error:
            return str(error)
    return None


def _checked(given: object) -> Sequence[Provider]:
    if isinstance(given, list | tuple) and given and all(_is_provider(one) for one in given):
        return given
    raise KryptonError(
        f"providers must be a list of names, or of (name, options), such as ['{CPU}'], a device_id a whole number; not "
        f"{given!r}."
    )


def _is_provider(one: object) -> bool:
    match one:
        case str():
            return True
        case (str(), dict() as options):
            return str(options.get("device_id", 0)).isdecimal()
    return False


def _with_defaults(provider: Provider) -> Provider:
    return (CUDA, CUDA_OPTIONS | options_of(provider)) if name_of(provider) == CUDA else provider
