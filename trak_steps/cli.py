"""The command line: each step of the pipeline alone, and what helps to write settings.

Steps are imported inside their commands, so that ``--help`` answers at once.
"""

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import typer

from trak_steps import __version__
from trak_steps.config import Settings, load_settings, restrict
from trak_steps.console.printable import printable
from trak_steps.console.progress import quiet_libraries
from trak_steps.errors import TrakError
from trak_steps.run.layout import Layout, checkpoint_name, fractions
from trak_steps.workflow.registry import HANDED, HANDED_VARIABLE, reads

app = typer.Typer(
    name="trak-steps",
    help="TRAK data attribution for text classifiers, one step at a time. "
    "`snakemake --cores all` runs all steps in order.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

DEMO = Path("config/config.yaml")


def _checkpoint(name: str | None) -> str | None:
    """A name as :func:`~trak_steps.run.layout.checkpoint_name` makes them: it becomes part of a path."""
    if name is None:
        return None
    training, dash, fraction = name.partition("-")
    good = re.fullmatch("0|[1-9][0-9]*", training) is not None
    if dash and good:
        good = False
        with suppress(ValueError):
            good = 0 < float(fraction) <= 1 and f"{float(fraction):g}" == fraction
    if not good:
        raise TrakError(f"--checkpoint: there is no checkpoint `{name}`; a name is like 0 or 0-0.5")
    return name


def _targets(name: str | None) -> str | None:
    """A name as the settings allow it: it becomes part of a path."""
    if name is not None and not re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise TrakError(f"--targets: there is no set `{name}`; a name has letters, digits, `_` and `-`")
    return name


Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="Settings, as YAML. Without: config/config.yaml, the demo.",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Override one setting: features.dim=256."),
]
Results = Annotated[Path, typer.Option(help="Folder of all runs.")]
Source = Annotated[
    str | None,
    typer.Option(help="The classifier to import; without: from `checkpoints.existing`."),
]
Checkpoint = Annotated[
    str | None, typer.Option(callback=_checkpoint, help="A checkpoint's name, such as 0 or 0-0.5.")
]
Training = Annotated[
    int | None, typer.Option(min=0, help="Or: all checkpoints of a training, by its number.")
]
RetrainingPlan = Literal["subsets", "removal"]
Targets = Annotated[
    str, typer.Option(callback=_targets, help="A target set's name, as in the settings.")
]


def _load(config: Path | None, overrides: list[str] | None) -> Settings:
    """All settings, with those from the workflow."""
    try:
        handed = json.loads(os.environ.get(HANDED_VARIABLE, "{}"))
    except ValueError as error:
        raise TrakError(f"{HANDED_VARIABLE}: is not JSON ({error}); unset this variable") from None
    given = overrides or []
    of_workflow = config is None and any(override.startswith("run=") for override in given)
    if config is None and not of_workflow:
        config = DEMO
    laid_over = [*(f"{name}={json.dumps(value)}" for name, value in handed.items()), *given]
    return load_settings(config, laid_over, partial=of_workflow)


def _view(step: str, settings: Settings, results: Path, targets: str = "") -> tuple[Layout, Settings]:
    """The run's paths, and the settings that this step may see."""
    quiet_libraries()
    if targets and targets not in settings.targets:
        raise TrakError(
            f"targets: there is no set `{targets}`; the settings name {', '.join(settings.targets)}"
        )
    visible = restrict(settings, (*reads(step, settings, targets), *HANDED))
    return Layout(results / settings.run), visible


def _setup(
    step: str, config: Path | None, overrides: list[str] | None, results: Path, targets: str = ""
) -> tuple[Layout, Settings]:
    """What a step needs."""
    return _view(step, _load(config, overrides), results, targets)


def _checkpoints(settings: Settings, checkpoint: str | None, training: int | None) -> list[str]:
    """The checkpoint that is named, or those of a training."""
    if (checkpoint is None) == (training is None):
        raise typer.BadParameter("give either --checkpoint or --training")
    if checkpoint is not None:
        return [checkpoint]
    return [checkpoint_name(str(training), fraction) for fraction in fractions(settings.checkpoints)]


@app.command()
def model(
    source: Source = None,
    config: Config = None,
    set_: Set = None,
    results: Results = Path("results"),
) -> None:
    """Bring the model to fine-tune into the run, or make the demo's."""
    from trak_steps.steps.data import model as base_model

    settings = _load(config, set_)
    existing = settings.checkpoints.existing
    base_model.run(*_view("model", settings, results), source or (existing[0] if existing else None))


