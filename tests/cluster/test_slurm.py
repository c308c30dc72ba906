"""The workflow through a real Slurm, and what may happen to it there.

Runs wherever `sinfo` answers; what takes nodes down, only where `.ci/slurm` has started Slurm. Elsewhere
tests are skipped, and say why; `TRAK_REQUIRE_SLURM=1` makes that a failure. The nodes must share the
temporary folder: on a cluster whose `/tmp` is not shared, give `--basetemp` an unused folder that is
(pytest empties it).
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from cluster.slurm import (
    DONE,
    ENDED,
    RUNS,
    WAITS,
    Project,
    ask,
    wait_until,
    why_no_slurm,
    why_not_own,
)
from workspace import Workspace, copy_project

from trak_steps.errors import TrakError
from trak_steps.store.atomic import leftovers
from trak_steps.store.scores import ScoreStore
from trak_steps.workflow.slurm import cancel_left

pytestmark = pytest.mark.cluster

JOBS = {
    "model": 1,
    "prepare": 1,
    "prepare_targets": 1,
    "finetune": 2,
    "featurize": 4,
    "featurize_targets": 2,
    "kernel": 2,
    "calibrate": 1,
    "score": 1,
    "gather": 1,
    "rank": 1,
    "summarize": 1,
    "provenance": 1,
    "report": 1,
}
# Real runs ask for hours, which a partition for short jobs would queue for ever.
SHORT = ("--set-resources", *(f"{rule}:runtime=10" for rule in JOBS))


def skip_or_fail(reason: str) -> None:
    """Where Slurm is required, a test that cannot run has failed."""
    if reason and os.environ.get("TRAK_REQUIRE_SLURM"):
        pytest.fail(f"TRAK_REQUIRE_SLURM is set, and {reason}")
    if reason:
        pytest.skip(reason)


@pytest.fixture
def own_slurm() -> None:
    skip_or_fail(why_no_slurm() or why_not_own())


@pytest.fixture
def new(tmp_path: Path) -> Iterator[Project]:
    """A project without a run."""
    skip_or_fail(why_no_slurm())
    project = Project(tmp_path / "project")
    copy_project(project.root)
    yield project
    project.clear()


@pytest.fixture
def local(request: pytest.FixtureRequest) -> Project:
    """One whose run was made on this machine, without Slurm."""
    skip_or_fail(why_no_slurm())
    finished: Workspace = request.getfixturevalue("finished")
    return Project(finished.root)


@pytest.fixture
def project(local: Project, tmp_path: Path) -> Iterator[Project]:
    """A copy of it."""
    shutil.copytree(local.root, tmp_path / "project", symlinks=True)
    project = Project(tmp_path / "project")
    yield project
    project.clear()


def submitted(said: str) -> set[str]:
    """The Slurm ids of the jobs that Snakemake says it submitted."""
    return set(re.findall(r"submitted with SLURM jobid (\d+)", said))


def files(folder: Path) -> dict[Path, int]:
    """When each file was changed."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_the_run_goes_through_slurm_once_to_the_same_scores(new: Project, local: Project) -> None:
    first = new.run(*SHORT)

    made, expected = new.contents(), local.contents()
    assert made == {name: expected[name] for name in made}
    by_slurm, here = (
        ScoreStore.open(project.layout.scores("validation")).scores(0, 40) for project in (new, local)
    )
    assert by_slurm.shape == (40, 12)
    assert np.isfinite(by_slurm).all()
    assert by_slurm.tobytes() == here.tobytes()

    # Slurm itself writes one log a job, named by its id.
    logs = new.root / ".snakemake" / "slurm_logs"
    assert {path.stem for path in logs.rglob("*.log")} == submitted(first)
    assert {rule: len([*logs.glob(f"rule_{rule}/**/*.log")]) for rule in JOBS} == JOBS
    assert len(submitted(first)) == sum(JOBS.values())

    second = new.run(*SHORT)
    assert "Nothing to be done" in second
    assert not submitted(second)


@pytest.mark.usefixtures("own_slurm")
def test_a_job_killed_for_its_memory_is_tried_again_with_more(project: Project) -> None:
    expected = project.contents()
    shutil.rmtree(project.layout.kernel("1"))
    # As if no one had counted what Snakemake itself takes on a node, and too little of the job: so that
    # Slurm, which looks once a second, sees it whenever it looks.
    memory = project.root / "trak_steps" / "workflow" / "memory.py"
    source = memory.read_text()
    changed = source.replace("SUBMITTED = 450", "SUBMITTED = 0").replace(
        "= 110, 160, 340,", "= 110, 160, 220,"
    )
    memory.write_text(changed)
    assert changed.count("SUBMITTED = 0") == changed.count("110, 160, 220") == 1

    project.run("kernels")
    killed, *others = sorted(project.jobs("kernel_1"), key=lambda job: int(job.id))
    assert killed.state != DONE
    logs = [log.read_text() for log in Path(os.environ["SLURM_CONF"]).parent.glob("slurmd-*.log")]
    assert re.search(rf"StepId={killed.id}\.\w+ exceeded memory limit", "".join(logs))
    assert others[-1].state == DONE
    assert others[0].memory >= 2 * killed.memory - 1
    assert project.contents() == expected


