"""The ONNX Runtime sessions of an artifact, and what is known of their errors."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from krypton_onnx.errors import KryptonError
from krypton_onnx.runtime.failures import failure, reason
from krypton_onnx.runtime.providers import CPU, Provider, captures, name_of
from krypton_onnx.runtime.resident import Device, Resident, device_of, held_by, numpy_name

Array = NDArray[np.generic]

SPIN_MICROSECONDS = 200
"""Threads of a run wait so long for its next node without going to sleep. ONNX Runtime's own limit is far longer: they
go on after a run, on the cores that batches side by side would use."""


NOT_CAPTURED = -1
"""Number of a run that is neither captured nor replayed."""

IN_FLIGHT = 2
"""Runs at a time on a device."""


class Engine:
    """One ONNX graph, ready to run from several threads at once.

    Attributes:
        providers: as given.
        shapes: of the inputs, by name.
        results: of the outputs by name, shape and numpy's name for the type.
        outputs: their names, in order.

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
                f"ONNX Runtime {ort.__version__} cannot run {path.name}: {reason(error)}.{remedy if missing else ''}"
            ) from error
        self.providers = tuple(providers)
        if name_of(providers[0]) not in self._session.get_providers():  # which ONNX Runtime does not hold for an error
            raise KryptonError(
                f"ONNX Runtime {ort.__version__} cannot run {path.name} on {name_of(providers[0])}, only on "
                f"{', '.join(self._session.get_providers())}; "
                "session_options with log_severity_level 2 make it say why."
            )
        self.results: dict[str, tuple[list[int | str | None], str]] = {
            o.name: (o.shape, numpy_name(o.type)) for o in self._session.get_outputs()
        }
        self.outputs = tuple(self.results)
        self.shapes: dict[str, list[int | str | None]] = {i.name: i.shape for i in self._session.get_inputs()}

    def inputs_on(self, device: Device) -> frozenset[str]:
        """The inputs that the graph reads on this device; others, as extents, it reads on the host."""
        return frozenset(name for name, kind in self._places.items() if kind == device.kind)

    @cached_property
    def _places(self) -> dict[str, str]:
        """The kind of device on which each input is read."""
        infos = self._session.get_input_memory_infos()
        return {name: info.name.lower() for name, info in zip(self.shapes, infos, strict=True)}

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
            raise failure(error) from error
        return results

    def forget(self, captured: int) -> None:
        """Let go a CUDA graph, if that was captured; see `run_on`."""
        with suppress(Exception):  # ONNX Runtime's; it was not
            self._session.release_captured_graph(captured)

    def run_on(
        self,
        device: Device,
        feed: Mapping[str, Array | Resident],
        results: Mapping[str, Resident | None],
        captured: int | None = None,
    ) -> dict[str, Resident]:
        """Run the graph once, leave what it computes on a device, and wait for it.

        A run that is not waited for would let memory go that the device still reads: what was fed, what a failure
        leaves behind, and what threads that share the session give back.

        Args:
            device: of the graph's provider.
            feed: the graph's inputs, by name. Arrays of the host are copied.
            results: where the outputs go, by name; None for memory of their own.
            captured: number of the CUDA graph that is captured of the run, or replayed; NOT_CAPTURED for none. Only if
                the provider is to capture any.

        Raises:
            OutOfMemoryError: it has no room.
            KryptonError: ONNX Runtime fails otherwise.
        """
        try:
            binding = self._session.io_binding()
            for name, value in feed.items():
                if isinstance(value, Resident):
                    binding.bind_input(name, *device.address, value.element, value.shape, value.pointer)
                else:
                    binding.bind_cpu_input(name, np.asarray(value, order="C"))
            for name, place in results.items():
                if place is None:
                    binding.bind_output(name, *device.address)
                else:
                    binding.bind_output(name, *device.address, place.element, place.shape, place.pointer)
            self._session.run_with_iobinding(binding, None if captured is None else _run_options(captured))
        except Exception as error:  # as above
            raise failure(error) from error
        found = zip(results.items(), binding.get_outputs(), strict=True)
        return {name: held_by(value) if place is None else place for (name, place), value in found}


def _run_options(captured: int) -> ort.RunOptions:
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(captured))
    return options


def quiet_options(threads: int | None = None) -> ort.SessionOptions:
    """ONNX Runtime's own defaults, but for its messages on standard error and for threads that wait in vain.

    Args:
        threads: that a run is spread over; by default ONNX Runtime's choice.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what fails is raised; printing it as well would only frighten
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_MICROSECONDS))
    # ONNX Runtime's arena grows by powers of two: with weights in it, VGG16's take twice their size.
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    return options


def workers_for(cores: int, providers: Sequence[Provider], options: ort.SessionOptions | None) -> int:
    """Runs to do side by side.

    On the CPU one on each core, where a run takes a single thread: within a run threads would wait for one another
    after every node, and many nodes are short. On a device two: while one computes, the host prepares the next.

    Args:
        cores: to use.
        providers: as for `Engine`.
        options: the user's session options; if there are none, a run may get what it is best given.
    """
    if device_of(providers) is not None:
        return 1 if captures(providers) else min(cores, IN_FLIGHT)
    on_cpu = all(name_of(provider) == CPU for provider in providers)
    return cores if on_cpu and (options is None or options.intra_op_num_threads == 1) else 1
