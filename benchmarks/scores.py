"""How fast are scores, and what do they hold? Against the plain product of the same matrices.

    python -m benchmarks.scores run
    python -m benchmarks.scores draw

Synthetic features on disk, as a run has them, go through what the step ``score`` does: they are read and
held to their digests, multiplied, averaged over trainings, listed, and counted for ranks. Beside it, in
the same process, the product alone: float32, in memory. Each measurement has a process of its own.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import numpy as np
import torch
import typer
from tqdm import tqdm

from trak_steps.config import Settings
from trak_steps.run.scoring import Scoring
from trak_steps.scoring.solve import Solved
from trak_steps.scoring.stream import Stream
from trak_steps.store.codecs import codec_arguments
from trak_steps.store.features import TrainFeatures, new_features
from trak_steps.store.manifest import Manifest

matplotlib.use("svg")
import matplotlib.pyplot as plt

RESULT = Path("benchmarks/results/scores.json")
FIGURE = Path("docs/figures/scores.svg")
SHARD, BLOCK, LISTED, ERRORS = 8192, 1024, 32, 4.0
# Rows, k, targets, trainings and their checkpoints of each comparison.
SPEED = [(40960, 1024, t, *of) for of in ((1, 1), (3, 3)) for t in (100, 1000)]
SPEED.append((16384, 4096, 1000, 3, 3))
THREADS = (1, 2)
# How much is held, and how long it takes, by rows.
ROWS = (10_000, 31_623, 100_000, 316_228, 1_000_000)
DIM, TARGETS = 256, 100
REPEATS = 3

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def run(scratch: Annotated[Path | None, typer.Option(help="folder with 5 GB to spare")] = None) -> None:
    """Measure, and write ``benchmarks/results/scores.json``."""
    speed = []
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        for case in tqdm(SPEED, desc="speed"):
            n, k, t, trainings, each = case
            folder = Path(name) / f"{n}-{k}"
            make(folder, n, k)
            of_threads = {
                str(threads): apart("speed", folder, n, t, trainings, each, threads=threads)
                for threads in THREADS
            }
            speed.append(
                {
                    "rows": n,
                    "k": k,
                    "targets": t,
                    "trainings": trainings,
                    "checkpoints": trainings * each,
                }
                | {"threads": of_threads}
            )
    by_rows = []
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        for n in tqdm(ROWS, desc="rows"):
            folder = Path(name) / str(n)
            make(folder, n, DIM)
            by_rows.append({"rows": n, **apart("rows", folder, n, TARGETS, 2, 1, threads=1)})
    seconds = np.array([of["seconds"] for of in by_rows])
    slope = float(np.polyfit(np.log(ROWS[1:]), np.log(seconds[1:]), 1)[0])
    found = {
        "speed": speed,
        "by_rows": {"k": DIM, "targets": TARGETS, "checkpoints": 2, "rows": by_rows, "power": slope},
        "memory_ratio": by_rows[-1]["megabytes"] / by_rows[0]["megabytes"],
    }
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {RESULT}")


@app.command()
def draw() -> None:
    """Draw time and memory by rows, from the committed figures."""
    found = json.loads(RESULT.read_text(encoding="utf-8"))["by_rows"]
    rows = [of["rows"] for of in found["rows"]]
    with plt.rc_context({"svg.hashsalt": "scores", "svg.fonttype": "none", "font.size": 9}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
        seconds = [of["seconds"] for of in found["rows"]]
        left.loglog(rows, seconds, marker="o", ms=3, label="measured")
        per_row = seconds[-1] / rows[-1]
        left.loglog(rows, [per_row * n for n in rows], ls="--", lw=1, label="in proportion to rows")
        left.set(xlabel="train rows", ylabel="seconds")
        left.legend(fontsize=7)
        right.semilogx(rows, [of["megabytes"] for of in found["rows"]], marker="o", ms=3)
        right.set(xlabel="train rows", ylabel="peak memory, MB", ylim=(0, None))
        for panel in (left, right):
            panel.grid(alpha=0.3)
        about = {"Date": None, "Creator": None, "Description": digest(RESULT)}
        figure.savefig(FIGURE, format="svg", metadata=about)
        plt.close(figure)
    print(f"wrote {FIGURE}")


def table(found: dict[str, Any]) -> str:
    """The speed of scores as Markdown: the share of the product's that they have."""
    head = "".join(
        f" {threads} thread{'s' * (threads > 1)}: product | scores | share |" for threads in THREADS
    )
    lines = [
        f"| k | targets | checkpoints |{head}",
        "| --- | --- | --- |" + " --- | --- | --- |" * len(THREADS),
    ]
    for of in found["speed"]:
        cells = "".join(
            f" {each['product']:.2f} | {each['seconds']:.2f} | {each['share']:.2f} |"
            for each in of["threads"].values()
        )
        lines.append(f"| {of['k']} | {of['targets']} | {of['checkpoints']} |{cells}")
    return "\n".join(lines)


