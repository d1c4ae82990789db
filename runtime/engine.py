"""The ONNX Runtime sessions of an artifact, and what is known of their errors."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from krypton_onnx.errors import KryptonError

Array = NDArray[np.generic]
SPIN_MICROSECONDS = 200
"""Threads of a run wait so long for its next node without going to sleep. ONNX Runtime's own limit is far longer: they
go on after a run, on the cores that batches side by side would use."""

Provider = str | tuple[str, dict[str, Any]]

CPU = "CPUExecutionProvider"


class Engine:
    """One ONNX graph, ready to run from several threads at once.

    Args:
        path: the .onnx file.
        providers: ONNX Runtime's execution providers; the CPU's by default.
        options: session options; by default ONNX Runtime's, with warnings off.

    Raises:
        KryptonError: ONNX Runtime refuses the graph, for instance because it has no kernel for a node.
    """

    def __init__(
        self,
        path: Path,
        providers: Sequence[Provider] | None = None,
        options: ort.SessionOptions | None = None,
    ) -> None:
        wanted = _checked_providers(providers)
        unknown = set(_names(wanted)) - set(ort.get_available_providers())
        if unknown:
            raise KryptonError(
                f"This ONNX Runtime has no {', '.join(sorted(unknown))}; "
                f"it offers {', '.join(ort.get_available_providers())}."
            )
        try:
            self._session = ort.InferenceSession(str(path), options or quiet_options(), providers=wanted)
        except Exception as error:  # ONNX Runtime raises a class of its own per status code, without a common base
            remedy = (
                " Register the operator's library through session_options, or use a build of ONNX Runtime that has it."
            )
            missing = any(sign in str(error) for sign in ("NOT_IMPLEMENTED", "is not a registered"))
            raise KryptonError(
                f"ONNX Runtime {ort.__version__} cannot run {path.name}: {_reason(error)}.{remedy if missing else ''}"
            ) from error
        self.outputs = tuple(o.name for o in self._session.get_outputs())
        self.shapes: dict[str, list[int | str | None]] = {i.name: i.shape for i in self._session.get_inputs()}

    def run(self, feed: Mapping[str, Array], names: Sequence[str] | None = None) -> list[Array]:
        """Run the graph once.

        Args:
            feed: the graph's inputs, by name.
            names: of the outputs to give, all by default. The others are not copied, but ONNX Runtime computes them:
                only its training builds leave out nodes that a run does not need.

        Raises:
            KryptonError: ONNX Runtime fails, for instance for lack of memory.
        """
        try:
            results: list[Array] = self._session.run(names, dict(feed))
        except Exception as error:  # as above
            raise KryptonError(f"ONNX Runtime failed: {_reason(error)}.") from error
        return results


def _checked_providers(given: object) -> list[Provider]:
    if given is None:
        return [CPU]
    if isinstance(given, list | tuple):
        named = [p if isinstance(p, str) else (p[0] if isinstance(p, tuple) and len(p) == 2 else None) for p in given]
        if all(isinstance(name, str) for name in named):
            return list(given)
    raise KryptonError(f"providers must be a list of names, or of (name, options), such as ['{CPU}'], not {given!r}.")


def _names(providers: Sequence[Provider]) -> list[str]:
    return [p if isinstance(p, str) else p[0] for p in providers]


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


def workers_for(cores: int, providers: Sequence[Provider] | None, options: ort.SessionOptions | None) -> int:
    """Runs to do side by side, one on each core, where a run takes a single thread; else one.

    Within a run threads would wait for one another after every node, and many nodes are short.

    Args:
        cores: to use.
        providers: as for `Engine`; other devices than the CPU have no use for it.
        options: the user's session options; if there are none, a run may get what it is best given.
    """
    on_cpu = all(name == CPU for name in _names(_checked_providers(providers)))
    return cores if on_cpu and (options is None or options.intra_op_num_threads == 1) else 1


def _reason(error: Exception) -> str:
    """ONNX Runtime's message without its codes: ``[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : …``."""
    text = " ".join(str(error).split())
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)[:400].rstrip(". ")
