"""Random small CNNs as ONNX models: what the exactness tests and the fuzzer are run on.

Every decision is asked of a `Choices`, so that one generator serves Hypothesis (which shrinks the decisions) and
seeded loops. Decision 0 is always the plainest one. Weights come from a seeded generator and are scaled so that
activations stay of order one. A layer that does not fit where it was drawn is left out.
"""

from nets.choices import Choices, Drawn, Seeded
from nets.draw import THEMES, Themes, focused, nets, random_net
from nets.sketch import Array, Map, Net, Sketch

__all__ = [
    "THEMES",
    "Array",
    "Choices",
    "Drawn",
    "Map",
    "Net",
    "Seeded",
    "Sketch",
    "Themes",
    "focused",
    "nets",
    "random_net",
]
