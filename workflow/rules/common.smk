# What the rules share: the run's settings and paths, and what makes a rule run again.

import os
import shlex
import sys
from pathlib import Path

import snakemake.benchmark
from snakemake.exceptions import WorkflowError

from trak_steps.config import arguments, parse_settings
from trak_steps.errors import TrakError
from trak_steps.run.asked import Asked
from trak_steps.run.custom_code import custom_code
from trak_steps.run.identity import rows_listed
from trak_steps.workflow.gpus import let_jobs_choose
from trak_steps.workflow.housekeeping import Turn, drop_empty, drop_surplus, made_again
from trak_steps.workflow.inputs import (
    base_files,
    downloading,
    imported_files,
    known,
    known_count,
    known_file,
    known_seal,
    local_files,
)
from trak_steps.run.layout import (
    MOMENT_ROWS,
    Layout,
    checkpoint_names,
    checkpoints_of_job,
    final_checkpoints,
    imported,
    jobs_of_checkpoints,
    planned_parts,
    shard_names,
)
from trak_steps.model.files import OPTIMIZER, SECOND_MOMENTS
from trak_steps.run.shards import shard_size
from trak_steps.run.spans import (
    Span,
    kernel_spans,
    support_spans,
    suspect_spans,
    weighted_spans,
)
from trak_steps.run.tiles import Tile, tiles
from trak_steps.workflow.memory import SUBMITTED, memory_of
from trak_steps.workflow.registry import (
    NO_GPU_ASKED,
    STEPS,
    device_of_jobs,
    hand_to_jobs,
    reads,
    version_of,
)
from trak_steps.workflow.refused import VARIABLE, forget_refusals
from trak_steps.workflow.slurm import cancel_left, check_place, keep_name
from trak_steps.workflow.storage import stored
from trak_steps.store.atomic import sweep
from trak_steps.store.tree import RECEIPT

# A job's memory is looked at twice a second at first, which took a third of a small run's CPU.
snakemake.benchmark.BENCHMARK_INTERVAL_SHORT = 2.0

try:
    settings = parse_settings(config)
except TrakError as error:
    raise WorkflowError(str(error))

run = Layout(Path("results") / settings.run)
# Where jobs share no files: the storage that the run lies in. See docs/storage.md.
storage_of_run = stored(workflow, run.root.parent, settings.run)
# What of the run can be read here.
facts = storage_of_run.facts if storage_of_run else run
CHECKPOINTS = checkpoint_names(settings.checkpoints)
# Of each that is imported, the folder or hub id that it is from.
IMPORTED = imported(settings.checkpoints)
LAST = final_checkpoints(settings.checkpoints)
TARGETS = list(settings.targets)
# Of each plan of retraining: its parts.
PARTS = planned_parts(settings.evaluation)

# What models are retrained by is known of imported checkpoints only if it is given, and checked.
RECIPE = [run.recipe] if settings.evaluation.retrain_imported else []
# What the evaluation finds out.
RETRAINED = [run.lds, run.lds_curves, run.removal, run.removals]
EVALUATION = [
    *([] if IMPORTED and not RECIPE else RETRAINED),
    *(run.mislabelled, run.suspects, run.stability),
]

# One Snakemake a run. Snakemake's own lock outlives a `kill -9`, after which the same command would
# refuse to go on; this one dies with its process.
turn = Turn.begin(run)


onstart:
    try:
        held = turn.take()
        if workflow.executor_plugin.name == "slurm":
            for place in places():
                check_place(*place)
            for job in cancel_left(run.submitted, *turn.held_before):
                print(f"cancelled job {job} of an earlier call", file=sys.stderr)
            keep_name(run.submitted, log)
        if storage_of_run:
            storage_of_run.tell(asked_for())
        else:
            asked_for(made_again(run, workflow.dag.needrun_jobs())).save(run)
    except TrakError as error:
        raise WorkflowError(str(error))
    forget_refusals(run.refused)
    hand_to_jobs(settings, device())
    let_jobs_choose(elsewhere=elsewhere())
    if device() != settings.execution.device and workflow.non_local_exec:
        print(NO_GPU_ASKED, file=sys.stderr)
    for path in sweep(run.root):
        print(f"removed {path}, which a killed writer left", file=sys.stderr)
    for path in drop_surplus(run, PARTS):
        print(
            f"removed {path}, whose models are no longer planned", file=sys.stderr
        )


