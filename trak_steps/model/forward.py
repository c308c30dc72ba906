"""What a classifier says of rows: logits and, if wanted, what it makes of them before it answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from trak_steps.gradients.rows import Row, batch_end, collate

# Beyond this many tokens together a CPU gains nothing, and little memory is needed.
TOKENS = 4096
# Where models of one stack, and of an encoder and a decoder, tell their hidden states.
HIDDEN = ("hidden_states", "decoder_hidden_states", "encoder_hidden_states")


@dataclass(frozen=True)
class Forward:
    """Of n rows, in their order.

    Attributes:
        logits: [n, c].
        hidden: the last hidden state, averaged over the row's tokens, [n, d], or the logits of a model
            that does not tell it; none unless asked for.
    """

    logits: Tensor
    hidden: Tensor | None


@torch.no_grad()
def forward(model: PreTrainedModel, rows: Sequence[Row], *, hidden: bool = False) -> Forward:
    """Run rows through a classifier in evaluation mode, rows of like length together.

    Args:
        model: on any device; results are on the CPU.
        rows: n tokenised rows.
        hidden: give the last hidden state too.
    """
    pad = getattr(model.config, "pad_token_id", None) or 0
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    ordered = [rows[place] for place in order]
    logits: list[Tensor] = []
    states: list[Tensor] = []
    start = 0
    while start < len(ordered):
        stop = batch_end(ordered, start, TOKENS)
        batch = collate(ordered[start:stop], model.device, pad)
        del batch["label"]
        given = model(**batch, output_hidden_states=hidden)
        # Left where they are: a device that is asked for each batch waits between them.
        logits.append(given.logits.float())
        if hidden:
            states.append(_mean_state(given, batch).float())
        start = stop
    back = torch.tensor(order).argsort()
    return Forward(torch.cat(logits).cpu()[back], torch.cat(states).cpu()[back] if hidden else None)


def _mean_state(given: ModelOutput, batch: dict[str, Tensor]) -> Tensor:
    """The mean of the last hidden state over a row's own tokens, [b, d]."""
    told = (getattr(given, name, None) for name in HIDDEN)
    states: Tensor | None = next((of_layers[-1] for of_layers in told if of_layers), None)
    if states is None or states.shape[:2] != batch["input_ids"].shape:
        logits: Tensor = given.logits
        return logits
    mask = batch.get("attention_mask")
    if mask is None:
        return states.mean(1)
    weights = mask[:, :, None].to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)
