"""The ONNX Runtime sessions of an artifact, and what is known of their errors."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from krypton_onnx.errors import KryptonError
from krypton_onnx.runtime.providers import CPU, Provider, name_of
from krypton_onnx.runtime.resident import Device, Resident, held_by

Array = NDArray[np.generic]

_NO_ROOM = (
    "Failed to allocate memory",
    "Available memory of",
    "out of memory",
    "bad allocation",
    "bad_alloc",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""What ONNX Runtime, CUDA and its libraries say where memory ends."""

_LOST = (
    "unspecified launch failure",
    "illegal memory access",
    "illegal instruction was encountered",
    "misaligned address",
    "device-side assert",
    "uncorrectable ECC error",
    "devices unavailable",
    "has fallen off the bus",
    "CUDA_ERROR_LAUNCH_FAILED",
)
"""What they say where nothing will ever work again in the same process."""

SPIN_MICROSECONDS = 200
"""Threads of a run wait so long for its next node without going to sleep. ONNX Runtime's own limit is far longer: they
go on after a run, on the cores that batches side by side would use."""


class OutOfMemoryError(KryptonError):
    """A run found no room for what it computes, on the device or in the host's memory."""


class Engine:
    """One ONNX graph, ready to run from several threads at once.

    Args:
        path: the .onnx file.
        providers: ONNX Runtime's execution providers, as `providers.chosen` gives them.
        options: session options; by default ONNX Runtime's, with warnings off.

    Raises:
        KryptonError: ONNX Runtime refuses the graph, for instance because it has no kernel for a node.
    """

    def __init__(
        self,
        path: Path,
        providers: Sequence[Provider] = (CPU,),
        options: ort.SessionOptions | None = None,
    ) -> None:
        try:
            # Without ONNX Runtime's fallback, which prints, and goes on with other providers than were asked for.
            self._session = ort.InferenceSession(
                str(path), options or quiet_options(), providers=list(providers), enable_fallback=0
            )
        except Exception as error:  # ONNX Runtime raises a class of its own per status code, without a common base
            remedy = (
                " Register the operator's library through session_options, or use a build of ONNX Runtime that has it."
            )
            missing = any(sign in str(error) for sign in ("NOT_IMPLEMENTED", "is not a registered"))
            raise KryptonError(
                f"ONNX Runtime {ort.__version__} cannot run {path.name}: {_reason(error)}.{remedy if missing else ''}"
            ) from error
        self.providers = tuple(providers)
        self.outputs = tuple(o.name for o in self._session.get_outputs())
        self.shapes: dict[str, list[int | str | None]] = {i.name: i.shape for i in self._session.get_inputs()}

    def run(self, feed: Mapping[str, Array], names: Sequence[str] | None = None) -> list[Array]:
        """Run the graph once, from arrays to arrays.

        Args:
            feed: the graph's inputs, by name.
            names: of the outputs to give, all by default. The others are not copied, but ONNX Runtime computes them:
                only its training builds leave out nodes that a run does not need.

        Raises:
            OutOfMemoryError: it has no room.
            KryptonError: ONNX Runtime fails otherwise.
        """
        try:
            results: list[Array] = self._session.run(names, dict(feed))
        except Exception as error:  # as above
            raise _failure(error) from error
        return results

    def run_on(
        self,
        device: Device,
        feed: Mapping[str, Array | Resident],
        results: Mapping[str, Resident | None],
        *,
        wait: bool = True,
    ) -> dict[str, Resident]:
        """Run the graph once, and leave what it computes on a device.

        Args:
            device: of the graph's provider.
            feed: the graph's inputs, by name. Arrays of the host are copied.
            results: where the outputs go, by name; None for memory of their own.
            wait: for the device to be done. If not, the caller keeps what is fed until a later run has waited.

        Raises:
            OutOfMemoryError: it has no room.
            KryptonError: ONNX Runtime fails otherwise.
        """
        binding, options = self._session.io_binding(), ort.RunOptions()
        if not wait:
            options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        for name, value in feed.items():
            if isinstance(value, Resident):
                binding.bind_input(name, *device.address, value.element, value.shape, value.pointer)
            else:
                binding.bind_cpu_input(name, np.ascontiguousarray(value))
        for name, place in results.items():
            if place is None:
                binding.bind_output(name, *device.address)
            else:
                binding.bind_output(name, *device.address, place.element, place.shape, place.pointer)
        try:
            self._session.run_with_iobinding(binding, options)
        except Exception as error:  # as above
            raise _failure(error) from error
        found = zip(results.items(), binding.get_outputs(), strict=True)
        return {name: held_by(value) if place is None else place for (name, place), value in found}


def _failure(error: Exception) -> KryptonError:
    said = str(error)
    if any(sign in said for sign in _NO_ROOM):
        return OutOfMemoryError(f"There is no memory for this: {_reason(error)}.")
    if any(sign in said for sign in _LOST):
        return KryptonError(
            f"The device stopped working, and this process can use it no more: start another ({_reason(error)})."
        )
    return KryptonError(f"ONNX Runtime failed: {_reason(error)}.")


def quiet_options(threads: int | None = None) -> ort.SessionOptions:
    """ONNX Runtime's own defaults, but for its messages on standard error and for threads that wait in vain.

    Args:
        threads: that a run is spread over; by default ONNX Runtime's choice.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what fails is raised; printing it as well would only frighten
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_MICROSECONDS))
    return options


def workers_for(cores: int, providers: Sequence[Provider], options: ort.SessionOptions | None) -> int:
    """Runs to do side by side, one on each core, where a run takes a single thread; else one.

    Within a run threads would wait for one another after every node, and many nodes are short.

    Args:
        cores: to use.
        providers: as for `Engine`; other devices than the CPU have no use for it.
        options: the user's session options; if there are none, a run may get what it is best given.
    """
    on_cpu = all(name_of(provider) == CPU for provider in providers)
    return cores if on_cpu and (options is None or options.intra_op_num_threads == 1) else 1


def _reason(error: Exception) -> str:
    """ONNX Runtime's message without its codes: ``[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : …``."""
    text = " ".join(str(error).split())
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)[:400].rstrip(". ")