onsuccess:
    if not storage_of_run:
        asked_for().save(run)
    sweep(run.root)


onerror:
    drop_empty(run)


def asked_for(again=()):
    """What this Snakemake is asked for; and which jobs make anew what is there."""
    targets = map(str, workflow.dag_settings.targets or ["all"])
    return Asked(settings, tuple(sorted(targets)), frozenset(again))


BASE_MODEL = [*IMPORTED.values(), settings.model.name_or_path][0]


def named_source(named):
    """The argument that names an imported checkpoint; the others do not matter."""
    return f"--source {shlex.quote(named)}"


def made(path):
    """What stands for an output that is a folder: its receipt, a small file within.

    Snakemake deletes it before a job, and not the folder; the step keeps what still fits. It compares
    receipts by content, so that what was made anew and came out the same reruns nothing.

    In a storage it is the folder, all of which a job is brought.
    """
    return str(path) if storage_of_run else f"{path}/{RECEIPT}"


def whole(path):
    """The same of a rule's own output."""
    return directory(made(path)) if storage_of_run else made(path)


def prepared(path):
    """Prepared rows that enter by what they are, through params: see below.

    Of rows in a storage that is not known here, so there it counts when they were prepared.
    """
    return made(path) if storage_of_run else ancient(made(path))


def brought(*paths):
    """What a step looks up in the run's folder beside its rule's inputs, and a storage must bring it."""
    return [made(path) for path in paths] if storage_of_run else []


def brought_for_shards():
    """Where the model and the train rows decide how many rows a shard has, steps look there."""
    return [] if settings.features.shard_size else brought(run.model, run.train)


def here(files):
    """Local files, which are in no storage: jobs that read some run where the workflow is started."""
    return [local(file) for file in files] if storage_of_run else files


def shown(path, what, category, **labels):
    """A result that Snakemake's own report has, with the caption ``workflow/report/<what>.rst``.

    Not in a storage, whose jobs have no captions at hand.
    """
    if storage_of_run:
        return path
    caption = workflow.source_path(f"../report/{what}.rst")
    return report(path, caption=caption, category=category, labels=labels)


def of_job(job):
    """The names of a job's checkpoints: those of a training; of imported ones, a single one."""
    return checkpoints_of_job(settings.checkpoints, job)


# A custom model output is code too: a change to its module reruns the features.
MODEL_OUTPUT = custom_code(settings.features.model_output)


def elsewhere():
    """Whether other machines run the jobs, which is known after the rules are read."""
    return workflow.remote_exec or workflow.non_local_exec


def device():
    """Where jobs compute."""
    return device_of_jobs(settings, elsewhere())


def gpus(step):
    """How many GPUs a rule's jobs ask for."""
    return lambda wildcards: int(STEPS[step].gpu and device().startswith("cuda"))


# What is fetched from the hub is fetched here: nodes of a cluster seldom reach the internet.
FETCH = downloading(settings)


def places():
    """The partitions and accounts that planned jobs are for: of a rule, those of one job."""
    jobs = {job.rule.name: job for job in workflow.dag.needrun_jobs()}
    asked = [job.resources for job in jobs.values()]
    return {(each.get("slurm_partition"), each.get("slurm_account")) for each in asked}


# Where and how to compute goes to the jobs beside their params, so that a change reruns nothing.
hand_to_jobs(settings, device())
# Snakemake's `retries` repeat refusals too; a repeated job then says the same at once.
os.environ[VARIABLE] = str(run.refused)


wildcard_constraints:
    # A training's number; of imported ones, a checkpoint's name.
    training=r"\d+(-[0-9.e-]+)?" if IMPORTED else r"\d+",
    shard=r"\d{5}\d*",
    part=r"\d+-\d+\.\d+-\d+",
    rows=r"\d+-\d+",
    targets=r"[A-Za-z0-9][A-Za-z0-9_-]*",


