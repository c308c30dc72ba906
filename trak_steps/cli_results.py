"""The commands that answer questions by a finished run; they import as :mod:`trak_steps.cli` does."""

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trak_steps.console.printable import printable, printable_json
from trak_steps.errors import TrakError

if TYPE_CHECKING:
    import pyarrow as pa

    from trak_steps.api import Run
    from trak_steps.api.texts import Query

_Run = Annotated[Path, typer.Argument(help="results/<run>")]
_Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="The run's settings. Without: those that the workflow was last started with.",
    ),
]
_Top = Annotated[int, typer.Option(min=1, help="Train rows of a list, of each side.")]
_TargetSet = Annotated[str | None, typer.Option(help="The target set; without: the first one.")]


def explain(
    run: _Run,
    texts: Annotated[
        list[str] | None, typer.Argument(help="The text; two, where the run's models read two.")
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="For which answer: a class, by name or number. Without: the predicted one."),
    ] = None,
    top: _Top = 10,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    jsonl: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Explain each line of a file, or of standard input (-): a JSON object with the run's "
            "text columns, and perhaps `label`. A JSON object comes out for each, in their order.",
        ),
    ] = None,
    config: _Config = None,
) -> None:
    """Explain any text by a finished run: what is predicted, and the train rows that made it so.

    Nothing of the run is changed, and nothing is trained.
    """
    from trak_steps.console.progress import imports_at_once

    given = texts or []
    if bool(given) == (jsonl is not None):
        raise typer.BadParameter("give either texts, or --jsonl with a file")
    opened = _open(run, config)
    with imports_at_once():
        import trak_steps.api.explain  # noqa: F401 - torch and transformers
    if jsonl is not None:
        with ExitStack() as stack:
            for why in opened.explain_queries(_read_lines(jsonl, opened, label, stack), top):
                typer.echo(printable_json(why.to_dict()))
        return
    found = opened.explain([tuple(given)], label, top)[0].to_dict()
    if as_json:
        typer.echo(printable_json(found, indent=2))
        return
    from trak_steps.console.results import explanation_lines

    for line in explanation_lines(found, shutil.get_terminal_size().columns):
        typer.echo(line)


