"""The jobs that a run is made by, as the rules of the workflow have them.

For who looks at a run from outside; the rules themselves are in ``workflow/rules``.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from trak_steps.config import Settings
from trak_steps.errors import TrakError
from trak_steps.run.layout import (
    Layout,
    checkpoints_of_job,
    jobs_of_checkpoints,
    planned_parts,
    shard_names,
)
from trak_steps.run.shards import shard_size
from trak_steps.run.spans import Span, kernel_spans, support_spans, suspect_spans, weighted_spans
from trak_steps.run.tiles import tiles
from trak_steps.store.manifest import Manifest
from trak_steps.store.tree import RECEIPT

STAGES = ("data", "checkpoints", "features", "kernels", "scores", "summary", "evaluation")
ALL = "all"
# Of each rule, the rules whose jobs it waits for.
_AFTER = {
    "model": (),
    "prepare": ("model",),
    "prepare_targets": ("prepare",),
    "finetune": ("prepare",),
    "import_checkpoint": ("prepare",),
    "featurize": ("finetune", "import_checkpoint"),
    "featurize_targets": ("prepare_targets", "finetune", "import_checkpoint"),
    "sum_kernel": ("featurize",),
    "kernel": ("featurize", "sum_kernel"),
    "sum_weighted": ("featurize",),
    "calibrate": ("kernel", "sum_weighted"),
    "score": ("calibrate", "featurize_targets"),
    "gather": ("score",),
    "rank": ("gather",),
    "summarize": ("rank",),
    "provenance": ("summarize",),
    "report": ("provenance",),
    "check_recipe": ("featurize_targets",),
    "plan_subsets": ("prepare", "check_recipe"),
    "plan_removal": ("calibrate", "featurize_targets", "check_recipe"),
    "retrain_subsets": ("plan_subsets", "prepare_targets"),
    "retrain_removal": ("plan_removal",),
    "measure_lds": ("retrain_subsets", "calibrate", "featurize_targets"),
    "measure_removal": ("retrain_removal",),
    "sum_classes": ("featurize",),
    "find_support": ("kernel", "sum_classes"),
    "pick_suspects": ("find_support",),
    "find_opponents": ("calibrate", "pick_suspects"),
    "find_mislabelled": ("calibrate", "find_opponents"),
    "measure_stability": ("calibrate", "featurize_targets"),
}
# Of each target of the workflow, the last rules.
_LAST = {
    "data": ("prepare_targets",),
    "checkpoints": ("finetune", "import_checkpoint"),
    "features": ("featurize", "featurize_targets"),
    "kernels": ("kernel",),
    "scores": ("rank",),
    "summary": ("provenance",),
    "report": ("report",),
    "evaluation": (
        *("measure_lds", "measure_removal", "find_mislabelled", "measure_stability"),
        "report",
    ),
    ALL: ("report",),
}


@dataclass(frozen=True)
class Job:
    """One job.

    Attributes:
        rule: of the workflow.
        name: of its log and its times.
        outputs: the files that it is done with: for a folder its receipt.
    """

    rule: str
    name: str
    outputs: tuple[Path, ...]


@dataclass(frozen=True)
class Jobs:
    """The jobs of a rule.

    Attributes:
        rule: of the workflow.
        stage: that it belongs to.
        jobs: none where their number is not known before the rows are prepared.
    """

    rule: str
    stage: str
    jobs: list[Job] | None


def rules_before(rule: str) -> tuple[str, ...]:
    """The rules whose jobs a rule's jobs wait for."""
    return _AFTER[rule]


def step_of(rule: str) -> str:
    """The step that a rule's jobs run."""
    return "featurize" if rule == "featurize_targets" else rule.replace("_", "-")


def asked_rules(targets: Iterable[str]) -> set[str]:
    """The rules whose jobs are needed for some targets of the workflow.

    A target that is a file, and no stage, is taken for all of the pipeline.
    """
    rules, waiting = set[str](), [rule for name in targets for rule in _LAST.get(name, _LAST[ALL])]
    while waiting:
        rule = waiting.pop()
        if rule not in rules:
            rules.add(rule)
            waiting += _AFTER[rule]
    return rules


def jobs_of(settings: Settings, layout: Layout) -> list[Jobs]:
    """All jobs of a run, by rule, in the order of the pipeline; those of its evaluation too.

    Args:
        settings: of the run.
        layout: of the run, whose prepared rows say how many jobs there are where the settings do not.
    """
    chosen = settings.checkpoints
    # Of each job that trains or imports, the checkpoints.
    groups = {name: checkpoints_of_job(chosen, name) for name in jobs_of_checkpoints(chosen)}
    sets = list(settings.targets)
    shards = known_shards(settings, layout)
    parts = {of: known_parts(settings, layout, of) for of in sets}
    train = "import_checkpoint" if chosen.existing else "finetune"
    checkpoints = {f"checkpoints/{i}": map(layout.checkpoint, kept) for i, kept in groups.items()}
    featurize = {
        f"features/{i}/train/{shard}": [layout.train_shard(name, shard) for name in kept]
        for i, kept in groups.items()
        for shard in shards or ()
    }
    featurize_targets = {
        f"features/{i}/targets/{of}": [layout.target_features(name, of) for name in kept]
        for i, kept in groups.items()
        for of in sets
    }
    kernels = {f"kernel/{i}": map(layout.kernel, kept) for i, kept in groups.items()}
    sum_kernel = {
        f"kernel/{i}/{rows}": [layout.kernel_part(name, rows) for name in kept]
        for rows in known_spans(kernel_spans, settings, layout) or ()
        for i, kept in groups.items()
    }
    sum_weighted = {
        f"sums/{rows}": [layout.weighted_sums(rows)]
        for rows in known_spans(weighted_spans, settings, layout) or ()
    }
    score = {
        f"scores/{of}/{part}": [layout.score_part(of, part)] for of in sets for part in parts[of] or ()
    }
    known = all(found is not None for found in parts.values())
    return [
        _jobs("model", "data", {"model": [layout.model]}),
        _jobs("prepare", "data", {"data/train": [layout.train]}),
        _jobs("prepare_targets", "data", {f"data/targets/{of}": [layout.targets(of)] for of in sets}),
        _jobs(train, "checkpoints", checkpoints),
        _jobs("featurize", "features", featurize if shards is not None else None),
        _jobs("featurize_targets", "features", featurize_targets),
        *_some("sum_kernel", "kernels", sum_kernel),
        _jobs("kernel", "kernels", kernels),
        *_some("sum_weighted", "scores", sum_weighted),
        _jobs("calibrate", "scores", {"calibration": [layout.calibration]}),
        _jobs("score", "scores", score if known else None),
        _jobs("gather", "scores", {f"scores/{of}": [layout.scores(of)] for of in sets}),
        _jobs("rank", "scores", {f"scores/{of}.top": [layout.top(of)] for of in sets}),
        _jobs("summarize", "summary", {"summary": [layout.summary]}),
        _jobs("provenance", "summary", {"provenance": [layout.provenance]}),
        _jobs("report", "summary", {"report": [layout.report]}),
        *_evaluation(settings, layout),
    ]


