"""The curves of a comparison of scorings, drawn from its committed figures."""

import hashlib
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.measure.ways import DOF, DOFS, POWERS, RIDGES

KIND = "class_adjusted"
BEST_OF_ALL, WEAKER, WEAKEST = "C0", "C1", "C2"
# Lines drawn through every panel: what scores are held against.
BASELINES = ("last hidden state", "gradient cosine")


def digest(figures: Path) -> str:
    """Of the figures that a drawing shows; the drawing carries it."""
    return hashlib.sha256(figures.read_bytes()).hexdigest()


def draw(figures: Path, path: Path) -> Path:
    """Draw a comparison's figures as SVG, the same whenever the figures are."""
    found = json.loads(figures.read_text(encoding="utf-8"))
    of = found[KIND]
    ways = of["ways"]
    with plt.rc_context({"svg.hashsalt": "scoring", "svg.fonttype": "none", "font.size": 9}):
        figure, axes = plt.subplots(2, 3, figsize=(11, 6.4), sharey=True, layout="constrained")
        panels = axes.ravel()
        _effective_dof(panels[0], ways)
        _ridge(panels[1], ways)
        _dim(panels[2], ways)
        _trainings(panels[3], ways)
        _checkpoints(panels[4], ways)
        _power(panels[5], ways)
        for panel in panels:
            _held_against(panel, of)
            panel.grid(alpha=0.3)
            if panel.get_legend_handles_labels()[1]:
                panel.legend(fontsize=7, loc="best", framealpha=0.6)
        for panel in axes[:, 0]:
            panel.set_ylabel("class-adjusted LDS")
        size = " ".join(f"{found[name]} {name}," for name in ("rows", "targets", "subsets"))
        figure.suptitle(
            f"{figures.stem}: {size} 95 % intervals\n"
            "dotted: the ceiling; dashed: last hidden state, gradient cosine, the reference's rule"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"Date": None, "Creator": None, "Description": digest(figures)}
        figure.savefig(path, format="svg", metadata=about)
        plt.close(figure)
    return path


def _curve(panel: Axes, x: list[Any], values: list[dict[str, float]], label: str, color: str) -> None:
    middle = [value["value"] for value in values]
    low = [value["value"] - value["low"] for value in values]
    high = [value["high"] - value["value"] for value in values]
    panel.errorbar(
        x, middle, yerr=(low, high), label=label, color=color, marker="o", ms=3, capsize=2, lw=1
    )


def _effective_dof(panel: Axes, ways: dict[str, Any]) -> None:
    named = [ways["default" if share == DOF else f"effective_dof {share}"] for share in DOFS]
    _curve(panel, list(DOFS), named, "all checkpoints", BEST_OF_ALL)
    panel.set(xscale="log", xlabel="kernel.effective_dof")
    panel.set_xticks(DOFS, [f"{share:g}" for share in DOFS])
    panel.minorticks_off()


def _ridge(panel: Axes, ways: dict[str, Any]) -> None:
    kinds = (
        ("", "all checkpoints", BEST_OF_ALL),
        (", not balanced", "not balanced", WEAKER),
        (", last checkpoints, not balanced", "last checkpoints", WEAKEST),
    )
    for suffix, label, color in kinds:
        named = [ways[f"ridge {ridge:g} of the mean diagonal{suffix}"] for ridge in RIDGES]
        _curve(panel, list(RIDGES), named, label, color)
    panel.set(xscale="log", xlabel="kernel.ridge, in mean diagonals")


def _dim(panel: Axes, ways: dict[str, Any]) -> None:
    dims = sorted(int(name.removeprefix("k = ")) for name in ways if name.startswith("k = "))
    named = [ways[f"k = {dim}"] for dim in dims] + [ways["default"]]
    dims.append(2 * dims[-1])
    _curve(panel, dims, named, "all checkpoints", BEST_OF_ALL)
    panel.set_xscale("log", base=2)
    panel.set_xlabel("features.dim, k")
    panel.set_xticks(dims, [str(dim) for dim in dims])
    panel.minorticks_off()


def _trainings(panel: Axes, ways: dict[str, Any]) -> None:
    for kind, whole, color in (
        ("all checkpoints", "default", BEST_OF_ALL),
        ("earlier checkpoints", "earlier checkpoints", WEAKER),
        ("last checkpoints", "last checkpoints", WEAKEST),
    ):
        named = {
            int(name.split()[0]): ways[name]
            for name in ways
            if name.endswith(f", {kind}") and name[0].isdigit()
        }
        named[max(named) + 1] = ways[whole]
        _curve(panel, list(named), list(named.values()), kind, color)
    panel.set_xlabel("checkpoints.count, trainings")


def _checkpoints(panel: Axes, ways: dict[str, Any]) -> None:
    alone = [name for name in ways if name.startswith("checkpoints at") and " and " not in name]
    names = [*alone, "last checkpoints", "earlier checkpoints", "default"]
    for place, name in enumerate(names):
        _curve(panel, [place], [ways[name]], "", BEST_OF_ALL)
    shown = [name.removeprefix("checkpoints ").replace("default", "all checkpoints") for name in names]
    panel.set_xticks(range(len(names)), shown, rotation=20)
    panel.set_xlabel("checkpoints.keep")


def _power(panel: Axes, ways: dict[str, Any]) -> None:
    for which, color in (("own", BEST_OF_ALL), ("mean", WEAKEST)):
        named = [ways[f"{which} loss weight to the power {power:g}"] for power in POWERS]
        _curve(panel, [0.0, *POWERS], [ways["default"], *named], f"loss_weight: {which}", color)
    panel.set_xlabel("scores.loss_weight_power")


def _held_against(panel: Axes, of: dict[str, Any]) -> None:
    panel.axhline(of["ceiling"]["value"], color="black", ls=":", lw=1)
    references = [
        value["value"] for name, value in of["ways"].items() if name.startswith("reference rule")
    ]
    for value in [*(of["ways"][name]["value"] for name in BASELINES), max(references)]:
        panel.axhline(value, color="grey", ls="--", lw=0.8)
