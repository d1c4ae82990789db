"""Reading Hugging Face's ``preprocessor_config.json`` into the fields of `Preprocess`."""

from collections.abc import Mapping
from typing import Any

from krypton_onnx.errors import KryptonError
from krypton_onnx.fields import is_int, numbers, pair, side_or_pair

_UNDERSTOOD = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_flip_channel_order"}
_HARMLESS = {"do_convert_rgb", "do_reduce_labels", "do_convert_annotations"}
_KEYS = {"image_processor_type", "feature_extractor_type", "size", "crop_size", "image_mean", "image_std"}
_RESAMPLE: Mapping[int, str] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
# Processors that take a bare integer size for the shorter side; all others take it for a square.
_SHORTER = ("ConvNext", "CLIP", "Bit", "MobileNet", "MobileViT", "PoolFormer")


def is_hugging_face(data: Mapping[str, Any]) -> bool:
    """Whether a preprocessing file is Hugging Face's, by its keys."""
    own_only = {"resize", "crop", "mean", "scale", "channel_order", "layout"}
    return not (_KEYS | _UNDERSTOOD).isdisjoint(data) and own_only.isdisjoint(data)


def own_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Preprocess` that do what a Hugging Face image processor with this config does.

    Raises:
        KryptonError: a step or a value has no counterpart here.
    """
    data = {key: value for key, value in config.items() if value is not None}
    _refuse_unknown_steps(data)
    resize, crop = _geometry(data)
    resample = data.get("resample", 2)
    if not is_int(resample) or resample not in _RESAMPLE:
        raise KryptonError(f"'resample' {resample!r} is not supported: use one of {dict(_RESAMPLE)}")
    mean, scale = _values(data)
    return {
        "resize": resize,
        "crop": crop,
        "mean": mean,
        "scale": scale,
        "channel_order": _order(data),
        "layout": "NHWC" if data.get("data_format") == "channels_last" else "NCHW",
        "resample": _RESAMPLE[resample],
    }


def _refuse_unknown_steps(data: Mapping[str, Any]) -> None:
    """A step that we would leave out silently would explain another picture than the model's."""
    kind = _kind(data)
    if kind.startswith("Levit"):
        raise KryptonError(f"'{kind}' has a resize rule of its own: write the preprocessing's own keys instead")
    for key, value in data.items():
        step = key.startswith("do_") and key not in _UNDERSTOOD | _HARMLESS
        if (step or key in ("rescale_offset", "pad_size", "size_divisor")) and value:
            raise KryptonError(f"'{key}' is not supported: write the preprocessing's own keys instead")


def _kind(data: Mapping[str, Any]) -> str:
    return str(data.get("image_processor_type", data.get("feature_extractor_type", "")))


def _flag(data: Mapping[str, Any], key: str, default: bool) -> bool:
    value = data.get(key, default)
    if not isinstance(value, bool):
        raise KryptonError(f"'{key}' must be true or false, not {value!r}")
    return value


def _wanted(data: Mapping[str, Any], key: str) -> Any:
    if key not in data:
        raise KryptonError(f"'{key}' is missing: add it, or turn off the step that needs it")
    return data[key]


def _geometry(data: Mapping[str, Any]) -> tuple[int | tuple[int, int] | None, tuple[int, int] | None]:
    """(resize, crop)."""
    crop = None
    if _flag(data, "do_center_crop", "crop_size" in data):
        size = _size(data, "crop_size", square=True)
        crop = size if isinstance(size, tuple) else (size, size)
    if not _flag(data, "do_resize", "size" in data):
        return None, crop
    kind = _kind(data)
    crop_pct = data.get("crop_pct", 224 / 256 if "ConvNext" in kind else None)
    shorter = crop_pct is not None or any(name in kind for name in _SHORTER)
    resize = _size(data, "size", square=_flag(data, "default_to_square", not shorter))
    if crop_pct is None:
        return resize, crop
    if not isinstance(crop_pct, int | float) or not 0 < crop_pct <= 1:
        raise KryptonError(f"'crop_pct' must be a number above 0, up to 1, not {crop_pct!r}")
    if not isinstance(resize, int):
        raise KryptonError("'size' must be an integer or {\"shortest_edge\": n} where crop_pct is used")
    if "PoolFormer" in kind:
        return int(resize / crop_pct), crop
    if resize >= 384:
        return (resize, resize), None  # ConvNeXt squeezes the whole picture from 384 on
    return int(resize / crop_pct), (resize, resize)


def _size(data: Mapping[str, Any], key: str, *, square: bool) -> int | tuple[int, int]:
    value = _wanted(data, key)
    if isinstance(value, dict):
        value = {name: extent for name, extent in value.items() if extent is not None}
    match value:
        case {"height": height, "width": width}:
            return pair(key, (height, width))
        case {"shortest_edge": edge, **others} if not others:
            return pair(key, (edge, edge))[0]
        case int() | [_, _] if not isinstance(value, bool):
            size = side_or_pair(key, value)
            return (size, size) if square and isinstance(size, int) else size
    raise KryptonError(
        f'\'{key}\' must be an integer, {{"shortest_edge": n}} or {{"height": h, "width": w}}, not {value!r}'
    )


def _values(data: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, scale): (pixel · factor − image_mean) / image_std in pixel units."""
    factor = 1.0
    if _flag(data, "do_rescale", True):
        (factor,) = numbers("rescale_factor", data.get("rescale_factor", 1 / 255), 1)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    if _flag(data, "do_normalize", "image_mean" in data):
        mean = numbers("image_mean", _wanted(data, "image_mean"), 3)
        std = numbers("image_std", _wanted(data, "image_std"), 3)
    if _flag(data, "include_top", False):
        std = tuple(value * value for value in std)  # EfficientNet divides a second time
    if 0.0 in (factor, *std):
        raise KryptonError("'rescale_factor' and 'image_std' must not be 0")
    return tuple(value / factor for value in mean), tuple(factor / value for value in std)


def _order(data: Mapping[str, Any]) -> str:
    if _flag(data, "do_flip_channel_order", False):
        return "BGR"
    mean = data.get("image_mean")
    return "L" if isinstance(mean, list) and len(mean) == 1 else "RGB"
