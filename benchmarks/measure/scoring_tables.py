"""The tables of a comparison of scorings, and the pages that show them."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path("benchmarks/results")
PAGES = (Path("README.md"), Path("docs/evaluation.md"), Path("docs/demo.md"))
# By the names of their files; the first one's are the defaults' reason, the others hold them to account.
TASKS = {"qnli": "QNLI", "trec": "TREC", "qnli_minilm": "QNLI, six layers"}
# Of models from scratch, shown apart.
FROM_SCRATCH = {"demo": "the demo"}


def committed(root: Path = Path()) -> dict[str, str]:
    """Every table, by the name that pages know it by."""
    tables, from_scratch = (
        {
            shown: json.loads((root / RESULTS / f"scoring-{task}.json").read_text(encoding="utf-8"))
            for task, shown in of.items()
        }
        for of in (TASKS, FROM_SCRATCH)
    )
    return {
        "from_scratch": short_table(from_scratch),
        "short": short_table(tables),
        "all": table(tables),
        "projections": projections_table(tables["QNLI"]),
        "mislabelled": mislabelled_table(_with("mislabelled", tables)),
        "removal": removal_table(_with("removal", tables)),
        "slopes": slopes_table(tables),
        "stability": stability_table(tables),
        "left_out": left_out_table(
            {
                shown: json.loads(path.read_text(encoding="utf-8"))
                for task, shown in TASKS.items()
                if (path := root / RESULTS / f"removal-{task}.json").exists()
            }
        ),
    }


def _with(figures: str, tables: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The tasks that have them."""
    return {task: found for task, found in tables.items() if figures in found}


def filled(text: str, tables: Mapping[str, str]) -> str:
    """A page with every table in its place, between comments that name it."""

    def one(found: re.Match[str]) -> str:
        return f"{found[1]}\n{tables[found[2]]}\n{found[3]}"

    return re.sub(r"(<!-- scorings: (\w+) -->).*?(<!-- end -->)", one, text, flags=re.DOTALL)


def table(tables: Mapping[str, dict[str, Any]]) -> str:
    """Comparisons as Markdown, by their tasks' names: class-adjusted, and less the default's."""
    of_kind = {task: found["class_adjusted"] for task, found in tables.items()}
    head = "".join(f" {task} | less the default |" for task in tables)
    ceilings = "".join(f" {_shown(of['ceiling'])} | |" for of in of_kind.values())
    lines = [
        f"| scoring |{head}",
        "| --- |" + " --- | --- |" * len(tables),
        f"| the ceiling |{ceilings}",
    ]
    for name in next(iter(of_kind.values()))["ways"]:
        cells = ""
        for of in of_kind.values():
            if name not in of["ways"]:  # a task with fewer trainings
                cells += " | |"
                continue
            less = of["less_the_default"][name]
            difference = "" if name == "default" else f"{less['low']:+.2f} to {less['high']:+.2f}"
            cells += f" {_shown(of['ways'][name])} | {difference} |"
        lines.append(f"| {name} |{cells}")
    return "\n".join(lines)


def projections_table(found: dict[str, Any]) -> str:
    """Fold and dense features as Markdown."""
    projections = found["projections"]
    plain, adjusted = projections["lds"], projections["class_adjusted"]
    lines = [f"| k = {projections['k']} | LDS | class-adjusted LDS |", "| --- | --- | --- |"]
    for name in ("fold", "dense"):
        lines.append(f"| {name} | {_shown(plain['ways'][name])} | {_shown(adjusted['ways'][name])} |")
    less = (_shown(of["less_dense"]["fold"]) for of in (plain, adjusted))
    return "\n".join([*lines, f"| fold less dense | {' | '.join(less)} |"])


def mislabelled_table(tables: Mapping[str, dict[str, Any]]) -> str:
    """How well each measure finds flipped labels, as Markdown."""
    head = "".join(f" {task}: AUC | precision |" for task in tables)
    lines = [f"| measure |{head}", "| --- |" + " --- | --- |" * len(tables)]
    for name in next(iter(tables.values()))["mislabelled"]["measures"]:
        found = [of["mislabelled"]["measures"][name] for of in tables.values()]
        cells = "".join(f" {of['auc']:.2f} | {of['precision']:.2f} |" for of in found)
        lines.append(f"| {name} |{cells}")
    return "\n".join(lines)


def removal_table(tables: Mapping[str, dict[str, Any]]) -> str:
    """What leaving rows out did, as Markdown."""
    head = "".join(f" {task}: margin lost | predicted | flipped |" for task in tables)
    lines = [f"| without |{head}", "| --- |" + " --- | --- | --- |" * len(tables)]
    for kind in ("proponents", "nearest", "random"):
        cells = ""
        for of in tables.values():
            found = of["removal"]["without"][kind]
            cells += f" {_shown(found['margin_lost'])} | {found['margin_predicted']:.2f} |"
            cells += f" {found['predictions_flipped']:.2f} |"
        lines.append(f"| {kind} |{cells}")
    return "\n".join(lines)


