"""Tokenised rows, and how they are batched: in windows, by tokens, rows of like length together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Rows that are read, sorted by length and batched together. A constant: were it to depend on the memory,
# the machine or the number of rows, so would the batches, and the last digits of the features. Features
# of so many rows are held at once, 4 MB with k = 1024.
WINDOW = 1024


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

    There is an ``attention_mask`` only where something is padded: models take shorter ways without. A
    GPU gets them from pinned memory: so it is not waited for, and goes on with the batch before.
    """
    length = max(len(row) for row in rows)
    batch = {"input_ids": _padded([row.input_ids for row in rows], length, pad)}
    if rows[0].token_type_ids is not None:
        batch["token_type_ids"] = _padded([row.token_type_ids or () for row in rows], length, 0)
    if any(len(row) < length for row in rows):
        batch["attention_mask"] = _padded([[1] * len(row) for row in rows], length, 0)
    batch["label"] = torch.tensor([row.label for row in rows])
    if device.type == "cuda":
        return {
            name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in batch.items()
        }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def window_slices(start: int, stop: int) -> Iterator[slice]:
    """The windows that the places ``start`` to ``stop`` of a set lie in, cut off at both ends.

    Windows begin at multiples of :data:`WINDOW` in the set. So rows keep their neighbours however
    the set is cut into shards at such multiples; and their features to the last bit, where batches have
    the same budget of tokens.
    """
    while start < stop:
        end = min(start - start % WINDOW + WINDOW, stop)
        yield slice(start, end)
        start = end


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
