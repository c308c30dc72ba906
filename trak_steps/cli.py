"""The command line: each step of the pipeline alone, and what helps to write settings.

Everything but typer is imported inside commands, so that ``--help`` answers at once, and a step's
libraries after the settings are read, which say how many threads they may use.
"""

import inspect as python_inspect
import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, wraps
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from trak_steps import __version__
from trak_steps.cli_results import compare, explain, top
from trak_steps.cli_runs import clean, inspect, plan, show, status, verify
from trak_steps.errors import TrakError

if TYPE_CHECKING:
    from trak_steps.config import Settings

app = typer.Typer(
    name="trak-steps",
    help="TRAK data attribution for text classifiers, one step at a time. "
    "`snakemake --cores all` runs all steps in order.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich takes longer than all the rest,
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
    str | None,
    typer.Option(
        callback=_checkpoint,
        help="Or: the checkpoints that a job of the workflow has, those of a training by its number.",
    ),
]
Rows = Annotated[
    str, typer.Option(help="Some train rows, such as 0-2304: a part that the workflow makes.")
]
Listed = Annotated[int | None, typer.Option(min=1, help="Rows of a list; without: by scores.top.")]
RetrainingPlan = Literal["subsets", "removal"]
Targets = Annotated[
    str, typer.Option(callback=_targets, help="A target set's name, as in the settings.")
]


@dataclass(frozen=True)
class Given:
    """What --config, --set and --results say."""

    config: Path | None
    overrides: list[str]
    results: Path

    @cached_property
    def settings(self) -> "Settings":
        """All settings, with those from the workflow."""
        from trak_steps.config import load_settings
        from trak_steps.workflow.registry import HANDED_VARIABLE

        try:
            handed = json.loads(os.environ.get(HANDED_VARIABLE, "{}"))
        except ValueError as error:
            raise TrakError(f"{HANDED_VARIABLE}: is not JSON ({error}); unset this variable") from None
        config = self.config
        of_workflow = config is None and any(given.startswith("run=") for given in self.overrides)
        if config is None and not of_workflow:
            config = DEMO
        laid_over = [f"{name}={json.dumps(value)}" for name, value in handed.items()]
        return load_settings(config, [*laid_over, *self.overrides], partial=of_workflow)

    def known_targets(self, name: str) -> None:
        """Raise TrakError if the settings name no such target set."""
        if name not in self.settings.targets:
            known = ", ".join(self.settings.targets)
            raise TrakError(f"targets: there is no set `{name}`; the settings name {known}")

    def call(self, step: str, *arguments: Any, targets: str = "", function: str = "run") -> None:
        """Call a step's function with the run's paths, the settings that it may see, and more.

        Args:
            step: as the registry names it.
            arguments: of the function, after paths and settings.
            targets: the target set, for a step that may see the settings of one alone.
            function: of the step's module.
        """
        from trak_steps.config import restrict
        from trak_steps.console import job_log
        from trak_steps.console.progress import quiet_libraries, use_threads
        from trak_steps.run.layout import Layout
        from trak_steps.workflow.gpus import take_gpu
        from trak_steps.workflow.registry import HANDED, STEPS, reads

        settings = self.settings
        job_log.begin()
        use_threads(settings.execution.threads)
        quiet_libraries()
        if STEPS[step].gpu and settings.execution.device == "cuda":
            take_gpu()
        visible = restrict(settings, (*reads(step, settings, targets), *HANDED))
        module = import_module(f"trak_steps.steps.{STEPS[step].module}")
        getattr(module, function)(Layout(self.results / settings.run), visible, *arguments)


_OPTIONS = {"config": (Config, None), "set_": (Set, None), "results": (Results, Path("results"))}


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """A command whose first parameter, ``given``, is made of the options --config, --set, --results."""

    @wraps(function)
    def command(config: Path | None, set_: list[str] | None, results: Path, **own: Any) -> None:
        function(Given(config, set_ or [], results), **own)

    signature = python_inspect.signature(function)
    keyword = python_inspect.Parameter.KEYWORD_ONLY
    parameters = [one.replace(kind=keyword) for one in list(signature.parameters.values())[1:]]
    for name, (annotation, default) in _OPTIONS.items():
        one = python_inspect.Parameter(name, keyword, default=default, annotation=annotation)
        parameters.append(one)
    # What typer reads.
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return app.command()(command)


