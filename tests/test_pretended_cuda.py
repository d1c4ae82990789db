"""What ONNX Runtime's CUDA provider makes of the graphs, without a device: places, crossings, memory."""

from pathlib import Path

import onnx
import pytest
from pretending import asked, build, why_not

import krypton_onnx as kx
from krypton_onnx import models
from krypton_onnx.runtime.providers import CPU, CUDA


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if reason := why_not():
        pytest.skip(f"CUDA cannot be pretended: {reason}")
    folder = tmp_path_factory.mktemp("pretended")
    build(folder)
    return folder


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> kx.Artifact:
    path = tmp_path_factory.mktemp("cuda") / "resnet18.onnx"
    onnx.save(models.build("resnet18", input_size=96), path)
    return kx.compile(path, device="cuda", verify=False)


PLACES = """
import sys
from pathlib import Path
from krypton_onnx.runtime.providers import automatic
found = {}
for path in Path(sys.argv[1]).glob("*.onnx"):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    parts = ort.InferenceSession(str(path), options, list(automatic())).get_provider_graph_assignment_info()
    found[path.name] = sorted({part.ep_name for part in parts})
print(json.dumps(found))
"""


def test_every_node_has_a_kernel_on_the_device(libraries: Path, artifact: kx.Artifact) -> None:
    """But for the index, which is for the host, and would not run there as a whole."""
    found = asked(libraries, PLACES, artifact.folder)
    assert {name for name, places in found.items() if places != [CUDA]} == {"index.onnx", "capped_index.onnx"}
    assert found["index.onnx"] == [CPU, CUDA]
    assert len(found) == 7


WITHIN = """
import sys
import numpy as np
import krypton_onnx as kx
session = kx.Session(sys.argv[1], memory_budget=int(sys.argv[2]))
weights = counts()["held"]
image = np.random.default_rng(0).standard_normal((3, 96, 96)).astype(np.float32)
origins = np.stack(np.meshgrid(np.arange(81), np.arange(81)), axis=-1).reshape(-1, 2)
base = session.materialize(image)
session.infer(base, origins, np.zeros((3, 16, 16)))
largest = max(len(batch.queries) for batch in session.exact.batches(origins, (16, 16)))
print(json.dumps([counts()["peak"] - weights, largest]))
"""


@pytest.mark.parametrize("budget", [30_000_000, 60_000_000, 150_000_000, 400_000_000])
def test_a_budget_holds_where_arenas_grow_by_doubling(libraries: Path, artifact: kx.Artifact, budget: int) -> None:
    used, largest = asked(libraries, WITHIN, artifact.folder, budget)
    assert 0.25 * budget < used <= budget
    assert largest > 5


CAPTURES = """
import sys, threading
import numpy as np
import krypton_onnx as kx
cuda = "CUDAExecutionProvider"
session = kx.Session(sys.argv[1], [(cuda, {"enable_cuda_graph": "1"}), "CPUExecutionProvider"])
image = np.random.default_rng(0).standard_normal((3, 96, 96)).astype(np.float32)
origins = np.stack(np.meshgrid(np.arange(81), np.arange(81)), axis=-1).reshape(-1, 2)
shapes = {(len(b.queries), b.window_sizes.tobytes()) for b in session.exact.batches(origins, (16, 16))}
batches, found = len(list(session.exact.batches(origins, (16, 16)))), []
for turn in range(2):
    reset()
    base = session.materialize(image + turn)
    asking = threading.Thread(target=session.infer, args=(base, origins, np.zeros((3, 16, 16))))
    asking.start()
    asking.join()
    found.append(counts())
reset()
session.explain(session.materialize(image), 5, stride=8, progress=False)
before = counts()["captures"]
session.explain(session.materialize(image), 5, stride=8, progress=False)
print(json.dumps([len(shapes), batches, found, counts()["captures"] - before]))
"""


def test_what_is_captured_is_replayed(libraries: Path, artifact: kx.Artifact) -> None:
    """From whatever thread it is asked, of which each would have to capture anew.

    ONNX Runtime refuses to capture a graph of which a node leaves the device, or waits for a number.
    """
    shapes, batches, (first, second), again = asked(libraries, CAPTURES, artifact.folder)
    assert first["captures"] == shapes + 1  # and the base run
    assert second["captures"] == second["launches"] == 0
    assert second["replays"] == batches + 1
    assert second["to_device"] == batches + 1
    assert again == 0  # scores are picked by a run that is not captured
    assert first["refused"] == second["refused"] == 0


WEIGHTS = """
import sys
import krypton_onnx as kx
sessions = [kx.Session(sys.argv[1])]
held = [counts()["held"]]
sessions[0].capped.open()
held.append(counts()["held"])
sessions.append(kx.Session(sys.argv[1], session_options=ort.SessionOptions()))
held.append(counts()["held"])
print(json.dumps(held))
"""


def test_all_graphs_share_one_copy_of_the_weights(libraries: Path, artifact: kx.Artifact) -> None:
    size = (artifact.folder / "weights.bin").stat().st_size
    first, capped, own = asked(libraries, WEIGHTS, artifact.folder)
    assert size < first < 1.1 * size
    assert capped < 1.01 * first
    assert own > 2 * first  # with options of the user's, ONNX Runtime copies for every graph


STAGING = """
import sys
import numpy as np
import krypton_onnx as kx
from krypton_onnx.runtime import staging
session = kx.Session(sys.argv[1])
base = session.materialize(np.zeros((3, 96, 96), np.float32))
asked, found = lambda: session.infer(base, np.full((600, 2), 30), np.zeros((600, 3, 16, 16))), []
for _ in range(3):
    asked()
    found.append([len(staging._free), counts()["locked"]])
print(json.dumps([found, staging.page_locked(4096, 0) is not None, counts()["locked"]]))
"""


def test_pieces_are_put_together_in_page_locked_memory(libraries: Path, artifact: kx.Artifact) -> None:
    """Which is locked once, for each of the runs in flight."""
    (first, second, third), gives, locked = asked(libraries, STAGING, artifact.folder)
    assert 1 <= first[0] <= third[0] <= 2
    assert first[1] >= first[0]
    assert third[1] - second[1] <= third[0] - second[0]
    assert gives
    assert locked == third[1] + 1


CROSSINGS = """
import sys
import numpy as np
import krypton_onnx as kx
session = kx.Session(sys.argv[1])
image = np.random.default_rng(0).standard_normal((3, 96, 96)).astype(np.float32)
reset()
base = session.materialize(image)
of_image = counts()
origins = np.stack(np.meshgrid(np.arange(81), np.arange(81)), axis=-1).reshape(-1, 2)
batches = list(session.exact.batches(origins, (16, 16)))
reset()
session.infer(base, origins, np.zeros((3, 16, 16)))
found = counts()
print(json.dumps([of_image, len(batches), len({batch.group for batch in batches}), found]))
"""


def test_what_crosses(libraries: Path, artifact: kx.Artifact) -> None:
    """The image once; what a batch's queries differ in, in one piece; a group's outputs, likewise."""
    of_image, batches, groups, of_queries = asked(libraries, CROSSINGS, artifact.folder)
    assert (of_image["to_device"], of_image["to_host"]) == (1, 0)
    assert of_image["launches"] > 5
    assert batches > groups > 1
    assert (of_queries["to_device"], of_queries["to_host"]) == (batches, groups)
    assert of_queries["launches"] > 20 * batches
