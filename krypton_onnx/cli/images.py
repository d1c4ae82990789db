"""What `explain` is shown: a picture, or the model's input tensor in a .npy file; fills and masks that go with it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from krypton_onnx.errors import KryptonError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from krypton_onnx.artifact import Artifact
    from krypton_onnx.preprocess import Preprocess

TENSOR = ".npy"

DEFAULT_FILL = "black"


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What the model sees.

    Attributes:
        artifact: with the preprocessing in its plan.
        tensor: the model's input, as it takes it.
        picture: uint8 [H, W, C], to draw on.
        preprocess: how files become tensors; None if the tensor itself was given.
        file_size: (height, width) of the picture's file.
    """

    artifact: "Artifact"
    tensor: "NDArray[Any]"
    picture: "NDArray[Any]"
    preprocess: "Preprocess | None"
    file_size: tuple[int, int]

    def mask(self, file: "NDArray[Any]") -> "NDArray[Any]":
        """A mask as the model sees it: one of the picture's size goes the picture's way, resize and crop.

        Args:
            file: bool [rows, columns].
        """
        if self.preprocess is None or file.shape != self.file_size:
            return file
        return self.preprocess.mask(file)

    def fill(self, given: "str | float | tuple[float, ...] | NDArray[Any] | Image.Image") -> Any:
        """A fill for `Session.explain`; a picture becomes a tensor as the one that is explained.

        Raises:
            KryptonError: the picture becomes one of another size, or there is no preprocessing for it.
        """
        from PIL import Image

        if not isinstance(given, Image.Image):
            return given
        if self.preprocess is None:
            raise KryptonError("A picture cannot fill patches of a tensor: give --fill a .npy file of its shape.")
        shown = self.preprocess.picture(given)
        if shown.shape != self.picture.shape:
            raise KryptonError(
                f"The fill's picture becomes {shown.shape[0]}x{shown.shape[1]} pixels, and the model sees "
                f"{self.picture.shape[0]}x{self.picture.shape[1]}: give one of the same size, or --crop."
            )
        return self.preprocess.tensor(shown)


def open_image(path: Path) -> "Image.Image | NDArray[Any]":
    """A picture, or the tensor of a .npy file.

    Raises:
        KryptonError: it cannot be read.
    """
    from krypton_onnx.pictures import open_picture

    return read_array(path) if path.suffix.lower() == TENSOR else open_picture(path)


def read_array(path: Path) -> "NDArray[Any]":
    """The array of a .npy file.

    Raises:
        KryptonError: it cannot be read, or is no such file.
    """
    import numpy as np

    try:
        with path.open("rb") as file:
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
    except OSError as error:
        raise KryptonError(f"{path} cannot be read ({error.strerror or error}): give a .npy file.") from error
    except (ValueError, EOFError) as error:
        raise KryptonError(f"{path} is no .npy file of numbers ({error}): write one with numpy.save.") from error


def read_fill(text: str | None, *, tensor: bool) -> "str | float | tuple[float, ...] | NDArray[Any] | Image.Image":
    """Read `--fill`.

    Args:
        text: the option; None if it was not given.
        tensor: whether a tensor is explained, so that numbers are in its units and as many as it has channels.

    Raises:
        KryptonError: the text is no fill, or its file cannot be read.
    """
    from krypton_onnx.preprocess import FILL_NAMES, parse_fill
    from krypton_onnx.runtime.fills import parse_made

    if text is None:
        return 0.0 if tensor else FILL_NAMES[DEFAULT_FILL]
    if parse_made(text) is not None:
        return text.strip().lower()
    if re.search(r"\.[A-Za-z]\w*$", text):
        return open_image(Path(text))
    numeric = re.fullmatch(r"[-+\d.eE,]+", text) is not None
    if tensor and numeric:
        try:
            values = tuple(float(part) for part in text.split(","))
        except ValueError as error:
            raise KryptonError(f"The fill '{text}' is malformed: give a number, or one for each channel.") from error
        return values if len(values) > 1 else values[0]
    if tensor:
        return text.strip().lower()
    try:
        return parse_fill(text)
    except KryptonError as error:
        if numeric:
            raise
        raise KryptonError(f"{error}, nor blur, noise or a picture's file") from error


def read_mask(path: Path | None) -> "NDArray[Any] | None":
    """A mask, bool [rows, columns]: what is not black in a picture, or not zero in a .npy file.

    Raises:
        KryptonError: it cannot be read.
    """
    from krypton_onnx.pictures import open_mask

    if path is None:
        return None
    return read_array(path) != 0 if path.suffix.lower() == TENSOR else open_mask(path)


def see(artifact: "Artifact", image: "Image.Image | NDArray[Any]", file: Path | None, fields: dict[str, Any]) -> Seen:
    """Settle what the model sees.

    Args:
        artifact: what is asked.
        image: what `open_image` returned.
        file: a preprocessing file, or None.
        fields: single fields of a preprocessing.

    Raises:
        KryptonError: the preprocessing is malformed or does not fit the model or the image.
    """
    from PIL import Image

    from krypton_onnx.cli.sources import with_preprocess
    from krypton_onnx.pictures import grey_of
    from krypton_onnx.preprocess import as_dtype
    from krypton_onnx.runtime.arguments import image_tensor

    if isinstance(image, Image.Image):
        artifact, preprocess = with_preprocess(artifact, file, fields)
        picture = preprocess.picture(image)
        tensor = as_dtype(preprocess.tensor(picture), artifact.plan.image.dtype)
        return Seen(artifact, tensor, picture, preprocess, (image.height, image.width))
    if file is not None or fields:
        raise KryptonError("A .npy file is the model's input already: omit --preprocess and its single options.")
    shown = grey_of(image_tensor(image, artifact.plan))
    return Seen(artifact, image, shown, None, (shown.shape[0], shown.shape[1]))
