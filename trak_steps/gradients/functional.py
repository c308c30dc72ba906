"""Per-sample gradients by ``torch.func``: general, exact, and the oracle for faster ways.

Rows of one length are run together, without padding and so without an attention mask. What a row
gets does not depend on its neighbours, and the models' code meets no data-dependent branch on the
mask, which ``vmap`` could not follow.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from trak_steps.gradients.model_output import ModelOutput, predict
from trak_steps.gradients.rows import Row, collate
from trak_steps.gradients.source import Outputs, concatenate
from trak_steps.projection.base import Parameter, Sketch, total_size

# Gradients formed at once on a CPU: more fall out of its cache and cost time.
CPU_BYTES = 32 * 2**20


class FunctionalGradients:
    """Forms the gradient of each row in full.

    Args:
        model: a classifier in evaluation mode.
        output: the function of the logits to differentiate.
        parameters: what to differentiate it by.
        memory: bytes that the gradients formed at once may take.

    Attributes:
        vectorised: whether rows are run together; no more once the model was seen not to bear it.
    """

    def __init__(
        self,
        model: nn.Module,
        output: ModelOutput,
        parameters: Sequence[Parameter],
        memory: int,
    ) -> None:
        self.parameters = parameters
        self._model = model
        self._output = output
        tensors = {name: tensor.detach() for name, tensor in model.named_parameters()}
        chosen = {parameter.name for parameter in parameters}
        self._chosen = {name: tensor for name, tensor in tensors.items() if name in chosen}
        self._fixed = {name: tensor for name, tensor in tensors.items() if name not in chosen}
        self._fixed.update(model.named_buffers())
        on_gpu = next(model.parameters()).is_cuda
        together = (memory if on_gpu else min(memory, CPU_BYTES)) // (4 * total_size(parameters))
        self._together = max(1, together)
        # Batches only have to be large enough to hold rows of one length.
        self.tokens = 2**14
        self.vectorised = True

    def run(self, rows: Sequence[Row], sketch: Sketch) -> Outputs:
        """See :class:`~trak_steps.gradients.source.GradientSource`."""
        device = next(iter(self._chosen.values())).device
        outputs: list[Outputs] = []
        for part in self._groups(rows):
            gradients, output = self._gradients(collate(rows[part], device))
            outputs.append(output)
            for parameter in self.parameters:
                sketch.part(part).add(parameter, gradients.pop(parameter.name))
        return concatenate(outputs)

    def _groups(self, rows: Sequence[Row]) -> Iterator[slice]:
        """Rows of one length that follow each other, as many as may be run together."""
        start = 0
        for stop in range(1, len(rows) + 1):
            full = stop - start == min(self._together, max(1, self.tokens // len(rows[start])))
            if stop == len(rows) or full or len(rows[stop]) != len(rows[start]):
                yield slice(start, stop)
                start = stop

    def _gradients(self, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Outputs]:
        """Gradients by parameter, [b, ...] each, and outputs of rows of one length."""
        if self.vectorised:
            try:
                gradients, outputs = vmap(self._one_row, in_dims=(None, 0))(self._chosen, batch)
                return gradients, Outputs(*outputs)
            except RuntimeError as error:
                if "vmap" not in str(error):
                    raise
                self.vectorised = False
        single = [
            self._one_row(self._chosen, {name: values[i] for name, values in batch.items()})
            for i in range(len(batch["label"]))
        ]
        gradients = {name: torch.stack([row[name] for row, _ in single]) for name in self._chosen}
        columns = zip(*(values for _, values in single), strict=True)
        return gradients, Outputs(*(torch.stack(column) for column in columns))

    def _one_row(
        self, chosen: dict[str, Tensor], row: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor, Tensor]]:
        """Gradients over the chosen parameters, and margin, loss weight and prediction, of one row."""
        gradients, (margin, others) = grad_and_value(self._margin, has_aux=True)(chosen, row)
        return gradients, (margin, *others)

    def _margin(
        self, chosen: dict[str, Tensor], row: dict[str, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        inputs = {name: value[None] for name, value in row.items() if name != "label"}
        logits = functional_call(self._model, (chosen, self._fixed), (), inputs).logits
        label = row["label"][None]
        margin = self._output.output(logits, label).squeeze(0)
        loss_weight = self._output.loss_weight(logits, label).squeeze(0)
        return margin, (loss_weight.detach(), predict(logits).squeeze(0).detach())
