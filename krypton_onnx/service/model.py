"""A compiled model, as KServe's SDK knows models."""

from collections.abc import Callable, Mapping
from threading import Event
from typing import Any, TypeVar

from krypton_onnx.service import v1, v2
from krypton_onnx.service.asked import Asked
from krypton_onnx.service.explainer import Answer, Explainer
from krypton_onnx.service.sdk import InferRequest, Model
from krypton_onnx.service.trace import current
from krypton_onnx.service.work import Workers

Response = TypeVar("Response")


class HeatmapModel(Model):  # type: ignore[misc]
    """One model of the service: `infer` in V2, `:explain` and `:predict` in V1.

    Args:
        explainer: that answers.
        workers: that it does so on.
    """

    def __init__(self, explainer: Explainer, workers: Workers) -> None:
        super().__init__(explainer.name)
        self._explainer, self._workers = explainer, workers
        self._plan = explainer.session.plan
        self.ready = True

    def get_input_types(self) -> list[dict[str, Any]]:
        """For the model's metadata."""
        return v2.inputs_of(self._plan)

    def get_output_types(self) -> list[dict[str, Any]]:
        """Likewise."""
        return v2.outputs_of(self._plan)

    async def explain(self, payload: Any, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """V1 `:explain`."""
        return await self._answered(
            lambda: v1.read(payload, self._plan, heatmap=True),
            lambda answers: v1.explained(answers, self._plan),
        )

    async def predict(self, payload: Any, headers: Mapping[str, str] | None = None) -> dict[str, Any] | v2.Response:
        """V2 `infer`, and V1 `:predict`."""
        if isinstance(payload, InferRequest):
            return await self._answered(
                lambda: v2.read(payload, self._plan),
                lambda answers: v2.answered(payload, answers, self.name),
            )
        return await self._answered(
            lambda: v1.read(payload, self._plan, heatmap=False),
            v1.predicted,
        )

    async def _answered(self, read: Callable[[], Asked], write: Callable[[list[Answer]], Response]) -> Response:
        """All of it on a worker's thread, so that the service goes on to hear others."""
        trace = current.get()

        def work(stop: Event) -> Response:
            trace.waited = trace.seconds
            return write(self._explainer.answer(read(), trace, stop))

        return await self._workers.run(work)
