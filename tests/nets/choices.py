"""Where the decisions about a random net come from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from hypothesis import strategies as st


class Choices(Protocol):
    """Where decisions come from."""

    def below(self, n: int) -> int:
        """An integer from 0 to n − 1."""
        ...


@dataclass
class Seeded:
    """Decisions of a seeded random generator."""

    rng: np.random.Generator

    def below(self, n: int) -> int:
        return int(self.rng.integers(n))


@dataclass
class Drawn:
    """Decisions that Hypothesis draws, and shrinks."""

    draw: Callable[[st.SearchStrategy[int]], int]

    def below(self, n: int) -> int:
        return self.draw(st.integers(0, n - 1))
