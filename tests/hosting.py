"""Other hosts, as tests/hosts/install brings them: programs made of the snippets of docs/embedding.md."""

import http.server
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime as ort

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "tests" / "hosts"
HOSTS = Path(os.environ.get("KRYPTON_HOSTS", "/nonexistent"))


def snippets(language: str) -> list[str]:
    """The page's code in a language, in order."""
    page = (ROOT / "docs" / "embedding.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def build_program(folder: Path) -> Path:
    """The page's C++, compiled against this installation's ONNX Runtime, whose headers it does not bring."""
    (library,) = (Path(ort.__file__).parent / "capi").glob("libonnxruntime.so.*")
    named = folder / "libonnxruntime.so.1"  # as programs ask for it
    named.symlink_to(library)
    source, made = folder / "main.cc", folder / "main"
    source.write_text("#include <string>\n" + "\n".join(snippets("cpp")) + (SOURCES / "main.cc").read_text())
    options = ["-std=c++17", "-O1", "-Wall", "-Werror", "-pthread", f"-Wl,-rpath,{folder}"]
    subprocess.run(["g++", *options, "-isystem", HOSTS / "include", source, named, "-o", made], check=True)
    return made


def lay_scripts(folder: Path) -> Path:
    """A folder with the page's JavaScript, in which Node finds the packages."""
    scripts = folder / "js"
    scripts.mkdir()
    (scripts / "node_modules").symlink_to(HOSTS / "node_modules")
    (scripts / "snippet.mjs").write_text("\n".join(snippets("js")))
    for name in ("single.mjs", "two.mjs"):
        shutil.copy(SOURCES / name, scripts)
    return scripts


class _Silent(http.server.SimpleHTTPRequestHandler):
    """A static server that logs nothing."""

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder, as a static server shows it."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Silent, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
