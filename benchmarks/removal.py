"""Which rows, when left out, lower a target's margin most? Asked of the runs of ``benchmarks.scoring``.

    python -m benchmarks.removal run trec train.txt test.txt
    python -m benchmarks.removal run qnli train.parquet validation.parquet --shares 0.01 --seeds 2
    python -m benchmarks.removal run trec train.txt test.txt --known

Every method names rows for some targets, which are drawn at random, right or wrong. For each target,
models are trained without the rows named, and say what became of its margin. That is written to
``benchmarks/results/removal-<task>.json``, and what the models said beside it, where it is looked up
first: this may be interrupted and started again, and figures are of the methods whose models are all
there. ``python -m benchmarks.scoring pages`` puts them into docs/evaluation.md.
"""

import json
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.measure import answers, naming, runs, tasks, training
from benchmarks.measure.answers import Model
from benchmarks.measure.naming import DEFAULT, top_rows
from benchmarks.measure.removals import Removal, compared, slope
from benchmarks.measure.runs import BESIDE, MODEL, TARGETS
from benchmarks.measure.scoring_tables import RESULTS
from benchmarks.measure.tasks import Task
from trak_steps.config import Settings
from trak_steps.console.progress import counter
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.run.identity import retraining_seed
from trak_steps.run.layout import Layout
from trak_steps.store.retrained import Answers

SHARES = (0.01, 0.05)
REMOVED_FOR, SEEDS = 20, 5
Array = NDArray[np.float64]

app = typer.Typer(pretty_exceptions_enable=False)


@app.callback()
def commands() -> None:
    """Which rows, when left out, lower a target's margin most?"""


@dataclass(frozen=True)
class Named:
    """The rows that one method names.

    Attributes:
        share: of the train set.
        method: its name.
        rows: those left out for each target, [q, rows].
        predicted: the sum of their default scores, [q].
    """

    share: float
    method: str
    rows: NDArray[np.int64]
    predicted: Array


@dataclass(frozen=True)
class Plan:
    """What is trained: without the rows that each method names for each target, and on all rows.

    Attributes:
        n: how many train rows there are.
        targets: places in the target set, [q].
        seeds: of the trainings of each removal, [r].
        named: in the order in which they are trained without.
    """

    n: int
    targets: NDArray[np.int64]
    seeds: Sequence[int]
    named: Sequence[Named]

    @classmethod
    def of(
        cls, scores: Mapping[str, Array], targets: int, seeds: Sequence[int], shares: Sequence[float]
    ) -> "Plan":
        """From the scores [n, t] of every method; all methods with the first share come first."""
        n, t = scores[DEFAULT].shape
        # More targets, too, begin with these.
        drawn = np.random.default_rng(0).permutation(t)[:targets]
        named = []
        for share in shares:
            for method, of_method in scores.items():
                rows = top_rows(of_method[:, drawn], round(share * n))
                predicted = scores[DEFAULT][rows, drawn[:, None]].sum(1)
                named.append(Named(share, method, rows, predicted))
        return cls(n, drawn, seeds, named)

    def whole(self) -> list[Model]:
        """The models of all rows, [r]."""
        return self._models(np.empty(0, np.int64))

    def without(self, named: Named) -> list[list[Model]]:
        """The models without the rows of each target, [q][r]."""
        return [self._models(rows) for rows in named.rows]

    def all_without(self, named: Named) -> list[Model]:
        """The same, one after the other, those of the first seed first."""
        return [model for of_seed in zip(*self.without(named), strict=True) for model in of_seed]

    def chosen(self, methods: Sequence[str], shares: Sequence[float]) -> list[Named]:
        """What some methods name, of some shares; of all, if none is given."""
        there = list(dict.fromkeys(named.method for named in self.named))
        unknown = set(methods) - set(there)
        if unknown:
            raise TrakError(f"--methods: there is no {min(unknown)}, but {', '.join(there)}")
        return [
            named
            for named in self.named
            if (not methods or named.method in methods) and (not shares or named.share in shares)
        ]

    def models(self) -> list[Model]:
        """All; rows that two methods name give one model."""
        removed = [model for named in self.named for model in self.all_without(named)]
        return list(dict.fromkeys(self.whole() + removed))

    def _models(self, removed: NDArray[np.int64]) -> list[Model]:
        kept = np.ones(self.n, bool)
        kept[removed] = False
        return [Model.of(kept, seed) for seed in self.seeds]


