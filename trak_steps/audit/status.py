"""How far a run has come, from the files in its folder alone; nothing in it is changed.

A job is

* *done* if all that it makes is there, and was not to be made anew when the workflow last started;
* *running* while its process holds its log;
* *failed* if its log ends with an error;
* *stopped* if its log ends without one, as when it was killed, or ran out of memory or of a cluster's
  time. It is *left*, too;
* *left* if it has not begun since the workflow last started.

What files cannot tell:

* An output that the workflow would make anew because its settings changed counts as done until the
  workflow is started. Of what hangs on rows that are prepared anew, it is known when they are prepared.
* A lock of another machine may not be seen. A log that was written to in the last five minutes then
  tells that its job runs, and so does the workflow on that machine; a job that was killed counts as
  running so long.
* A cluster's job that waits in the queue is left.
"""

import os
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from trak_steps.config import Settings
from trak_steps.console.job_log import JobLog
from trak_steps.errors import TrakError
from trak_steps.run.asked import Asked
from trak_steps.run.jobs import ALL, STAGES, Job, Jobs, asked_rules, jobs_of
from trak_steps.run.layout import Layout
from trak_steps.store.lock import holder, is_held, lives

DONE, RUNNING, FAILED, STOPPED, LEFT = "done", "running", "failed", "stopped", "left"
# Seconds after which a log that no one is seen to hold is taken for one that no one writes.
RECENT = 300.0
NEVER = float("-inf")


@dataclass(frozen=True)
class JobStatus:
    """How a job stands.

    Attributes:
        job: which.
        state: ``done``, ``running``, ``failed``, ``stopped`` or ``left``.
        seconds: how long it took, or has taken until now; none where that is not known.
        said: the last lines of its log; none of a job that is done or left.
    """

    job: Job
    state: str
    seconds: float | None = None
    said: tuple[str, ...] = ()


@dataclass(frozen=True)
class StageStatus:
    """How a stage stands: of the jobs that were asked for, or began.

    Attributes:
        name: of the stage.
        jobs: of each, how it stands.
        more: whether there will be others, whose number is not known before the rows are prepared.
        to_go: seconds until it is done, by jobs of the same kind; none where nothing is known.
        at_least: whether it has jobs, too, of a kind of which none is done yet.
    """

    name: str
    jobs: list[JobStatus]
    more: bool
    to_go: float | None
    at_least: bool

    def count(self, state: str) -> int:
        """How many jobs are in a state; those that stopped are left, too."""
        states = (LEFT, STOPPED) if state == LEFT else (state,)
        return sum(one.state in states for one in self.jobs)

    @property
    def seconds(self) -> float | None:
        """What its jobs took, added up; none if it is not known of any."""
        known = [one.seconds for one in self.jobs if one.seconds is not None]
        return sum(known) if known else None


@dataclass(frozen=True)
class Status:
    """How a run stands.

    Attributes:
        root: the run's folder.
        asked: what for the workflow was last run.
        stages: all seven.
        process: of the workflow, and on which machine; none if it does not run.
        since: when it started, in seconds since 1970.
        now: when this was found out.
    """

    root: Path
    asked: tuple[str, ...]
    stages: list[StageStatus]
    process: str | None
    since: float
    now: float

    def jobs(self, state: str) -> list[JobStatus]:
        """All jobs in a state, in the order of the pipeline."""
        return [one for stage in self.stages for one in stage.jobs if one.state == state]

    @property
    def state(self) -> str:
        """``complete``, ``running``, ``failed`` or ``stopped``.

        Without its workflow a run does not go on, though jobs may, which that one had started.
        """
        if self.process is not None:
            return RUNNING
        if all(stage.count(DONE) == len(stage.jobs) and not stage.more for stage in self.stages):
            return "complete"
        return FAILED if self.jobs(FAILED) else STOPPED

    @property
    def good(self) -> bool:
        """Whether all that was asked for is done, or on its way, and nothing failed."""
        return self.state in ("complete", RUNNING) and not self.jobs(FAILED)


def status_of(layout: Layout, settings: Settings | None = None) -> Status:
    """Look at a run.

    Args:
        layout: of the run.
        settings: of the run; without, those that the workflow was last started with.

    Raises:
        TrakError: if there is no such run, if it does not say what it was asked for, or if something in
            it cannot be read.
    """
    try:
        return _look(layout, settings)
    except OSError as error:
        file = error.filename or layout.root
        raise TrakError(f"{file}: cannot be read ({error.strerror or error})") from None


def _look(layout: Layout, settings: Settings | None) -> Status:
    if not layout.root.is_dir():
        raise TrakError(f"{layout.root}: there is no such run")
    asked = _asked(layout, settings)
    now = time.time()
    wanted = asked_rules(asked.targets)
    rules = jobs_of(asked.settings, layout)
    begun = {job.name: _begun(layout, job, asked) for group in rules for job in group.jobs or ()}
    to_do = [job for group in rules if group.rule in wanted for job in group.jobs or ()]
    unfinished = any(not isinstance(begun[job.name], float) for job in to_do)
    process = _workflow(layout, unfinished and any(_at_work(one, now) for one in begun.values()))
    found = {
        job.name: _stands(layout, job, begun[job.name], process is not None, now)
        for group in rules
        for job in group.jobs or ()
    }
    # How many run beside each other: now, or on average since the start.
    here = [one for name, one in found.items() if _since(begun[name], asked.since)]
    spent = sum(one.seconds or 0.0 for one in here)
    running = sum(one.state == RUNNING for one in found.values())
    beside = max(running, spent / max(1.0, now - asked.since)) if process else 0.0
    stages = []
    for name in STAGES:
        groups = [group for group in rules if group.stage == name]
        stages.append(_stage(name, groups, found, wanted, beside))
    return Status(layout.root, asked.targets, stages, process, asked.since, now)


