"""Which scoring predicts retrained models best? On two real tasks with the first layers of a MiniLM.

    python -m benchmarks.scoring run qnli train.parquet validation.parquet --dense
    python -m benchmarks.scoring run trec train.txt test.txt
    python -m benchmarks.scoring pages

The first two make a run below ``results/`` with its whole evaluation, which trains some hundred small
models, then compare ways to score that the pipeline has with some that it has not, all from the same
features, and write ``benchmarks/results/scoring-<task>.json``. What the models said is kept beside it,
so that they need not be retrained. ``pages`` puts the figures into README.md and docs/evaluation.md.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import yaml
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.measure import answers, runs, scoring_tables, tasks
from benchmarks.measure.ekfac import ekfac, ways_by_ekfac
from benchmarks.measure.nearest import nearest
from benchmarks.measure.runs import BESIDE, MODEL, TARGETS, changed
from benchmarks.measure.scoring_figure import draw
from benchmarks.measure.scoring_tables import RESULTS
from benchmarks.measure.tracin import rates_before, tracin
from benchmarks.measure.ways import Checkpoints, balanced_mean, ways_to_score
from trak_steps.data.prepared import PreparedRows
from trak_steps.evaluation.lds import Truth, measure
from trak_steps.run.layout import Layout, checkpoint_names, training_of
from trak_steps.run.parts import open_retrained
from trak_steps.steps.evaluation.measure_lds import predict_by_hidden_states
from trak_steps.store.document import load_document

FIGURES = Path("docs/figures")
# Fewer for the dense projection, whose cost grows with them.
DENSE_DIM, DENSE_TRAININGS = 512, 2
RESAMPLES = 1000
# Where wrong labels are looked for: the share of labels made wrong, and the trainings.
WRONG = {"dataset": {"flip_labels": 0.1}, "checkpoints": {"count": 2}}
Array = NDArray[np.float64]


app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def run(
    task: runs.TaskName,
    train: runs.TrainFile = None,
    validation: runs.ValidationFile = None,
    model: runs.ModelName = MODEL,
    dense: Annotated[bool, typer.Option("--dense", help="compare projections, too")] = False,
    cores: Annotated[int, typer.Option(help="for Snakemake")] = 2,
) -> None:
    """Make a task's run, compare, and write ``benchmarks/results/scoring-<task>.json``."""
    chosen: tasks.Task = tasks.named(task, train, validation)
    config = runs.make(chosen, model)
    layout, settings = runs.opened(config)
    known = RESULTS / f"scoring-{task}.answers.parquet"
    snakemake = partial(runs.snakemake, cores=cores)
    snakemake(config, "data", layout.plan("subsets"))
    if known.exists():
        print(f"{known}: {len(answers.put(layout, settings, TARGETS, known))} models known")
    figures = [] if chosen.apart else [layout.lds, layout.stability]
    try:
        snakemake(config, "all", *(figures or ["evaluation"]))
    finally:  # what was trained before an interruption is kept, too
        models = answers.planned(layout)
        print(f"{known}: {answers.keep(layout, settings, TARGETS, known, models)} models kept")
    wrong = None
    if chosen.apart:
        flipped = changed(config, "flipped", WRONG)
        wrong = runs.opened(flipped)[0].mislabelled
        snakemake(flipped, wrong)
    more, plain = (changed(config, name, changes) for name, changes in BESIDE.items())
    by_matrix = with_dense_features(config) if dense else None
    for beside in (more, plain, by_matrix):
        if beside:
            snakemake(beside, "features")
    found = compare(config, more, plain, by_matrix, chosen.by_ekfac) | evaluated(layout, wrong)
    path = RESULTS / f"scoring-{task}.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")


@app.command()
def pages() -> None:
    """Put the tables and drawings of ``benchmarks/results`` into the pages that show them."""
    for page in scoring_tables.PAGES:
        text = page.read_text(encoding="utf-8")
        page.write_text(scoring_tables.filled(text, scoring_tables.committed()), encoding="utf-8")
    for task in scoring_tables.TASKS:
        print(f"wrote {draw(RESULTS / f'scoring-{task}.json', FIGURES / f'scoring-{task}.svg')}")


