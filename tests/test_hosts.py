"""docs/embedding.md in other hosts: its snippets as they stand there, beside the Python driver.

``tests/hosts/install DIR`` brings the hosts; KRYPTON_HOSTS=DIR tells where they are.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hosting import HOSTS, SOURCES, build_program, lay_scripts, served, snippets
from numpy.typing import NDArray

import krypton_onnx as kx

SHIPPED = Path(str(resources.files("krypton_onnx.models")))
STRIDE = 8

WASM = 1e-5
"""Of the largest score: WebAssembly adds in another order and has no fused multiply-add."""

NATIVE = 1e-6

Floats = NDArray[np.float32]


def needs(path: Path) -> None:
    if not path.exists():
        pytest.skip(f"{path} is not there: tests/hosts/install brings it, KRYPTON_HOSTS names its folder")


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def said(*command: Any, cwd: Path | None = None) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ------------------------------------------------------------------------------------------------ the question


class Asked:
    """The demo model, a picture, and what the Python driver says of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = SHIPPED / "demo.onnx"
        self.preprocess = kx.Preprocess.from_json(SHIPPED / "demo_preprocess.json")
        self.artifact = kx.compile(self.model, folder / "demo.krypton", preprocess=self.preprocess)
        self.picture = self.preprocess.picture(kx.open_picture(SHIPPED / "pictures" / "nine.png"))
        self.session = kx.Session(self.artifact)
        self.base = self.session.materialize(self.preprocess.tensor(self.picture))
        (folder / "picture.bin").write_bytes(self.picture.tobytes())
        common = {"stride": STRIDE, "preprocess": self.preprocess}
        self.single = kx.compile_single_file(self.model, folder / "heatmap.onnx", **common).path
        self.without_defaults = kx.compile_single_file(self.model, folder / "all.onnx", defaults=False, **common).path

    def driven(self, target: Any = "top", fill: Any = 0.0) -> kx.Heatmap:
        return self.session.explain(self.base, target, stride=STRIDE, fill=fill, progress=False)

    def agrees(self, scores: Any, base_score: float, target: int, asked: Any, tolerance: float) -> None:
        heatmap = self.driven(asked)
        assert np.ptp(heatmap.scores) > 1e3 * tolerance * heatmap.scores.max()
        size = tolerance * float(np.abs(heatmap.scores).max())
        assert target == heatmap.target
        np.testing.assert_allclose(np.reshape(scores, heatmap.scores.shape), heatmap.scores, rtol=0, atol=size)
        np.testing.assert_allclose(base_score, heatmap.base_score, rtol=0, atol=size)

    def one_batch(self) -> tuple[Any, NDArray[np.int64], Floats, Floats]:
        """The image, origins that share their window classes, what their patches show, and the outputs."""
        plan = self.artifact.plan
        rows, cols = plan.row_classes.of_origin, plan.col_classes.of_origin
        y, x = 40, 44
        origins = np.array([(a, b) for a in range(len(rows)) for b in range(len(cols))
                            if rows[a] == rows[y] and cols[b] == cols[x]][:5], np.int64)  # fmt: skip
        content = np.random.default_rng(0).standard_normal((1, 3, *plan.patch)).astype(np.float32)
        outputs = self.session.infer(self.base, origins, content)[plan.outputs[0].name]
        assert len(origins) == 5
        return self.base.image[None], origins, content, np.asarray(outputs)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    return Asked(tmp_path_factory.mktemp("hosts"))


@pytest.fixture(params=[-1, 3], ids=["top", "3"])
def target(request: pytest.FixtureRequest) -> int:
    return int(request.param)


# ------------------------------------------------------------------------------------------------------ Python


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """What the page's Python defines."""
    names: dict[str, Any] = {}
    exec("\n".join(snippets("python")), names)
    return names


def test_python_single_file(asked: Asked, target: int, page: dict[str, Any]) -> None:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(asked.single), options, providers=["CPUExecutionProvider"])
    asked.agrees(*page["explain"](session, asked.picture, target), "top" if target < 0 else target, NATIVE)


