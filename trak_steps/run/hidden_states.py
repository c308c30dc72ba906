"""Last hidden states of prepared rows, for baselines that know no gradients."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

from trak_steps.config import Settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.model.device import pick_device
from trak_steps.model.forward import forward
from trak_steps.model.load import load_classifier
from trak_steps.run.layout import Layout
from trak_steps.run.model_inputs import read_rows
from trak_steps.store.folder import check_folder

AT_ONCE = 4096


class HiddenStates:
    """A checkpoint's view of rows: the last hidden state, averaged over tokens, of unit length."""

    def __init__(self, layout: Layout, settings: Settings, checkpoint: str, outputs: int) -> None:
        folder = layout.checkpoint(checkpoint)
        self.content = check_folder(folder, "checkpoint").content
        self._model = load_classifier(
            folder,
            outputs=outputs,
            device=pick_device(settings.execution.device),
            trust_remote_code=settings.model.trust_remote_code,
        )

    def blocks(self, rows: PreparedRows, count: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """The place of the first row, and hidden states [r, d], of block after block.

        Args:
            rows: n of them.
            count: how many of the first to run; all, unless given.
        """
        end = len(rows) if count is None else count
        for start in range(0, end, AT_ONCE):
            some = read_rows(rows, start, min(start + AT_ONCE, end))
            hidden = forward(self._model, some, hidden=True).hidden
            assert hidden is not None
            yield start, normalize(hidden.double())

    def of(self, rows: PreparedRows, count: int | None = None) -> Tensor:
        """Of all rows, or of the first ones, [n, d]."""
        return torch.cat([block for _, block in self.blocks(rows, count)])
