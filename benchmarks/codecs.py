"""What each codec saves and costs, on the features of a run.

    python benchmarks/codecs.py [results/demo]

Writes and reads back the run's own train features, repeated to a shard of useful size, in every
combination of codec and dtype, several times in turn, and compares with no codec in float32. For lossy
ones it also scores the run's targets with the changed features and reports the largest change of a
score, relative to the largest score. Prints a table and writes benchmarks/results/codecs.json.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from trak_steps.data.prepared import PreparedRows
from trak_steps.kernel.gram import factor_kernel, solve_kernel, sum_kernel
from trak_steps.run.layout import Layout
from trak_steps.store.codecs import codec_arguments
from trak_steps.store.features import FeatureStore, TrainFeatures, new_features
from trak_steps.store.manifest import Manifest

ROWS, REPEATS = 20_000, 5
CASES = [
    ("none", "float32", 0),
    ("zstd", "float32", 0),
    ("blosc", "float32", 0),
    ("bitround", "float32", 12),
    ("bitround", "float32", 10),
    ("bitround", "float32", 7),
    ("none", "float16", 0),
    ("blosc", "float16", 0),
]


def main() -> None:
    """Measure every case and print the table."""
    layout = Layout(Path(sys.argv[1] if len(sys.argv) > 1 else "results/demo"))
    if not layout.train.exists():
        sys.exit(f"{layout.root}: is not a finished run; `make demo` makes one")
    n = len(PreparedRows.load(layout.train))
    shards = sorted(layout.train_features("0").glob("*.zarr"))
    features = TrainFeatures(shards, n).features(0, n).astype(np.float32)
    target_store = FeatureStore.open(next((layout.root / "features/0/targets").glob("*.zarr")))
    targets = target_store.features(target_store.start, target_store.stop).astype(np.float32)
    large = np.tile(features, (-(-ROWS // n), 1))[:ROWS]
    exact = scores(features, targets)
    measured: dict[tuple[str, str, int], list[dict[str, float]]] = {case: [] for case in CASES}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(REPEATS):
            for case in CASES:
                measured[case].append(once(Path(folder), large, *case))
        changes = {
            case: float(np.abs(scores(kept(Path(folder), features, *case), targets) - exact).max())
            / float(np.abs(exact).max())
            for case in CASES
        }
    base = measured[CASES[0]]
    rows = []
    for case in CASES:
        ratios = {
            key: statistics.median(m[key] / b[key] for m, b in zip(measured[case], base, strict=True))
            for key in ("bytes", "write", "read")
        }
        codec, dtype, bits = case
        rows.append(
            {
                "codec": codec + (f" {bits}" if bits else ""),
                "dtype": dtype,
                "size": ratios["bytes"],
                "write_time": ratios["write"],
                "read_time": ratios["read"],
                "score_change": changes[case],
            }
        )
    report(rows, base, large.shape)


def once(
    folder: Path, features: NDArray[np.float32], codec: str, dtype: str, bits: int
) -> dict[str, float]:
    """Bytes on disk, and seconds to write and to read, of one store."""
    path = folder / "store.zarr"
    start = time.perf_counter()
    write(path, features.astype(dtype), codec, bits)
    written = time.perf_counter()
    FeatureStore.open(path).features(0, len(features))
    read = time.perf_counter()
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return {"bytes": float(size), "write": written - start, "read": read - written}


def kept(
    folder: Path, features: NDArray[np.float32], codec: str, dtype: str, bits: int
) -> NDArray[np.float32]:
    """What comes back from a store."""
    write(folder / "kept.zarr", features.astype(dtype), codec, bits)
    found = FeatureStore.open(folder / "kept.zarr").features(0, len(features))
    return found.astype(np.float32)


def write(path: Path, features: NDArray[np.floating], codec: str, bits: int) -> None:
    """A feature store of these features."""
    n, dim = features.shape
    manifest = Manifest("features", settings={"dim": dim}, details={"start": 0, "stop": n})
    dtype = str(features.dtype)
    with new_features(path, (n, dim), dtype, manifest, codec_arguments(codec, bits, dtype)) as writer:
        writer.add(features, {})


def scores(features: NDArray[np.float32], targets: NDArray[np.float32]) -> NDArray[np.float64]:
    """Scores of one checkpoint with ridge 0.1, [n, t]."""
    device = torch.device("cpu")
    kernel, _, n = sum_kernel([torch.from_numpy(features)], features.shape[1], device)
    solved = solve_kernel(factor_kernel(kernel, n, 0.1), torch.from_numpy(targets))
    product: NDArray[np.float64] = (torch.from_numpy(features).double() @ solved.T).numpy()
    return product


def report(
    rows: list[dict[str, str | float]], base: list[dict[str, float]], shape: tuple[int, ...]
) -> None:
    """Print the table and write it as JSON."""
    mb = shape[0] * shape[1] * 4 / 1e6
    speed = {key: mb / statistics.median(b[key] for b in base) for key in ("write", "read")}
    head = f"{shape[0]} × {shape[1]} features; no codec writes {speed['write']:.0f} MB/s"
    print(f"{head} and reads {speed['read']:.0f} MB/s. Ratios to that, median of {REPEATS}:\n")
    print("| codec | dtype | size | time to write | time to read | largest change of a score |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            f"| {row['codec']} | {row['dtype']} | {row['size']:.2f} | {row['write_time']:.2f} "
            f"| {row['read_time']:.2f} | {row['score_change']:.1e} |"
        )
    file = Path(__file__).parent / "results" / "codecs.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"shape": list(shape), "mb_per_s": speed, "rows": rows}, indent=2) + "\n")
    print(f"\nwrote {file}")


if __name__ == "__main__":
    main()
