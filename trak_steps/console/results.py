"""Lines that show explanations, and lists of top rows, in a terminal."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import floor, inf, isfinite, log10
from typing import Any

from trak_steps.console.printable import printable
from trak_steps.console.show import LEGEND, SHOWN, UNSTABLE
from trak_steps.console.table import aligned

LEAST_WIDTH = 40
# Of the largest score of a list: smaller ones are written with exponents.
SMALL = 1e-9
NOTE = "± the standard error of a score, over trainings"


def explanation_lines(found: Mapping[str, Any], width: int) -> Iterator[str]:
    """An explanation: the text, what is predicted, and the rows that speak for it and against it.

    Without a label that was asked for: what speaks for each class.

    Args:
        found: as :meth:`~trak_steps.api.Explanation.to_dict` gives it.
        width: of the terminal.
    """
    width = max(width, LEAST_WIDTH)
    classes: Sequence[Mapping[str, Any]] = found["classes"]
    first, trainings = classes[0], len(found["predictions"])
    for column, text in found["texts"].items():
        yield from _wrapped(f"{printable(column)}: ", printable(text, SHOWN), width)
    if found["tokens_cut"]:
        whole = found["tokens"] + found["tokens_cut"]
        yield f"cut: the models read the first {found['tokens']} of {whole} tokens"
    predicted = _label(found, "prediction")
    if found["prediction_name"] is None:
        each = ", ".join(f"{value:.3f}" for value in found["predictions"])
        yield f"predicted: {predicted}" + (f" (by training {each})" if trainings > 1 else "")
    else:
        agree = sum(value == found["prediction"] for value in found["predictions"])
        by = f", by {agree} of {trainings} trainings" if trainings > 1 else ""
        probability = next(
            (of["probability"] for of in classes if of["label"] == found["prediction"]), None
        )
        sure = "" if probability is None else f", p = {probability:.2f}"
        yield f"predicted: {predicted}{sure}{by}"
    of_trainings = ", ".join(f"{margin:+.2f}" for margin in first["margins"])
    yield (
        f"margin of {_label(first, 'label')}: {first['margin']:+.2f}"
        + (f" (by training {of_trainings})" if trainings > 1 else "")
        + f"; the scores of all rows add up to {first['sum_of_scores']:+.2f}"
    )
    unstable = False
    for of in classes:
        sides = ("proponents", "opponents") if len(classes) == 1 else ("proponents",)
        for side in sides:
            yield ""
            what = "for" if side == "proponents" else "against"
            margin = f", margin {of['margin']:+.2f}" if len(classes) > 1 else ""
            yield f"what speaks {what} {_label(of, 'label')}{margin}"
            form = number_form(row["score"] for row in of[side])
            for row in of[side]:
                unstable |= row["sign_stable"] is False
                yield from _row_lines(row, found["texts"], trainings, width, form)
    left = len(found["margins_of_classes"]) - len(classes)
    if left > 0 and not found["asked"]:
        yield ""
        yield f"and {left} classes of smaller margins; --label explains any of them"
    yield from _notes(unstable, trainings)


def target_lines(
    rows: Sequence[Mapping[str, Any]], texts: Sequence[str], trainings: int, width: int
) -> Iterator[str]:
    """A target of a run with its lists.

    Args:
        rows: of the list of top rows, all of one target.
        texts: the names of the text columns.
        trainings: that scores are means over.
        width: of the terminal.
    """
    width = max(width, LEAST_WIDTH)
    first = rows[0]
    for column in texts:
        yield from _wrapped(
            f"{printable(column)}: ", printable(str(first[f"target_{column}"]), SHOWN), width
        )
    of_target = {name.removeprefix("target_"): value for name, value in first.items()}
    yield f"target {first['target']}, row {first['target_row']}, labelled {_label(of_target, 'label')}"
    yield (
        f"margin of its label: {first['margin']:+.2f}; the scores of all rows add up to "
        f"{first['sum_of_scores']:+.2f}"
    )
    unstable = False
    for side, what in (("proponent", "for"), ("opponent", "against")):
        listed = [
            {name.removeprefix("train_"): value for name, value in row.items()}
            for row in rows
            if row["side"] == side
        ]
        if listed:
            yield ""
            yield f"what speaks {what} {_label(of_target, 'label')}"
        form = number_form(row["score"] for row in listed)
        for row in listed:
            unstable |= row["sign_stable"] is False
            yield from _row_lines(row, texts, trainings, width, form)
    yield from _notes(unstable, trainings)


def overview_lines(rows: Sequence[Mapping[str, Any]], texts: Sequence[str], width: int) -> Iterator[str]:
    """The targets of a set, one in a line.

    Args:
        rows: as :meth:`trak_steps.Run.overview` has them.
        texts: the names of the text columns.
        width: of the terminal.
    """
    regression = bool(rows) and "predicted" in rows[0]
    cells = [("target", "row", "predicted" if regression else "right", "margin", "label", "text")]
    for row in rows:
        said = f"{row['predicted']:.3f}" if regression else f"{row['right']:.0%}"
        text = " | ".join(str(row[name]) for name in texts)
        cells.append(
            (
                str(row["target"]),
                str(row["row"]),
                said,
                f"{row['margin']:+.2f}",
                printable(_label(row, "label"), SHOWN),
                printable(text, SHOWN),
            )
        )
    for line in aligned(cells, left=(4, 5)):
        yield line if len(line) <= max(width, LEAST_WIDTH) else line[: max(width, LEAST_WIDTH) - 1] + "…"


def influence_lines(
    row: Mapping[str, Any],
    found: Sequence[Mapping[str, Any]],
    texts: Sequence[str],
    trainings: int,
    width: int,
) -> Iterator[str]:
    """What a train row does to targets.

    Args:
        row: of the train set.
        found: as :meth:`trak_steps.Run.influence` has it, cut to what is shown.
        texts: the names of the text columns.
        trainings: that scores are means over.
        width: of the terminal.
    """
    width = max(width, LEAST_WIDTH)
    for column in texts:
        yield from _wrapped(f"{printable(column)}: ", printable(str(row[column]), SHOWN), width)
    flipped = ", flipped" if row.get("flipped") else ""
    yield f"train row {row['row']}, labelled {_label(row, 'label')}{flipped}"
    unstable = False
    for what, side in (("for", 1), ("against", -1)):
        listed = [of for of in found if of["score"] * side > 0]
        if listed:
            yield ""
            yield f"speaks {what} the label of"
        form = number_form(of["score"] for of in listed)
        for of in listed:
            unstable |= of.get("sign_stable") is False
            target = {name.removeprefix("target_"): value for name, value in of.items()}
            called = f"target {of['target']}"
            yield from _row_lines(target, texts, trainings, width, form, called)
    if not found:
        yield ""
        yield "no target has it in its lists, and the run keeps no other scores (scores.matrix)"
    yield from _notes(unstable, trainings)


def number_form(scores: Iterable[float]) -> str:
    """How the scores of a list and their errors are written: with two digits of the largest, or more."""
    largest = max((abs(score) for score in scores), default=0.0)
    if not 0 < largest < inf:
        return ".3f"
    return ".1e" if largest < SMALL else f".{max(3, 1 - floor(log10(largest)))}f"


def _row_lines(
    row: Mapping[str, Any],
    texts: Sequence[str] | Mapping[str, Any],
    trainings: int,
    width: int,
    form: str,
    called: str = "",
) -> Iterator[str]:
    std, mark = row.get("std"), UNSTABLE if row.get("sign_stable") is False else " "
    # Of a single training the spread is that of its checkpoints, by which no error is known.
    known = trainings > 1 and std is not None and isfinite(std)
    error = f" ± {std / trainings**0.5:{form}}" if known else ""
    flipped = ", flipped" if row.get("flipped") else ""
    text = " | ".join(printable(str(row[name]), SHOWN) for name in texts)
    about = f"[{_label(row, 'label')}{flipped}, {called or 'row ' + str(row['row'])}]"
    yield from _wrapped(f"  {row['score']:+{form}}{error}{mark} ", f"{text}   {about}", width)


def _label(values: Mapping[str, Any], name: str) -> str:
    known = values.get(f"{name}_name")
    value = values[name]
    return printable(str(known) if known is not None else f"{value:g}", SHOWN)


def _wrapped(head: str, text: str, width: int) -> Iterator[str]:
    """A text behind its head; what does not fit on the line stands below it."""
    room = max(width - len(head), LEAST_WIDTH // 2)
    lines = textwrap.wrap(text, room) or [""]
    yield head + lines[0]
    yield from (" " * len(head) + line for line in lines[1:])


def _notes(unstable: bool, trainings: int) -> Iterator[str]:
    if trainings > 1 or unstable:
        yield ""
    if trainings > 1:
        yield NOTE
    if unstable:
        yield LEGEND
