"""`export_web`: a static page that explains pictures in the browser with the user's own model."""

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from krypton_onnx.artifact import Kind, refuse_foreign, staged_folder
from krypton_onnx.compiler import check_path
from krypton_onnx.errors import KryptonError
from krypton_onnx.folders import temporary_folder
from krypton_onnx.passes.load import load
from krypton_onnx.pictures import open_picture
from krypton_onnx.preprocess import Preprocess
from krypton_onnx.runtime.questions import pair
from krypton_onnx.single_file import SingleFile, SingleFileOptions, compile_single_file

PACKAGE = "onnxruntime-web"
WANTED = f"{PACKAGE}@^1.30.0"
"""From the npm registry: ONNX Runtime as WebAssembly."""

RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
"""What a page needs of that package's folder `dist`."""

MODEL, ABOUT, SAMPLES = "model.onnx", "krypton_onnx.page.json", "samples"
PAGE = Kind(ABOUT, "exported page")

STRIDE = 8

_REMEDY = f"give --runtime the folder of an installed {PACKAGE} (npm install {WANTED})."

_ASSETS = (".html", ".css", ".js")


def export_web(
    model: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    samples: Sequence[str | os.PathLike[str]] = (),
    runtime: str | os.PathLike[str] | None = None,
    **options: Unpack[SingleFileOptions],
) -> SingleFile:
    """Write a folder that any web server can serve, and that works without one of ours.

    Args:
        model: an ONNX file of opset 7 or later, whose image has 1 or 3 channels.
        folder: to write; an older exported page there is replaced.
        samples: pictures to offer on the page.
        runtime: the folder of an installed npm package onnxruntime-web; by default npm fetches it.
        options: see `compile_single_file`. The stride is 8 unless told, as a browser computes on its own. Without
            `preprocess` the size is fitted and pixels are brought to 0…1.

    Returns:
        The page's model.

    Raises:
        KryptonError: the model cannot be compiled for pictures, there is no runtime, or the folder cannot be written.
    """
    check_path(model, "model")
    check_path(folder, "folder")
    target, source = Path(folder), Path(model)
    refuse_foreign(target, PAGE)  # before the work; again at its end
    pictures = _checked_samples(samples)
    options.setdefault("stride", STRIDE)
    if options.get("preprocess") is None:
        options["preprocess"] = _default_preprocess(source, options)
    with staged_folder(target, PAGE) as staged:
        _copy_assets(staged)
        (staged / "runtime").mkdir()
        _copy_runtime(staged / "runtime", None if runtime is None else Path(runtime))
        made = compile_single_file(
            source,
            staged / MODEL,
            **options,
            defaults=False,  # which ONNX Runtime's JavaScript packages cannot override
        )
        _refuse_other_inputs(made)
        (staged / SAMPLES).mkdir()
        for picture in pictures:
            shutil.copyfile(picture, staged / SAMPLES / picture.name)
        about = _about(made, [f"{SAMPLES}/{picture.name}" for picture in pictures])
        (staged / ABOUT).write_text(json.dumps(about, ensure_ascii=False, indent=1), encoding="utf-8")
    return replace(made, path=target / MODEL)


def _default_preprocess(model: Path, options: SingleFileOptions) -> Preprocess | None:
    if not model.is_file():
        return None  # which compiling it will say
    size = options.get("input_size")
    net = load(
        model,
        image_input=options.get("image_input"),
        input_size=None if size is None else pair(size, "input size"),
        channels_last=options.get("channels_last"),
    )
    channels, height, width = net.image_tensor.shape[1:]
    if net.channels_last:
        return Preprocess.for_input((height, width, channels), "NHWC")
    return Preprocess.for_input((channels, height, width), "NCHW")


def _refuse_other_inputs(made: SingleFile) -> None:
    if made.plan.other_inputs:
        raise KryptonError(
            f"The model has an input beside the image, '{made.plan.other_inputs[0].name}', which a page cannot know: "
            "make it a constant of the model."
        )


def _about(made: SingleFile, samples: list[str]) -> dict[str, Any]:
    """What the page has to know of its model."""
    plan = made.plan
    scored = next(info for info in plan.outputs if info.name == made.scored)
    return {
        "file": MODEL,
        "bytes": made.path.stat().st_size,
        "name": plan.source.file,
        "image_size": plan.image.shape[1:],
        "channels": plan.image.shape[0],
        "patch": plan.patch,
        "rows": made.origins[:, 0, 0].tolist(),
        "cols": made.origins[0, :, 1].tolist(),
        "batches": made.batches,
        "scored": made.scored,
        "classes": int(np.prod([extent or 0 for extent in scored.shape])),
        "labels": plan.labels,
        "preprocess": plan.preprocess,
        "version": plan.compiler,
        "samples": samples,
    }


def _checked_samples(samples: Sequence[str | os.PathLike[str]]) -> list[Path]:
    if isinstance(samples, str | bytes | os.PathLike):
        raise KryptonError("samples must be a list of pictures' paths, not a single one.")
    paths = [Path(sample) for sample in samples]
    for path in paths:
        open_picture(path)
    if len({path.name for path in paths}) < len(paths):
        raise KryptonError("Two sample pictures have the same file name: rename one.")
    return paths


def _copy_assets(folder: Path) -> None:
    for asset in resources.files("krypton_onnx").joinpath("web").iterdir():
        if asset.name.endswith(_ASSETS):
            (folder / asset.name).write_bytes(asset.read_bytes())


def _copy_runtime(folder: Path, package: Path | None) -> None:
    """ONNX Runtime for the browser, of an installed package or of the one that npm fetches."""
    if package is not None:
        for name in RUNTIME:
            file = package / "dist" / name
            if not file.is_file():
                raise KryptonError(
                    f"{package} is no {PACKAGE} of version 1.30 or later: it lacks dist/{name}. Install one with 'npm "
                    f"install {WANTED}', or omit --runtime."
                )
            shutil.copyfile(file, folder / name)
        return
    with temporary_folder() as fetched:
        packed = _fetched(fetched)
        try:
            with tarfile.open(packed) as archive:
                for name in RUNTIME:
                    (folder / name).write_bytes(_unpacked(archive, f"package/dist/{name}"))
        except (tarfile.TarError, KeyError, EOFError) as error:
            reason = " ".join(str(error.args[0]).split())
            raise KryptonError(
                f"What npm fetched for {WANTED} does not hold what the page needs ({reason}): {_REMEDY}"
            ) from error


def _unpacked(archive: tarfile.TarFile, name: str) -> bytes:
    """A file of an archive; a KeyError if it has none of this name."""
    member = archive.extractfile(name)
    if member is None:
        raise KeyError(f"{name} is no file")
    with member:
        return member.read()


def _fetched(folder: Path) -> Path:
    """The package as npm packs it."""
    npm = shutil.which("npm")
    if npm is None:
        raise KryptonError(f"The page needs {PACKAGE}, and npm, which would fetch it, is not installed: {_REMEDY}")
    done = subprocess.run([npm, "pack", "--silent", WANTED], cwd=folder, capture_output=True, text=True, check=False)
    packed = list(folder.glob("*.tgz"))
    if done.returncode or not packed:
        reason = " ".join((done.stderr or done.stdout).split())[:200]
        raise KryptonError(f"npm could not fetch {WANTED} ({reason or 'it says nothing'}): {_REMEDY}")
    return packed[0]