def _evaluation(settings: Settings, layout: Layout) -> list[Jobs]:
    stage, imported = "evaluation", bool(settings.checkpoints.existing)
    found = []
    if imported and settings.evaluation.retrain_imported:
        found.append(_jobs("check_recipe", stage, {"evaluation/recipe": [layout.recipe]}))
    if not imported or settings.evaluation.retrain_imported:
        for plan, parts in planned_parts(settings.evaluation).items():
            retrained = {
                f"evaluation/retrained/{plan}/{part}": [layout.retrained(plan, part)] for part in parts
            }
            found.append(_jobs(f"plan_{plan}", stage, {f"evaluation/{plan}.plan": [layout.plan(plan)]}))
            found.append(_jobs(f"retrain_{plan}", stage, retrained))
        figures = {"lds": [layout.lds, layout.lds_curves], "removal": [layout.removal, layout.removals]}
        for name, made in figures.items():
            found.append(_jobs(f"measure_{name}", stage, {f"evaluation/{name}": made}))
    spans = known_spans(suspect_spans, settings, layout) or ()
    classes = {f"evaluation/classes/{rows}": [layout.class_sums(rows)] for rows in spans}
    support = {
        f"evaluation/support/{i}/{rows}": [layout.support(i, rows)]
        for rows in known_spans(support_spans, settings, layout) or ()
        for i in jobs_of_checkpoints(settings.checkpoints)
    }
    picked = {"evaluation/picked": [layout.picked]} if spans else {}
    opponents = {f"evaluation/opponents/{rows}": [layout.opponents(rows)] for rows in spans}
    found += _some("sum_classes", stage, classes)
    found += _some("find_support", stage, support)
    found += _some("pick_suspects", stage, picked)
    found += _some("find_opponents", stage, opponents)
    suspects = [layout.suspects, layout.mislabelled]
    found.append(_jobs("find_mislabelled", stage, {"evaluation/mislabelled": suspects}))
    found.append(_jobs("measure_stability", stage, {"evaluation/stability": [layout.stability]}))
    return found


def known_shards(settings: Settings, layout: Layout) -> list[str] | None:
    """The names of the train set's shards; none where they are not known yet."""
    n = settings.dataset.train_size or prepared_rows(layout.train)
    try:
        return shard_names(n, shard_size(settings.features, layout)) if n else None
    except TrakError:
        return None


def known_parts(settings: Settings, layout: Layout, targets: str) -> list[str] | None:
    """The parts that a target set is to be scored in; none where they are not known yet."""
    n = settings.dataset.train_size or prepared_rows(layout.train)
    t = settings.targets[targets].size or prepared_rows(layout.targets(targets))
    try:
        return [tile.name for tile in tiles(settings, layout, n, t)] if n and t else None
    except TrakError:
        return None


def known_spans(
    spans: Callable[[Settings, Layout, int], list[Span]], settings: Settings, layout: Layout
) -> list[str] | None:
    """The parts of the train set that something is done in; none where they are not known yet."""
    n = settings.dataset.train_size or prepared_rows(layout.train)
    try:
        return [span.name for span in spans(settings, layout, n)] if n else None
    except TrakError:
        return None


def prepared_rows(folder: Path) -> int:
    """How many rows a prepared set has; 0 where it is not there, or damaged."""
    try:
        return int(Manifest.load(folder, "data").details["rows"])
    except (TrakError, KeyError, TypeError, ValueError):
        return 0


def _jobs(rule: str, stage: str, made: Mapping[str, Iterable[Path]] | None) -> Jobs:
    """The jobs of a rule, of the outputs of each by its name."""
    if made is None:
        return Jobs(rule, stage, None)
    waited_for = {name: tuple(map(_waited_for, outputs)) for name, outputs in made.items()}
    return Jobs(rule, stage, [Job(rule, name, files) for name, files in waited_for.items()])


def _some(rule: str, stage: str, made: Mapping[str, Iterable[Path]]) -> list[Jobs]:
    """The same of a rule that most runs do not need."""
    return [_jobs(rule, stage, made)] if made else []


def _waited_for(output: Path) -> Path:
    return output if output.suffix in (".json", ".parquet", ".html") else output / RECEIPT
