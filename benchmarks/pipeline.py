"""What the pipeline costs beside its numbers: the demo from nothing, and the plan of a large run.

    python benchmarks/pipeline.py

Seconds are of a machine with nothing else at work; CPU seconds are those of Snakemake and of all jobs.
"""

import csv
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "pipeline.json"
CHECKPOINTS, ROWS, SHARD = 100, 200_000, 8192  # a shard of BERT-base on QNLI
LARGE: dict[str, Any] = {
    "run": "large",
    "dataset": {
        "path": "csv",
        "data_files": {"train": "rows.csv", "validation": "rows.csv"},
        "text": ["text"],
        "train_size": ROWS,
    },
    "targets": {"validation": {"size": 100}},
    "model": {"name_or_path": "bert-base-cased"},
    "checkpoints": {"count": CHECKPOINTS, "keep": [1.0]},
    "features": {"shard_size": SHARD},
}


def main() -> None:
    """Measure both and write them down."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("workflow", "config", "trak_steps"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / part, folder / part, ignore=ignored)
        (folder / "rows.csv").write_text("text,label\n")
        (folder / "large.yaml").write_text(yaml.safe_dump(LARGE))
        planned = _snakemake(folder, "--dry-run", "--configfile", "large.yaml")
        ran = _snakemake(folder, "all", "--cores", "2")
        times = [_times(file) for file in (folder / "results" / "demo").rglob("benchmarks/**/*.tsv")]
        figures = {
            "dry_run": {
                "checkpoints": CHECKPOINTS,
                "rows": ROWS,
                "jobs": _jobs(planned["output"]),
                "cpu_seconds": planned["cpu"],
            },
            "demo": {
                "jobs": _jobs(ran["output"]),
                "seconds": ran["wall"],
                "cpu_seconds": ran["cpu"],
                "cpu_seconds_of_jobs": round(sum(times), 1),
            },
        }
    RESULT.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


def _snakemake(folder: Path, *arguments: str) -> dict[str, Any]:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stdout)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    wall = time.monotonic() - start
    return {"output": done.stdout, "wall": round(wall, 1), "cpu": round(cpu, 1)}


def _jobs(output: str) -> int:
    """The last number of jobs that Snakemake told of: checkpoints of the workflow add some."""
    told = re.findall(r"^total +(\d+)$|of (\d+) steps \(100%\) done", output, re.MULTILINE)
    return int("".join(told[-1]))


def _times(file: Path) -> float:
    with file.open() as lines:
        return float(next(csv.DictReader(lines, delimiter="\t"))["cpu_time"])


if __name__ == "__main__":
    main()
