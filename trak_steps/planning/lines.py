"""A plan as text."""

from collections.abc import Iterator

from trak_steps.console.table import aligned, duration, size
from trak_steps.planning.plan import Plan, StagePlan

COLUMNS = ("stage", "jobs", "CPU", "GPU", "longest job", "memory", "disk", "files", "read")


def plan_lines(plan: Plan) -> Iterator[str]:
    """Lines for a person."""
    whole = plan.whole
    where = f"through {plan.places.executor}" if plan.places.elsewhere else "on this machine"
    at_once = (
        f"{plan.places.jobs or 'many'} jobs at once"
        if plan.places.elsewhere
        else f"{plan.places.cores} cores"
    )
    run, took = plan.facts.settings.run, duration(plan.seconds)
    yield (
        f"{run}: {len(whole.costs):,} jobs, about {took} {where} with {at_once}, and "
        f"{size(whole.sum('disk'))} of disk"
    )
    yield ""
    rows = [_row(stage) for stage in plan.stages]
    yield from aligned([COLUMNS, *rows, _row(whole)])
    yield ""
    steps = " > ".join(f"{rule} {duration(seconds)}" for rule, seconds in plan.path)
    way = sum(seconds for _, seconds in plan.path)
    yield f"one after the other, however many jobs run at once, {duration(way)}: {steps}"
    for line in plan.warnings:
        yield f"warning: {line}"
    for line in plan.facts.assumed:
        yield f"assumed: {line}"


def _row(stage: StagePlan) -> tuple[str, ...]:
    return (
        stage.name,
        f"{len(stage.costs):,}",
        duration(stage.sum("cpu")),
        duration(stage.gpu_seconds) if stage.gpu_seconds else "-",
        duration(stage.longest),
        size(1e6 * stage.memory),
        size(stage.sum("disk")),
        f"{round(stage.sum('files')):,}",
        size(stage.sum("read")),
    )
