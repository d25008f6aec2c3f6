"""A learner's functions as ONNX models: one that does all, or one for each half."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from metalearn_tut.deployment.onnx_model import model_bytes
from metalearn_tut.deployment.rules import NoRule
from metalearn_tut.deployment.task_functions import TaskFunctions, classify, tensors_of
from metalearn_tut.deployment.traced import depending, refusal, traced
from metalearn_tut.tasks.task import as_float


@dataclass(frozen=True)
class Form:
    """What to write, and how.

    Parameters
    ----------
    functions : TaskFunctions
    task : tuple of Tensor
        Support inputs, labels and queries to trace with.
    opset : int
    half : bool
        Whether numbers are kept as float16.
    """

    functions: TaskFunctions
    task: tuple[Tensor, Tensor, Tensor]
    opset: int
    half: bool

    @property
    def support(self) -> dict[str, Tensor]:
        """The example's support set, by the names of the model's inputs."""
        return {"support_x": self.task[0], "support_y": self.task[1]}

    @property
    def query(self) -> dict[str, Tensor]:
        """The example's queries, likewise."""
        return {"query_x": self.task[2]}

    def graph(self, function: Callable[..., Any], inputs: Mapping[str, Tensor]) -> fx.GraphModule:
        """The function traced, or an error that names what cannot be."""
        try:
            return traced(function, [*inputs.values()])
        except NoRule as error:
            raise self._refused(error) from error

    def model(
        self, graph: fx.GraphModule, inputs: Mapping[str, Tensor], outputs: Sequence[str]
    ) -> bytes:
        """The traced function as a model, or an error that names what cannot be."""
        free = {"support_x": "S", "support_y": "S", "query_x": "Q"}
        free = {name: size for name, size in free.items() if name in inputs}
        try:
            return model_bytes(graph, inputs, free, outputs, opset=self.opset, half=self.half)
        except ValueError as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> ValueError:
        learner, x = self.functions.learner, as_float(self.task[0])
        return refusal(type(learner).__name__, error, learner.model, x)


def whole(form: Form) -> bytes:
    """Support set and queries to logits."""
    inputs = form.support | form.query
    return form.model(form.graph(form.functions.logits, inputs), inputs, ["logits"])


def halves(form: Form) -> list[bytes]:
    """Support set to the weights that depend on it; these and queries to logits."""
    with torch.no_grad():
        network = form.functions.network(*form.support.values())
    tensors = tensors_of(network)
    graph = form.graph(_weights(form.functions), form.support)
    names = _keep_depending(graph, [*tensors])
    adapt = form.model(graph, form.support, names)

    def answer(*given: Tensor) -> Tensor:
        *weights, query_x = given
        return classify(network, dict(zip(names, weights, strict=True)), query_x)

    inputs = {name: tensors[name] for name in names} | form.query
    return [adapt, form.model(form.graph(answer, inputs), inputs, ["logits"])]


def _weights(functions: TaskFunctions) -> Callable[..., tuple[Tensor, ...]]:
    """The tensors of the network that has learned, each as it is and with the refusal added."""

    def weights(support_x: Tensor, support_y: Tensor) -> tuple[Tensor, ...]:
        tensors = tensors_of(functions.network(support_x, support_y)).values()
        refusal = functions.refusal(support_x, support_y)
        return *tensors, *(t + refusal for t in tensors)

    return weights


def _keep_depending(graph: fx.GraphModule, names: Sequence[str]) -> list[str]:
    """Leave of the outputs the second form of those that depend on the inputs."""
    chosen = depending(graph.graph)[: len(names)]
    output = graph.graph.output_node()
    refused = output.args[0][len(names) :]
    kept = tuple(node for node, wanted in zip(refused, chosen, strict=True) if wanted)
    output.args = (kept,)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return [name for name, wanted in zip(names, chosen, strict=True) if wanted]
