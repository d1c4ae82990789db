"""What a killed compilation leaves behind is removed by the next one, and nothing else is."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import onnx
import pytest
from twin import residual_net

import krypton_onnx as kx
from krypton_onnx import folders
from krypton_onnx.artifact import staged_folder

pytestmark = pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="needs locks on folders")

FILLS_A_FOLDER = """
import sys, time
from pathlib import Path
from krypton_onnx.artifact import staged_folder
with staged_folder(Path(sys.argv[1])) as folder:
    (folder / "weights.bin").write_bytes(bytes(1000))
    print("ready", flush=True)
    time.sleep(60)
"""


def busy(target: Path) -> subprocess.Popen[str]:
    """A process that is in the middle of writing `target`."""
    process = subprocess.Popen([sys.executable, "-c", FILLS_A_FOLDER, str(target)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_next_compilation_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    onnx.save(residual_net(), model)
    for foreign in (".net.krypton.config", ".net.krypton.abcdefgh", ".other.krypton.abcdefgh.krypton-part"):
        (tmp_path / foreign).mkdir()
    before = names(tmp_path)
    kill(busy(tmp_path / "net.krypton"))
    assert len(names(tmp_path) - before) == 1
    kx.compile(model, patch=2, verify=False)
    assert names(tmp_path) == before | {"net.krypton"}
    kx.compile(model, patch=3, verify=False)  # in place of the first
    assert names(tmp_path) == before | {"net.krypton"}


def test_a_compilation_that_is_alive_keeps_its_folder(tmp_path: Path) -> None:
    target = tmp_path / "net.krypton"
    process = busy(target)
    try:
        (alive,) = names(tmp_path)
        with staged_folder(target) as folder:
            (folder / "plan.json").write_text("{}")
        assert names(tmp_path) == {alive, "net.krypton"}
    finally:
        kill(process)
    folders.remove_stale(target)
    assert names(tmp_path) == {"net.krypton"}


def test_links_are_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    (tmp_path / ".net.krypton.abcdefgh.krypton-part").symlink_to(precious)
    folders.remove_stale(tmp_path / "net.krypton")
    assert names(precious) == {"file"}


def test_what_is_locked_is_the_folder_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the one that lay there when it was opened, and was replaced by another before it was locked."""
    folder = tmp_path / "folder"
    folder.mkdir()
    lock = folders._lock

    def overtaken(path: Path, *, shared: bool = False) -> int | None:
        monkeypatch.setattr(folders, "_lock", lock)
        descriptor = lock(path, shared=shared)
        path.rename(tmp_path / "old")
        path.mkdir()
        return descriptor

    monkeypatch.setattr(folders, "_lock", overtaken)
    with folders.in_use(folder):
        assert not folders.remove_unused(folder, folder)
    assert folders.remove_unused(folder, folder)
    assert names(tmp_path) == {"old"}


def test_many_at_once(tmp_path: Path) -> None:
    """Some fill folders, others look for stale ones all the time: nobody loses theirs."""
    target, failures = tmp_path / "net.krypton", []

    def fill() -> None:
        for _ in range(100):
            folders.remove_stale(target)
            with folders.private_folder(target) as folder:
                try:
                    (folder / "file").touch()
                except OSError as error:
                    failures.append(error)

    threads = [threading.Thread(target=fill) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert not names(tmp_path)