def digest(figures: Path) -> str:
    """Of the figures that a drawing shows; the drawing carries it."""
    return hashlib.sha256(figures.read_bytes()).hexdigest()


def make(folder: Path, n: int, k: int) -> None:
    """Features of n rows, in shards, as the defaults store them."""
    dtype = Settings().features.dtype
    codec = codec_arguments(Settings().features.codec, 0, dtype)
    for start in range(0, n, SHARD):
        stop = min(start + SHARD, n)
        path = folder / f"{start // SHARD:05d}.zarr"
        if path.exists():
            continue
        details = {"start": start, "stop": stop}
        manifest = Manifest("features", settings={"dim": k}, version=1, details=details)
        draw = np.random.default_rng(start)
        with new_features(path, (stop - start, k), dtype, manifest, codec) as writer:
            for at in range(start, stop, BLOCK):
                count = min(BLOCK, stop - at)
                writer.add(draw.standard_normal((count, k), np.float32).astype(dtype), {})


def apart(what: str, folder: Path, *numbers: int, threads: int) -> dict[str, float]:
    """Measured in a process of its own, on as many cores as threads."""
    command = [sys.executable, "-m", "benchmarks.scores", "measure", what, str(folder)]
    cores = ",".join(map(str, range(threads)))
    done = subprocess.run(
        ["taskset", "-c", cores, *command, *map(str, numbers)],
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


@app.command(hidden=True)
def measure(what: str, folder: Path, n: int, t: int, trainings: int, each: int) -> None:
    """One measurement, as JSON."""
    paths = sorted(folder.glob("*.zarr"))
    names = [f"{i}-{j}" for i in range(trainings) for j in range(each)]
    features = [TrainFeatures(paths, n) for _ in names]
    scoring = Scoring(names, n, features, [], None, False, torch.device("cpu"))
    draw = torch.Generator().manual_seed(0)
    weights = [torch.randn(t, scoring.dim, generator=draw) for _ in names]
    solved = Solved(weights, torch.full((t,), float(scoring.dim) ** 0.5, dtype=torch.float64))
    found: dict[str, float] = {}
    if what == "speed":
        ours, plain = [], []
        for _ in range(REPEATS):
            plain.append(product(features[0], weights))
            ours.append(seconds(scored(scoring, solved)))
        found = {"product": min(plain), "seconds": min(ours), "share": min(plain) / min(ours)}
    else:
        found = {"seconds": seconds(scored(scoring, solved))}
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert peak
        found["megabytes"] = int(peak[1]) / 1024
    print(json.dumps(found))


def scored(scoring: Scoring, solved: Solved) -> Iterator[None]:
    """What the step does while scores stream by."""
    stream = Stream(
        solved, scoring.trainings, LISTED, ERRORS if len(set(scoring.trainings)) > 1 else np.inf
    )
    for block in scoring.blocks(BLOCK):
        for _ in stream.add(block.features, block.weights, block.start):
            yield
    for side in ("proponent", "opponent"):
        stream.top(side)
    stream.counts()


def product(features: TrainFeatures, weights: list[torch.Tensor]) -> float:
    """Seconds of the products alone, of rows that are in memory."""
    rows = torch.from_numpy(features.features(0, features.n)).float()
    out = torch.empty(4 * BLOCK, len(weights[0]))

    def multiplied() -> Iterator[None]:
        for start in range(0, len(rows), 4 * BLOCK):
            some = rows[start : start + 4 * BLOCK]
            for of in weights:
                torch.mm(some, of.T, out=out[: len(some)])
                yield

    return seconds(multiplied())


def seconds(steps: Iterator[None]) -> float:
    """Of going through all steps."""
    start = time.perf_counter()
    for _ in steps:
        pass
    return time.perf_counter() - start


if __name__ == "__main__":
    app()
