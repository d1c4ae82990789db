"""What answers requests about one model."""

import threading
from dataclasses import dataclass

from krypton_onnx.heatmap import Heatmap
from krypton_onnx.modes import Mode
from krypton_onnx.runtime.base import Base, Outputs
from krypton_onnx.runtime.base_cache import BaseCache
from krypton_onnx.runtime.explain import explain
from krypton_onnx.runtime.questions import Question, grid
from krypton_onnx.runtime.session import Session
from krypton_onnx.service.asked import Asked
from krypton_onnx.service.images import TooLargeError
from krypton_onnx.service.trace import Trace

_NUMBER = 4
"""Bytes of a score."""


class StoppedError(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """About one image.

    Attributes:
        outputs: the model's, for one image, by name.
        heatmap: if it was asked for.
    """

    outputs: Outputs
    heatmap: Heatmap | None


@dataclass(frozen=True, slots=True)
class Explainer:
    """One model, as requests ask it; threads share it.

    Attributes:
        name: that requests call it by.
        session: of the model.
        bases: of the pictures that were asked about last.
        most_bytes: of an answer's heatmaps.
    """

    name: str
    session: Session
    bases: BaseCache
    most_bytes: int

    def answer(self, asked: Asked, trace: Trace, stop: threading.Event) -> list[Answer]:
        """Answer a request, image after image.

        Args:
            asked: the request.
            trace: where to note what is done.
            stop: set as soon as nobody waits for it; the computing ends with the batch that runs.

        Raises:
            StoppedError: that was so.
            TooLargeError: the heatmaps would be larger than the service allows.
            KryptonError: what is asked does not fit the model.
        """
        question, mode = asked.options.question(self.session.plan), asked.options.mode()
        if asked.heatmap:
            self._check_size(question, len(asked.images))
        answers = []
        for image in asked.images:
            if stop.is_set():
                raise StoppedError
            base, known = self.bases.materialize(self.session, image, asked.inputs)
            trace.images, trace.known = trace.images + 1, trace.known + known
            heatmap = self._heatmap(base, question, mode, trace, stop) if asked.heatmap else None
            answers.append(Answer(base.outputs, heatmap))
        return answers

    def _heatmap(self, base: Base, question: Question, mode: Mode, trace: Trace, stop: threading.Event) -> Heatmap:
        before = trace.queries

        def note(answered: int, _: int | None) -> None:
            trace.queries = before + answered
            if stop.is_set():
                raise StoppedError

        return explain(self.session, base, question, mode, note)

    def _check_size(self, question: Question, images: int) -> None:
        """Refuse what would fill the memory.

        Raises:
            TooLargeError: the heatmaps' scores alone take more than `most_bytes`.
        """
        height, width = (extent or 0 for extent in self.session.plan.image.shape[1:])
        origins = grid((height, width), question.patch, question.stride, question.edge, question.region)
        positions, targets = origins[..., 0].size, len(question.target) if isinstance(question.target, list) else 1
        size = images * targets * positions * _NUMBER
        if size > self.most_bytes:
            raise TooLargeError(
                f"Heatmaps of {images} images, {targets} targets and {positions} positions each take {size} bytes; the "
                f"limit is {self.most_bytes}: ask for fewer, or a larger stride."
            )
