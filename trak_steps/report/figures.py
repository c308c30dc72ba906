"""A run's figures, drawn as SVG for light and for dark screens.

Colours are those of Okabe and Ito, which colour-blind people tell apart; marks differ in shape, too.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, groupby
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#808080"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE)
# On dark ground the same hues, lighter.
DARKER = {BLUE: "#56B4E9", ORANGE: "#E69F00", GREEN: "#2FC79B", PURPLE: "#E0A3C6", GREY: "#A0A0A0"}
MARKS = ("o", "s", "^", "D", "v", "P")
INK, LINES = {"light": "#1b1f24", "dark": "#e6e8eb"}, {"light": "#d5d9de", "dark": "#3a414a"}
WIDTH = 7.2
# Inches of a bar, and of what is around them.
BAR, AROUND = 0.3, 0.8
BINS = 120


@dataclass(frozen=True)
class Figure:
    """A figure of the page.

    Attributes:
        title: above it.
        words: what it shows, and how it is read.
        says: its figures in words, for who does not see it.
        light, dark: SVG.
    """

    title: str
    words: str
    says: str
    light: bytes
    dark: bytes


def figure(
    title: str,
    words: str,
    says: str,
    draw: Callable[[Drawing, Callable[[str], str]], None],
    height: float = 3.0,
) -> Figure:
    """Draw a figure twice.

    Args:
        title, words, says: of the figure.
        draw: draws into a drawing, with colours as the ground needs them.
        height: inches.
    """
    found = {}
    for ground in ("light", "dark"):
        with _ground(ground):
            drawing = Drawing(figsize=(WIDTH, height), layout="constrained")
            draw(drawing, DARKER.__getitem__ if ground == "dark" else str)
            file = io.BytesIO()
            # Without a date, so that the same figures are the same bytes.
            drawing.savefig(file, format="svg", transparent=True, metadata={"Date": None})
            found[ground] = file.getvalue()
    return Figure(title, words, says, found["light"], found["dark"])


@contextmanager
def _ground(ground: str) -> Iterator[None]:
    ink, lines = INK[ground], LINES[ground]
    chosen: dict[Any, Any] = {
        "font.family": "sans-serif",
        "font.size": 9,
        "svg.fonttype": "none",
        "svg.hashsalt": "trak-steps",
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.edgecolor": lines,
        "xtick.color": ink,
        "ytick.color": ink,
        "grid.color": lines,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
    }
    with mpl.rc_context(chosen):
        yield


def baselines(of: Mapping[str, Any]) -> Figure | None:
    """The LDS of a target set beside its ceiling and baselines, of :attr:`Run.lds`."""
    rows = [("scores", of["lds"], BLUE), ("ceiling", of["ceiling"], GREEN)]
    others = [(name, found) for name, found in of["baselines"].items() if _known(found["lds"])]
    others.sort(key=lambda item: -item[1]["lds"]["value"])
    rows += [(name, found["lds"], GREY) for name, found in others]
    # None where the subsets are few for the classes, or there are no classes.
    own = of["class_adjusted"] or {"lds": None, "ceiling": None}
    adjusted = [own["lds"], own["ceiling"], *(found["class_adjusted"] for _, found in others)]
    if not _known(of["lds"]) or not _known(of["ceiling"]):
        return None

    def draw(drawing: Drawing, colour: Callable[[str], str]) -> None:
        axes = drawing.add_subplot()
        for place, ((_, found, of_row), beside) in enumerate(zip(rows, adjusted, strict=True)):
            _interval(axes, place - 0.15, found, colour(of_row), "o")
            if _known(beside):
                _interval(axes, place + 0.15, beside, colour(of_row), "o", hollow=True)
        axes.axvline(0, color=colour(GREY), linewidth=0.8)
        axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("LDS; hollow: class-adjusted")

    says = "; ".join(f"{name} {found['value']:.2f}" for name, found, _ in rows)
    words = (
        "What predicts the answers of retrained models, with intervals of 95 % of resamples of subsets "
        "and targets. Class-adjusted: what the numbers of rows of each class predict is taken out."
    )
    return figure("Scores, ceiling and baselines", words, says, draw, AROUND + BAR * len(rows))


def _known(found: Mapping[str, Any] | None) -> bool:
    return found is not None and found["value"] is not None and found["low"] is not None


def _interval(
    axes: Axes, place: float, found: Mapping[str, float], colour: str, mark: str, hollow: bool = False
) -> None:
    axes.plot([found["low"], found["high"]], [place, place], color=colour, linewidth=1.5)
    face = "none" if hollow else colour
    axes.plot(found["value"], place, marker=mark, color=colour, markerfacecolor=face, markersize=6)


def curves(table: pa.Table, targets: str) -> Figure | None:
    """How the LDS depends on what scores are made with: ``lds.parquet``."""
    rows = [row for row in table.to_pylist() if row["targets"] == targets]
    found = [(name, list(points)) for name, points in groupby(rows, key=lambda row: row["curve"])]
    found = [(name, points) for name, points in found if len(points) > 1]
    if not found:
        return None
    columns = 3
    lines = -(-len(found) // columns)

    def draw(drawing: Drawing, colour: Callable[[str], str]) -> None:
        grid = drawing.subplots(lines, columns, sharey=True, squeeze=False)
        for axes, (name, points) in zip(grid.flat, found, strict=False):
            at = np.arange(len(points))
            for key, of, mark in (("lds", BLUE, "o"), ("class_adjusted", ORANGE, "s")):
                low, value, high = (
                    np.array([row[f"{key}{end}"] for row in points], float)
                    for end in ("_low", "", "_high")
                )
                axes.fill_between(at, low, high, color=colour(of), alpha=0.15, linewidth=0)
                axes.plot(at, value, color=colour(of), marker=mark, markersize=4)
            axes.set_xticks(at, [_setting(row[name]) for row in points], rotation=35, ha="right")
            axes.set_title(name.replace("_", " "), fontsize=9)
        for axes in grid.flat[len(found) :]:
            axes.set_visible(False)
        grid.flat[0].legend(grid.flat[0].lines[:2], ["LDS", "class-adjusted"], fontsize=8)
        for row in grid:
            row[0].set_ylabel("LDS")

    known = [(name, [row for row in points if _number(row["lds"])]) for name, points in found]
    best = {name: max(points, key=lambda row: row["lds"]) for name, points in known if points}
    says = "; ".join(
        f"by {name.replace('_', ' ')}: best {of['lds']:.2f} at {_setting(of[name])}"
        for name, of in best.items()
    )
    words = "The LDS by one setting at a time, the others as they are. Bands are intervals."
    return figure("What scores depend on", words, says, draw, 0.5 + 2.1 * lines)


def _number(value: float | None) -> bool:
    return value is not None and bool(np.isfinite(value))


def _setting(value: Any) -> str:
    """What a curve's setting is at one of its points."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:g}"
    return value[0] if len(value) == 1 else f"{value[0]} … {len(value)}"