def _checkpoints(settings: "Settings", checkpoint: str | None, training: str | None) -> list[str]:
    """The checkpoint that is named, or those of a training."""
    from trak_steps.run.layout import checkpoints_of_job

    if (checkpoint is None) == (training is None):
        raise typer.BadParameter("give either --checkpoint or --training")
    if checkpoint is not None:
        return [checkpoint]
    assert training is not None
    if not settings.checkpoints.existing and "-" in training:
        raise TrakError(f"--training: {training} is a checkpoint; a training is a number, such as 0")
    return checkpoints_of_job(settings.checkpoints, training)


def _rows_listed(given: Given, listed: int | None) -> int:
    from trak_steps.run.identity import rows_listed

    return listed or rows_listed(given.settings.scores.top)


@_command
def model(given: Given, source: Source = None) -> None:
    """Bring the model to fine-tune into the run, or make the demo's."""
    from trak_steps.run.layout import imported

    given.call("model", source or next(iter(imported(given.settings.checkpoints).values()), None))


@_command
def prepare(given: Given) -> None:
    """Choose, label and tokenise the train set."""
    given.call("prepare", function="run_train")


@_command
def prepare_targets(given: Given, targets: Targets) -> None:
    """Choose, label and tokenise a target set, with the train set's classes."""
    given.known_targets(targets)
    given.call("prepare-targets", targets, targets=targets, function="run_targets")


@_command
def finetune(
    given: Given, training: Annotated[int, typer.Option(min=0, max=9999, help="Which training, from 0.")]
) -> None:
    """Fine-tune once; started again after an interruption, it goes on where it last saved."""
    given.call("finetune", training)


@_command
def import_checkpoint(
    given: Given,
    checkpoint: Annotated[
        str, typer.Option(callback=_checkpoint, help="Its name: 0 is the end of the first training.")
    ],
    source: Source = None,
) -> None:
    """Bring a classifier that was fine-tuned elsewhere into the run, after checking that it fits."""
    from trak_steps.run.layout import imported

    named = imported(given.settings.checkpoints)
    if source is None and checkpoint not in named:
        known = f"names {', '.join(named)}" if named else "names none"
        raise TrakError(f"there is no checkpoint {checkpoint}: checkpoints.existing {known}")
    given.call("import-checkpoint", checkpoint, source or named[checkpoint])


@_command
def featurize(
    given: Given,
    checkpoint: Checkpoint = None,
    training: Training = None,
    shard: Annotated[int | None, typer.Option(min=0, help="A shard of the train set.")] = None,
    targets: Annotated[
        str | None, typer.Option(callback=_targets, help="Or: a target set's name.")
    ] = None,
) -> None:
    """Compute the features of one shard of the train set, or of one target set."""
    if (shard is None) == (targets is None):
        raise typer.BadParameter("give either --shard or --targets")
    rows, function = (shard, "run_train") if targets is None else (targets, "run_targets")
    for name in _checkpoints(given.settings, checkpoint, training):
        given.call("featurize", name, rows, function=function)


@_command
def sum_kernel(
    given: Given, rows: Rows, checkpoint: Checkpoint = None, training: Training = None
) -> None:
    """Sum a checkpoint's kernel over some train rows, where all would take one job too long."""
    for name in _checkpoints(given.settings, checkpoint, training):
        given.call("sum-kernel", name, rows)


@_command
def kernel(given: Given, checkpoint: Checkpoint = None, training: Training = None) -> None:
    """Sum a checkpoint's kernel over its shards, or its parts, and factor it."""
    for name in _checkpoints(given.settings, checkpoint, training):
        given.call("kernel", name)