def with_dense_features(config: Path) -> Path:
    """Settings of a run that featurizes the same checkpoints by a dense random matrix."""
    layout, settings = runs.opened(config)
    values = yaml.safe_load(config.read_text(encoding="utf-8"))
    names = _of_first_trainings(checkpoint_names(settings.checkpoints))
    values["run"] += "-dense"
    values["checkpoints"] = {"existing": [str(layout.checkpoint(name)) for name in names]}
    values["features"] |= {"dim": DENSE_DIM, "projection": "rademacher"}
    del values["finetune"]
    path = config.with_name("dense.yaml")
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def evaluated(layout: Layout, wrong: Path | None) -> dict[str, Any]:
    """What the pipeline's own evaluation found, beside the LDS of ways to score."""
    lds, stability = (load_document(path, None)[0] for path in (layout.lds, layout.stability))
    found = {"slope": lds["slope"], "stability": stability["targets"][TARGETS]}
    if wrong is not None:
        mislabelled, removal = (load_document(path, None)[0] for path in (wrong, layout.removal))
        found["mislabelled"] = {name: mislabelled[name] for name in ("flipped", "measures")}
        names = ("targets_removed_for", "repeats", "without", "calibration")
        found["removal"] = {name: removal[name] for name in names}
    return found


def compare(config: Path, more: Path, plain: Path, dense: Path | None, by_ekfac: int) -> dict[str, Any]:
    """The LDS of every way to score, with intervals, and the difference to the default.

    Args:
        config: the settings of a task's run.
        more, plain, dense: of runs beside it.
        by_ekfac: trainings that EK-FAC scores by.
    """
    layout, settings = runs.opened(config)
    train, targets = PreparedRows.load(layout.train), PreparedRows.load(layout.targets(TARGETS))
    retrained = open_retrained(layout, settings, "subsets", train)
    kept = retrained.plan.kept[retrained.plan.about["repeat"] == 0]
    answered = retrained.answers[TARGETS]
    margins = answered.margin.astype(np.float64)
    labels = train.column("label")
    classes = np.stack([kept[:, labels == label].sum(1) for label in range(train.outputs)], 1)
    truth = Truth(margins.reshape(-1, len(kept), len(targets)), classes.astype(np.float64))
    names = checkpoint_names(settings.checkpoints)
    some = [name for name in names if int(training_of(name)) < by_ekfac]
    of_ekfac = ekfac(layout, some, train, targets, config.with_name("ekfac"))
    checkpoints = Checkpoints(*(runs.checkpoints(of, len(train)) for of in (config, more, plain)))

    def sums(scores: Tensor) -> Array:
        predicted: Array = kept @ scores.numpy()
        return predicted

    ways = {name: sums(of) for name, of in ways_to_score(checkpoints)}
    rates = rates_before(list(checkpoints.plain), settings.finetune, len(train))
    ways["TracIn"] = sums(tracin(checkpoints.plain, rates))
    ways |= {name: sums(of) for name, of in ways_by_ekfac(of_ekfac)}
    for name, similarity in nearest(layout, train, targets):
        ways[name] = kept @ similarity
    by_states = predict_by_hidden_states(layout, settings, train, {TARGETS: targets}, kept)
    ways["last hidden state"] = by_states[TARGETS]
    ways["same label"] = truth.classes[:, targets.column("label")]
    ways["random"] = np.random.default_rng(0).normal(size=ways["same label"].shape)
    right = answered.prediction == targets.column("label")
    found: dict[str, Any] = {
        "rows": len(train),
        "targets": len(targets),
        "subsets": len(kept),
        "accuracy": float(right.mean()),
        **_measured(truth, ways, "less_the_default"),
    }
    if dense is not None:
        of_dense = runs.checkpoints(dense, len(train))
        projections = {
            "dense": sums(balanced_mean([checkpoint.scores() for checkpoint in of_dense.values()])),
            "fold": sums(
                balanced_mean(
                    [
                        checkpoints.default[name].scores(dim=DENSE_DIM)
                        for name in _of_first_trainings(checkpoints.default)
                    ]
                )
            ),
        }
        found["projections"] = {
            "k": DENSE_DIM,
            "checkpoints": len(of_dense),
            **_measured(truth, projections, "less_dense"),
        }
    return found


def _of_first_trainings(names: Iterable[str]) -> list[str]:
    return [name for name in names if int(training_of(name)) < DENSE_TRAININGS]


def _measured(truth: Truth, ways: Mapping[str, Array], difference: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind, adjusted in (("lds", False), ("class_adjusted", True)):
        measured = measure(truth, ways, adjusted=adjusted, resamples=RESAMPLES, seed=0)
        found[kind] = {
            "ceiling": asdict(measured.ceiling),
            "ways": {name: asdict(value) for name, value in measured.scores.items()},
            difference: {name: asdict(value) for name, value in measured.differences.items()},
        }
    return found


if __name__ == "__main__":
    app()
