"""Pages for tests: of made-up targets and rows, as many as are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from trak_steps.report import facts, figures
from trak_steps.report.contents import Contents
from trak_steps.report.packed import packed_page
from trak_steps.report.page import render
from trak_steps.report.rows import TargetSet, TrainRows

LABELS = ("entailment", "not_entailment")
COLUMNS = ("question", "sentence")
# What would run, or break out of where it stands, if it were taken for markup.
HOSTILE = (
    "<img src=x onerror=\"document.title='broken'\">",
    "</script><script>document.title='broken'</script>",
    "& <svg onload=\"document.title='broken'\"> &amp; &lt;b&gt;",
    "<!-- <script> {{ 7 * 7 }} {% raw %} ${7*7} `",
    "javascript:document.title='broken'",
    "\u202eright to left\u202c and \u200b nothing \x07 \ufffd",
)
WORDS = ("river", "town", "founder", "cloth", "feast", "weaver", "bridge", "market", "charter", "guild")


@dataclass(frozen=True)
class Made:
    """What a page is made from.

    Attributes:
        sets: target sets.
        rows: train rows.
        suspects: a table of them.
    """

    sets: list[TargetSet]
    rows: TrainRows
    suspects: pa.Table


def made(
    targets: int, rows: int, top: int = 20, seed: int = 0, texts: Sequence[str] = (), length: int = 12
) -> Made:
    """Made-up targets, rows and suspects.

    Args:
        targets: t.
        rows: n; their ids are 10, 20, 30, …
        top: rows of a list.
        seed: of the random numbers.
        texts: texts of the first targets and rows; the others are made up.
        length: words of a text.
    """
    random = np.random.default_rng(seed)

    def sentences(count: int, what: str) -> list[str]:
        places = random.integers(0, len(WORDS), (count, length))
        return [
            texts[i] if i < len(texts) else f"{what} {i} " + " ".join(WORDS[j] for j in of)
            for i, of in enumerate(places)
        ]

    ids = 10 * np.arange(1, rows + 1)
    every = TrainRows(
        row=ids,
        texts=[sentences(rows, "asks"), sentences(rows, "says")],
        label=random.integers(0, 2, rows),
        flipped=random.random(rows) < 0.05,
    )
    label = random.integers(0, 2, targets)
    margin = np.sort(random.normal(1, 2, targets))
    lists = {}
    for side, sign in (("proponent", 1), ("opponent", -1)):
        score = sign * np.sort(random.random((targets, top)))[:, ::-1] * 0.2
        lists[side] = {
            "row": ids[random.integers(0, rows, (targets, top))],
            "score": score,
            "error": np.abs(score) / 5,
            "sign_stable": (np.abs(score) > 0.05).astype(int),
            "rank_best": np.broadcast_to(np.arange(1, top + 1), score.shape),
            "rank_worst": np.broadcast_to(3 * np.arange(1, top + 1), score.shape),
        }
    each = TargetSet(
        name="validation",
        target=np.arange(targets),
        row=1000 + np.arange(targets),
        texts=[sentences(targets, "asked"), sentences(targets, "said")],
        label=label,
        prediction=np.where(margin < 0, 1 - label, label),
        margin=margin,
        margins=margin + random.normal(0, 0.1, (3, targets)),
        total=margin + random.normal(0, 0.3, targets),
        lists=lists,
    )
    suspect = random.choice(rows, min(rows, 30), replace=False)
    against = ids[random.integers(0, rows, (len(suspect), 5))]
    suspects = pa.table(
        {
            "row": ids[suspect],
            "label_name": [LABELS[every.label[i]] for i in suspect],
            "predicted": 1 - every.label[suspect],
            "predicted_name": [LABELS[1 - every.label[i]] for i in suspect],
            "trust": np.sort(random.normal(-2, 1, len(suspect))),
            "margin": random.normal(-2, 1, len(suspect)),
            "against_row": list(against),
            "against_score": list(-random.random(against.shape).astype(np.float32)),
            "against_std": list(random.random(against.shape).astype(np.float32)),
            "against_sign_stable": list(random.random(against.shape) < 0.5),
            **{f"text_{name}": [every.texts[c][i] for i in suspect] for c, name in enumerate(COLUMNS)},
        }
    )
    return Made([each], every, suspects)


def page(given: Made, labels: Sequence[str] = LABELS) -> str:
    """The page of what was made."""
    packed, shown = packed_page(
        given.sets, given.rows, given.suspects, labels, COLUMNS, run="made <up>", identity="made up"
    )
    each = given.sets[0]
    contents = Contents(
        run="made <up>",
        asked=[("Model", "none"), ("Train set", f"{len(given.rows.row)} rows")],
        findings={
            "validation": [
                facts.Finding("Do scores add up?", "0.74", "They do.", "good", (("slope", "1"),))
            ]
        },
        wrong={
            "validation": [
                facts.First(
                    "#/targets/validation/0", [of_text[0] for of_text in each.texts], "a", "b", "−1"
                )
            ]
        },
        suspects=[
            facts.First(f"#/rows/{row['row']}", [row["text_question"]], "a", "b", "−1")
            for row in given.suspects.slice(0, 3).to_pylist()
        ],
        trust_figures=[figures.margins(each.total, each.margin, each.wrong)],
        figures=[figures.distribution(each.lists["proponent"]["score"].ravel(), "what is listed")],
        usage=[("stage", "jobs", "time"), ("data", "3", "8 s")],
        settings="run: made <up>\n",
        versions=[("python", "3.11")],
        provenance=[("output", "version", "content", "made from"), ("model", "1", "abc", "")],
        packed=packed,
        shown=shown,
        classifies=bool(labels),
        sets={"validation": len(each)},
        stale=[],
        read=[],
    )
    return render(contents)