def left_out_table(tables: Mapping[str, dict[str, Any]]) -> str:
    """What leaving out the rows did that each method names, as Markdown."""
    head = "".join(f" {task}: margin lost | default over it | flipped |" for task in tables)
    lines = [f"| without |{head}", "| --- |" + " --- | --- | --- |" * len(tables)]
    named = (
        (share, method)
        for found in tables.values()
        for share, of_share in found["shares"].items()
        for method in of_share["methods"]
    )
    for share, method in sorted(dict.fromkeys(named), key=lambda each: float(each[0])):
        cells = ""
        for found in tables.values():
            figures = found["shares"].get(share, {"methods": {}})["methods"].get(method)
            if figures is None:
                cells += " | | |"
                continue
            times = _times(figures["default_over"]) if "default_over" in figures else ""
            cells += f" {_shown(figures['margin_lost'])} | {times} |"
            cells += f" {figures['predictions_flipped']:.2f} |"
        lines.append(f"| {float(share):.0%}: {method} |{cells}".replace("%", " %", 1))
    return "\n".join(lines)


# Beyond it, a ratio's upper end says that the other may be next to nothing, and no more.
FAR = 100


def _times(ratio: dict[str, float | None]) -> str:
    """A ratio, which has no upper end where what it is held against may be nothing."""
    value, low, high = (ratio[name] for name in ("value", "low", "high"))
    if low is None:
        return "unknown"
    if value is None or high is None:
        return f"above {low:.1f}"
    if high > FAR:
        return f"{value:.1f} (above {low:.1f})"
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


HALVES = "over random halves"
BASELINES = (
    "BM25",
    "pretrained embeddings",
    "last hidden state",
    "gradient dot product",
    "gradient cosine",
    "TracIn",
    "same label",
    "random",
)
SHORT = (
    "default",
    "1 training, all checkpoints",
    "plain gradients at 0.125, 0.25 and 1",
    "plain gradients at 0.25, 0.5 and 1",
    "REFERENCE",
    "last checkpoints",
    "EK-FAC, 3 trainings, earlier checkpoints",
    "EK-FAC, 3 trainings, last checkpoints",
    "TracIn",
    "BM25",
    "pretrained embeddings",
    "last hidden state",
    "gradient cosine",
    "same label",
    "random",
)


def short_table(tables: Mapping[str, dict[str, Any]]) -> str:
    """What the README shows of comparisons, by their tasks' names; intervals of the class-adjusted."""
    head = "".join(f" {task}: LDS | class-adjusted |" for task in tables)
    lines = [f"| |{head}", "| --- |" + " --- | --- |" * len(tables)]
    for name in ("the ceiling", *SHORT):
        line = f"| {name.replace('REFERENCE', 'reference rule, its best k')} |"
        known = ("the ceiling", "REFERENCE")
        if name not in known and not any(name in found["lds"]["ways"] for found in tables.values()):
            continue
        for found in tables.values():
            values = [
                {**of["ways"], "the ceiling": of["ceiling"], "REFERENCE": best_reference(of)}
                for of in (found["lds"], found["class_adjusted"])
            ]
            if name in values[0]:
                line += f" {values[0][name]['value']:.2f} | {_shown(values[1][name])} |"
            else:
                line += " | |"
        lines.append(line)
    return "\n".join(lines)


def best_reference(of_kind: dict[str, Any]) -> dict[str, float]:
    """The reference's rule at the k that served it best."""
    ways: dict[str, dict[str, float]] = of_kind["ways"]
    return max(
        (value for name, value in ways.items() if name.startswith("reference rule")),
        key=lambda value: value["value"],
    )


def _shown(value: dict[str, float]) -> str:
    return f"{value['value']:.2f} ({value['low']:.2f} to {value['high']:.2f})"


def slopes_table(tables: Mapping[str, dict[str, Any]]) -> str:
    """How far margins fall for each unit that scores predict, as Markdown."""
    lines = ["| slope |" + "".join(f" {task} |" for task in tables), "| --- |" + " --- |" * len(tables)]
    rows = {
        HALVES: lambda of: of["slope"],
        "over all removals": lambda of: of["removal"]["calibration"]["all"]["slope"],
        "over removals of proponents": lambda of: of["removal"]["calibration"]["proponents"]["slope"],
    }
    for name, value in rows.items():
        cells = (value(of) if name == HALVES or "removal" in of else None for of in tables.values())
        lines.append(f"| {name} |" + "".join(f" {_shown(of) if of else ''} |" for of in cells))
    return "\n".join(lines)


def stability_table(tables: Mapping[str, dict[str, Any]]) -> str:
    """What became of the strongest pairs in a run held out, as Markdown."""
    lines = ["| share |" + "".join(f" {task} |" for task in tables), "| --- |" + " --- |" * len(tables)]
    rows = {
        "stable": "of pairs whose sign is called stable",
        "stable_signs_held": "of those, whose sign the run held out shares",
        "unstable_signs_held": "of the rest, whose sign it shares",
        "top_shared": "of a target's ten proponents that are the run's own ten",
    }
    for name, words in rows.items():
        cells = "".join(f" {of['stability'][name]:.2f} |" for of in tables.values())
        lines.append(f"| {words} |{cells}")
    return "\n".join(lines)
