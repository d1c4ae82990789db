"""The compiler: ONNX model → base graph, incremental graph, plan. Imports no ONNX Runtime.

In the order in which a model passes through: `load`, `static_shapes`, `normalize`, `operators` (the table of window
rules), `regions`, `batch_axes`, `planner`, then the builders `build_base` and `build_incremental` (on `emit`,
`overlay` and `per_query`), and `write`. `pipeline` runs them; `network` is the form they work on.
"""

from onnx_graphsurgeon.logger import G_LOGGER

# It prints warnings to standard output, where a program may be reading JSON.
G_LOGGER.severity = G_LOGGER.ERROR
