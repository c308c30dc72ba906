"""Make a plan: find out about the run, measure the machine, and reckon."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from trak_steps.config import Settings
from trak_steps.console.progress import say
from trak_steps.planning.machine import ROUGH, Machine, load_machine, save_machine
from trak_steps.planning.plan import Plan, make_plan, places_of
from trak_steps.run.layout import Layout
from trak_steps.workflow.registry import device_of_jobs

if TYPE_CHECKING:
    from trak_steps.planning.facts import Facts


def plan_of(
    settings: Settings,
    profile: Path | None,
    *,
    evaluation: bool,
    calibration: Path | None,
    rough: bool,
) -> Plan:
    """The plan of a run.

    Args:
        settings: of the run.
        profile: a folder; none for this machine.
        evaluation: whether it is asked for, too.
        calibration: a file that a machine's speed is read from, or written to where it is not there.
        rough: measure nothing.

    Raises:
        TrakError: if the run would be refused, or a file is not what it should be.
    """
    places = places_of(profile, os.cpu_count() or 1)
    known = load_machine(calibration) if calibration and calibration.exists() else None
    device = device_of_jobs(settings, places.elsewhere)
    # A plan fetches nothing. Read when the libraries below are imported.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", str(settings.execution.threads))
    from trak_steps.planning.facts import find_facts

    with tempfile.TemporaryDirectory() as folder:
        say("looking at model and rows")
        with _silent():
            facts = find_facts(settings, Layout(Path("results") / settings.run), Path(folder))
        machine = ROUGH if rough else known
        if machine is None:
            from trak_steps.planning.measure import measure

            say("measuring this machine, which takes less than a minute")
            with _silent():
                machine = measure(facts, elsewhere=places.elsewhere)
            if calibration:
                save_machine(calibration, machine)
    facts.assumed.extend(_assumed(machine, facts, device, rough=rough))
    return make_plan(facts, machine, places, evaluation=evaluation, gpu=device.startswith("cuda"))


@contextmanager
def _silent() -> Iterator[None]:
    """What steps and the Trainer say of their work is not said of a sample."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _assumed(machine: Machine, facts: "Facts", device: str, *, rough: bool) -> list[str]:
    """What the speed of the machine stands for."""
    found = []
    if rough:
        found.append("nothing was measured: times are orders of magnitude")
    elif not 0.5 < machine.scale(facts.parameters) < 2:
        millions = machine.parameters / 1e6
        found.append(f"models take time by their size: one of {millions:.0f} million was measured")
    threads = facts.settings.execution.threads
    if not rough and machine.threads != threads:
        found.append(f"{threads} threads are as fast as the {machine.threads} that were measured")
    if device.startswith("cuda") and machine.device != "cuda":
        found.append("a GPU is no faster than the CPU that was measured: a calibration made on one says")
    if not device.startswith("cuda") and machine.device == "cuda":
        found.append("a CPU is as fast as the GPU that was measured, which it is not")
    return found
