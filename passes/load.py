"""Reading a model: from a file on disk to a `Network` of opset 17 or later whose weights are detached."""

from collections.abc import Iterator
from pathlib import Path

import google.protobuf.message as protobuf
import numpy as np
import onnx
import onnx.inliner
import onnx.shape_inference
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.util.exception import OnnxGraphSurgeonException

from krypton_onnx.errors import KryptonError
from krypton_onnx.fields import MAX_SIDE
from krypton_onnx.passes import network
from krypton_onnx.passes.checks import check_source
from krypton_onnx.passes.legacy import raise_opset
from krypton_onnx.passes.network import Array, Network, Notes

INTERFACE = frozenset({"origins", "patch_content", "window_sizes", "view_rows"})
"""Inputs of the incremental graph, which no tensor of a model may be called."""

MAX_CELLS = 1 << 26
"""Cells of a map: index arithmetic is int32, and a pool holds the windows of a batch beside the map."""

_MALFORMED = (
    *(ValueError, TypeError, RuntimeError, LookupError),
    *(OnnxGraphSurgeonException, onnx.shape_inference.InferenceError, onnx.checker.ValidationError),
)
_CHANNELS = (1, 3, 4)
_PACKED = {onnx.TensorProto.INT4, onnx.TensorProto.UINT4, onnx.TensorProto.FLOAT4E2M1}
_CONVOLUTIONS = {"Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "FusedConv"}


def load(
    path: Path,
    *,
    image_input: str | None = None,
    input_size: tuple[int, int] | None = None,
    channels_last: bool | None = None,
) -> Network:
    """Read a model and settle its image input.

    Args:
        path: an ONNX file of opset 7 or later; external data lies in its folder.
        image_input: name of the image input, needed where several inputs have four dimensions.
        input_size: (height, width), needed where the model leaves them open.
        channels_last: whether the image input is [N, H, W, C]; by default its extents tell.

    Raises:
        KryptonError: for anything that makes the file unusable, in one sentence.
    """
    model = read_model(path)
    _refuse_without_convolution(model, path)
    try:
        return _network(model, path, image_input, input_size, channels_last)
    except _MALFORMED as error:
        # What the libraries raise for graphs with cycles, names given twice, or texts that are none.
        raise KryptonError(f"{path} is malformed: {' '.join(str(error).split())[:300]}") from error


def _network(
    model: onnx.ModelProto,
    path: Path,
    image_input: str | None,
    input_size: tuple[int, int] | None,
    channels_last: bool | None,
) -> Network:
    notes = Notes(model.doc_string, tuple((entry.key, entry.value) for entry in model.metadata_props))
    weights = _detach(model, path)
    model = raise_opset(onnx.inliner.inline_local_functions(model), path)
    graph = gs.import_onnx(model)
    for tensor in [t for t in graph.inputs if t.name in weights]:
        graph.inputs.remove(tensor)
        network.become_constant(tensor, weights[tensor.name])
    image = _image_input(graph, image_input, path)
    if channels_last is None:
        channels_last = _is_channels_last(image.shape)
    if channels_last:
        image = _channels_first(graph, image)
    exported_batch = image.shape[0]
    _fix_image_shape(image, input_size, path)
    _name_constants(graph)
    if isinstance(exported_batch, int) and exported_batch > 1:
        _shape_for_one_image(graph, exported_batch)
    graph.cleanup(remove_unused_graph_inputs=False).toposort()
    for node in graph.nodes:
        node.name = node.name or node.outputs[0].name
        if node.op == "MeanVarianceNormalization":  # onnx checks the function that it stands for only with axes
            node.attrs.setdefault("axes", [0, 2, 3])
    _free_interface_names(graph, image.name, path)
    return Network(graph, image.name, channels_last, notes)


def read_model(path: Path) -> onnx.ModelProto:
    """Parse the file, without external data.

    Raises:
        KryptonError: the file is missing or not ONNX, or `check_source` refuses it.
    """
    if not path.is_file():
        raise KryptonError(f"There is no model file at {path}.")
    try:
        model = onnx.load(path, load_external_data=False)
    except (protobuf.DecodeError, ValueError) as error:
        raise KryptonError(f"{path} is not an ONNX model, or is cut short: it cannot be parsed.") from error
    except OSError as error:
        raise KryptonError(f"{path} cannot be read: {error.strerror}.") from error
    check_source(model, path)
    return model


def external_files(path: Path) -> dict[str, Path]:
    """The files beside a model that hold weights of it, by what the model calls them.

    Raises:
        KryptonError: as `read_model`; or such a file is missing, or lies outside the model's folder.
    """
    graph = read_model(path).graph
    outer = (tensor for tensor in graph.initializer if network.is_external(tensor))
    return {_location(tensor): _external_file(tensor, path) for tensor in (*outer, *_tensor_attributes(graph))}


def _refuse_without_convolution(model: onnx.ModelProto, path: Path) -> None:
    operators = {n.op_type for n in model.graph.node} | {n.op_type for f in model.functions for n in f.node}
    if not operators & _CONVOLUTIONS:
        raise KryptonError(f"{path} holds no convolution: only CNNs can be recomputed window by window.")


def _detach(model: onnx.ModelProto, path: Path) -> dict[str, Array]:
    """Move large initializers out of the model, in place; in it they become graph inputs of the same name."""
    listed = {i.name for i in model.graph.input}
    kept, weights = [], {}
    for tensor in model.graph.initializer:
        array = _array(tensor, path)
        # Texts, and numbers of less than a byte, have no plain form in a file of weights.
        if array.nbytes <= network.DETACH_BYTES or array.dtype.kind not in "biufc" or tensor.data_type in _PACKED:
            kept.append(_inline(tensor, array))
            continue
        weights[tensor.name] = array
        if tensor.name not in listed:  # up to IR 3 every initializer is listed as an input too
            model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, array.shape))
    for attribute in _tensor_attributes(model.graph):
        attribute.CopyFrom(onnx.numpy_helper.from_array(_array(attribute, path), attribute.name))
    small = {t.name for t in kept}
    inputs = [i for i in model.graph.input if i.name not in small]
    del model.graph.initializer[:], model.graph.input[:]
    model.graph.initializer.extend(kept)
    model.graph.input.extend(inputs)
    return weights


