"""CUDA, pretended: ONNX Runtime's CUDA provider on libraries that have no device behind them.

It loads, places nodes, allocates and copies as it does on a device, and launches kernels that do nothing: so where
nodes run, what crosses and what memory it takes can be tested anywhere. What is computed is rubbish.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnxruntime as ort

SOURCES = Path(__file__).parent / "pretended_cuda"
PROVIDER = Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
OTHERS = ("libcuda.so.1", "libcurand.so.10", "libcudnn.so.9")
"""Libraries that the provider names without versions of their symbols, or opens when it first needs them."""

_COUNTS = """
import ctypes, json
import onnxruntime as ort
ort.set_default_logger_severity(4)
_library = ctypes.CDLL("libcudart.so.13")
def counts():
    names = "launches to_device to_host held peak captures replays refused locked".split()
    found = (ctypes.c_long * len(names))()
    _library.pretended_counts(found)
    return dict(zip(names, found))
reset = _library.pretended_reset
"""


def why_not() -> str | None:
    """Why it cannot be done here; None if it can."""
    if not PROVIDER.is_file() or sys.platform != "linux":
        return "this ONNX Runtime has no CUDA provider for Linux"
    if shutil.which("gcc") is None or shutil.which("nm") is None:
        return "there is no gcc to build the pretended libraries with"
    if any(name.startswith("libcudart") and name != "libcudart.so.13" for name in _wanted()):
        return "this ONNX Runtime wants another CUDA than 13"
    return None


def build(folder: Path) -> None:
    """Build the libraries into a folder, which is then `LD_LIBRARY_PATH`."""
    written = "".join(path.read_text(encoding="utf-8") for path in SOURCES.iterdir())
    for library, symbols in _wanted().items():
        source = SOURCES / ("cudart.c" if "cudart" in library else "libraries.c")
        rest = folder / "rest.c"  # what only has to succeed
        missing = [name for name in symbols if not re.search(rf"\b{name}\(", written)]
        rest.write_text("".join(f"int {name}() {{ return 0; }}\n" for name in missing), encoding="utf-8")
        names = folder / "names.map"
        names.write_text(f"{library} {{ global: *; }};\n", encoding="utf-8")
        versions = [] if library in OTHERS else [f"-Wl,--version-script={names}"]
        make = ["gcc", "-shared", "-fPIC", "-O1", "-w", source, rest, "-o", folder / library, f"-Wl,-soname,{library}"]
        subprocess.run([*make, *versions], check=True)


def _wanted() -> dict[str, set[str]]:
    """The functions that the provider takes of each library."""
    said = subprocess.run(["nm", "-D", "--undefined-only", PROVIDER], capture_output=True, text=True, check=True).stdout
    found: dict[str, set[str]] = {library: set() for library in OTHERS}
    for name, library in re.findall(r" U (\w+)@(libcu\S+)", said):
        found.setdefault(library, set()).add(name)
    found["libcuda.so.1"].update(re.findall(r" U (cu[A-Z]\w+)$", said, re.MULTILINE))
    found["libcudnn.so.9"].update(
        name.decode() for name in re.findall(rb"\0(cudnn[A-Z]\w+)(?=\0)", PROVIDER.read_bytes())
    )
    return found


def asked(libraries: Path, code: str, *arguments: object) -> Any:
    """What a program, run in a process of its own on the pretended device, prints as JSON.

    Args:
        libraries: from `build`.
        code: Python; knows `counts` and `reset`.
        arguments: of the program.
    """
    done = subprocess.run(
        [sys.executable, "-c", _COUNTS + code, *map(str, arguments)],
        env={**os.environ, "LD_LIBRARY_PATH": str(libraries)},
        cwd=libraries,  # the tree's own packages lie in other folders than the installed ones
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