@app.command()
def prepare(config: Config = None, set_: Set = None, results: Results = Path("results")) -> None:
    """Choose, label and tokenise the train set."""
    from trak_steps.steps.data import prepare

    prepare.run_train(*_setup("prepare", config, set_, results))


@app.command()
def prepare_targets(
    targets: Targets, config: Config = None, set_: Set = None, results: Results = Path("results")
) -> None:
    """Choose, label and tokenise a target set, with the train set's classes."""
    from trak_steps.steps.data import prepare

    layout, settings = _setup("prepare-targets", config, set_, results, targets)
    prepare.run_targets(layout, settings, targets)


@app.command()
def finetune(
    training: Annotated[int, typer.Option(min=0, max=9999, help="Which training, from 0.")],
    config: Config = None,
    set_: Set = None,
    results: Results = Path("results"),
) -> None:
    """Fine-tune once; started again after an interruption, it goes on where it last saved."""
    from trak_steps.steps.checkpoints import finetune

    finetune.run(*_setup("finetune", config, set_, results), training)


@app.command()
def import_checkpoint(
    checkpoint: Annotated[int, typer.Option(min=0, help="Place in `checkpoints.existing`.")],
    source: Source = None,
    config: Config = None,
    set_: Set = None,
    results: Results = Path("results"),
) -> None:
    """Bring a classifier that was fine-tuned elsewhere into the run, after checking that it fits."""
    from trak_steps.steps.checkpoints import import_checkpoint

    settings = _load(config, set_)
    existing = settings.checkpoints.existing
    if source is None and checkpoint >= len(existing):
        raise TrakError(f"there is no checkpoint {checkpoint}: checkpoints.existing has {len(existing)}")
    layout, visible = _view("import-checkpoint", settings, results)
    import_checkpoint.run(layout, visible, checkpoint, source or existing[checkpoint])


@app.command()
def featurize(
    checkpoint: Checkpoint = None,
    training: Training = None,
    shard: Annotated[int | None, typer.Option(min=0, help="A shard of the train set.")] = None,
    targets: Annotated[
        str | None, typer.Option(callback=_targets, help="Or: a target set's name.")
    ] = None,
    config: Config = None,
    set_: Set = None,
    results: Results = Path("results"),
) -> None:
    """Compute the features of one shard of the train set, or of one target set."""
    if (shard is None) == (targets is None):
        raise typer.BadParameter("give either --shard or --targets")
    from trak_steps.steps.features import featurize

    layout, settings = _setup("featurize", config, set_, results)
    for name in _checkpoints(settings, checkpoint, training):
        if targets is not None:
            featurize.run_targets(layout, settings, name, targets)
        elif shard is not None:
            featurize.run_train(layout, settings, name, shard)


@app.command()
def kernel(
    checkpoint: Checkpoint = None,
    training: Training = None,
    config: Config = None,
    set_: Set = None,
    results: Results = Path("results"),
) -> None:
    """Sum a checkpoint's kernel over its shards and factor it."""
    from trak_steps.steps.kernels import kernel

    layout, settings = _setup("kernel", config, set_, results)
    for name in _checkpoints(settings, checkpoint, training):
        kernel.run(layout, settings, name)


@app.command()
def score(
    targets: Targets, config: Config = None, set_: Set = None, results: Results = Path("results")
) -> None:
    """Score every train row for every target of a set."""
    from trak_steps.steps.scores import score

    score.run(*_setup("score", config, set_, results), targets)


@app.command()
def rank(
    targets: Targets, config: Config = None, set_: Set = None, results: Results = Path("results")
) -> None:
    """List the top proponents and opponents of each target, with texts, as parquet."""
    from trak_steps.steps.scores import rank

    rank.run(*_setup("rank", config, set_, results), targets)


@app.command()
def summarize(config: Config = None, set_: Set = None, results: Results = Path("results")) -> None:
    """Write the run's figures to summary.json."""
    from trak_steps.steps.summary import summarize

    summarize.run(*_setup("summarize", config, set_, results))


@app.command()
def provenance(config: Config = None, set_: Set = None, results: Results = Path("results")) -> None:
    """Write what every output of the run was made from to provenance.json."""
    from trak_steps.steps.summary import provenance

    provenance.run(*_setup("provenance", config, set_, results))


