"""All that a page says of a run, gathered."""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from trak_steps.api.run import Run
from trak_steps.config.settings import BUILT_IN
from trak_steps.console.table import duration, size
from trak_steps.report import facts, figures
from trak_steps.report.evaluation import Evaluation, read_evaluation
from trak_steps.report.facts import Finding, First
from trak_steps.report.figures import Figure, Moment
from trak_steps.report.packed import packed_page
from trak_steps.report.rows import TargetSet, read_targets, read_train_rows
from trak_steps.report.usage import usage_of
from trak_steps.run.layout import fraction_of, training_of
from trak_steps.store.artefact import artefact_manifest

# Scores that a distribution is drawn from.
SAMPLED = 2**21
# Sources that are named of an output, and digits of a content.
MADE_FROM, CONTENT = 6, 12


@dataclass(frozen=True)
class Contents:
    """What a page says.

    Attributes:
        run: the run's name.
        asked: what was asked, as terms and values.
        findings: whether scores can be trusted, by target set.
        wrong: targets that the models get wrong, by target set.
        suspects: train rows whose labels look wrong; None where they were not looked for.
        trust_figures: of the first screen.
        figures: of the run.
        usage: a table of what stages took; the first row are its columns.
        settings: as YAML.
        versions: of libraries.
        provenance: a table of outputs, by which step's version they were made, and from what; the first
            row are its columns. Of features and parts of scores, which may be thousands, none.
        outputs: how many there are, and of which content, as terms and values.
        packed: what the page's program reads.
        shown: how many targets the page has, of all sets.
        classifies: whether the model output is the margin of a class.
        sets: the names of the target sets, and how many targets each has.
        stale: what is there of an evaluation of other scores, and is not shown.
        read: the outputs that this is from.
    """

    run: str
    asked: list[tuple[str, str]]
    findings: dict[str, list[Finding]]
    wrong: dict[str, list[First]]
    suspects: list[First] | None
    trust_figures: list[Figure]
    figures: list[Figure]
    usage: list[tuple[str, ...]]
    settings: str
    versions: list[tuple[str, str]]
    provenance: list[tuple[str, ...]]
    packed: str
    shown: int
    classifies: bool
    sets: dict[str, int]
    stale: list[str]
    read: list[Path]


def gather(run: Run) -> Contents:
    """Read a run.

    Args:
        run: complete but for its evaluation, which is shown where it is there.

    Raises:
        TrakError: if something is missing, or does not fit together.
    """
    sets, tables = [], []
    for name in run.target_sets:
        each, table = read_targets(run, name)
        sets.append(each)
        tables.append(table)
    measured = read_evaluation(run)
    rows = read_train_rows(run, tables, measured.suspects)
    packed, shown = packed_page(
        sets,
        rows,
        measured.suspects,
        run.labels,
        run.text_columns,
        run=run.name,
        # Decisions that are made in the page are of these rows.
        identity=f"{run.name} {artefact_manifest(run.layout.train).content[:16]}",
    )
    layout = run.layout
    read = [layout.train, layout.summary, layout.provenance, *measured.files]
    for name in run.target_sets:
        read += [layout.targets(name), layout.scores(name), layout.top(name)]
    settings = run.settings.model_dump(mode="json")
    return Contents(
        run=run.name,
        asked=facts.asked(run),
        findings={each.name: facts.findings(run, each, measured) for each in sets},
        wrong={each.name: facts.wrong_first(run, each) for each in sets},
        suspects=None if measured.suspects is None else facts.suspects_first(run, measured.suspects),
        trust_figures=_trust_figures(measured, sets[0]),
        figures=_figures(run, measured, sets[0]),
        usage=_usage(run),
        settings=yaml.safe_dump(settings, sort_keys=False, allow_unicode=True),
        versions=_versions(run),
        provenance=_provenance(run),
        packed=packed,
        shown=sum(min(shown, len(each)) for each in sets),
        classifies=bool(run.labels) and run.settings.features.model_output == BUILT_IN,
        sets={each.name: len(each) for each in sets},
        stale=[layout.name(path) for path in measured.stale],
        read=read,
    )


