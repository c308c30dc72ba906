"""What asks no model that was trained: the train rows whose texts are nearest to a target's."""

from collections.abc import Iterator

import bm25s
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel

from trak_steps.data.prepared import PreparedRows
from trak_steps.run.layout import Layout

Array = NDArray[np.float64]


def nearest(layout: Layout, train: PreparedRows, targets: PreparedRows) -> Iterator[tuple[str, Array]]:
    """Names and similarities [n, t] of train rows and targets."""
    yield "BM25", _bm25(_texts(train), _texts(targets))
    if not any(layout.model.glob("*.safetensors")):
        return  # to be trained from scratch
    model = AutoModel.from_pretrained(layout.model).eval()
    train_states, target_states = (_states(model, rows) for rows in (train, targets))
    yield "pretrained embeddings", train_states @ target_states.T


def _bm25(train: list[str], targets: list[str]) -> Array:
    """BM25 of each train row for each target's words (Robertson & Zaragoza 2009), k₁ 1.5, b 0.75."""
    index = bm25s.BM25()
    index.index(bm25s.tokenize(train, show_progress=False), show_progress=False)
    words = bm25s.tokenize(targets, return_ids=False, show_progress=False)
    return np.stack([index.get_scores(of) for of in words], 1).astype(np.float64)


def _texts(rows: PreparedRows) -> list[str]:
    columns = [rows.column(name) for name in rows.text_columns]
    return [" ".join(map(str, texts)) for texts in zip(*columns, strict=True)]


@torch.no_grad()
def _states(model: torch.nn.Module, rows: PreparedRows) -> Array:
    """The mean of the last hidden states before any fine-tuning, of unit length, [r, d]."""
    found = []
    for tokens in rows.tokens(0, len(rows)):
        inputs = {name: torch.tensor([values]) for name, values in tokens.items()}
        found.append(model(**inputs).last_hidden_state[0].mean(0))
    states: Array = torch.nn.functional.normalize(torch.stack(found).double()).numpy()
    return states
