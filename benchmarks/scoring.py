"""Which scoring predicts retrained models best? On two real tasks with the first layers of a MiniLM.

    python benchmarks/scoring.py --task qnli --train train.parquet --validation validation.parquet \
        --model sentence-transformers/all-MiniLM-L6-v2 --dense
    python benchmarks/scoring.py --task trec --train train.txt --validation test.txt \
        --model sentence-transformers/all-MiniLM-L6-v2

Makes a run below ``results/`` with its whole evaluation, which trains some hundred small models, then
compares ways to score that the pipeline has with some that it has not, all from the same features, and
writes ``benchmarks/results/scoring-<task>.json``. The figures of docs/evaluation.md come from it.
``--task trec`` takes text files of lines ``<class> <question>``; ``--dense`` compares projections, too.
"""

import argparse
import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.measure import answers, tasks
from benchmarks.measure.scoring_figure import draw
from benchmarks.measure.ways import State, balanced_mean, ways_to_score
from trak_steps.config import Settings, load_settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.evaluation.lds import Truth, measure
from trak_steps.layout import Layout, checkpoint_names, last_states
from trak_steps.steps.parts import open_retrained
from trak_steps.steps.predictions import Predictions

RESULTS = Path("benchmarks/results")
FIGURES = Path("docs/figures")
TARGETS = "validation"
RECIPE = {
    "epochs": 4,
    "batch_size": 16,
    "learning_rate": 3e-4,
    "warmup_ratio": 0.1,
    "dropout": 0.0,
}
ROWS, LAYERS, DIM = 1000, 2, 4096
# Fewer for the dense projection, whose cost grows with them.
DENSE_DIM = 512
RESAMPLES = 1000
Array = NDArray[np.float64]