def removals(table: pa.Table) -> Figure:
    """What leaving rows out did to targets' margins, beside what scores said: ``removal.parquet``."""
    rows = table.to_pylist()
    kinds = list(dict.fromkeys(row["without"] for row in rows))

    def draw(drawing: Drawing, colour: Callable[[str], str]) -> None:
        axes = drawing.add_subplot()
        for kind, of, mark in zip(kinds, COLOURS, MARKS, strict=False):
            of_kind = [row for row in rows if row["without"] == kind]
            predicted = [row["predicted"] for row in of_kind]
            lost = [float(np.mean(row["lost"])) for row in of_kind]
            axes.plot(predicted, lost, mark, color=colour(of), label=kind, markersize=5, alpha=0.8)
        axes.axline((0, 0), slope=1, color=colour(GREY), linewidth=0.8, linestyle="--")
        axes.set_xlabel("margin lost, by scores")
        axes.set_ylabel("margin lost, retrained")
        axes.legend(title="without")

    means = (
        (kind, np.mean([np.mean(row["lost"]) for row in rows if row["without"] == kind]))
        for kind in kinds
    )
    says = "margin lost on average: " + ", ".join(f"without {kind} {mean:+.2f}" for kind, mean in means)
    words = (
        "Models retrained without some rows: how much of a target's margin was lost, beside what the "
        "rows' scores add up to. On the dashed line the two are the same."
    )
    return figure("What leaving rows out did", words, says, draw, 3.4)