def memory(step):
    """MB that a rule's jobs ask for. A retry after a job was killed for its memory gets more."""
    of_step = memory_of(step, settings, facts)

    def asked(wildcards, input, attempt):
        if storage_of_run:
            folders = {"model": [], "prepare": [run.model]}.get(
                step, [run.model, run.train]
            )
            if all(
                storage_of_run.look(run.name(folder)).exists() for folder in folders
            ):
                input = []
        return of_step(wildcards, input, attempt) + (SUBMITTED if elsewhere() else 0)

    return asked


def step(name):
    """Params of a rule: the settings that its step reads, and the step's version."""
    place = f"{storage_of_run.arguments} " if storage_of_run else ""
    return {
        "settings": lambda wildcards: place
        + arguments(
            settings, reads(name, settings, targets=wildcards.get("targets", ""))
        ),
        "version": version_of(name),
    }


# Prepared rows enter as `ancient` inputs, and by what they are, through these params: when they are
# prepared anew, what depends on rows or classes that stayed the same does not run again. Snakemake
# looks at params anew after a checkpoint, so this holds for rows that checkpoints prepare, and for
# rules that name those directly.


def content(name):
    """What prepared rows are, or a part of them; nothing is said of rows in a storage."""
    return "" if storage_of_run else known(run, name)


def count_of_rows(folder):
    """How many rows a set has that is prepared and stays so."""
    if storage_of_run:
        storage_of_run.settle(run.name(run.model), run.name(folder))
    return known_count(facts, facts.root / run.name(folder), "rows")


def shard_rows(wildcards):
    """What models see of a shard's rows."""
    if storage_of_run:
        return ""
    size = shard_size(settings.features, run)
    start = int(wildcards.shard) * size
    return content(f"{run.name(run.train)}#{start}:{start + size}")


def train_rows(wildcards):
    """What models see of the train set."""
    return content(run.name(run.train))


def train_classes(wildcards):
    """The classes of the train set."""
    return content(f"{run.name(run.train)}#classes")


def first_rows(wildcards):
    """What models see of the rows whose gradients stand in for an optimizer's second moments."""
    files = imported_files(IMPORTED[wildcards.training])
    if any(Path(file).name in (SECOND_MOMENTS, OPTIMIZER) for file in files):
        return ""
    return content(f"{run.name(run.train)}#0:{MOMENT_ROWS}")


def target_rows(wildcards):
    """What models see of a target set."""
    return content(run.name(run.targets(wildcards.targets)))


def all_target_rows(wildcards):
    """What models see of all target sets."""
    return [content(run.name(run.targets(name))) for name in TARGETS]


def train_table(wildcards):
    """Every column of the train set."""
    return content(f"{run.name(run.train)}#table")


def tables(wildcards):
    """Every column of the train set and of the target sets at hand."""
    names = [wildcards.targets] if "targets" in wildcards.keys() else TARGETS
    folders = [run.train, *map(run.targets, names)]
    return [content(f"{run.name(folder)}#table") for folder in folders]


def count_of_train():
    """How many train rows there are; asks for the prepared rows if they decide it, or the shards."""
    n = settings.dataset.train_size
    if n is None or settings.features.shard_size is None:
        checkpoints.prepare.get()
        n = count_of_rows(run.train)
    return n


def shards(wildcards):
    """The names of the train set's shards."""
    return shard_names(count_of_train(), shard_size(settings.features, facts))


def train_features(wildcards):
    """Features of the whole train set: of a training's checkpoints, or of all."""
    names = (
        of_job(wildcards.training) if "training" in wildcards.keys() else CHECKPOINTS
    )
    return [
        made(run.train_shard(name, part))
        for name in names
        for part in shards(wildcards)
    ]


def first_shards(wildcards):
    """Features of the first train rows, by all checkpoints."""
    first = shards(wildcards)[0]
    return [made(run.train_shard(name, first)) for name in CHECKPOINTS]


