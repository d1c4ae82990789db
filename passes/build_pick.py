"""Building the graph that picks elements of an output, so that only these leave a device."""

import numpy as np
import onnx_graphsurgeon as gs


def build_pick(opset: int) -> gs.Graph:
    """``values float32 [Q, n], indices int64 [T] → Gather → picked [Q, T]``.

    Args:
        opset: of the other graphs.
    """
    values, picked = (
        gs.Variable(name, np.dtype(np.float32), shape)
        for name, shape in (("values", ["Q", "n"]), ("picked", ["Q", "T"]))
    )
    indices = gs.Variable("indices", np.dtype(np.int64), ["T"])
    node = gs.Node("Gather", "picked", {"axis": 1}, [values, indices], [picked])
    return gs.Graph([node], [values, indices], [picked], name="pick", opset=opset)