def test_cancelled_and_killed_it_goes_on(project: Project) -> None:
    expected = project.contents()
    for made in (project.layout.train_shard("1", "00000"), project.layout.kernel("1")):
        shutil.rmtree(made)

    # Ctrl-C, when the first of two jobs is done and the second runs.
    project.start("kernels", *SHORT)
    first = project.wait_for("kernel_1", RUNS)
    ask("scontrol", "suspend", first.id)  # or it might end meanwhile
    project.signal(signal.SIGINT)
    assert project.end() != 0
    wait_until(lambda: {job.state for job in project.jobs()} <= ENDED, "without a job")
    assert [job.id for job in project.jobs("kernel_1", "CANCELLED")] == [first.id]

    # `kill -9` of Snakemake alone: its job goes on.
    project.start("kernels", *SHORT)
    left = project.wait_for("kernel_1", RUNS, but=(first.id,))
    ask("scontrol", "suspend", left.id)
    project.signal(signal.SIGKILL)
    project.end()
    assert left.id in {job.id for job in project.jobs("kernel_1", "SUSPENDED")}

    said = project.run("kernels", *SHORT)
    assert f"cancelled job {left.id} of an earlier call" in said
    assert [job.state for job in project.jobs("featurize_1_00000")] == [DONE]
    assert [job.state for job in project.jobs("kernel_1")] == ["CANCELLED", "CANCELLED", DONE]
    assert project.contents() == expected


@pytest.mark.usefixtures("own_slurm")
def test_an_old_job_beside_its_successor_does_no_harm(project: Project) -> None:
    """Where no one knows of it, as after a call from another cluster's machine."""
    expected = project.contents()
    again = [project.layout.checkpoint("0"), project.layout.kernel("1")]
    for made in again:
        shutil.rmtree(made)
    targets = [str((made / "done").relative_to(project.root)) for made in again]

    project.start(*targets, *SHORT)
    old = [project.wait_for(rule, RUNS).id for rule in ("finetune_0", "kernel_1")]
    for job in old:
        ask("scontrol", "suspend", job)  # so that it ends while the new one runs
    project.signal(signal.SIGKILL)
    project.end()
    project.layout.submitted.unlink()

    project.start(*targets, *SHORT)
    for rule in ("finetune_0", "kernel_1"):
        project.wait_for(rule, RUNS, but=tuple(old))
    for job in old:
        ask("scontrol", "resume", job)
    assert project.end() == 0, project.said
    wait_until(lambda: {job.state for job in project.jobs()} <= ENDED, "without a job")
    assert project.contents() == expected
    assert leftovers(project.layout.root) == []


@pytest.mark.usefixtures("own_slurm")
def test_jobs_that_lose_their_node_run_again(project: Project) -> None:
    expected = project.contents()
    again = [project.layout.train_shard("0", "00000"), project.layout.kernel("1")]
    for made in again:
        shutil.rmtree(made)
    targets = [str((made / "done").relative_to(project.root)) for made in again]

    # The third node, whose jobs give way to urgent ones.
    project.start(*targets, *SHORT, "--default-resources", "slurm_partition=idle")
    kernel = project.wait_for("kernel_1", RUNS)
    features = project.wait_for("featurize_0_00000", RUNS)
    ask("scancel", kernel.id)  # by someone else: another job is submitted in its place
    small = ("--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap", "true")
    urgent = ask("sbatch", "--parsable", *small).strip()
    wait_until(lambda: ask("squeue", "-h", "-t", "CD", "-j", urgent), "through with the urgent job")
    back = project.wait_for("featurize_0_00000", RUNS)
    assert back.id == features.id  # it was put back into the queue
    assert back.began > features.began

    ask("scontrol", "update", "nodename=n3", "state=down", "reason=test")
    project.wait_for("featurize_0_00000", WAITS)
    ask("scontrol", "update", "nodename=n3", "state=resume")
    assert project.end() == 0, project.said
    assert [job.state for job in project.jobs("featurize")] == [DONE]
    assert [job.state for job in project.jobs("kernel")] == ["CANCELLED", DONE]
    assert project.contents() == expected


@pytest.mark.parametrize(
    ("wrong", "says"),
    [("slurm_partition=nowhere", "Invalid partition"), ("slurm_account=nobody", "Invalid account")],
)
@pytest.mark.usefixtures("own_slurm")
def test_a_place_that_does_not_exist_is_refused_at_once(new: Project, wrong: str, says: str) -> None:
    new.start("data", "--default-resources", wrong)
    assert new.end() != 0
    assert new.said.count(says) == 1
    assert wrong.partition("=")[2] in new.said
    assert "Traceback" not in new.said
    assert new.jobs() == []
    assert not submitted(new.said)
    assert [path.name for path in new.layout.root.iterdir()] == [".locks"]


