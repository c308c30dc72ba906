"""The model shape that is timed, with random weights, and rows of one length for it."""

from collections.abc import Iterator, Sequence

import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from trak_steps.gradients.rows import Row, batch_end

VOCABULARY = 30522


def minilm(attention: str | None = None) -> PreTrainedModel:
    """MiniLM-L6's shape, 22.7 million parameters, in evaluation mode."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        num_labels=2,
    )
    return BertForSequenceClassification._from_config(config, attn_implementation=attention).eval()


def batches(rows: Sequence[Row], tokens: int) -> Iterator[slice]:
    """Batches of rows, shortest first, as the featurize step makes them."""
    start = 0
    while start < len(rows):
        stop = batch_end(rows, start, tokens)
        yield slice(start, stop)
        start = stop


def random_rows(count: int, length: int) -> list[Row]:
    """Rows of random tokens, in two parts as a pair of texts is."""
    ids = torch.randint(5, VOCABULARY, (count, length), generator=torch.Generator().manual_seed(1))
    types = [0] * (length // 2) + [1] * (length - length // 2)
    return [Row(tokens, i % 2, types) for i, tokens in enumerate(ids.tolist())]
