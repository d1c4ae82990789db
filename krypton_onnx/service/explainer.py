"""What answers requests about one model."""

import math
import threading
from dataclasses import dataclass

import numpy as np

from krypton_onnx.heatmap import Heatmap
from krypton_onnx.modes import Mode
from krypton_onnx.random_inputs import random_images, random_input
from krypton_onnx.runtime.base import Base, Outputs
from krypton_onnx.runtime.base_cache import BaseCache
from krypton_onnx.runtime.explain import explain
from krypton_onnx.runtime.questions import Question, grid
from krypton_onnx.runtime.session import Session
from krypton_onnx.service.asked import Asked
from krypton_onnx.service.images import TooLargeError
from krypton_onnx.service.trace import Trace

_SCORE, _RECORD = 4, 4096
"""Bytes of a score, and of what else an image's answer takes."""


class StoppedError(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """About one image.

    Attributes:
        outputs: those of the model's that were asked for, for one image, by name.
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
        most_bytes: of an answer.
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
            TooLargeError: the answer would be larger than the service allows.
            KryptonError: what is asked does not fit the model.
        """
        question, mode = asked.options.question(self.session.plan), asked.options.mode()
        self._check_size(asked, question)
        answers = []
        for image in asked.images:
            if stop.is_set():
                raise StoppedError
            base, known = self.bases.materialize(self.session, image(), asked.inputs)
            trace.images, trace.known = trace.images + 1, trace.known + known
            outputs = {info.name: base.outputs[info.name] for info in asked.outputs}
            answers.append(Answer(outputs, self._heatmap(base, question, mode, trace, stop) if asked.heatmap else None))
        return answers

    def _heatmap(self, base: Base, question: Question, mode: Mode, trace: Trace, stop: threading.Event) -> Heatmap:
        before = trace.queries

        def note(answered: int, _: int | None) -> None:
            trace.queries = before + answered
            if stop.is_set():
                raise StoppedError

        return explain(self.session, base, question, mode, note)

    def _check_size(self, asked: Asked, question: Question) -> None:
        """Refuse what would fill the memory.

        Raises:
            TooLargeError: the answer takes more than `most_bytes`.
        """
        scores = 0
        if asked.heatmap:
            height, width = (extent or 0 for extent in self.session.plan.image.shape[1:])
            origins = grid((height, width), question.patch, question.stride, question.edge, question.region)
            scores = origins[..., 0].size * (len(question.target) if isinstance(question.target, list) else 1)
        own = sum(math.prod(n or 1 for n in info.shape) * np.dtype(info.dtype).itemsize for info in asked.outputs)
        size = len(asked.images) * (scores * _SCORE + own + _RECORD)
        if size > self.most_bytes:
            raise TooLargeError(
                f"The answer would take {size} bytes, {scores} scores and {own} bytes of outputs for each of "
                f"{len(asked.images)} images; the limit is {self.most_bytes}: ask for less, or a larger stride."
            )


def warm_up(session: Session) -> None:
    """Load all graphs, and run what a first request would otherwise find cold, with as many queries as fill a batch."""
    plan, rng = session.plan, np.random.default_rng(0)
    inputs = {info.name: random_input(rng, info) for info in plan.other_inputs}
    base = session.materialize(random_images(rng, plan, 1), inputs)
    for driver in (session.exact, session.capped, session.int8):
        if driver is not None:
            (height, width), places = driver.plan.patch, np.zeros((driver.plan.batch, 2), np.int64)
            content = base.image[None, :, :height, :width]
            driver.outputs(base.variant(driver), places, content, driver.plan.tau)