def main() -> None:
    """Make the run, compare, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--task", choices=["qnli", "trec"], default="qnli")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--dense", action="store_true")
    parser.add_argument("--cores", type=int, default=2)
    given = parser.parse_args()
    task = getattr(tasks, given.task)(given.train, given.validation)
    config = tasks.prepare(
        task,
        given.model,
        Path("results") / "tasks" / f"scoring-{given.task}",
        rows=ROWS,
        layers=LAYERS,
        checkpoints={"count": 5, "keep": [0.25, 0.5, 1.0]},
        finetune=RECIPE,
        features={"dim": DIM, "shard_size": 512},
        evaluation={"lds": {"subsets": 64, "repeats": 2}, "removal": {"targets": 3, "repeats": 2}},
        execution={"memory_mb": 2048},
    )
    settings = load_settings(config)
    layout = Layout(Path("results") / settings.run)
    known = RESULTS / f"scoring-{given.task}.answers.parquet"
    snakemake = ["snakemake", "--cores", str(given.cores), "--configfile"]
    subprocess.run([*snakemake, str(config), "--", "data", str(layout.plan("subsets"))], check=True)
    if known.exists():
        print(f"{known}: {answers.put(layout, settings, TARGETS, known)} models known")
    subprocess.run([*snakemake, str(config), "--", "all", "evaluation"], check=True)
    answers.keep(layout, settings, TARGETS, known)
    dense = None
    if given.dense:
        dense = with_dense_features(config)
        subprocess.run([*snakemake, str(dense), "--", "features"], check=True)
    found = compare(config, dense)
    path = RESULTS / f"scoring-{given.task}.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path} and {draw(path, FIGURES / f'scoring-{given.task}.svg')}")
    print(table(found))


def with_dense_features(config: Path) -> Path:
    """Settings of a run that featurizes the same checkpoints by a dense random matrix."""
    settings = load_settings(config)
    layout = Layout(Path("results") / settings.run)
    values = yaml.safe_load(config.read_text(encoding="utf-8"))
    names = checkpoint_names(settings.checkpoints)
    values["run"] += "-dense"
    values["checkpoints"] = {"existing": [str(layout.checkpoint(name)) for name in names]}
    values["features"] |= {"dim": DENSE_DIM, "projection": "rademacher"}
    del values["finetune"]
    path = config.with_name("dense.yaml")
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def compare(config: Path, dense: Path | None) -> dict[str, Any]:
    """The LDS of every way to score, with intervals, and the difference to the default."""
    settings = load_settings(config)
    layout = Layout(Path("results") / settings.run)
    train, targets = PreparedRows.load(layout.train), PreparedRows.load(layout.targets(TARGETS))
    retrained = open_retrained(layout, settings, "subsets", train)
    kept = retrained.plan.kept[retrained.plan.about["repeat"] == 0]
    answered = retrained.answers[TARGETS]
    margins = answered.margin.astype(np.float64)
    labels = train.column("label")
    classes = np.stack([kept[:, labels == label].sum(1) for label in range(train.outputs)], 1)
    truth = Truth(margins.reshape(-1, len(kept), len(targets)), classes.astype(np.float64))
    states = _states(layout, settings, len(train))

    def sums(scores: Tensor) -> Array:
        predicted: Array = kept @ scores.numpy()
        return predicted

    ways = {name: sums(of) for name, of in ways_to_score(states, last_states(settings.checkpoints))}
    by_states = Predictions(layout, settings, train, kept).of_hidden_states({TARGETS: targets})
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
        settings = load_settings(dense)
        of_dense = _states(Layout(Path("results") / settings.run), settings, len(train))
        projections = {
            "dense": sums(balanced_mean([state.scores() for state in of_dense.values()])),
            "fold": ways[f"k = {DENSE_DIM}"],
        }
        found["projections"] = {"k": DENSE_DIM, **_measured(truth, projections, "less_dense")}
    return found


def _states(layout: Layout, settings: Settings, n: int) -> dict[str, State]:
    names = checkpoint_names(settings.checkpoints)
    return {name: State.read(layout, name, TARGETS, n) for name in names}


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


def table(found: dict[str, Any]) -> str:
    """The comparison as Markdown."""
    plain, adjusted = found["lds"], found["class_adjusted"]
    lines = [
        "| scoring | LDS | class-adjusted LDS | less the default |",
        "| --- | --- | --- | --- |",
        f"| the ceiling | {_shown(plain['ceiling'])} | {_shown(adjusted['ceiling'])} | |",
    ]
    for name, value in plain["ways"].items():
        less = adjusted["less_the_default"][name]
        difference = "" if name == "default" else f"{less['low']:+.2f} to {less['high']:+.2f}"
        lines.append(f"| {name} | {_shown(value)} | {_shown(adjusted['ways'][name])} | {difference} |")
    return "\n".join(lines)


def projections_table(found: dict[str, Any]) -> str:
    """Fold and dense features as Markdown."""
    projections = found["projections"]
    plain, adjusted = projections["lds"], projections["class_adjusted"]
    lines = [f"| k = {projections['k']} | LDS | class-adjusted LDS |", "| --- | --- | --- |"]
    for name in ("fold", "dense"):
        lines.append(f"| {name} | {_shown(plain['ways'][name])} | {_shown(adjusted['ways'][name])} |")
    less = (_shown(of["less_dense"]["fold"]) for of in (plain, adjusted))
    return "\n".join([*lines, f"| fold less dense | {' | '.join(less)} |"])


SHORT = (
    "default",
    "REFERENCE",
    "last states",
    "last hidden state",
    "gradient cosine",
    "same label",
    "random",
)


def short_table(tables: Mapping[str, dict[str, Any]]) -> str:
    """What the README shows of comparisons, by their tasks' names."""
    head = "".join(f" {task}: LDS | class-adjusted |" for task in tables)
    lines = [f"| |{head}", "| --- |" + " --- | --- |" * len(tables)]
    for name in ("the ceiling", *SHORT):
        line = f"| {name.replace('REFERENCE', 'reference rule, its best k')} |"
        for found in tables.values():
            for kind in ("lds", "class_adjusted"):
                of = found[kind]
                values = {**of["ways"], "the ceiling": of["ceiling"], "REFERENCE": best_reference(of)}
                line += f" {_shown(values[name])} |"
        lines.append(line)
    return "\n".join(lines)


def best_reference(of_kind: dict[str, Any]) -> dict[str, float]:
    """The reference's rule at the k that served it best."""
    ways: dict[str, dict[str, float]] = of_kind["ways"]
    return max(
        (value for name, value in ways.items() if name.startswith("reference rule")),
        key=lambda value: value["value"],
    )


def _shown(value: dict[str, float]) -> str:
    return f"{value['value']:.2f} ({value['low']:.2f} to {value['high']:.2f})"


if __name__ == "__main__":
    main()
