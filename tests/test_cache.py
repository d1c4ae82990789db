"""What `explain` compiles is kept: found again by content, never more than the limit, safe among many processes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper
from PIL import Image
from twin import residual_net

import krypton_onnx as kx
from krypton_onnx import cache, compiler
from krypton_onnx.artifact import open_artifact
from krypton_onnx.cli import main

PATCH = (4, 4)

needs_locks = pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="needs locks on folders")


def net(path: Path, number: int = 0, *, external: str | None = None) -> Path:
    """One of many models of the same size; its weights in a file beside it, if that is named."""
    model = residual_net()
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight) * np.float32(1 + number / 100)
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    if external is None:
        onnx.save(model, path)
    else:
        (path.parent / external).unlink(missing_ok=True)  # onnx appends
        onnx.save(model, path, save_as_external_data=True, location=external, size_threshold=0)
    return path


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the models that were compiled."""
    names: list[str] = []
    really = compiler.compile

    def noted(model: Path, output: Path, **settings: object) -> kx.Artifact:
        names.append(model.name)
        return really(model, output, verify=False, patch=settings["patch"])  # type: ignore[arg-type]

    monkeypatch.setattr(compiler, "compile", noted)
    return names


def use(model: Path, patch: tuple[int, int] = PATCH) -> Path:
    """Where the artifact lay that was used; it could be."""
    with cache.cached(model, patch=patch) as artifact:
        outputs = kx.Session(artifact).infer(np.zeros((3, 20, 26)), [[1, 2]], np.ones((3, 2, 2)))
        assert np.isfinite(outputs["y"]).all()
        return artifact.folder


