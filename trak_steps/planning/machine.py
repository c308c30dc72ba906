"""How fast a machine is, in what a plan reckons with: measured, read from a file, or roughly assumed."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from trak_steps.errors import TrakError
from trak_steps.store.atomic import complete_or_absent
from trak_steps.workflow.memory import LIBRARIES, MODEL, PLAIN, TABLES, TOKENIZER, TORCH

# A step of each kind, by the libraries that it loads: what it is measured by.
KINDS = {
    "plain": (PLAIN, "trak_steps.steps.summary.provenance"),
    "tables": (TABLES, "trak_steps.steps.summary.summarize"),
    "torch": (TORCH, "trak_steps.steps.kernels.kernel"),
    "tokenizer": (TOKENIZER, "trak_steps.steps.data.prepare"),
    "model": (MODEL, "trak_steps.steps.features.featurize"),
}


@dataclass(frozen=True)
class Machine:
    """Seconds, of a job with so many threads; what models take is for a model of this size.

    Attributes:
        threads: of a job.
        device: that models and products are computed on.
        parameters: of the model that was measured.
        starts: before a step of each kind begins its work, by :data:`KINDS`.
        step: a training step, whatever its rows: mostly the optimizer's part.
        train: a token of a training step, beside that.
        feature: a token's gradient, projected.
        forward: a token that is only run.
        check: what comes before the first features of a checkpoint: its weights, and a check.
        single: multiply-adds of a product in float32, a second.
        double: the same in float64.
        spectrum: the eigenvalues of a kernel, for each k³.
        read: bytes a second, held against their digest.
        write: bytes a second.
    """

    threads: int
    device: str
    parameters: int
    starts: Mapping[str, float]
    step: float
    train: float
    feature: float
    forward: float
    check: float
    single: float
    double: float
    spectrum: float
    read: float
    write: float

    def start(self, step: str) -> float:
        """Seconds before a step begins its work."""
        kind = next(name for name, (size, _) in KINDS.items() if size == LIBRARIES[step])
        return self.starts[kind]

    def scale(self, parameters: int) -> float:
        """How many times as long another model takes, for each token."""
        return parameters / self.parameters


# A core of a server's processor, in orders of magnitude, and a BERT-base.
ROUGH = Machine(
    threads=1,
    device="cpu",
    parameters=110_000_000,
    starts={"plain": 0.5, "tables": 1.0, "torch": 3.0, "tokenizer": 4.0, "model": 6.0},
    step=2.0,
    train=1.0e-2,
    feature=1.0e-2,
    forward=4.0e-3,
    check=20.0,
    single=2.5e10,
    double=1.2e10,
    spectrum=3.0e-10,
    read=5.0e8,
    write=2.0e8,
)


def load_machine(file: Path) -> Machine:
    """What was measured and saved. Raises TrakError if the file holds something else."""
    wrong = TrakError(f"{file}: is not a calibration of a machine; delete it, and it is measured again")
    try:
        values = json.loads(file.read_bytes())
    except OSError as error:
        raise TrakError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError:
        raise wrong from None
    wanted = {one.name for one in fields(Machine)}
    if not isinstance(values, dict) or values.keys() != wanted:
        raise wrong
    starts = values["starts"]
    if not isinstance(starts, dict) or starts.keys() != KINDS.keys():
        raise wrong
    numbers = wanted - {"device", "starts"}
    if not all(map(_positive, [*starts.values(), *(values[name] for name in numbers)])):
        raise wrong
    return Machine(**values)


def save_machine(file: Path, machine: Machine) -> None:
    """Write it as JSON, complete or absent."""
    with complete_or_absent(file) as temporary:
        temporary.write_text(json.dumps(asdict(machine), indent=1) + "\n", encoding="utf-8")


def _positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