@app.command()
def run(
    task: runs.TaskName,
    train: runs.TrainFile = None,
    validation: runs.ValidationFile = None,
    model: runs.ModelName = MODEL,
    scores: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FILE.npy: scores [n, t] of another method, to be given every time"),
    ] = None,
    methods: Annotated[list[str] | None, typer.Option(help="train for these alone")] = None,
    shares: Annotated[list[float] | None, typer.Option(help="train without these shares alone")] = None,
    targets: Annotated[int, typer.Option(help="how many to leave rows out for")] = REMOVED_FOR,
    seeds: Annotated[int, typer.Option(help="trainings of each removal")] = SEEDS,
    known: Annotated[bool, typer.Option("--known", help="figures of what is known")] = False,
    jobs: Annotated[int, typer.Option(help="processes, of one thread each")] = 2,
) -> None:
    """Make a task's run, train without rows, and write ``benchmarks/results/removal-<task>.json``."""
    others = files_of(scores or ())
    chosen: Task = tasks.named(task, train, validation)
    config = runs.make(chosen, model)
    plain = runs.changed(config, "plain", BESIDE["plain"])
    runs.snakemake(config, "scores", cores=jobs)
    runs.snakemake(plain, "features", cores=jobs)
    layout, settings = runs.opened(config)
    plan = Plan.of(
        dict(naming.methods(config, plain, others)),
        targets,
        [retraining_seed(settings, repeat) for repeat in range(seeds)],
        sorted({*SHARES, *(shares or ())}),
    )
    wanted = plan.chosen(methods or (), shares or ())
    file = RESULTS / f"removal-{task}.answers.parquet"
    labels = PreparedRows.load(layout.targets(TARGETS)).column("label")
    before = answers.put(layout, settings, TARGETS, file) if file.exists() else []

    def write() -> None:
        models = dict.fromkeys([*before, *plan.models()])
        kept = answers.keep(layout, settings, TARGETS, file, models)
        found = figures(plan, answers.known(layout, settings, TARGETS, plan.models()), labels)
        path = RESULTS / f"removal-{task}.json"
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {path}; {kept} models are known")

    try:
        if not known:
            groups = [plan.whole(), *map(plan.all_without, wanted)]
            for _ in trained(config, (layout, settings), groups, jobs):
                write()
    finally:  # of what was trained before an interruption, too
        write()


def files_of(given: Iterable[str]) -> dict[str, Path]:
    """Of scores given as NAME=FILE.npy."""
    files = {}
    for each in given:
        name, _, file = each.partition("=")
        if not name or not Path(file).is_file():
            raise TrakError(f"--scores {each}: has to be NAME=FILE.npy, of a file that is there")
        files[name] = Path(file)
    return files


def trained(
    config: Path, run: tuple[Layout, Settings], groups: Iterable[Iterable[Model]], jobs: int
) -> Iterator[None]:
    """Train the models that are not known, group by group; comes back after each."""
    groups = [list(group) for group in groups]
    models = dict.fromkeys(model for group in groups for model in group)
    missing = models.keys() - answers.known(*run, TARGETS, models).keys()
    with (
        training.processes(config, jobs) as pool,
        counter(len(missing), "retrained", "model") as advance,
    ):
        for group in groups:
            new = [model for model in dict.fromkeys(group) if model in missing]
            missing -= set(new)
            for done in as_completed([pool.submit(training.train, model) for model in new]):
                done.result()
                advance(1)
            if new:
                yield


def figures(plan: Plan, known: Mapping[Model, Answers], labels: NDArray[Any]) -> dict[str, Any]:
    """Of every method whose models, without a share of the rows, are all known; labels are [t]."""
    whole = plan.whole()
    found: dict[str, Any] = {
        "rows": plan.n,
        "targets": plan.targets.tolist(),
        "seeds": len(plan.seeds),
        "shares": {},
    }
    if not all(model in known for model in whole):
        return found
    margin = np.stack([known[model].margin[plan.targets] for model in whole]).astype(np.float64)
    prediction = np.stack([known[model].prediction[plan.targets] for model in whole])
    found |= {
        "margin": float(margin.mean()),
        "accuracy": float((prediction == labels[plan.targets]).mean()),
    }
    for share in dict.fromkeys(named.share for named in plan.named):
        removals = {}
        for named in plan.named:
            models = plan.without(named)
            if named.share == share and all(model in known for each in models for model in each):
                said = [[known[model] for model in of_target] for of_target in models]
                removals[named.method] = removal(plan, named, said, margin, prediction)
        if removals:
            found["shares"][f"{share:g}"] = {
                "rows": round(share * plan.n),
                "methods": compared(removals, DEFAULT),
                "slope": {
                    "all": slope(removals),
                    DEFAULT: slope({DEFAULT: removals[DEFAULT]}) if DEFAULT in removals else None,
                },
            }
    return found


def removal(
    plan: Plan,
    named: Named,
    said: Sequence[Sequence[Answers]],
    margin: Array,
    prediction: NDArray[Any],
) -> Removal:
    """What became of each target, of the answers [q][r] of its models; before, all was [r, q]."""
    of_target = list(zip(plan.targets, said, strict=True))
    margins = np.array([[each.margin[target] for each in models] for target, models in of_target])
    predictions = np.array(
        [[each.prediction[target] for each in models] for target, models in of_target]
    )
    return Removal(margin - margins.T, prediction != predictions.T, named.predicted)


def interrupted(*_: object) -> None:
    """End as by Ctrl-C."""
    sys.exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupted)
    app()
