"""`krypton-onnx serve` in a process of its own, as tests and benchmarks start it, and its official client."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from krypton_onnx.service.sdk import InferInput, InferRequest, from_np_dtype

# Behind ours, which keeps it from reading the command line.
from kserve import InferenceRESTClient, InferOutput, InferResponse, RESTConfig  # isort: skip

__all__ = [
    "InferResponse",
    "InferenceRESTClient",
    "RESTConfig",
    "Service",
    "arrays",
    "asked",
    "started",
    "tensor",
    "until",
]


@dataclass(frozen=True, slots=True)
class Service:
    """One that runs.

    Attributes:
        url: where.
        process: of it.
        log: the file that its standard error goes to.
    """

    url: str
    process: "subprocess.Popen[str]"
    log: Path

    @property
    def resident(self) -> int:
        """Bytes of memory that it holds."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024


@contextmanager
def started(folder: Path, *arguments: object, environment: Mapping[str, str] | None = None) -> Iterator[Service]:
    """A service on a free port of the loopback, which ends with the block.

    Args:
        folder: that it runs in, and leaves its log in.
        arguments: the command's.
        environment: variables to set beside this process's.
    """
    log = folder / "service.log"
    command = [sys.executable, "-P", "-m", "krypton_onnx.cli", "serve", "--json", "--port", "0", *map(str, arguments)]
    variables = {**os.environ, **(environment or {})}
    with log.open("w") as errors, subprocess.Popen(
        command, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=errors, text=True
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            line = process.stdout.readline()  # ends with the process, if that does not come up
            if not line:
                raise AssertionError(f"The service did not start: {log.read_text()}")
            yield Service(json.loads(line)["url"], process, log)
        finally:
            if process.poll() is None:
                process.kill()


def tensor(name: str, array: Any, *, binary: bool = True) -> InferInput:
    """A V2 input of an array; of an array of objects, each the bytes of a file."""
    array = np.asarray(array)
    made = InferInput(name, list(array.shape), from_np_dtype(array.dtype))
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def asked(inputs: Sequence[InferInput], *, binary: bool = True, **parameters: Any) -> InferRequest:
    """A V2 request; the response's tensors are binary as well."""
    given = {**parameters, **({"binary_data_output": True} if binary else {})}
    return InferRequest("", list(inputs), parameters=given)


def arrays(outputs: Sequence[InferOutput]) -> dict[str, Any]:
    """A V2 response's tensors by name."""
    return {output.name: output.as_numpy() for output in outputs}


def until(true: Any, seconds: float = 20.0) -> None:
    """Wait until a condition holds.

    Raises:
        AssertionError: it does not within that time.
    """
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)
