"""What the first screen says: what was asked, whether it can be trusted, what to look at first."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from trak_steps.api.run import Run
from trak_steps.report.evaluation import Evaluation
from trak_steps.report.rows import TargetSet

# What the summary warns of, too: sums of sound scores go with margins at 0.5 to 0.7 and more.
GOOD, POOR = 0.5, 0.4
# Of the strongest rows, by one training and by the others.
SHARED = 0.6
FIRST = 8


@dataclass(frozen=True)
class Finding:
    """Something that tells whether scores can be trusted.

    Attributes:
        title: what was measured.
        figure: as it is shown.
        words: what it means.
        grade: ``good``, ``fair``, ``poor`` or ``unknown``.
        details: more figures, as term and value.
    """

    title: str
    figure: str
    words: str
    grade: str
    details: tuple[tuple[str, str], ...] = ()


def asked(run: Run) -> list[tuple[str, str]]:
    """What was asked of which model and data, as terms and values."""
    settings, summary = run.settings, run.summary
    dataset, chosen = settings.dataset, settings.checkpoints
    source = f"{dataset.path}/{dataset.name}" if dataset.name else dataset.path
    flipped = summary["flipped_labels"]
    rows = f"{summary['train_rows']:,} rows of {source}"
    if flipped:
        rows += f", {flipped:,} of them with a wrong label on purpose"
    if chosen.existing:
        model = f"{counted(run.trainings, 'training')}, imported"
    else:
        model = f"{settings.model.name_or_path}, fine-tuned {_times(run.trainings)}"
    found = [
        ("Model", model),
        ("Checkpoints", f"{len(run.checkpoints)}: {_listed(run.checkpoints)}"),
        ("Train set", rows),
    ]
    if run.labels:
        found.append(("Classes", _listed(run.labels)))
    for name, figures in summary["targets"].items():
        words = f"{counted(figures['rows'], 'row')} of split {settings.targets[name].split}"
        if "accuracy" in figures:
            right, chance = (f"{figures[name]:.0%}" for name in ("accuracy", "accuracy_chance"))
            words += f", {right} answered right ({chance} by chance)"
        found.append((f"Targets: {name}", words))
    features = settings.features
    found.append(("Features", f"{features.dim:,} dimensions, projection {features.projection}"))
    return found


def findings(run: Run, each: TargetSet, measured: Evaluation) -> list[Finding]:
    """Whether the scores of a target set can be trusted, as far as it was measured."""
    return [
        *_lds(each.name, measured.lds),
        _adds_up(run, each.name),
        _stable(run, each, measured.stability),
        *_labels(measured.mislabelled),
    ]


def _lds(targets: str, measured: dict[str, Any] | None) -> Iterator[Finding]:
    title = "Do scores predict retrained models?"
    of = measured["targets"].get(targets) if measured is not None else None
    if measured is None or of is None:
        yield Finding(
            title,
            "not measured",
            "`snakemake evaluation` retrains models on random halves of the train set, and tells how "
            "well scores predict their answers.",
            "unknown",
        )
        return
    lds, ceiling = of["lds"], of["ceiling"]
    if not known(lds) or not known(ceiling) or ceiling["value"] <= 0:
        words = "The retrained models are too few for an LDS, or agree on too little."
        yield Finding(title, "not known", words, "unknown")
        return
    beaten = [name for name, found in of["baselines"].items() if _above(found["less_the_scores"])]
    share = lds["value"] / ceiling["value"] if ceiling["value"] > 0 else 0.0
    not_beaten = [name for name in of["baselines"] if name not in beaten]
    words = (
        f"Linear datamodeling score: the rank correlation between what scores predict and what "
        f"models retrained on {measured['subsets']} random halves answer. Retraining is noisy: no way "
        f"of scoring can be above {ceiling['value']:.2f} here, and this is {share:.0%} of it."
    )
    if not_beaten:
        words += f" Not told apart from, or below: {_listed(not_beaten)}."
    grade = "poor" if lds["low"] <= 0 else "good" if share >= GOOD and not not_beaten else "fair"
    adjusted = of["class_adjusted"]  # none where the subsets are few for the classes
    details = (
        ("LDS", interval(lds)),
        ("ceiling", interval(ceiling)),
        *([("LDS, class-adjusted", interval(adjusted["lds"]))] if adjusted else []),
        *((f"baseline: {name}", interval(found["lds"])) for name, found in of["baselines"].items()),
    )
    yield Finding(title, interval(lds), words, grade, details)


def _above(less: Mapping[str, float]) -> bool:
    """Whether a baseline is below the scores by its whole interval."""
    return known(less) and less["high"] < 0


def _adds_up(run: Run, targets: str) -> Finding:
    title = "Do scores add up to margins?"
    found = run.summary["targets"][targets]["margin_explained"]
    if found is None:
        return Finding(title, "not known", "Of these targets too little is known for that.", "unknown")
    among = found["correlation_between_trainings"]
    value = found["correlation"] if among is None else among
    whose = "the models'" if among is None else "another training's"
    words = (
        f"The correlation between the sum of a target's scores over all train rows and {whose} margin; "
        "sound scores had 0.5 to 0.9."
    )
    grade = "good" if value >= GOOD else "fair" if value >= POOR else "poor"
    details = (
        ("with the models' own margins", f"{found['correlation']:.2f}"),
        ("slope", f"{found['slope']:.2f}"),
    )
    return Finding(title, f"{value:.2f}", words, grade, details)


def _stable(run: Run, each: TargetSet, measured: dict[str, Any] | None) -> Finding:
    title = "Would another training say the same?"
    if run.trainings < 2:
        words = "There is a single training. Of two or more it is known which scores' signs are stable."
        return Finding(title, "not known", words, "unknown")
    stable = float(np.mean([of["sign_stable"].mean() for of in each.lists.values()]))
    said = ("listed scores that are not marked with a ?", f"{stable:.0%}")
    of = measured["targets"].get(each.name) if measured is not None else None
    if measured is None or of is None or of.get("top_shared") is None:
        words = (
            "The share of the listed scores that are so far from zero, by Student's quantile for "
            f"{run.trainings} trainings, that their sign is sure. The others are marked with a ?. "
            "`snakemake evaluation` measures what a training that was left out says."
        )
        return Finding(title, f"{stable:.0%}", words, "unknown")
    shared = of["top_shared"]
    words = (
        f"The share of a target's {measured['top']} strongest rows, by all trainings but one, that are "
        "among those of the one left out."
    )
    grade = "good" if shared >= SHARED else "fair" if shared >= SHARED / 2 else "poor"
    details = [said]
    for name, what in (
        ("signs_held", "signs of listed scores that held there"),
        ("stable_signs_held", "of those not marked with a ?"),
    ):
        if of.get(name) is not None:
            details.append((what, f"{of[name]:.1%}"))
    return Finding(title, f"{shared:.0%}", words, grade, tuple(details))


def _labels(measured: dict[str, Any] | None) -> Iterator[Finding]:
    if measured is None or not measured["measures"]:
        return
    best = measured["measures"][measured["listed_by"]]
    if best is None:
        words = (
            "Which labels are wrong is not known here; the rows that look most so are listed under "
            "Train rows."
        )
        yield Finding("Which labels are wrong?", "listed", words, "unknown")
        return
    words = (
        f"How well the {measured['flipped']:,} labels that were made wrong on purpose are told from the "
        "others, as an area under the curve: 0.50 is chance."
    )
    grade = "good" if best["auc"] >= 0.8 else "fair" if best["auc"] >= 0.65 else "poor"
    details = (
        ("wrong among as many listed first", f"{best['precision']:.0%}"),
        ("by chance", f"{best['chance']:.0%}"),
    )
    yield Finding("Are wrong labels found?", f"{best['auc']:.2f}", words, grade, details)


@dataclass(frozen=True)
class First:
    """Something to look at first.

    Attributes:
        address: in the page.
        texts: of the row.
        label: its own.
        other: what the models say.
        figure: the number that it is listed by.
    """

    address: str
    texts: Sequence[str]
    label: str
    other: str
    figure: str


def wrong_first(run: Run, each: TargetSet) -> list[First]:
    """The targets that the models are surest of and get wrong."""
    if each.prediction is None:
        return []
    found = []
    for i in range(min(FIRST, int(each.wrong.sum()))):
        found.append(
            First(
                f"#/targets/{each.name}/{each.target[i]}",
                [column[i] for column in each.texts],
                run.labels[int(each.label[i])],
                run.labels[int(each.prediction[i])],
                signed(each.margin[i]),
            )
        )
    return found


def suspects_first(run: Run, suspects: pa.Table) -> list[First]:
    """The train rows whose labels look most wrong."""
    return [
        First(
            f"#/rows/{row['row']}",
            [row[f"text_{column}"] for column in run.text_columns],
            row["label_name"],
            row["predicted_name"],
            signed(row["margin"]),
        )
        for row in suspects.slice(0, FIRST).to_pylist()
    ]


def known(found: Mapping[str, Any] | None) -> bool:
    """Whether there is a figure with bounds: of few models there may be none."""
    return found is not None and all(found[name] is not None for name in ("value", "low", "high"))


def interval(found: Mapping[str, Any]) -> str:
    """A figure with its bounds."""
    if not known(found):
        return "not known"
    return f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def signed(value: float) -> str:
    """A number with its sign, as the page's program writes it."""
    return f"{value:+.2f}".replace("-", "−")


def counted(count: int, what: str) -> str:
    """``1 row``, ``2,304 rows``."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times, each with its own seed")


def _listed(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
