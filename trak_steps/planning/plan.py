"""The plan of a run: by stage, what its jobs cost, and how long they take one after the other."""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from trak_steps.config.reading import read_file
from trak_steps.console.table import size
from trak_steps.errors import TrakError
from trak_steps.planning.costs import Cost, Costs
from trak_steps.planning.facts import Facts
from trak_steps.planning.machine import Machine
from trak_steps.run.jobs import ALL, STAGES, asked_rules, jobs_of, rules_before, step_of
from trak_steps.run.layout import Layout
from trak_steps.workflow.memory import SUBMITTED
from trak_steps.workflow.registry import STEPS

# Seconds that a job costs beside its own: of a Snakemake on the same machine, and through a cluster.
HERE, ELSEWHERE = 0.1, 8.0
# Until Snakemake itself begins its first job.
BEGINS = 4.0
# Jobs that a dry run lists in a second, about.
LISTED = 1500.0
MANY = 20_000


@dataclass(frozen=True)
class Places:
    """Where jobs run, and how many at once.

    Attributes:
        executor: none for this machine.
        cores: of this machine, or of all jobs at once.
        jobs: at once; none where cores alone limit them.
        gpus: at once; on a cluster as many as jobs.
    """

    executor: str | None
    cores: int
    jobs: int | None
    gpus: int

    @property
    def elsewhere(self) -> bool:
        """Whether other machines run the jobs."""
        return self.executor is not None


def places_of(profile: Path | None, cores: int) -> Places:
    """What a profile says of it.

    Args:
        profile: a folder with ``profile.yaml`` or ``config.yaml``; none for this machine.
        cores: of this machine.

    Raises:
        TrakError: if there is no such profile, or it cannot be read.
    """
    if profile is None:
        return Places(None, cores, None, 1)
    files = [profile / name for name in ("profile.yaml", "config.yaml")]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise TrakError(f"{profile}: is no profile, it has no profile.yaml")
    values = read_file(file)
    executor = values.get("executor")
    executor = None if executor == "local" else executor
    at_once = _number(values.get("jobs"))
    gpus = _number(_resources(values.get("resources")).get("gpu")) or 1
    cores = _number(values.get("cores")) or cores
    return Places(executor, cores, at_once, gpus if executor is None else (at_once or gpus))


def _number(value: object) -> int | None:
    """A number above zero; none for anything else, such as ``all``, which Snakemake makes sense of."""
    text = str(value)
    return int(text) if text.isdecimal() and int(text) > 0 else None


def _resources(given: object) -> dict[str, object]:
    """Resources by name, in each of the ways that a profile may write them."""
    if isinstance(given, Mapping):
        return {str(name): value for name, value in given.items()}
    words = given if isinstance(given, list) else str(given or "").split()
    pairs = (str(word).partition("=") for word in words)
    return {name: value for name, _, value in pairs}


@dataclass
class StagePlan:
    """A stage: the costs of its jobs.

    Attributes:
        name: of the stage.
        by_job: the cost of each job, by its name.
    """

    name: str
    by_job: dict[str, Cost] = field(default_factory=dict)

    @property
    def costs(self) -> list[Cost]:
        """Of each job."""
        return list(self.by_job.values())

    def sum(self, name: str) -> float:
        """Of a number of all jobs."""
        return float(sum(getattr(cost, name) for cost in self.costs))

    @property
    def gpu_seconds(self) -> float:
        """Of GPUs."""
        return sum(cost.seconds for cost in self.costs if cost.gpu)

    @property
    def memory(self) -> int:
        """MB of its largest job."""
        return max((cost.memory for cost in self.costs), default=0)

    @property
    def longest(self) -> float:
        """Seconds of its longest job."""
        return max((cost.seconds for cost in self.costs), default=0.0)


@dataclass(frozen=True)
class Plan:
    """What a run costs.

    Attributes:
        facts: of the run.
        stages: those that were asked for.
        path: the rules of the longest way from the first job to the last, with the seconds of each.
        warnings: what will go wrong, or slowly.
        places: where jobs run.
        seconds: about how long all takes there.
    """

    facts: Facts
    stages: list[StagePlan]
    path: list[tuple[str, float]]
    warnings: list[str]
    places: Places
    seconds: float

    @property
    def whole(self) -> StagePlan:
        """All stages together."""
        return StagePlan("all", {name: of for stage in self.stages for name, of in stage.by_job.items()})


