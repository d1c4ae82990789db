"""The command line in a process with a limit on its memory and its time.

The processes are forked from one that has imported everything already, which costs each of them about a second less.
"""

import multiprocessing
import os
import resource
import subprocess
import sys
from pathlib import Path
from unittest import mock

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["krypton_onnx.compiler", "krypton_onnx.cli", "limited"])


def run(folder: Path, *arguments: str, seconds: int, size: int) -> subprocess.CompletedProcess[str]:
    """Run the program.

    Args:
        folder: to run in; its output is collected beside it.
        arguments: of the command line.
        seconds: of processor time; six times as much may pass on the clock.
        size: bytes of memory.
    """
    streams = [folder.parent / f"{folder.name}.{name}" for name in ("stdout", "stderr")]
    process = _FORKS.Process(target=_limited, args=(folder, streams, arguments, seconds, size))
    # The server that forks must not find the source folders of the checkout that it starts in.
    with mock.patch.dict(os.environ, PYTHONSAFEPATH="1"):
        process.start()
    process.join(6 * seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
    out, error = (stream.read_text(encoding="utf-8", errors="replace") for stream in streams)
    return subprocess.CompletedProcess(arguments, process.exitcode or 0, out, error)


def _limited(folder: Path, streams: list[Path], arguments: tuple[str, ...], seconds: int, size: int) -> None:
    os.chdir(folder)
    for number, stream in enumerate(streams, 1):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    from krypton_onnx.cli import main

    sys.argv = ["krypton-onnx", *arguments]
    main(list(arguments))
