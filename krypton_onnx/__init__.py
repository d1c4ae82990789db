"""Exact occlusion heatmaps for exported ONNX CNNs, several times faster than full inference.

    artifact = krypton_onnx.compile("model.onnx")
    heatmap = krypton_onnx.Session(artifact).explain(image)

Names are imported when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from krypton_onnx.artifact import Artifact, open_artifact
    from krypton_onnx.compiler import compile
    from krypton_onnx.errors import KryptonError
    from krypton_onnx.heatmap import Heatmap
    from krypton_onnx.modes import Approximate, DrillDown, Exact
    from krypton_onnx.pictures import open_picture
    from krypton_onnx.preprocess import Preprocess
    from krypton_onnx.runtime.base import Base
    from krypton_onnx.runtime.boxes import BoxScore
    from krypton_onnx.runtime.session import Session
    from krypton_onnx.runtime.targets import Cosine, InMask
    from krypton_onnx.single_file import SingleFile, compile_single_file
    from krypton_onnx.triton_export import export_triton
    from krypton_onnx.verification import verify
    from krypton_onnx.web_export import export_web

_HOMES = {
    "Approximate": "modes",
    "Artifact": "artifact",
    "Base": "runtime.base",
    "BoxScore": "runtime.boxes",
    "Cosine": "runtime.targets",
    "DrillDown": "modes",
    "Exact": "modes",
    "Heatmap": "heatmap",
    "InMask": "runtime.targets",
    "KryptonError": "errors",
    "Preprocess": "preprocess",
    "Session": "runtime.session",
    "SingleFile": "single_file",
    "compile": "compiler",
    "compile_single_file": "single_file",
    "export_triton": "triton_export",
    "export_web": "web_export",
    "open_artifact": "artifact",
    "open_picture": "pictures",
    "verify": "verification",
}

__all__ = [
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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'krypton_onnx' has no attribute '{name}'")
    return getattr(import_module(f"krypton_onnx.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
