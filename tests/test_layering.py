"""What imports what, what is public, and what is shipped."""

import json
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distribution, version
from pathlib import Path

import pytest

import krypton_onnx

ROOT = Path(__file__).parent.parent
COMPILER = {"onnx", "onnx_graphsurgeon"}
HEAVY = COMPILER | {
    "onnxruntime",
    "numpy",
    "matplotlib",
    "PIL",
    "msgspec",
    "ml_dtypes",
    "click",
    "tqdm",
    "platformdirs",
}

PUBLIC = [
    "Approximate",
    "Artifact",
    "Base",
    "BoxScore",
    "Cosine",
    "DrillDown",
    "Exact",
    "Heatmap",
    "InMask",
    "KryptonError",
    "Preprocess",
    "Session",
    "SingleFile",
    "compile",
    "compile_single_file",
    "export_triton",
    "export_web",
    "open_artifact",
    "open_picture",
    "verify",
]


def imported_by(statement: str) -> set[str]:
    """Top-level modules that a fresh process holds after a statement. It does not see the source folders (-P)."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("krypton_onnx", HEAVY),
        ("krypton_onnx.errors", HEAVY),
        ("krypton_onnx.geometry", HEAVY - {"numpy", "msgspec"}),
        ("krypton_onnx.plan", HEAVY - {"numpy", "msgspec"}),
        ("krypton_onnx.artifact", COMPILER | {"onnxruntime", "matplotlib"}),
        ("krypton_onnx.classes", COMPILER | {"onnxruntime", "matplotlib"}),
        ("krypton_onnx.heatmap", COMPILER | {"onnxruntime", "matplotlib"}),
        ("krypton_onnx.runtime.session", COMPILER | {"matplotlib"}),
        ("krypton_onnx.runtime.explain", COMPILER | {"matplotlib"}),
        ("krypton_onnx.passes.pipeline", {"onnxruntime", "matplotlib"}),
        ("krypton_onnx.passes.write", {"onnxruntime", "matplotlib"}),
        ("krypton_onnx.models", {"onnxruntime", "matplotlib"}),
        ("krypton_onnx.cache", COMPILER | {"matplotlib", "PIL"}),
        ("krypton_onnx.cli", COMPILER | {"onnxruntime", "matplotlib"}),
    ],
)
def test_a_layer_imports_only_what_lies_below(module: str, unwanted: set[str]) -> None:
    assert imported_by(f"import {module}") & unwanted == set()


def test_the_check_of_imports_can_fail() -> None:
    assert {"onnx", "onnxruntime"} <= imported_by("import krypton_onnx.verification, krypton_onnx.passes.load")


def test_compiling_never_imports_the_runtime(tmp_path: Path) -> None:
    """graphsurgeon imports ONNX Runtime on demand, inside a function."""
    statement = "\n".join(
        [
            "import onnx",
            "from pathlib import Path",
            "from krypton_onnx.models import build",
            "from krypton_onnx.passes.pipeline import Request, compile_graphs",
            "from krypton_onnx.passes.write import write_graphs",
            f"folder = Path({str(tmp_path)!r})",
            "onnx.save(build('squeezenet1_1', input_size=64), folder / 'net.onnx')",
            "write_graphs(compile_graphs(Request(folder / 'net.onnx', (4, 4), '0')), folder)",
        ]
    )
    assert "onnxruntime" not in imported_by(statement)


def test_public_names() -> None:
    assert sorted(krypton_onnx.__all__) == PUBLIC
    assert set(PUBLIC) <= set(dir(krypton_onnx))
    for name in PUBLIC:
        assert getattr(krypton_onnx, name).__name__ == name
    with pytest.raises(AttributeError, match="no_such_name"):
        krypton_onnx.no_such_name  # noqa: B018


def shipped(folder: Path) -> set[str]:
    """Files of the wheel: of the one that is installed, or, beside an editable installation, of one that is built."""
    installed = distribution("krypton-onnx")
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    if not origin.get("dir_info", {}).get("editable"):
        return {str(file) for file in installed.files or () if file.suffix != ".pyc" and ".." not in file.parts}
    pytest.importorskip("setuptools", minversion="77")
    # A build leaves folders beside pyproject.toml, so it gets a tree of its own.
    tree = folder / "tree"
    for name in ("krypton_onnx", "passes", "runtime", "models", "tests"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    code = f"import setuptools.build_meta as build; build.build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=tree, check=True, capture_output=True)
    (wheel,) = folder.glob("krypton_onnx-*-py3-none-any.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_wheel_contents(tmp_path: Path) -> None:
    names = shipped(tmp_path)
    for folder, package in [
        ("krypton_onnx", "krypton_onnx"),
        ("passes", "krypton_onnx/passes"),
        ("runtime", "krypton_onnx/runtime"),
        ("models", "krypton_onnx/models"),
    ]:
        assert {f"{package}/{path.name}" for path in (ROOT / folder).glob("*.py")} <= names
    assert "krypton_onnx/py.typed" in names
    assert {name.partition("/")[0] for name in names} == {
        "krypton_onnx",
        f"krypton_onnx-{version('krypton-onnx')}.dist-info",
    }
    assert not [name for name in names if "/tests/" in name or "/test_" in name or name.endswith((".pyc", ".krypton"))]


def test_no_file_makes_the_tree_shadow_the_installed_package() -> None:
    assert not (ROOT / "conftest.py").exists()
    assert not (ROOT / "tests" / "__init__.py").exists()