def distribution(scores: NDArray[np.float64], of_what: str) -> Figure:
    """How scores are distributed: [any]."""
    bound = float(np.quantile(np.abs(scores), 0.9999)) or 1.0
    counts, edges = np.histogram(scores, bins=BINS, range=(-bound, bound))

    def draw(drawing: Drawing, colour: Callable[[str], str]) -> None:
        axes = drawing.add_subplot()
        middle = (edges[1:] + edges[:-1]) / 2
        width = edges[1] - edges[0]
        axes.bar(middle, counts, width, color=[colour(BLUE if at > 0 else ORANGE) for at in middle])
        axes.set_yscale("symlog")
        axes.set_xlabel("score, in units of margin")
        axes.set_ylabel("pairs of train row and target")

    largest = np.sort(np.abs(scores))[::-1]
    share = largest[: max(1, len(largest) // 100)].sum() / max(largest.sum(), 1e-300)
    says = (
        f"half of the sizes are below {np.median(np.abs(scores)):.2g}, one in a hundred is above "
        f"{np.quantile(np.abs(scores), 0.99):.2g}; these are {share:.0%} of all"
    )
    words = f"Of {of_what}. The scale of the counts is logarithmic."
    return figure("How scores are distributed", words, says, draw)


def margins(total: NDArray[np.float64], margin: NDArray[np.float64], wrong: NDArray[np.bool_]) -> Figure:
    """The sum of each target's scores beside its margin, [t] each."""

    def draw(drawing: Drawing, colour: Callable[[str], str]) -> None:
        axes = drawing.add_subplot()
        for of, name, shade, mark in ((~wrong, "right", BLUE, "o"), (wrong, "wrong", ORANGE, "^")):
            if of.any():
                axes.plot(
                    total[of], margin[of], mark, color=colour(shade), label=name, markersize=4, alpha=0.7
                )
        axes.axline((0, 0), slope=1, color=colour(GREY), linewidth=0.8, linestyle="--")
        axes.set_xlabel("sum of scores over all train rows")
        axes.set_ylabel("margin")
        if wrong.any():
            axes.legend()

    together = np.corrcoef(total, margin)[0, 1] if len(total) > 2 else np.nan
    says = f"{len(total)} targets; correlation {together:.2f}"
    words = "Each mark is a target. On the dashed line its scores add up to its margin."
    return figure("Sums of scores and margins", words, says, draw, 3.2)


@dataclass(frozen=True)
class Moment:
    """How good a training was at one of its checkpoints, for one set of rows.

    Attributes:
        training: its number.
        fraction: of the training that was done.
        rows: which set.
        accuracy: share of right predictions; None of numbers.
        loss: the mean of log(1 + exp(-margin)).
    """

    training: str
    fraction: float
    rows: str
    accuracy: float | None
    loss: float


def trainings(moments: Sequence[Moment], first: int) -> Figure:
    """Accuracy and loss by checkpoint, of the first train rows and of target sets."""
    sets = list(dict.fromkeys(each.rows for each in moments))
    measures = [("loss", "loss")]
    if all(each.accuracy is not None for each in moments):
        measures.append(("accuracy", "accuracy"))

    def draw(drawing: Drawing, colour: Callable[[str], str]) -> None:
        grid = drawing.subplots(1, len(measures), squeeze=False)[0]
        for axes, (measure, label) in zip(grid, measures, strict=True):
            for rows, of, mark in zip(sets, cycle(COLOURS), cycle(MARKS), strict=False):
                here = [each for each in moments if each.rows == rows]
                for training in dict.fromkeys(each.training for each in here):
                    line = sorted(
                        (each.fraction, getattr(each, measure))
                        for each in here
                        if each.training == training
                    )
                    axes.plot(
                        *zip(*line, strict=True), color=colour(of), marker=mark, markersize=4, alpha=0.8
                    )
                axes.plot([], [], color=colour(of), marker=mark, markersize=4, label=rows)
            axes.set_xlabel("of the training")
            axes.set_ylabel(label)
            axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        grid[-1].legend(fontsize=8)

    last = [each for each in moments if each.fraction == max(of.fraction for of in moments)]
    says = "at the end: " + ", ".join(
        f"{rows} loss {np.mean([each.loss for each in last if each.rows == rows]):.2f}" for rows in sets
    )
    words = (
        "Each line is a training, each mark a checkpoint that scores are made from. Of the train set "
        f"the first {first:,} rows count."
    )
    return figure("Trainings and their checkpoints", words, says, draw)