def limit_to(models: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the cache hold so many of the artifacts that it holds one of now."""
    (entry,) = cache.entries()
    monkeypatch.setenv(cache.LIMIT, str(models * entry.size / 1e9))


def hidden() -> list[str]:
    return [path.name for path in cache.cache_folder().iterdir() if path.name.startswith(".")]


# ------------------------------------------------------------------------------------------------- keys


def test_a_model_is_compiled_once(tmp_path: Path, compiled: list[str]) -> None:
    model = net(tmp_path / "net.onnx")
    first = use(model)
    assert use(model) == first
    assert compiled == ["net.onnx"]
    assert [entry.folder for entry in cache.entries()] == [first]
    assert hidden() == []


def test_a_copy_is_the_same_model_under_its_own_name(tmp_path: Path, compiled: list[str]) -> None:
    use(net(tmp_path / "net.onnx"))
    with cache.cached(net(tmp_path / "copy.onnx"), patch=PATCH) as artifact:
        assert artifact.plan.source.file == "copy.onnx"
    assert compiled == ["net.onnx"]


def test_other_content_settings_and_compilers_are_other_artifacts(
    tmp_path: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = net(tmp_path / "net.onnx")
    folders = {use(model), use(model, (5, 5)), use(net(model, 1))}
    monkeypatch.setattr(cache, "_compiler", lambda: ["another"])
    folders.add(use(model))
    assert len(folders) == len(compiled) == 4


def test_a_change_of_the_compiler_is_another_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = cache._compiler()
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"changed" * (path.name == "planner.py"))
    assert cache._compiler()[:-1] == before[:-1]
    assert cache._compiler() != before


@pytest.mark.parametrize("chunk", [8, 9, 1 << 20])
def test_weights_in_another_file_are_content(
    chunk: int, tmp_path: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_CHUNK", chunk)
    model = net(tmp_path / "net.onnx", external="net.bin")
    graph = model.read_bytes()
    first = use(model)
    net(model, 1, external="net.bin")
    assert model.read_bytes() == graph
    assert use(model) != first
    assert len(compiled) == 2


def test_weights_outside_the_models_folder_are_refused_as_by_compile(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    model = net(tmp_path / "model" / "net.onnx", external="net.bin")
    (tmp_path / "model" / "net.bin").rename(tmp_path / "secret.bin")
    model.write_bytes(model.read_bytes().replace(b"net.bin", b"../s.bi"))
    with pytest.raises(kx.KryptonError, match="outside the model's folder"):
        use(model)


def test_a_model_that_changes_meanwhile_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = net(tmp_path / "net.onnx")
    really = compiler.compile

    def overtaken(path: Path, output: Path, **settings: object) -> kx.Artifact:
        artifact = really(path, output, verify=False)
        net(path, 1)
        return artifact

    monkeypatch.setattr(compiler, "compile", overtaken)
    with pytest.raises(kx.KryptonError, match="was changed while it was compiled"):
        use(model)
    assert cache.entries() == []
    assert hidden() == []


# ---------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("file", ["plan.json", "weights.bin", "base.onnx"])
@pytest.mark.parametrize("gone", [True, False])
def test_a_damaged_artifact_is_compiled_again(file: str, gone: bool, tmp_path: Path, compiled: list[str]) -> None:
    model = net(tmp_path / "net.onnx")
    damaged = use(model) / file
    damaged.unlink() if gone else damaged.write_bytes(damaged.read_bytes() + b"x")
    assert use(model) == damaged.parent
    assert compiled == ["net.onnx"] * 2
    open_artifact(damaged.parent)
    assert hidden() == []


# ----------------------------------------------------------------------------------------------- limit


@needs_locks
def test_what_was_not_used_for_the_longest_time_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [net(tmp_path / f"{number}.onnx", number) for number in range(4)]
    first = use(models[0])
    limit_to(2.5, monkeypatch)
    second = use(models[1])
    use(models[0])
    third = use(models[2])
    assert [entry.folder for entry in cache.entries()] == [third, first]
    fourth = use(models[3])
    assert [entry.folder for entry in cache.entries()] == [fourth, third]
    assert not second.exists()
    assert hidden() == []


def test_a_model_larger_than_the_limit_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = use(net(tmp_path / "net.onnx"))
    limit_to(0.5, monkeypatch)
    large = use(net(tmp_path / "other.onnx", 1))
    assert not large.exists()
    assert [entry.folder for entry in cache.entries()] == [small]
    assert hidden() == []


@pytest.mark.parametrize("text", ["five", "-1", "nan", "5GB"])
def test_a_malformed_limit(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.LIMIT, text)
    with pytest.raises(kx.KryptonError, match=f"KRYPTON_ONNX_CACHE_GB is '{text}': give a number"):
        use(net(tmp_path / "net.onnx"))


# -------------------------------------------------------------------------------------- many processes

USES = """
import sys, time
from pathlib import Path
import numpy as np
import krypton_onnx as kx
from krypton_onnx import cache
from krypton_onnx.passes import planner
planner.LEAST_SPEEDUP = 0.0  # as in this process
with cache.cached(Path(sys.argv[1]), patch=(4, 4), verify=False) as artifact:
    print(artifact.folder, flush=True)
    sys.stdin.readline()
    session = kx.Session(artifact)
    print(session.infer(np.zeros((3, 20, 26)), [[1, 2]], np.ones((3, 2, 2)))["y"].shape, flush=True)
"""


@needs_locks
def test_what_a_process_uses_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for want of room nor when all is cleared; once the last has ended, both remove it."""
    model = net(tmp_path / "net.onnx")
    program = [sys.executable, "-c", USES, str(model)]
    process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    limit_to(1.5, monkeypatch)
    other = use(net(tmp_path / "other.onnx", 1))
    assert {entry.folder for entry in cache.entries()} == {folder, other}
    cache.clear()
    assert {entry.folder for entry in cache.entries()} == {folder}
    with cache.cached(model, patch=PATCH, verify=False) as artifact:
        assert process.communicate("\n")[0] == "(1, 5)\n"
        cache.clear()
        assert artifact.folder == folder
        open_artifact(folder)
    use(net(tmp_path / "other.onnx", 1))
    assert {entry.folder for entry in cache.entries()} == {other}
    cache.clear()
    assert cache.entries() == []


HURRIES = """
import os, random, sys
from pathlib import Path
import numpy as np
import krypton_onnx as kx
from krypton_onnx import cache
random.seed(os.getpid())
for _ in range(8):
    if random.random() < 0.2:
        cache.clear()
    number = random.randrange(3)
    with cache.cached(Path(sys.argv[1]) / f"{number}.onnx", patch=(4, 4), verify=False) as artifact:
        found = kx.Session(artifact).infer(np.zeros((3, 20, 26)), [[1, 2]], np.ones((3, 2, 2)))["y"]
    np.testing.assert_allclose(found, np.load(Path(sys.argv[1]) / f"{number}.npy"), rtol=1e-4)
"""


@needs_locks
def test_many_processes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some compile, some use, some remove: everybody gets their model, and no rests stay."""
    for number in range(3):
        model = net(tmp_path / f"{number}.onnx", number)
        session = kx.Session(kx.compile(model, tmp_path / f"{number}.krypton", patch=4, verify=False))
        np.save(tmp_path / f"{number}.npy", session.infer(np.zeros((3, 20, 26)), [[1, 2]], np.ones((3, 2, 2)))["y"])
    use(tmp_path / "0.onnx")
    limit_to(1.5, monkeypatch)
    programs = [
        subprocess.Popen([sys.executable, "-c", HURRIES, str(tmp_path)], stderr=subprocess.PIPE, cwd=tmp_path)
        for _ in range(3)
    ]
    assert [program.communicate()[1] for program in programs] == [b""] * 3
    assert hidden() == []
    for entry in cache.entries():
        open_artifact(entry.folder)


@needs_locks
def test_what_a_killed_process_leaves_is_removed(tmp_path: Path) -> None:
    waits = USES.replace("import sys, time", "import sys, time\nimport krypton_onnx.passes.write as w").replace(
        "with cache", "w.onnx.save_model = lambda *_: (print('writing', flush=True), time.sleep(60))\nwith cache"
    )
    program = [sys.executable, "-c", waits, str(net(tmp_path / "net.onnx"))]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    cache.clear()
    assert len(hidden()) == 1
    process.send_signal(signal.SIGKILL)
    process.communicate()
    use(net(tmp_path / "other.onnx", 1))
    assert hidden() == []


# ---------------------------------------------------------------------------------------- command line


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    net(tmp_path / "net.onnx")
    Image.fromarray(np.arange(20 * 26 * 3, dtype=np.uint8).reshape(20, 26, 3)).save(tmp_path / "cat.png")
    return tmp_path


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [*arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


EXPLAIN = ("explain", "net.onnx", "cat.png", "--patch", "4", "--target", "1")


def scores(*options: str) -> np.ndarray:
    run(*EXPLAIN, "-o", "out.npy", *options)
    return np.load("out.npy")


@pytest.mark.usefixtures("place")
def test_explain_keeps_what_it_compiles(compiled: list[str]) -> None:
    found = scores("--no-cache")
    assert cache.entries() == []
    np.testing.assert_array_equal(scores(), found)
    assert len(cache.entries()) == 1
    assert len(compiled) == 2
    np.testing.assert_array_equal(scores(), found)
    assert len(compiled) == 2
    scores("--no-cache")
    assert len(compiled) == 3


@pytest.mark.usefixtures("place")
def test_explain_from_the_cache_does_without_the_compiler() -> None:
    run(*EXPLAIN)
    program = (
        "import sys\n"
        "from krypton_onnx.cli import main\n"
        f"main({EXPLAIN!r}, standalone_mode=False)\n"
        "print({'onnx', 'onnx_graphsurgeon'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "set()"


@pytest.mark.usefixtures("place")
def test_a_folder_that_cannot_be_made_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.FOLDER, "cat.png/cache")
    done = subprocess.run(
        [sys.executable, "-m", "krypton_onnx.cli", *EXPLAIN], capture_output=True, text=True, check=True
    )
    assert done.stderr.count("\n") == 1
    for words in ("cat.png/cache cannot be written (Not a directory)", "net.onnx", cache.FOLDER, "--no-cache"):
        assert words in done.stderr
    assert "Wrote cat.heatmap.png" in done.stdout


@pytest.mark.usefixtures("place")
def test_a_full_disk_leaves_the_cache_out(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    really = compiler.write_graphs

    def full(compiled: object, folder: Path) -> tuple[str, ...]:
        if cache.cache_folder() in folder.parents:
            raise OSError(28, "No space left on device")
        return really(compiled, folder)  # type: ignore[arg-type]

    monkeypatch.setattr(compiler, "write_graphs", full)
    run(*EXPLAIN)
    (record,) = caplog.records
    assert "cannot be written (No space left on device), so that net.onnx is compiled for now alone" in record.message
    assert cache.entries() == []
    assert hidden() == []


@pytest.mark.usefixtures("place")
def test_what_is_no_model_is_refused_in_one_line() -> None:
    Path("net.onnx").write_bytes(b"location")
    assert "is not an ONNX model" in run(*EXPLAIN, code=2).stderr
    Path("net.onnx").unlink()
    assert run(*EXPLAIN, code=2).stderr == "krypton-onnx: There is no model file at net.onnx.\n"


@pytest.mark.usefixtures("place")
def test_the_cache_is_shown_and_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.LIMIT, "2")
    assert "0 compiled models, 0 B of 2 GB" in run("cache").stdout
    run(*EXPLAIN)
    foreign = cache.cache_folder() / "notes.txt"
    foreign.touch()
    found = json.loads(run("cache", "--json").stdout)
    size = sum(file.stat().st_size for file in cache.entries()[0].folder.iterdir())
    assert found == {"folder": str(cache.cache_folder()), "models": 1, "bytes": size, "limit": 2e9}
    assert f"{cache.cache_folder()}: 0 compiled models" in run("cache", "--clear").stdout
    assert list(cache.cache_folder().iterdir()) == [foreign]


def test_the_platform_has_a_folder_for_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cache.FOLDER)
    assert "krypton-onnx" in cache.cache_folder().parts
