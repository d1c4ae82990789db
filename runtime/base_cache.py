"""Bases of the pictures that were asked about last, so that a second question about one costs only its queries."""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future
from threading import Lock

from numpy.typing import ArrayLike

from krypton_onnx.runtime.arguments import image_tensor, other_inputs
from krypton_onnx.runtime.base import Base
from krypton_onnx.runtime.engine import Array
from krypton_onnx.runtime.session import Session

_Key = tuple[Session, str]


class BaseCache:
    """Bases by what their pictures hold, of any number of sessions. Threads may share it.

    A picture that several threads ask about at once runs once. Room is made by letting go what was not asked for
    longest; who still uses that keeps it alive.

    Args:
        limit: bytes that the kept bases may take, on the host and on devices together.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bases: OrderedDict[_Key, Future[Base]] = OrderedDict()
        self._lock = Lock()

    @property
    def nbytes(self) -> int:
        """Bytes that the kept bases take."""
        with self._lock:
            return sum(_size(kept) for kept in self._bases.values())

    def materialize(
        self, session: Session, image: ArrayLike, inputs: Mapping[str, ArrayLike] | None = None
    ) -> tuple[Base, bool]:
        """The base of an image: the one that is kept, or a new one.

        Args:
            session: that is asked.
            image, inputs: see `Session.materialize`.

        Returns:
            The base, and whether it was there already, or on its way.

        Raises:
            KryptonError: see `Session.materialize`.
        """
        tensor = image_tensor(image, session.plan)
        others = other_inputs(inputs or {}, session.plan.other_inputs)
        key = session, _digest({**others, "": tensor})
        with self._lock:
            known = key in self._bases
            base = self._bases.setdefault(key, Future())
            self._bases.move_to_end(key)
        if not known:
            try:
                base.set_result(session.exact.materialize(tensor, others))
            except BaseException as error:
                with self._lock:
                    del self._bases[key]
                base.set_exception(error)
                raise
        self._make_room()
        return base.result(), known

    def _make_room(self) -> None:
        """Let go what was not asked for longest, until the rest is within the limit."""
        with self._lock:
            sizes = {key: _size(kept) for key, kept in self._bases.items()}
            total = sum(sizes.values())
            for key, size in sizes.items():
                if total <= self._limit:
                    break
                if self._bases[key].done():
                    del self._bases[key]
                    total -= size


def _size(kept: "Future[Base]") -> int:
    """Bytes of a base; 0 while it is on its way."""
    return kept.result().nbytes if kept.done() else 0


def _digest(arrays: Mapping[str, Array]) -> str:
    """What arrays of known names, types and shapes hold."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()