@app.command()
def plan_subsets(config: Config = None, set_: Set = None, results: Results = Path("results")) -> None:
    """Draw the random subsets of the train set that models are trained on again."""
    from trak_steps.steps.evaluation import plan_subsets

    plan_subsets.run(*_setup("plan-subsets", config, set_, results))


@app.command()
def retrain(
    plan: Annotated[RetrainingPlan, typer.Option(help="Which plan.")],
    shard: Annotated[int, typer.Option(min=0, help="Which of its models, by the job.")],
    config: Config = None,
    set_: Set = None,
    results: Results = Path("results"),
) -> None:
    """Train some models of a plan again, and keep what they say of the targets."""
    from trak_steps.steps.evaluation import retrain

    retrain.run(*_setup(f"retrain-{plan}", config, set_, results), plan, shard)


@app.command()
def measure_lds(config: Config = None, set_: Set = None, results: Results = Path("results")) -> None:
    """Compare scores with what models say that were trained on random subsets."""
    from trak_steps.steps.evaluation import measure_lds

    measure_lds.run(*_setup("measure-lds", config, set_, results))


@app.command()
def plan_removal(config: Config = None, set_: Set = None, results: Results = Path("results")) -> None:
    """Choose the rows to leave out for some targets: their proponents, and others to compare with."""
    from trak_steps.steps.evaluation import plan_removal

    plan_removal.run(*_setup("plan-removal", config, set_, results))


@app.command()
def measure_removal(config: Config = None, set_: Set = None, results: Results = Path("results")) -> None:
    """Say what became of targets whose proponents were left out, against what scores predicted."""
    from trak_steps.steps.evaluation import measure_removal

    measure_removal.run(*_setup("measure-removal", config, set_, results))


@app.command()
def find_mislabelled(
    config: Config = None, set_: Set = None, results: Results = Path("results")
) -> None:
    """List the train rows whose labels look wrong, with what argues against them."""
    from trak_steps.steps.evaluation import find_mislabelled

    find_mislabelled.run(*_setup("find-mislabelled", config, set_, results))


@app.command()
def measure_stability(
    config: Config = None, set_: Set = None, results: Results = Path("results")
) -> None:
    """Hold each training run out, and see whether the others' signs and ranks hold for it."""
    from trak_steps.steps.evaluation import measure_stability

    measure_stability.run(*_setup("measure-stability", config, set_, results))


@app.command()
def verify(
    run: Annotated[Path, typer.Argument(help="results/<run>")],
) -> None:
    """Check a run: is anything missing, altered, unfinished, or not made from what is there?"""
    from trak_steps.audit.verify import verify_run

    found = verify_run(Layout(run))
    for problem in found.problems:
        typer.echo(str(problem))
    typer.echo(found.summary)
    if found.problems:
        raise typer.Exit(1)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="Any output below results/<run>.")],
) -> None:
    """Print what one output is, what it was made from, and whether it is as it was written."""
    from trak_steps.audit.inspect import describe

    for line in describe(path):
        typer.echo(line)


@app.command()
def show(
    file: Annotated[
        Path,
        typer.Argument(
            help="`results/<run>/scores/<set>.top.parquet`; `suspects.parquet`, `lds.parquet` or "
            "`removal.parquet` of the evaluation; or a JSON file"
        ),
    ],
    targets: Annotated[int, typer.Option(min=1, help="How many targets, or suspects.")] = 3,
    top: Annotated[int, typer.Option(min=1, help="How many rows of each.")] = 3,
    opponents: Annotated[bool, typer.Option("--opponents", help="Opponents, not proponents.")] = False,
) -> None:
    """Print the strongest proponents of some targets, suspicious train rows, curves, or figures."""
    from trak_steps.console.show import lines

    side = "opponent" if opponents else "proponent"
    for line in lines(file, first=targets, count=top, side=side):
        typer.echo(line)


@app.command()
def settings(
    config: Config = None,
    set_: Set = None,
    write: Annotated[
        bool, typer.Option("--write", help="Regenerate the schema and the table of the docs.")
    ] = False,
) -> None:
    """Check a configuration and print it whole, defaults included."""
    import yaml

    from trak_steps.config import document

    if write:
        for path in document.write(Path()):
            typer.echo(f"wrote {path}")
        return
    values = load_settings(config, set_ or ()).model_dump(mode="json")
    shown = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    if printable(shown, keep="\n") != shown:  # what no one can see, YAML can write out
        shown = yaml.safe_dump(values, sort_keys=False)
    typer.echo(shown)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"trak-steps {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """TRAK data attribution for text classifiers, one step at a time."""
