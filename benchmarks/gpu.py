"""Features on a GPU: time of an example over the frozen forward and backward pass, by k and precision.

    python benchmarks/gpu.py [--device cuda] [--hidden 768] [--layers 12]

BERT-base's shape by default, with random weights: 128 tokens, and QNLI's lengths (drawn from a normal
distribution with the task's mean and deviation, 50 ± 18, since only the lengths count). Prints rows a
second, the minutes that 50,000 rows would take, and the share of the device's matrix throughput.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import typer
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from benchmarks.measure.models import batches
from trak_steps.gradients.budget import tokens_at_once
from trak_steps.gradients.frozen import differentiating
from trak_steps.gradients.hooks import HookedGradients
from trak_steps.gradients.model_output import TextClassification
from trak_steps.gradients.rows import Row, collate
from trak_steps.gradients.source import select_parameters
from trak_steps.projection import FoldProjection

VOCABULARY = 28996
DIMS = (1024, 4096)
REPEATS = 3

Action = Callable[[], object]


def main(
    device: Annotated[str, typer.Option(help="where to run")] = "cuda",
    hidden: Annotated[int, typer.Option(help="the model's width")] = 768,
    layers: Annotated[int, typer.Option(help="its layers")] = 12,
    rows: Annotated[int, typer.Option(help="rows timed")] = 8192,
    precision: Annotated[str, typer.Option(help="float32, bfloat16 or float16")] = "bfloat16",
) -> None:
    """Print a table."""
    place, dtype = torch.device(device), getattr(torch, precision)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 64),
        intermediate_size=4 * hidden,
    )
    model = BertForSequenceClassification(config).to(place).eval()
    peak = _matrix_flops(place, dtype)
    print(f"{torch.cuda.get_device_name(place) if place.type == 'cuda' else device}, {precision}")
    print(f"matrix products alone: {peak / 1e12:.3g} TFLOP/s\n")
    print("| tokens | k | over the frozen pass | rows a second | minutes for 50,000 | of the peak |")
    print("| --- | --- | --- | --- | --- | --- |")
    generator = torch.Generator().manual_seed(0)
    real = (50 + 18 * torch.randn(rows, generator=generator)).clamp(14, 128).int().tolist()
    for name, lengths in (("128", [128] * rows), ("QNLI", sorted(real))):
        given = [_row(length, generator) for length in lengths]
        frozen = _best(_frozen(model, given, dtype), place)
        for dim in DIMS:
            ours = _best(_featurize(model, given, dtype, dim), place)
            flops = 4 * sum(lengths) * _linear_weights(model)
            print(
                f"| {name} | {dim} | {ours / frozen:.2f} | {rows / ours:.0f} | "
                f"{50000 * ours / rows / 60:.2f} | {flops / ours / peak:.0%} |"
            )


def _featurize(model: PreTrainedModel, rows: list[Row], dtype: torch.dtype, dim: int) -> Action:
    parameters = select_parameters(model.requires_grad_(True), [".*"], [])
    tokens = _tokens(model, rows)
    source = HookedGradients(
        model, TextClassification(), parameters, tokens=tokens, example=rows[-1], precision=dtype
    )
    projection = FoldProjection(parameters, dim=dim, key=1, device=model.device)

    def all_rows() -> None:
        for batch in batches(rows, tokens):
            sketch = projection.sketch(batch.stop - batch.start)
            source.run(rows[batch], sketch)
            sketch.finish()

    return all_rows


def _frozen(model: PreTrainedModel, rows: list[Row], dtype: torch.dtype) -> Action:
    """The same rows forward and backward, without weight gradients, hooks or sketch."""
    tokens = _tokens(model, rows)

    def all_rows() -> None:
        handle = model.bert.embeddings.register_forward_hook(
            lambda _module, _given, out: out.requires_grad_(True)
        )
        for batch in batches(rows, tokens):
            given = collate(rows[batch], model.device)
            labels = given.pop("label")
            low = dtype != torch.float32
            with differentiating(model):
                with torch.autocast(model.device.type, dtype, enabled=low):
                    logits = model(**given).logits
                TextClassification().output(logits.float(), labels).sum().backward()
        handle.remove()

    return all_rows


def _tokens(model: PreTrainedModel, rows: list[Row]) -> int:
    on_gpu = model.device.type == "cuda"
    memory = int(0.8 * torch.cuda.mem_get_info(model.device)[0]) if on_gpu else 2**30
    return tokens_at_once(model, rows[-1], memory)


def _best(action: Action, place: torch.device) -> float:
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        action()
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        found.append(time.perf_counter() - start)
    return min(found)


def _matrix_flops(place: torch.device, dtype: torch.dtype) -> float:
    size = 8192 if place.type == "cuda" else 1024
    a = torch.randn(size, size, device=place, dtype=dtype)
    return 2 * size**3 / _best(lambda: a @ a, place)


def _linear_weights(model: PreTrainedModel) -> int:
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    return sum(module.weight.numel() for module in linear)


def _row(length: int, generator: torch.Generator) -> Row:
    ids = torch.randint(5, VOCABULARY, (length,), generator=generator).tolist()
    return Row(ids, 0, [0] * length)


if __name__ == "__main__":
    typer.run(main)