def test_a_node_without_the_package_is_named(project: Project, tmp_path: Path) -> None:
    """The environment goes when Snakemake has begun: on nodes, it is not there."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    packages = next(environment.glob("lib/python*/site-packages"))
    (packages / "all.pth").write_text("\n".join(path for path in sys.path if "site-packages" in path))
    shutil.rmtree(project.layout.kernel("1"))
    before = files(project.layout.root)

    others = [path for path in os.environ["PATH"].split(":") if not Path(path, "trak-steps").exists()]
    python = str(environment / "bin" / "python")
    project.start("kernels", *SHORT, "--retries", "0", python=python, path=others)
    wait_until(lambda: project.said, "begun")
    shutil.rmtree(environment / "bin")
    assert project.end() != 0
    (job,) = project.jobs("kernel_1")
    assert project.said.count(f"no trak-steps on this node, {job.node}") == 1
    assert "Traceback" not in project.said
    changed = files(project.layout.root)
    assert {path for path in changed if before.get(path) != changed[path]} <= {
        project.layout.lock("snakemake"),
        project.layout.submitted,
        project.layout.asked,
    }


@pytest.fixture
def disk(local: Project, tmp_path: Path) -> Iterator[Project]:
    """A copy of the project on a disk of its own, of 40 MB."""
    root = tmp_path / "disk"
    root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(root)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no small disk: {mounted.stderr.strip()}")
    project = Project(root)
    try:
        shutil.copytree(local.root, root, symlinks=True, dirs_exist_ok=True)
        yield project
        project.clear()
        wait_until(lambda: {job.state for job in project.jobs()} <= ENDED, "without a job")
    finally:
        subprocess.run(["umount", "--lazy", root], check=True)


def test_a_full_disk_leaves_nothing_half_written(disk: Project) -> None:
    """There is room for logs, and not for a model."""
    expected = disk.contents()
    made = disk.layout.checkpoint("1")
    shutil.rmtree(made)
    room = os.statvfs(disk.root)
    filler = disk.root / "filler"
    filler.write_bytes(bytes(room.f_bavail * room.f_frsize - 500_000))
    target = str((made / "done").relative_to(disk.root))

    disk.start(target, *SHORT)
    disk.wait_for("finetune_1", "FAILED")
    disk.signal(signal.SIGINT)  # Snakemake would only find out later
    assert disk.end() != 0
    said = (disk.layout.root / "logs" / "checkpoints" / "1.log").read_text()
    says = r"error: results/tiny/\S+: cannot be written \(No space left on device\); free some space"
    assert re.search(says, said), said
    assert not made.exists()
    assert leftovers(disk.layout.root) == []

    filler.unlink()
    disk.run(target, *SHORT)
    assert disk.contents() == expected


@pytest.mark.usefixtures("own_slurm")
def test_jobs_that_use_a_gpu_ask_for_one_and_take_turns(project: Project) -> None:
    again = [*map(project.layout.checkpoint, "01"), project.layout.targets("validation")]
    for made in again:
        shutil.rmtree(made)
    targets = [str((made / "done").relative_to(project.root)) for made in again]
    # Slurm's GPU is a pretended one, so the jobs refuse; but they were queued for it.
    project.start(*targets, *SHORT, execution={"memory_mb": 256, "device": "cuda"})
    wait_until(lambda: len(project.jobs("finetune", "FAILED")) >= 2, "tried both trainings")
    project.signal(signal.SIGINT)
    project.end()
    trainings = sorted(project.jobs("finetune", "FAILED"), key=lambda job: job.began)
    assert {job.rule for job in trainings} == {"finetune_0", "finetune_1"}
    assert {(job.gpus, job.node) for job in trainings} == {(1, "n1")}  # the node that has one
    assert all(one.ended <= other.began for one, other in pairwise(trainings))
    for training in ("0", "1"):
        log = project.layout.root / "logs" / "checkpoints" / f"{training}.log"
        assert "no GPU that torch can use" in log.read_text()
    assert [(job.gpus, job.state) for job in project.jobs("prepare_targets")] == [(0, DONE)]


def test_without_slurm_tests_are_skipped_unless_it_is_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("TRAK_REQUIRE_SLURM", raising=False)
    with pytest.raises(pytest.skip.Exception, match="sinfo is not installed"):
        skip_or_fail(why_no_slurm.__wrapped__())
    monkeypatch.setenv("TRAK_REQUIRE_SLURM", "1")
    with pytest.raises(pytest.fail.Exception, match=r"TRAK_REQUIRE_SLURM is set, .* not installed"):
        skip_or_fail(why_no_slurm.__wrapped__())


def test_without_a_name_nothing_is_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    record = tmp_path / ".submitted"
    assert cancel_left(record, "", 0) == []
    for damaged in ("", "\n", "one,two"):
        record.write_text(damaged)
        assert cancel_left(record, "", 0) == []
    record.write_text("6567651d-1368-4769-93bb-37c6abc94209\n")
    with pytest.raises(TrakError, match=r"Slurm does not answer.*squeue"):
        cancel_left(record, "", 0)