def _inline(tensor: onnx.TensorProto, array: Array) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(array, tensor.name) if network.is_external(tensor) else tensor


def _tensor_attributes(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """External tensors in attributes and subgraphs."""
    for part in network.graphs_of(graph):
        if part is not graph:
            yield from (t for t in part.initializer if network.is_external(t))
        tensors = (a.t for n in part.node for a in n.attribute if a.type == onnx.AttributeProto.TENSOR)
        yield from (t for t in tensors if network.is_external(t))


def _array(tensor: onnx.TensorProto, path: Path) -> Array:
    if network.is_external(tensor):
        _external_file(tensor, path)  # or a refusal
    try:
        return onnx.numpy_helper.to_array(tensor, base_dir=str(path.parent))
    except (ValueError, OSError, TypeError, onnx.checker.ValidationError) as error:
        raise _unreadable(tensor, path) from error


def _unreadable(tensor: onnx.TensorProto, path: Path) -> KryptonError:
    return KryptonError(
        f"The weight '{tensor.name}' of {path} cannot be read: its data are missing, cut short or malformed."
    )


def _location(tensor: onnx.TensorProto) -> str:
    return next((e.value for e in tensor.external_data if e.key == "location"), "")


def _external_file(tensor: onnx.TensorProto, path: Path) -> Path:
    """External data must lie in the model's own folder, links followed: a model file is untrusted input."""
    location, folder = _location(tensor), path.parent.resolve()
    try:
        target = (folder / location).resolve()
        is_file = target.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # a name that no file can have, a link to itself
        raise _unreadable(tensor, path) from error
    if not location or folder not in target.parents:
        raise KryptonError(
            f"The weight '{tensor.name}' of {path} points to '{location}', outside the model's folder; "
            "external data must lie beside the model."
        )
    if not is_file:
        raise KryptonError(f"The weight '{tensor.name}' of {path} needs the file {target}, which is missing.")
    return target


def _image_input(graph: gs.Graph, wanted: str | None, path: Path) -> gs.Variable:
    inputs = {t.name: t for t in graph.inputs}
    images = [t for t in graph.inputs if t.shape is not None and len(t.shape) == 4]
    if wanted is not None:
        if wanted not in inputs:
            raise KryptonError(f"{path} has no input '{wanted}'; its inputs are {_names(inputs)}.")
        if inputs[wanted] not in images:
            raise KryptonError(f"Input '{wanted}' of {path} is no image: it does not have four dimensions.")
        return inputs[wanted]
    if not images:
        raise KryptonError(f"{path} has no 4-D image input [N, C, H, W]; its inputs are {_names(inputs)}.")
    read = [t for t in images if t.outputs]
    if len(images) > 1 and len(read) != 1:
        raise KryptonError(
            f"{path} has several 4-D inputs ({_names({t.name: t for t in images})}); "
            "name the image with --image-input (image_input=...)."
        )
    return (read or images)[0]


def _names(inputs: dict[str, gs.Variable]) -> str:
    return ", ".join(f"'{name}' {t.shape}" for name, t in inputs.items()) or "none"


def _is_channels_last(shape: list[int | str | None]) -> bool:
    """Whether [N, H, W, C] is meant: the last extent can be channels and the second cannot."""
    return shape[3] in _CHANNELS and shape[1] not in _CHANNELS


def _channels_first(graph: gs.Graph, image: gs.Variable) -> gs.Variable:
    """Let the graph take [N, C, H, W], and transpose to what the model takes as its first step.

    Before: ``image [N, H, W, C] → …``. After: ``image [N, C, H, W] → Transpose(0, 2, 3, 1) → …``.
    """
    count, height, width, channels = image.shape
    first = gs.Variable(image.name, image.dtype, [count, channels, height, width])
    graph.inputs = [first if t is image else t for t in graph.inputs]
    image.name = f"{image.name}/channels_last"
    image.shape = None
    graph.nodes.insert(0, gs.Node("Transpose", image.name, {"perm": [0, 2, 3, 1]}, [first], [image]))
    return first


def _name_constants(graph: gs.Graph) -> None:
    """Turn Constant nodes into constants, which every later step can look into."""
    for node in graph.nodes:
        if node.op == "Constant" and isinstance(node.attrs.get("value"), gs.Constant):
            target, array = node.outputs[0], network.values(node.attrs["value"])
            node.outputs.clear()
            if array is not None:
                network.become_constant(target, array)
    graph.cleanup(remove_unused_graph_inputs=False)


_SHAPE_INPUT = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0, "Resize": 3, "MaxUnpool": 2}
"""Where operators take a shape, in which an export for a fixed batch repeats that batch."""


