"""The commands that look at a run: what they import is imported inside, as in :mod:`trak_steps.cli`."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trak_steps.errors import TrakError

if TYPE_CHECKING:
    from trak_steps.config import Settings


_RunConfig = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="The run's settings, which say what it is to hold. Without: provenance.json of its last "
        "complete run does, and what was made since is wanted too.",
    ),
]


def _settings_of(run: Path, config: Path | None) -> "Settings | None":
    """The settings of a run, if they are given."""
    if config is None:
        return None
    from trak_steps.config import load_settings

    settings = load_settings(config)
    if settings.run != run.resolve().name:
        raise TrakError(f"{config}: is for the run {settings.run}, not for {run}")
    return settings


def verify(
    run: Annotated[Path, typer.Argument(help="results/<run>")], config: _RunConfig = None
) -> None:
    """Check a run: is anything missing, altered, unfinished, or not made from what is there?

    Outputs that the run does not want any more are listed as surplus, and are no error.
    """
    from trak_steps.audit.verify import verify_run
    from trak_steps.run.layout import Layout

    found = verify_run(Layout(run), _settings_of(run, config))
    for problem in found.problems:
        typer.echo(str(problem))
    for path in found.surplus:
        typer.echo(
            f"{'surplus':<10}  {path}: not asked for any more; `trak-steps clean {run}` removes it"
        )
    typer.echo(found.summary)
    if found.problems:
        raise typer.Exit(1)


def clean(
    run: Annotated[Path, typer.Argument(help="results/<run>, or results/_retrained")],
    config: _RunConfig = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it. Without: only list it.")] = False,
) -> None:
    """List, or remove, what a run does not need: surplus outputs, and what was left unfinished.

    Of results/_retrained: answers of retrained models that no run beside it uses.
    """
    from trak_steps.audit.clean import removable, remove, unused_answers
    from trak_steps.run.layout import Layout

    root = run.absolute()
    if not root.is_dir():
        raise TrakError(f"{run}: there is no such folder")
    shared = root == Layout(root).retrained_models
    found = unused_answers(root) if shared else removable(Layout(root), _settings_of(run, config))
    for one in found:
        typer.echo(f"{one.path.relative_to(root)}: {one.why}")
    megabytes = sum(one.size for one in found) / 1e6
    if yes:
        remove(found, root)
    elif found:
        typer.echo("nothing was removed; --yes removes these")
    typer.echo(f"{len(found)} {'removed' if yes else 'to remove'}, {megabytes:.1f} MB")


def inspect(
    path: Annotated[Path, typer.Argument(help="Any output below results/<run>.")],
) -> None:
    """Print what one output is, what it was made from, and whether it is as it was written."""
    from trak_steps.audit.inspect import describe

    for line in describe(path):
        typer.echo(line)


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


def status(
    run: Annotated[Path, typer.Argument(help="results/<run>")],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE",
            help="The run's settings. Without: those that the workflow was last started with.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The same for programs; docs/reliability.md names the keys.")
    ] = False,
) -> None:
    """Tell how far a run has come: by stage, what is done, runs, failed or is left, and for how long.

    Also while the workflow runs, and after it was killed. Jobs count that were asked for or have begun;
    what they took is added up.

    Ends with 0 if all is done or on its way; with 1 if something failed, or if something is left and no
    workflow runs.
    """
    from trak_steps.audit.status import status_of
    from trak_steps.audit.status_lines import status_lines, status_values
    from trak_steps.run.layout import Layout

    found = status_of(Layout(run), _settings_of(run, config))
    if as_json:
        typer.echo(json.dumps(status_values(found), indent=2, ensure_ascii=False))
    else:
        for line in status_lines(found, shutil.get_terminal_size().columns):
            typer.echo(line)
    if not found.good:
        raise typer.Exit(1)


def plan(
    config: Annotated[
        Path,
        typer.Option("--config", "-c", metavar="FILE", help="The run's settings, as YAML."),
    ] = Path("config/config.yaml"),
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Override one setting.")
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(help="The folder of a workflow profile, such as workflow/profiles/slurm."),
    ] = None,
    evaluation: Annotated[
        bool, typer.Option("--evaluation", help="Also what `snakemake evaluation` costs.")
    ] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A machine's speed: read if the file is there, else measured and written to it.",
        ),
    ] = None,
    rough: Annotated[
        bool, typer.Option("--rough", help="Measure nothing: orders of magnitude alone.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="As JSON: seconds, MB, bytes.")] = False,
) -> None:
    """Say what a run will cost before it is begun: jobs, hours, memory, disk, and what is refused.

    Measures this machine with the run's own model and rows, in less than a minute; nothing is fetched
    from the hub, and nothing is written but the calibration.
    """
    from trak_steps.config import load_settings
    from trak_steps.console.progress import quiet_libraries
    from trak_steps.planning.lines import plan_lines
    from trak_steps.planning.plan import plan_values
    from trak_steps.planning.run import plan_of

    quiet_libraries()
    settings = load_settings(config, set_ or [])
    made = plan_of(settings, profile, evaluation=evaluation, calibration=calibration, rough=rough)
    if json_:
        typer.echo(json.dumps(plan_values(made), indent=2))
        return
    for line in plan_lines(made):
        typer.echo(line)