@_command
def sum_weighted(given: Given, rows: Rows) -> None:
    """Sum some train rows' features, weighted as scores are, where calibrate would take too long."""
    given.call("sum-weighted", rows)


@_command
def calibrate(given: Given) -> None:
    """Find the unit of the run's scores, and what chance alone would list."""
    given.call("calibrate")


@_command
def score(
    given: Given,
    targets: Targets,
    part: Annotated[
        str | None, typer.Option(help="Some rows and targets, such as 0-2304.0-100; without: all.")
    ] = None,
    listed: Listed = None,
) -> None:
    """Score every train row for every target of a set, or some for some."""
    given.call("score", targets, _rows_listed(given, listed), part)


@_command
def gather(given: Given, targets: Targets, listed: Listed = None) -> None:
    """Put the parts of a set's scores together."""
    given.call("gather", targets, _rows_listed(given, listed))


@_command
def rank(given: Given, targets: Targets) -> None:
    """List the top proponents and opponents of each target, with texts, as parquet."""
    given.call("rank", targets)


@_command
def summarize(given: Given) -> None:
    """Write the run's figures to summary.json."""
    given.call("summarize")


@_command
def provenance(given: Given) -> None:
    """Write what every output of the run was made from to provenance.json."""
    given.call("provenance")


@_command
def report(given: Given) -> None:
    """Write the run as a page, report.html, with what the evaluation found where it is there."""
    given.call("report")


@_command
def check_recipe(given: Given) -> None:
    """Train some models by the recipe given for imported checkpoints, and see if they are as good."""
    given.call("check-recipe")


@_command
def plan_subsets(given: Given) -> None:
    """Draw the random subsets of the train set that models are retrained on."""
    given.call("plan-subsets")


@_command
def retrain(
    given: Given,
    plan: Annotated[RetrainingPlan, typer.Option(help="Which plan.")],
    shard: Annotated[int, typer.Option(min=0, help="Which of its models, by the job.")],
) -> None:
    """Retrain some models of a plan, and keep what they say of the targets."""
    given.call(f"retrain-{plan}", plan, shard)


@_command
def measure_lds(given: Given) -> None:
    """Compare scores with what models say that were trained on random subsets."""
    given.call("measure-lds")


@_command
def plan_removal(given: Given) -> None:
    """Choose the rows to leave out for some targets: their proponents, and others to compare with."""
    given.call("plan-removal")


@_command
def measure_removal(given: Given) -> None:
    """Say what became of targets whose proponents were left out, against what scores predicted."""
    given.call("measure-removal")


@_command
def sum_classes(given: Given, rows: Rows) -> None:
    """Sum some train rows' features by class, where all would take one job too long."""
    given.call("sum-classes", rows)


@_command
def find_support(
    given: Given,
    rows: Rows,
    training: Annotated[
        str, typer.Option(callback=_checkpoint, help="A training; of imported ones, a checkpoint.")
    ],
) -> None:
    """Find what some train rows are to their classes, where all would take one job too long."""
    given.call("find-support", training, rows)


@_command
def pick_suspects(given: Given) -> None:
    """Pick the rows whose labels look most wrong, by what was found of all parts of the train set."""
    given.call("pick-suspects")


@_command
def find_opponents(given: Given, rows: Rows) -> None:
    """Find what argues most against the suspects picked, of some train rows."""
    given.call("find-opponents", rows)


@_command
def find_mislabelled(given: Given) -> None:
    """List the train rows whose labels look wrong, with what argues against them."""
    given.call("find-mislabelled")


@_command
def measure_stability(given: Given) -> None:
    """Hold each training out, and see whether the others' signs and ranks hold for it."""
    given.call("measure-stability")


for _command_of_runs in (plan, status, verify, clean, inspect, show, explain, top, compare):
    app.command()(_command_of_runs)


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

    from trak_steps.config import document, load_settings
    from trak_steps.console.printable import printable

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


for _each in app.registered_commands:
    # In the list of commands whole, where it would be cut.
    _each.short_help = ((_each.callback.__doc__ if _each.callback else None) or "").partition("\n")[0]