def _shape_for_one_image(graph: gs.Graph, batch: int) -> None:
    """Let an export for a fixed batch take one image: shapes that begin with that batch begin with a one."""
    for node in graph.nodes:
        shape = network.input_or_none(node, _SHAPE_INPUT[node.op]) if node.op in _SHAPE_INPUT else None
        stated = None if shape is None else network.values(shape)
        if "axes" not in node.attrs and stated is not None and stated.size and stated.flat[0] == batch:
            one = np.array([1, *stated.reshape(-1)[1:]], np.int64)
            node.inputs[_SHAPE_INPUT[node.op]] = network.constant(f"{node.outputs[0].name}/one_image", one)


def _free_interface_names(graph: gs.Graph, image: str, path: Path) -> None:
    """Rename tensors that are called like an input of the incremental graph."""
    for tensor in graph.outputs:
        if tensor in graph.inputs and tensor.name != image:
            raise KryptonError(
                f"The output '{tensor.name}' of {path} is one of its inputs: remove it from the outputs."
            )
    public = {t.name for t in (*graph.inputs, *graph.outputs)}
    tensors = graph.tensors()
    for name in INTERFACE & tensors.keys():
        if name in public:
            raise KryptonError(
                f"The input or output '{name}' of {path} is called like an input of the compiled graph: rename it."
            )
        tensors[name].name = f"{name}/model"


def _fix_image_shape(image: gs.Variable, size: tuple[int, int] | None, path: Path) -> None:
    _, channels, *extents = (d if isinstance(d, int) and d > 0 else None for d in image.shape)
    if channels is None:
        raise KryptonError(
            f"The image input '{image.name}' of {path} leaves its channels open: export it with a fixed number, or say "
            "with --channels-last or --channels-first (channels_last=...) which extent they are."
        )
    if image.shape[0] == 0:
        raise KryptonError(f"The image input '{image.name}' of {path} takes no images: its first extent is 0.")
    if size is None and None in extents:
        raise KryptonError(
            f"The image input '{image.name}' of {path} leaves its height or width open: "
            "give them with --input-size HxW (input_size=(H, W))."
        )
    if size is not None and any(e not in (None, s) for e, s in zip(extents, size, strict=True)):
        raise KryptonError(
            f"The image input '{image.name}' of {path} is fixed to {extents[0]}x{extents[1]}; "
            f"the size {size[0]}x{size[1]} cannot be set."
        )
    height, width = size or (int(extent or 0) for extent in extents)
    if max(height, width) > MAX_SIDE or height * width > MAX_CELLS:
        raise KryptonError(
            f"An image of {height}x{width} is too large for {path}: a side may have {MAX_SIDE} pixels, and all "
            f"together {MAX_CELLS}."
        )
    image.shape = [1, channels, height, width]