def test_python_two_graphs(asked: Asked, page: dict[str, Any]) -> None:
    image, origins, content, outputs = asked.one_batch()
    base, incremental = (
        ort.InferenceSession(str(asked.artifact.folder / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        for name in ("base", "incremental")
    )
    plan = json.loads((asked.artifact.folder / "plan.json").read_text())["plan"]
    found = page["infer"](base, incremental, plan, image, origins, content)
    np.testing.assert_allclose(found[0], outputs, rtol=0, atol=NATIVE)


# --------------------------------------------------------------------------------------------------------- C++


@pytest.fixture(scope="module")
def program(asked: Asked) -> Path:
    tool("g++")
    needs(HOSTS / "include")
    return build_program(asked.folder)


@pytest.mark.parametrize("threads", [1, 3])
def test_cpp_single_file(asked: Asked, program: Path, target: int, threads: int) -> None:
    height, width, _ = asked.picture.shape
    picture = asked.folder / "picture.bin"
    words = said(program, "single", asked.single, picture, height, width, threads, target, 1).split()
    rows, cols, index, base_score = int(words[0]), int(words[1]), int(words[2]), float(words[3])
    assert len(words) == 4 + rows * cols
    asked.agrees([float(w) for w in words[4:]], base_score, index, "top" if target < 0 else target, NATIVE)


def test_cpp_two_graphs(asked: Asked, program: Path) -> None:
    image, origins, content, outputs = asked.one_batch()
    plan, folder = asked.artifact.plan, asked.folder
    y, x = origins[0]
    sizes = np.stack(
        [plan.row_classes.sizes[plan.row_classes.of_origin[y]], plan.col_classes.sizes[plan.col_classes.of_origin[x]]],
        axis=1,
    )
    channels = np.array([view.channels for view in plan.views])
    given = {"image": image, "origins": origins, "content": content, "sizes": sizes, "channels": channels}
    for name, array in given.items():
        (folder / name).write_bytes(array.tobytes())
    graphs = [asked.artifact.folder / f"{name}.onnx" for name in ("base", "incremental")]
    words = said(program, "two", *graphs, folder / "image", *image.shape[2:], folder / "origins", folder / "content",
                 content.shape[2], folder / "sizes", folder / "channels").split()  # fmt: skip
    np.testing.assert_allclose(np.array(words, np.float32).reshape(outputs.shape), outputs, rtol=0, atol=NATIVE)


# -------------------------------------------------------------------------------------------------- JavaScript


@pytest.fixture(scope="module")
def scripts(asked: Asked) -> Path:
    tool("node")
    needs(HOSTS / "node_modules" / "onnxruntime-web")
    return lay_scripts(asked.folder)


@pytest.mark.parametrize(
    ("package", "provider", "tolerance"), [("onnxruntime-web", "wasm", WASM), ("onnxruntime-node", "cpu", NATIVE)]
)
def test_node_single_file(
    asked: Asked, scripts: Path, target: int, package: str, provider: str, tolerance: float
) -> None:
    height, width, _ = asked.picture.shape
    picture = asked.folder / "picture.bin"
    question = (package, provider, asked.without_defaults, picture, height, width, target, 1)
    found = json.loads(said("node", "single.mjs", *question, cwd=scripts))
    asked.agrees(found["scores"], found["baseScore"], found["target"], "top" if target < 0 else target, tolerance)


def test_node_two_graphs(asked: Asked, scripts: Path) -> None:
    image, origins, content, outputs = asked.one_batch()
    question = {
        "image": image.ravel().tolist(),
        "origins": origins.tolist(),
        "content": content.ravel().tolist(),
        "side": content.shape[2],
    }
    (scripts / "asked.json").write_text(json.dumps(question))
    found = json.loads(said("node", "two.mjs", asked.artifact.folder, "asked.json", cwd=scripts))
    np.testing.assert_allclose(np.reshape(found, outputs.shape), outputs, rtol=0, atol=NATIVE)


# ----------------------------------------------------------------------------------------------------- browser


@pytest.fixture
def page_address(asked: Asked) -> Iterator[str]:
    """The exported page on this machine."""
    needs(HOSTS / "node_modules" / "playwright-core")
    tool("node")
    tool("chromium")
    folder = asked.folder / "page"
    kx.export_web(
        asked.model,
        folder,
        stride=STRIDE,
        preprocess=asked.preprocess,
        labels=(SHIPPED / "demo_labels.txt").read_text().splitlines(),
        samples=[SHIPPED / "pictures" / "nine.png"],
        runtime=HOSTS / "node_modules" / "onnxruntime-web",
    )
    with served(folder) as address:
        yield address


def test_the_page_in_a_browser(asked: Asked, page_address: str) -> None:
    screenshot = asked.folder / "page.png"
    driver = SOURCES / "browser.mjs"
    found = json.loads(said("node", driver, f"{page_address}?picture=samples/nine.png", screenshot))
    assert found["state"] == "done", found
    assert found["consoleErrors"] == []
    result = found["result"]
    asked.agrees(result["heatmap"], result["baseScore"], result["target"], "top", WASM)
    assert screenshot.stat().st_size > 10_000