def make_plan(facts: Facts, machine: Machine, places: Places, *, evaluation: bool, gpu: bool) -> Plan:
    """Reckon up a run.

    Args:
        facts: of the run.
        machine: that its jobs run on.
        places: where, and how many at once.
        evaluation: whether it is asked for, too.
        gpu: whether jobs that can use one have a GPU.
    """
    overhead, around = (ELSEWHERE, SUBMITTED) if places.elsewhere else (HERE, 0)
    costs = Costs(facts, machine, gpu=gpu, overhead=overhead, around=around)
    wanted = asked_rules([ALL, "evaluation"] if evaluation else [ALL])
    stages = {name: StagePlan(name) for name in STAGES}
    of_rules: dict[str, list[Cost]] = {}
    for group in jobs_of(facts.settings, Layout(Path("results") / facts.settings.run)):
        if group.rule in wanted:
            step = step_of(group.rule)
            gpus = STEPS[step].gpu
            found = {job.name: costs.of(job, step, uses_gpu=gpus) for job in group.jobs or ()}
            of_rules[group.rule] = list(found.values())
            stages[group.stage].by_job |= found
    path = _longest_way(of_rules)
    asked = [stage for stage in stages.values() if stage.costs]
    jobs = [cost for stage in asked for cost in stage.costs]
    seconds = BEGINS + max(sum(seconds for _, seconds in path), _by_numbers(jobs, places))
    warnings = _warnings(jobs, places, facts)
    return Plan(facts, asked, path, warnings, places, seconds)


def _longest_way(of_rules: Mapping[str, Iterable[Cost]]) -> list[tuple[str, float]]:
    """The rules that follow each other in the longest time, however many jobs run at once."""
    ways: dict[str, tuple[float, list[tuple[str, float]]]] = {}
    for rule, costs in of_rules.items():  # in the order of the pipeline
        own = max((cost.seconds for cost in costs), default=0.0)
        before = [ways[name] for name in rules_before(rule) if name in ways]
        spent, way = max(before, key=lambda one: one[0], default=(0.0, []))
        ways[rule] = spent + own, [*way, (rule, own)]
    return max(ways.values(), key=lambda one: one[0], default=(0.0, []))[1]


def _by_numbers(jobs: list[Cost], places: Places) -> float:
    """Seconds, if as many run at once as cores, jobs and GPUs allow, all the time."""
    limits = [sum(cost.seconds for cost in jobs if cost.gpu) / max(1, places.gpus)]
    if places.elsewhere:
        limits.append(sum(cost.seconds for cost in jobs) / (places.jobs or 100))
    else:
        limits.append(
            sum(cost.seconds * min(cost.threads, places.cores) for cost in jobs) / places.cores
        )
    return max(limits)


def _warnings(jobs: list[Cost], places: Places, facts: Facts) -> list[str]:
    found = []
    if len(jobs) > MANY:
        found.append(
            f"{len(jobs):,} jobs take Snakemake {len(jobs) / LISTED / 60:.0f} min to list before the "
            f"first begins; features.shard_size above {facts.settings.features.shard_size:,} makes fewer"
        )
    if not places.elsewhere:
        found += _too_large(jobs)
    hours = max((cost.seconds for cost in jobs), default=0.0) / 3600
    if hours > 24 and places.elsewhere:
        found.append(f"the longest job takes {hours:.0f} hours; set its rule's runtime in the profile")
    return found


def _too_large(jobs: list[Cost]) -> list[str]:
    """What this machine does not have."""
    found = []
    wanted, free = sum(cost.disk for cost in jobs), shutil.disk_usage(".").free
    if wanted > free:
        found.append(f"the run leaves {size(wanted)}, and {size(free)} are free on this disk")
    most, there = max((cost.memory for cost in jobs), default=0), psutil.virtual_memory().total
    if most * 1e6 > there:
        found.append(f"a job asks for {size(most * 1e6)} of memory, and this machine has {size(there)}")
    return found


def plan_values(plan: Plan) -> dict[str, Any]:
    """The plan as JSON values: seconds, MB, bytes."""
    return {
        "run": plan.facts.settings.run,
        "stages": [_values(stage) for stage in plan.stages],
        "all": _values(plan.whole),
        "seconds": plan.seconds,
        "critical_path": [{"rule": rule, "seconds": seconds} for rule, seconds in plan.path],
        "assumed": plan.facts.assumed,
        "warnings": plan.warnings,
    }


def _values(stage: StagePlan) -> dict[str, Any]:
    return {
        "name": stage.name,
        "jobs": len(stage.costs),
        "job_seconds": stage.sum("seconds"),
        "cpu_seconds": stage.sum("cpu"),
        "gpu_seconds": stage.gpu_seconds,
        "longest_seconds": stage.longest,
        "memory_mb": stage.memory,
        "disk_bytes": stage.sum("disk"),
        "files": round(stage.sum("files")),
        "read_bytes": stage.sum("read"),
    }
