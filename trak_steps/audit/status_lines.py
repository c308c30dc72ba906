"""How a run stands, as text and as JSON."""

import re
from collections.abc import Iterator
from typing import Any

from trak_steps.audit.status import DONE, FAILED, LEFT, RUNNING, STOPPED, StageStatus, Status
from trak_steps.console.table import aligned, duration
from trak_steps.run.jobs import ALL
from trak_steps.run.layout import Layout

COLUMNS = ("stage", "jobs", "done", "running", "failed", "left", "took", "to go")
# Of how many jobs more is said than that they run, failed or stopped.
SHOWN = {RUNNING: 10, FAILED: 3, STOPPED: 3}
LAST_LINES = 5
# As :func:`trak_steps.console.progress.counter` writes them.
PROGRESS = re.compile(r": \d+ of \d+ \(")


def status_lines(status: Status, width: int) -> Iterator[str]:
    """Lines for a person.

    Args:
        status: of a run.
        width: of the terminal; only what running jobs say is cut.
    """
    yield _headline(status)
    if status.asked != (ALL,):
        yield f"asked for: {', '.join(status.asked)}"
    yield ""
    yield from aligned([COLUMNS, *map(_row, status.stages)], left=(0, len(COLUMNS) - 1))
    layout = Layout(status.root)
    for state in (FAILED, STOPPED, RUNNING):
        jobs = status.jobs(state)
        if jobs:
            yield ""
            yield f"{state}:"
        names = max((len(one.job.name) for one in jobs[: SHOWN[state]]), default=0)
        for one in jobs[: SHOWN[state]]:
            took = "" if one.seconds is None else duration(one.seconds)
            if state == RUNNING:
                line = f"  {one.job.name:<{names}}  {took:<6}  {_progress(one.said)}".rstrip()
                yield line if len(line) <= width else f"{line[: width - 1]}…"
            else:
                yield f"  {layout.log(one.job.name)}{took and f', after {took}'}"
                last = one.said[-LAST_LINES:] if state == FAILED else one.said[-1:]
                yield from (f"    {line}" for line in last)
        if len(jobs) > SHOWN[state]:
            yield f"  … and {len(jobs) - SHOWN[state]} more"
    if status.state in (FAILED, STOPPED):
        first = "remove the cause of what failed, and " if status.state == FAILED else ""
        yield ""
        yield f"to go on: {first}run the same snakemake command again; what is done is kept"


def status_values(status: Status) -> dict[str, Any]:
    """The same as JSON values, whose keys ``docs/reliability.md`` explains."""
    layout = Layout(status.root)
    begun = [one for state in (FAILED, STOPPED, RUNNING) for one in status.jobs(state)]
    return {
        "run": status.root.resolve().name,
        "state": status.state,
        "asked": list(status.asked),
        "workflow": status.process,
        "started": status.since or None,
        "stages": [
            {
                "name": stage.name,
                "jobs": len(stage.jobs),
                **{state: stage.count(state) for state in (DONE, RUNNING, FAILED, STOPPED, LEFT)},
                "more": stage.more,
                "seconds": stage.seconds,
                "to_go": stage.to_go,
                "at_least": stage.at_least,
            }
            for stage in status.stages
        ],
        "jobs": [
            {
                "name": one.job.name,
                "rule": one.job.rule,
                "state": one.state,
                "seconds": one.seconds,
                "log": str(layout.log(one.job.name)),
                "said": list(one.said[-LAST_LINES:]),
            }
            for one in begun
        ],
    }


def _progress(said: tuple[str, ...]) -> str:
    """How far a job says that it is; or what it said last."""
    return next(filter(PROGRESS.search, reversed(said)), said[-1] if said else "")


def _headline(status: Status) -> str:
    done = sum(stage.count(DONE) for stage in status.stages)
    jobs = sum(len(stage.jobs) for stage in status.stages)
    more = " or more" if any(stage.more for stage in status.stages) else ""
    said = f"{status.root}: {status.state}, {done} of {jobs}{more} jobs done"
    if status.process is not None:
        ago = f"started {duration(max(0.0, status.now - status.since))} ago, " if status.since else ""
        return f"{said}; {ago}process {status.process}"
    if status.jobs(RUNNING):
        return f"{said}; jobs go on, without the workflow"
    return said if status.state == "complete" else f"{said}; nothing runs"


def _row(stage: StageStatus) -> tuple[str, ...]:
    if not stage.jobs and not stage.more:
        return (stage.name, "not asked for")
    more = "+?" if stage.more else ""
    counts = [stage.count(state) for state in (DONE, RUNNING, FAILED)]
    took = "" if stage.seconds is None else duration(stage.seconds)
    return (
        stage.name,
        f"{len(stage.jobs) or ''}{more}".removeprefix("+"),
        *(str(count) if count else "-" for count in counts),
        f"{stage.count(LEFT) or ''}{more}".removeprefix("+") or "-",
        took,
        _to_go(stage),
    )


def _to_go(stage: StageStatus) -> str:
    if stage.to_go is None:
        return ""
    return f"{'over' if stage.at_least else 'about'} {duration(stage.to_go)}"
