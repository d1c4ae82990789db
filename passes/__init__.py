"""The compiler: ONNX model → base graph, incremental graph, plan. Imports no ONNX Runtime.

In the order in which a model passes through: `load` (with `checks` and `legacy`), `static_shapes` (with `folding`),
`normalize`, `rearrange` and `idioms`, `regions` (by the table of window rules: `operators`, `rules/`), `planner` (with
`cost`), `batch_axes` (by the table of batch rules: `batch_rules`, `batch_layout`) and `free_batch`, then the builders
`build_base` and `build_incremental` (on `emit`, `overlay`, `occluded_image` and `per_query`), and `write`. `pipeline`
runs them; `network` is the form they work on.
"""

from onnx_graphsurgeon.logger import G_LOGGER

# It prints warnings to standard output, where a program may be reading JSON.
G_LOGGER.severity = G_LOGGER.ERROR