def top(
    run: _Run,
    targets: _TargetSet = None,
    target: Annotated[
        int | None, typer.Option(min=0, help="One target, by its place in the set.")
    ] = None,
    row: Annotated[int | None, typer.Option(help="What this train row influences, by its id.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Rows of a list, of each side.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="As a table, with the columns' names.")] = False,
    jsonl: Annotated[
        bool,
        typer.Option(
            "--jsonl",
            help="A JSON object for each target, in the format of the viewer of "
            "PAIR-code/pretraining-tda.",
        ),
    ] = False,
    config: _Config = None,
) -> None:
    """Show a run's targets, those answered wrong first; one with its lists; or what a train row does.

    --csv, --json and --jsonl give the lists of all targets, unless one is named.
    """
    if target is not None and row is not None:
        raise typer.BadParameter("give either --target or --row")
    if as_json + csv + jsonl > 1:
        raise typer.BadParameter("give one of --json, --csv and --jsonl")
    if jsonl and row is not None:
        raise typer.BadParameter("--jsonl gives lists of targets; without --row")
    opened = _open(run, config)
    if as_json or csv or jsonl:
        table = (
            _influence(opened, row, targets, top)
            if row is not None
            else _lists(opened, targets, target, top)
        )
        _print_table(opened, targets, table, csv=csv, jsonl=jsonl)
        return
    from trak_steps.console.results import influence_lines, overview_lines, target_lines

    width, names = shutil.get_terminal_size().columns, opened.text_columns
    if target is not None:
        lists = _lists(opened, targets, target, top).to_pylist()
        lines = target_lines(lists, names, opened.trainings, width)
    elif row is not None:
        found = _influence(opened, row, targets, top).to_pylist()
        lines = influence_lines(_train_row(opened, row), found, names, opened.trainings, width)
    else:
        lines = overview_lines(_wrong_first(opened, targets), names, width)
    for line in lines:
        typer.echo(line)


def compare(
    run: _Run,
    other: Annotated[Path, typer.Argument(help="Another run, on the same train rows.")],
    targets: _TargetSet = None,
    top: _Top = 10,
    config: _Config = None,
    other_config: Annotated[
        Path | None,
        typer.Option("--other-config", metavar="FILE", help="The same of the other run."),
    ] = None,
) -> None:
    """Say how far two runs agree: rows that their lists share, and how their scores go together."""
    from trak_steps.api import Run

    first = Run(run, config)
    found = first.compare(Run(other, other_config), targets, top)
    typer.echo(f"{len(found.table)} targets of {targets or first.target_sets[0]} are in both runs")
    typer.echo(f"shared of {found.top} proponents: {found.shared_proponents:.0%}")
    typer.echo(f"shared of {found.top} opponents: {found.shared_opponents:.0%}")
    correlation = found.correlation
    shown = (
        "not known, as a run does not keep them (scores.matrix)"
        if correlation is None
        else f"{correlation:.2f}"
    )
    typer.echo(f"rank correlation of all rows' scores: {shown}")


def _open(run: Path, config: Path | None) -> "Run":
    from trak_steps.api import Run
    from trak_steps.console.progress import quiet_libraries, use_threads

    quiet_libraries()
    opened = Run(run, config)
    use_threads(opened.settings.execution.threads)
    return opened


def _read_lines(file: str, run: "Run", label: str | None, stack: ExitStack) -> "Iterator[Query]":
    """The rows of a file of JSON lines, read as they are asked for."""
    from trak_steps.api.texts import query_of_object

    name = "standard input" if file == "-" else file
    try:
        source = nullcontext(sys.stdin) if file == "-" else Path(file).open(encoding="utf-8")  # noqa: SIM115
        for number, line in enumerate(stack.enter_context(source), start=1):
            if not line.strip():
                continue
            where = f"{name}, line {number}"
            try:
                values = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise TrakError(f"{where}: is not JSON ({error})") from None
            if isinstance(values, dict) and values.get("label") is None:
                values["label"] = label
            yield query_of_object(values, run.train_rows, where)
    except OSError as error:
        raise TrakError(f"{file}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise TrakError(f"{name}: is not UTF-8") from None


def _lists(run: "Run", targets: str | None, target: int | None, top: int) -> "pa.Table":
    import pyarrow.compute as pc

    return run.top_table(targets, target=target).filter(pc.field("rank") <= top)


def _influence(run: "Run", row: int, targets: str | None, top: int) -> "pa.Table":
    """The strongest targets of each sign."""
    import numpy as np
    import pyarrow as pa

    table = run.influence_table(row, targets)
    signs = np.sign(table["score"].to_numpy())
    places = [np.flatnonzero(signs == sign)[:top] for sign in (1, -1)]
    return table.take(pa.array(np.concatenate(places)))


def _train_row(run: "Run", row: int) -> dict[str, Any]:
    import numpy as np

    from trak_steps.run.top_rows import row_columns

    columns = row_columns("train", run.train_rows, np.array([run.place(row)]))
    return {name.removeprefix("train_"): values[0].as_py() for name, values in columns.items()}


def _wrong_first(run: "Run", targets: str | None) -> list[dict[str, Any]]:
    table = run.overview_table(targets)
    by = [(name, "ascending") for name in ("right", "margin", "target") if name in table.column_names]
    rows: list[dict[str, Any]] = (table.sort_by(by) if run.labels else table).to_pylist()
    return rows


def _print_table(run: "Run", targets: str | None, table: "pa.Table", *, csv: bool, jsonl: bool) -> None:
    if csv:
        from io import BytesIO

        from pyarrow import csv as arrow_csv

        found = BytesIO()
        arrow_csv.write_csv(table, found)
        text = found.getvalue().decode()
        # A file has the texts as they are.
        typer.echo(printable(text, keep="\n") if sys.stdout.isatty() else text, nl=False)
    elif jsonl:
        from trak_steps.api.viewer import viewer_records
        from trak_steps.config.settings import BUILT_IN

        name = targets or run.target_sets[0]
        probabilities = run.settings.features.model_output == BUILT_IN
        for record in viewer_records(table, name, run.text_columns, probabilities=probabilities):
            typer.echo(printable_json(record))
    else:
        typer.echo(printable_json(table.to_pylist(), indent=1))
