"""Tokenised rows, and how they are batched: by tokens, with rows of like length together."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Row:
    """One tokenised row, without padding."""

    input_ids: Sequence[int]
    label: int | float
    token_type_ids: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.input_ids)


def collate(rows: Sequence[Row], device: torch.device, pad: int = 0) -> dict[str, Tensor]:
    """Rows as tensors [b, longest], padded at the end, and their labels [b].

    There is an ``attention_mask`` only where something is padded: models take shorter ways without.
    """
    length = max(len(row) for row in rows)
    batch = {"input_ids": _padded([row.input_ids for row in rows], length, pad)}
    if rows[0].token_type_ids is not None:
        batch["token_type_ids"] = _padded([row.token_type_ids or () for row in rows], length, 0)
    if any(len(row) < length for row in rows):
        batch["attention_mask"] = _padded([[1] * len(row) for row in rows], length, 0)
    batch["label"] = torch.tensor([row.label for row in rows])
    return {name: tensor.to(device) for name, tensor in batch.items()}


def batch_end(rows: Sequence[Row], start: int, tokens: int) -> int:
    """Where a batch that begins at ``start`` ends: within ``tokens`` with padding, or one row.

    Args:
        rows: shortest first.
        start: the batch's first row.
        tokens: its budget.
    """
    stop = start + 1
    while stop < len(rows) and (stop + 1 - start) * len(rows[stop]) <= tokens:
        stop += 1
    return stop


def _padded(values: Sequence[Sequence[int]], length: int, pad: int) -> Tensor:
    return torch.tensor([[*row, *[pad] * (length - len(row))] for row in values])
