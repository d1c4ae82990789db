"""How far heatmaps are off in fewer bits: float16, and TF32 as CUDA computes it.

    python bench/precision.py [--models resnet18,vgg16] [--stride 16]

Both have 11 significant bits, and are imitated on the processor. For TF32 the operands of convolutions and products are
rounded, for float16 all that operators in float16 take and give; sums are in float32, as on a device. Beside it float16
as the processor runs it, which keeps more bits between operators. A network of random weights has no pictures that it
was made for, and gets noise; the demo model gets the picture of the demo.
"""

import argparse
import tempfile
from importlib import resources
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

import krypton_onnx as kx
from krypton_onnx import models
from krypton_onnx.passes.halve import HALVED
from krypton_onnx.random_inputs import random_images
from krypton_onnx.runtime.approximate.quality import ssim
from krypton_onnx.runtime.providers import CPU

PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
"""Operators of which TF32 rounds the operands."""

SPLIT = 2.0**13 + 1
"""x · SPLIT − (x · SPLIT − x) is x rounded to 11 significant bits (Veltkamp)."""


def imitated(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """The same, but numbers are rounded as this precision rounds them."""
    found = onnx.shape_inference.infer_shapes(model)
    tf32 = precision == "tf32"
    graph, operators = found.graph, PRODUCTS if tf32 else HALVED
    graph.initializer.append(numpy_helper.from_array(np.array(SPLIT, np.float32), "split"))
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    infos = (*graph.value_info, *graph.input, *graph.output)
    floats = {info.name for info in infos if info.type.tensor_type.elem_type == onnx.TensorProto.FLOAT} | weights.keys()
    kept = {tensor.name for tensor in graph.output}
    short = [node for node in graph.node if node.op_type in operators and (tf32 or kept.isdisjoint(node.output))]
    takes = {node.output[0] for node in short}
    gives = set[str]() if tf32 else {name for node in short for name in node.output}
    nodes, known = [], set[str]()
    for node in list(graph.node):
        operands = list(node.input[:2] if tf32 else node.input)
        for place, name in enumerate(operands):
            if name not in floats or (name not in gives and node.output[0] not in takes):
                continue
            node.input[place] = f"{name}/rounded"
            if name in weights and name not in known:
                values = rounded(numpy_helper.to_array(weights[name]))
                graph.initializer.append(numpy_helper.from_array(values, f"{name}/rounded"))
            elif name not in known:
                nodes += rounding(name)
            known.add(name)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return found


def rounding(name: str) -> list[onnx.NodeProto]:
    """The nodes that round a tensor."""
    wide, low = f"{name}/wide", f"{name}/low"
    return [
        helper.make_node("Mul", [name, "split"], [wide]),
        helper.make_node("Sub", [wide, name], [low]),
        helper.make_node("Sub", [wide, low], [f"{name}/rounded"]),
    ]


def rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """To 11 significant bits."""
    wide = values * np.float32(SPLIT)
    return wide - (wide - values)


def row(name: str, model: Path, picture: Path | None, stride: int) -> str:
    """Of the table: one model."""
    with tempfile.TemporaryDirectory() as folder:
        sources = {"float32": model, "float16": model}
        for precision in ("imitated float16", "tf32"):
            sources[precision] = Path(folder) / f"{precision}.onnx"
            onnx.save(imitated(onnx.load(model), precision), sources[precision])
        maps = {}
        for precision, source in sources.items():
            made = kx.compile(
                source,
                Path(folder) / precision,
                preprocess=str(resources.files("krypton_onnx.models") / "demo_preprocess.json") if picture else None,
                precision="float16" if precision == "float16" else "float32",
                verify=False,
            )
            session = kx.Session(made, [CPU])
            image = random_images(np.random.default_rng(0), made.plan, 1)[0]
            if picture:
                preprocess = kx.Preprocess.from_dict(made.plan.preprocess or {})
                image = preprocess.tensor(preprocess.picture(kx.open_picture(picture)))
            maps[precision] = session.explain(image, stride=stride, progress=False).drop
    exact = maps.pop("float32")
    largest = float(np.abs(exact).max())
    columns = [name]
    for off in maps.values():
        columns += [f"{np.abs(off - exact).max() / largest:.1e}", f"{ssim(off, exact):.4f}"]
    return f"| {' | '.join(columns)} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(models.NAMES), help="names, separated by commas; all by default")
    parser.add_argument("--stride", type=int, default=16)
    options = parser.parse_args()
    wanted = options.models.split(",") if options.models else []
    names = ("float16 on the processor: off", "float16: off", "TF32: off")
    print(f"| model | {' | SSIM | '.join(names)} | SSIM |\n|{'---|' * 7}")
    files = resources.files("krypton_onnx.models")
    print(row("demo", Path(str(files / "demo.onnx")), Path(str(files / "pictures" / "nine.png")), 4), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in wanted:
            path = Path(folder) / f"{name}.onnx"
            onnx.save(models.build(name), path)
            print(row(name, path, None, options.stride), flush=True)


if __name__ == "__main__":
    main()