def features_between(names, start, stop):
    """Features of the train rows from one place to another, by some checkpoints."""
    # How many rows there are is settled first: a storage brings what the size of shards is found by.
    n, size = count_of_train(), shard_size(settings.features, facts)
    found = shard_names(n, size)[start // size : -(-stop // size)]
    return [made(run.train_shard(name, shard)) for name in names for shard in found]


def features_of_part(wildcards):
    """Features of the train rows of a part of scores, by all checkpoints."""
    tile = Tile.named(wildcards.part)
    return features_between(CHECKPOINTS, tile.start, tile.stop)


def features_of_rows(wildcards):
    """Features of some train rows: by a training's checkpoints, or by all."""
    span = Span.named(wildcards.rows)
    names = (
        of_job(wildcards.training) if "training" in wildcards.keys() else CHECKPOINTS
    )
    return features_between(names, span.start, span.stop)


def rows_of(spans):
    """The parts of the train set that a job each looks at, where there are any: see run/spans.py."""
    return [span.name for span in spans(settings, facts, count_of_train())]


def kernel_parts(names):
    """The parts that kernels are summed in."""
    rows = rows_of(kernel_spans)
    return [made(run.kernel_part(name, part)) for name in names for part in rows]


def summed_in_kernel(wildcards):
    """What the kernels of a training are summed from: its features, or parts."""
    parts = kernel_parts(of_job(wildcards.training))
    return parts or train_features(wildcards)


def weighted_sums(wildcards):
    """The parts that weighted features are summed in."""
    return [made(run.weighted_sums(part)) for part in rows_of(weighted_spans)]


def all_sums(wildcards):
    """What there is beside features where kernels, and weighted features, are summed in parts."""
    return kernel_parts(CHECKPOINTS) + weighted_sums(wildcards)


def class_sums(wildcards):
    """Sums of the features of each class, where they are taken in parts."""
    return [made(run.class_sums(part)) for part in rows_of(suspect_spans)]


def supports(wildcards):
    """What rows are to their classes, where that is found of parts."""
    rows = rows_of(support_spans)
    jobs = jobs_of_checkpoints(settings.checkpoints)
    return [made(run.support(job, part)) for job in jobs for part in rows]


def suspected_by(wildcards):
    """What wrong labels are found by: features and kernels, or what was found of parts."""
    rows = rows_of(suspect_spans)
    if rows:
        return {
            "support": supports(wildcards),
            "picked": made(run.picked),
            "opponents": [made(run.opponents(part)) for part in rows],
            "also": brought_for_shards(),
        }
    return {
        "shards": train_features(wildcards),
        "kernels": [made(run.kernel(name)) for name in CHECKPOINTS],
        "calibration": made(run.calibration),
        "also": brought_for_shards(),
    }


def parts_of(name):
    """The parts that a target set is scored in; asks for the rows that decide how many."""
    n, t = count_of_train(), settings.targets[name].size
    if t is None:
        checkpoints.prepare_targets.get(targets=name)
        t = count_of_rows(run.targets(name))
    return [
        made(run.score_part(name, tile.name)) for tile in tiles(settings, facts, n, t)
    ]


def score_parts(wildcards):
    """The parts of a target set's scores, or of all sets'."""
    names = [wildcards.targets] if "targets" in wildcards.keys() else TARGETS
    return [part for name in names for part in parts_of(name)]


def target_features(targets):
    """Features of target sets by all checkpoints."""
    return [
        made(run.target_features(name, of)) for name in CHECKPOINTS for of in targets
    ]


def seals(wildcards):
    """Everything about the prepared rows, also by which code and settings they were made."""
    folders = [run.train, *map(run.targets, TARGETS)]
    return [] if storage_of_run else [known_seal(folder) for folder in folders]


def evaluation_asked_for(wildcards):
    """The evaluation, where it is a target: then the page waits for it.

    Else the page shows what is there of it, and makes nothing of it anew. In a storage a job is brought
    what is there when it begins; what was asked for it does not know.
    """
    if storage_of_run and not workflow.is_main_process:
        return [path for path in EVALUATION if storage_of_run.has(run.name(path))]
    asked = set(map(str, workflow.dag_settings.targets or []))
    return EVALUATION if asked & {"evaluation", *map(str, EVALUATION)} else []


def evaluation_there(wildcards):
    """What the evaluation found that is there: the page is made anew when it changed."""
    return [] if storage_of_run else [known_file(path) for path in run.figures()]


def log_of(name):
    """A job's log, beside the run's results."""
    return str(run.log(name))


def time_of(name):
    """Where a job's time and memory are recorded."""
    return str(run.times(name))
