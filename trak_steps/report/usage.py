"""What a run took: time, memory and disk, by stage."""

import csv
from dataclasses import dataclass
from pathlib import Path

from trak_steps.api.run import Run
from trak_steps.run.jobs import jobs_of

# Files whose sizes are added up; of more, disk is not told.
MOST_OUTPUTS = 5000


@dataclass(frozen=True)
class Usage:
    """What the jobs of a stage took.

    Attributes:
        stage: of the pipeline.
        jobs: whose times are known.
        seconds: of all, added up.
        cpu: seconds.
        memory: bytes, of the largest.
        disk: bytes of what they left; None where it is too much to look at.
    """

    stage: str
    jobs: int
    seconds: float
    cpu: float
    memory: float
    disk: int | None


def usage_of(run: Run) -> list[Usage]:
    """What each stage took, as far as Snakemake recorded it."""
    stages: dict[str, list[tuple[str, tuple[Path, ...]]]] = {}
    for group in jobs_of(run.settings, run.layout):
        for job in group.jobs or ():
            stages.setdefault(group.stage, []).append((job.name, job.outputs))
    many = sum(len(jobs) for jobs in stages.values()) > MOST_OUTPUTS
    found = []
    for stage, jobs in stages.items():
        times = [_times(run.layout.times(name)) for name, _ in jobs]
        known = [of for of in times if of is not None]
        if not known:
            continue
        seconds, cpu, memory = (list(of) for of in zip(*known, strict=True))
        disk = None if many else sum(_size(path) for _, outputs in jobs for path in outputs)
        found.append(Usage(stage, len(known), sum(seconds), sum(cpu), max(memory), disk))
    return found


def _times(file: Path) -> tuple[float, float, float] | None:
    """Seconds, CPU's seconds and bytes of a job; None where they were not recorded."""
    try:
        with file.open(encoding="utf-8") as lines:
            row = next(csv.DictReader(lines, delimiter="\t"))
        return _number(row["s"]), _number(row["cpu_time"]), 2**20 * _number(row["max_rss"])
    except (OSError, StopIteration, KeyError):
        return None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # Snakemake did not look in time: `NA` or `-`
        return 0.0


def _size(output: Path) -> int:
    """Bytes of an output; of a folder, that its receipt stands for, all of it."""
    top = output.parent if output.name == "done" else output
    if top.is_file():
        return top.stat().st_size
    return sum(file.stat().st_size for file in top.rglob("*") if file.is_file())
