"""Features at the cost of a backward pass: how fast, how good, in how much memory.

    python benchmarks/features.py [--rows QNLI.parquet] [--model FOLDER]

Without options, rows and model come from the hub (GLUE's QNLI, MiniLM-L6); with them nothing is
fetched. Prints the table of the README and writes ``benchmarks/results/features.json``.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated

os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
import typer

from benchmarks.measure import memory, quality, speed
from benchmarks.measure.models import minilm, random_rows
from benchmarks.measure.qnli import Qnli, read_rows
from trak_steps.gradients.rows import WINDOW
from trak_steps.model.load import load_classifier

MODEL = "nreimers/MiniLM-L6-H384-uncased"
RESULT = Path(__file__).parent / "results" / "features.json"
DIM = 1024
SEEDS, DENSE_SEEDS = 10, 3
SCORED, TARGETS, RIDGE = 96, 32, 1.0
TIMED = 128
# A store's rows by default, over which the self-check's cost is spread.
SHARD = 2048
# The fewer fill a window: with a smaller one, what it has to grow to would be taken for growth.
MEMORY_ROWS = (WINDOW, 10 * WINDOW)
# One batch of the reference: its matrix is drawn anew for each, which takes minutes.
TRAKER_ROWS = 8

ROWS = [
    (
        "step_ratio_128",
        "time of an example of 128 tokens, over a training step's forward and backward pass",
        "≤ 1.0",
    ),
    (
        "step_ratio_qnli",
        "the same for QNLI's rows at their own lengths, over that step at 128 tokens",
        "≤ 0.5",
    ),
    ("metric_ratio", "time of features in the optimizer's metric, over plain gradients'", "≤ 1.05"),
    (
        "speedup_traker",
        "times faster than `traker`'s featurize, rows of 128 tokens in a batch of 8",
        "≥ 200",
    ),
    (
        "kernel_error_ratio",
        "error of the kernel of QNLI gradients, worst of 10 seeds, over that of dense random signs",
        "≤ 1.3",
    ),
    (
        "score_correlation",
        "correlation of scores with those of dense features, over that between two dense seeds",
        "≥ 1",
    ),
    ("memory_ratio_10x", "peak memory of one job, ten times as many rows in its shard", "≤ 1.05"),
    ("self_check_share", "the self-check's share of the time of a store of 2,048 QNLI rows", "≤ 0.02"),
]


def main(
    rows: Annotated[Path | None, typer.Option(help="a parquet file of QNLI rows")] = None,
    model: Annotated[str, typer.Option(help="a pretrained encoder, hub id or folder")] = MODEL,
    skip_traker: Annotated[bool, typer.Option(help="leave out the reference (minutes)")] = False,
) -> None:
    """Measure all of it."""
    start = time.perf_counter()
    qnli = Qnli(rows, model)
    trained = qnli.fine_tuned()
    real = read_rows(trained, SCORED + TARGETS)

    torch.set_num_threads(1)
    _say(start, "time of an example")
    figures: dict[str, object] = {**speed.step_ratios(real[:TIMED])}
    check = speed.self_check_seconds(minilm(), real[:TIMED], DIM)
    figures["self_check_share"] = check / (SHARD * figures["qnli_seconds"])
    by_k = {str(dim): figures.pop(f"step_ratio_k{dim}") for dim in speed.DIMS}
    figures["step_ratio_128"] = by_k[str(DIM)]
    figures["step_ratio_by_k"] = by_k
    figures["metric_ratio"] = speed.metric_ratio(DIM)
    _say(start, "the two ways to sketch a layer")
    figures["crossover"] = speed.crossover()
    if not skip_traker:
        from benchmarks.measure import traker

        _say(start, "the reference")
        seconds = traker.seconds_a_row(random_rows(TRAKER_ROWS, speed.LENGTH), DIM)
        ours = by_k[str(DIM)] * figures["plain_seconds_128"]
        figures["traker_seconds"] = seconds
        figures["speedup_traker"] = seconds / ours

    torch.set_num_threads(os.cpu_count() or 1)
    _say(start, "the kernel and the scores")
    classifier = load_classifier(
        trained.checkpoint("0"), outputs=2, device=torch.device("cpu"), trust_remote_code=False
    )
    projected = quality.project_all(classifier, real, DIM, SEEDS, DENSE_SEEDS)
    errors = quality.kernel_errors(projected)
    figures["kernel_errors"] = errors
    figures["kernel_error_ratio"] = max(errors["fold"]) / _mean_square(errors["dense"])
    figures["kernel_error_ratio_of_means"] = _mean_square(errors["fold"]) / _mean_square(errors["dense"])
    correlations = quality.score_correlations(projected, TARGETS, RIDGE)
    figures["score_correlations"] = correlations
    figures["score_correlation"] = float(
        np.mean(correlations["fold_dense"]) / np.mean(correlations["dense_dense"])
    )
    del projected, classifier
    _say(start, "layers that are hard for the fold")
    figures["hard_layers"] = {str(dim): quality.hard_layers(dim, SEEDS) for dim in (256, DIM)}

    _say(start, "memory")
    few, many = MEMORY_ROWS
    peaks = memory.peaks(qnli, MEMORY_ROWS)
    figures["memory_mb"] = {str(count): peak for count, peak in peaks.items()}
    figures["memory_ratio_10x"] = peaks[many] / peaks[few]

    figures["minutes"] = (time.perf_counter() - start) / 60
    RESULT.write_text(json.dumps(_rounded(figures), indent=2) + "\n")
    written = json.loads(RESULT.read_text())
    print(table(written), end="\n\n")
    print(crossover_table(written), hard_table(written), sep="\n\n")
    print(f"wrote {RESULT}")


def table(figures: dict[str, object]) -> str:
    """The README's table."""
    lines = ["| measure | wanted | measured |", "| --- | --- | --- |"]
    lines += [
        f"| {text} | {wanted} | {figures[key]:.3g} |" for key, text, wanted in ROWS if key in figures
    ]
    by_k = ", ".join(f"{value:.2f}" for value in figures["step_ratio_by_k"].values())
    dims = ", ".join(figures["step_ratio_by_k"])
    lines.append(f"| the first row's time with k = {dims} | | {by_k} |")
    return "\n".join(lines)


def crossover_table(figures: dict[str, object]) -> str:
    """Of the benchmarks' README: both ways to sketch a layer, and which the prices choose."""
    lines = ["| layer, out × in | k | product and fold | Fourier transforms | chosen |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for layer in figures["crossover"]:
        lines.append(
            f"| {layer['out']} × {layer['in']} | {layer['k']} | {layer['direct']:.0f} | "
            f"{layer['fourier']:.0f} | {layer['chosen']} |"
        )
    return "\n".join(lines)


def hard_table(figures: dict[str, object]) -> str:
    """Of the benchmarks' README: the fold on layers that are hard for it."""
    hard = figures["hard_layers"]
    lines = ["| gradients | " + " | ".join(f"k = {dim}" for dim in hard) + " |"]
    lines.append("| --- |" + " --- |" * len(hard))
    names = next(iter(hard.values()))
    lines += [
        f"| {name} | " + " | ".join(f"{hard[dim][name]:.2f}" for dim in hard) + " |" for name in names
    ]
    return "\n".join(lines)


def _mean_square(errors: list[float]) -> float:
    return float(np.sqrt(np.mean(np.square(errors))))


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return value


def _say(start: float, what: str) -> None:
    print(f"{time.perf_counter() - start:4.0f} s: {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    typer.run(main)