def _trust_figures(measured: Evaluation, each: TargetSet) -> list[Figure]:
    found = []
    of = measured.lds["targets"].get(each.name) if measured.lds is not None else None
    if of is not None and (drawn := figures.baselines(of)):
        found.append(drawn)
    found.append(figures.margins(each.total, each.margin, each.wrong))
    return found


def _figures(run: Run, measured: Evaluation, each: TargetSet) -> list[Figure]:
    found = [figures.distribution(*_sample(run, each))]
    if run.settings.features.model_output == BUILT_IN:
        found.append(figures.trainings(_moments(run), run.first_features(run.checkpoints[0]).n))
    if measured.curves is not None and (drawn := figures.curves(measured.curves, each.name)):
        found.append(drawn)
    if measured.removals is not None and len(measured.removals):
        found.append(figures.removals(measured.removals))
    return found


def _sample(run: Run, each: TargetSet) -> tuple[NDArray[np.float64], str]:
    """Scores of many rows for all targets of a set, where they are kept; else of the lists."""
    store = run.score_store(each.name)
    n, t = store.shape
    if "scores" not in store.matrix:
        of_lists = np.concatenate([of["score"].ravel() for of in each.lists.values()])
        return of_lists.astype(np.float64), "the rows that are listed, since not every score is kept"
    rows = max(1, min(n, SAMPLED // t))
    what = "all train rows for all targets" if rows == n else f"the first {rows:,} train rows"
    return store.scores(0, rows).astype(np.float64).ravel(), what


def _moments(run: Run) -> list[Moment]:
    """How good the models are at each checkpoint, by the features' own margins and predictions.

    Of the train set those of the first shard, which may be few of many.
    """
    # Rows are held to their digests whenever they are opened: once for all checkpoints.
    labels = {of: run.target_rows(of).column("label") for of in run.target_sets}
    labels["train set"] = run.train_rows.column("label")
    found = []
    for name in run.checkpoints:
        stores = {"train set": run.first_features(name)}
        stores |= {of: run.target_features(name, of) for of in run.target_sets}
        for rows, store in stores.items():
            margin = store.column("margin").astype(np.float64)
            own = labels[rows][: len(margin)]
            right = float((store.column("prediction") == own).mean()) if run.labels else None
            loss = float(np.logaddexp(0, -margin).mean())
            found.append(Moment(training_of(name), fraction_of(name), rows, right, loss))
    return found


def _usage(run: Run) -> list[tuple[str, ...]]:
    found = usage_of(run)
    rows: list[tuple[str, ...]] = [("stage", "jobs", "time", "CPU", "memory", "disk")]
    rows += [
        (
            of.stage,
            f"{of.jobs:,}",
            duration(of.seconds),
            duration(of.cpu),
            size(of.memory),
            "not counted" if of.disk is None else size(of.disk),
        )
        for of in found
    ]
    return rows if found else []


def _provenance(run: Run) -> list[tuple[str, ...]]:
    """What each output was made from, by ``provenance.json``."""
    rows: list[tuple[str, ...]] = [("output", "version of its step", "content", "made from")]
    for name, of in run.provenance["outputs"].items():
        if of["kind"] in ("features", "score-part", "kernel-part", "weighted-sums"):
            continue
        sources = [source for source in of["made_from"] if not source.startswith("features/")]
        more = len(of["made_from"]) - len(sources)
        listed = ", ".join(sources[:MADE_FROM]) + (" …" if len(sources) > MADE_FROM else "")
        features = f"{more:,} stores of features" if more else ""
        made_from = "; ".join(part for part in (listed, features) if part)
        rows.append((name, str(of["version"]), of["content"][:CONTENT], made_from))
    return rows


def _versions(run: Run) -> list[tuple[str, str]]:
    """What the scores were made with, and the page."""
    made = run.score_store(run.target_sets[0]).manifest.versions
    return [
        *made.items(),
        ("matplotlib", version("matplotlib")),
        ("itables (DataTables)", version("itables")),
    ]