def _asked(layout: Layout, settings: Settings | None) -> Asked:
    if settings is not None:
        try:
            asked = Asked.load(layout)
        except TrakError:
            asked = None
        return replace(asked, settings=settings) if asked else Asked(settings, (ALL,))
    asked = Asked.load(layout)
    if asked is not None:
        return asked
    if not any(path.exists() for path in (layout.model, layout.train, layout.log("model"))):
        raise TrakError(f"{layout.root}: holds no run of this pipeline; name a run's own folder")
    raise TrakError(
        f"{layout.root}: does not say what it was asked for, as it was made by hand or by an earlier "
        "version; give the run's settings with -c"
    )


def _begun(layout: Layout, job: Job, asked: Asked) -> "JobLog | float | None":
    """When a job was done; its log, if it is not and began since the workflow did; or nothing."""

    def made() -> float | None:
        when = min(map(_written, job.outputs))
        return when if when > NEVER and (job.name not in asked.again or when >= asked.since) else None

    done = made()
    log = JobLog.read(layout.log(job.name)) if done is None else None
    if log is not None:  # while it was read, the job may have ended
        done = made()
    if log is None or done is not None:
        return done
    # What it made may have been deleted after it ended well.
    past = log.changed < asked.since or _written(layout.times(job.name)) >= log.changed
    return log if log.alive or not past else None


def _at_work(begun: "JobLog | float | None", now: float) -> bool:
    """Whether a job runs or was done lately, as far as files tell."""
    if isinstance(begun, JobLog):
        return bool(begun.alive) or (not begun.failed and now - begun.changed < RECENT)
    return begun is not None and now - begun < RECENT


def _since(begun: "JobLog | float | None", when: float) -> bool:
    """Whether a job was done, or at work, since then."""
    return isinstance(begun, JobLog) or (begun is not None and begun >= when)


def _stands(
    layout: Layout, job: Job, begun: "JobLog | float | None", workflow: bool, now: float
) -> JobStatus:
    if begun is None:
        return JobStatus(job, LEFT)
    if not isinstance(begun, JobLog):
        return JobStatus(job, DONE, _seconds(layout.times(job.name)))
    alive = begun.alive
    if alive is None:
        alive = workflow and _at_work(begun, now)
    state = RUNNING if alive else FAILED if begun.failed else STOPPED
    seconds = None
    if begun.began is not None and (alive or begun.lines):  # of one killed without a word: not known
        seconds = max(0.0, (now if alive else begun.changed) - begun.began)
    return JobStatus(job, state, seconds, begun.lines)


def _stage(
    name: str, groups: Iterable[Jobs], found: dict[str, JobStatus], wanted: set[str], beside: float
) -> StageStatus:
    """A stage.

    Args:
        name: of the stage.
        groups: its jobs.
        found: how jobs stand, by name.
        wanted: the rules that were asked for.
        beside: how many jobs run at a time; 0 if none will.
    """
    jobs: list[JobStatus] = []
    known, unknown, more = [], False, False
    for group in groups:
        asked = group.rule in wanted
        of_rule = [found[job.name] for job in group.jobs or ()]
        of_rule = [one for one in of_rule if asked or one.state != LEFT]
        jobs += of_rule
        more |= asked and group.jobs is None
        to_do = [one for one in of_rule if one.state in (RUNNING, STOPPED, LEFT)]
        took = [one.seconds for one in of_rule if one.state == DONE and one.seconds is not None]
        if to_do and took:
            each = median(took)
            spent = (one.seconds or 0.0 for one in to_do if one.state == RUNNING)
            known.append(len(to_do) * each - sum(min(each, seconds) for seconds in spent))
        else:
            unknown |= bool(to_do)
    to_go = sum(known) / beside if known and beside else None
    return StageStatus(name, jobs, more, to_go, unknown or more)


def _workflow(layout: Layout, recent: bool) -> str | None:
    """The process that runs the workflow, and where; none if none does.

    Args:
        layout: of the run.
        recent: whether jobs run or were done lately, and others are left.
    """
    lock = layout.lock("snakemake")
    try:
        held, process, taken = is_held(lock), holder(lock), lock.stat().st_mtime
    except FileNotFoundError:
        return None
    _, _, host = process.partition(" on ")
    if held:
        return process
    if host != socket.gethostname():
        return process if recent else None
    return process if held is None and lives(process, taken) else None


def _written(file: Path) -> float:
    """When a file was, in seconds since 1970."""
    try:
        return os.stat(file).st_mtime  # noqa: PTH116 - thousands of them, at a third of the time
    except (FileNotFoundError, NotADirectoryError):
        return NEVER


def _seconds(times: Path) -> float | None:
    """What a job took, as Snakemake wrote it down: the first column."""
    try:
        return float(times.read_bytes().split(b"\n")[1].split(b"\t")[0])
    except (OSError, IndexError, ValueError):
        return None
