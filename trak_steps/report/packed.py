"""What the page's program reads: targets, their lists and train rows, as JSON, compressed."""

import base64
import gzip
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trak_steps.report.rows import TargetSet, TrainRows, error_of
from trak_steps.report.words import common_words
from trak_steps.store.scores import SIDES

# Bytes of all that is packed, as base64. With the program and the figures a page stays below 15 MB.
MOST = 11_000_000
# Significant digits of scores.
DIGITS = 4


def pack(values: Any) -> str:
    """JSON values, compressed, as base64."""
    text = json.dumps(values, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    # Without a time in it, so that the same values are the same bytes.
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def packed_page(
    sets: Sequence[TargetSet],
    rows: TrainRows,
    suspects: pa.Table | None,
    labels: Sequence[str],
    text_columns: Sequence[str],
    *,
    run: str,
    identity: str,
    most: int = MOST,
) -> tuple[str, int]:
    """All that the page's program needs, and how many targets of each set it has at most.

    Targets that are wrong or unsure come first; where all are too large for a page, the last are left
    out, with the rows that no other target names.

    Args:
        sets: the target sets.
        rows: all rows that are named.
        suspects: rows whose labels look wrong, if they were looked for.
        labels: the names of the classes.
        text_columns: the names of the texts.
        run: its name.
        identity: of what is shown: decisions are kept by it.
        most: bytes.
    """
    kept = max(map(len, sets))
    while True:
        values = _values(sets, rows, suspects, labels, text_columns, kept)
        found = pack({"run": run, "identity": identity, **values})
        if len(found) <= most or kept <= 1:
            return found, kept
        kept = max(1, min(kept - 1, int(0.95 * kept * most / len(found))))


def _values(
    sets: Sequence[TargetSet],
    rows: TrainRows,
    suspects: pa.Table | None,
    labels: Sequence[str],
    text_columns: Sequence[str],
    kept: int,
) -> dict[str, Any]:
    named = [of["row"][:kept].ravel() for each in sets for of in each.lists.values()]
    if suspects is not None and len(suspects):
        named += [suspects["row"].to_numpy(), _flat(suspects["against_row"]).to_numpy()]
    shown = np.unique(rows.places(np.concatenate(named)))
    place = np.full(len(rows.row), -1)
    place[shown] = np.arange(len(shown))

    def places(ids: NDArray[np.int64]) -> list[int]:
        return place[rows.places(ids)].ravel().tolist()

    influence = influence_of(sets, rows)
    texts = [[column[i] for i in shown] for column in rows.texts]
    return {
        "labels": list(labels),
        "texts": list(text_columns),
        "common": common_words(text for column in texts for text in column),
        "sets": [_packed_set(each, kept, places) for each in sets],
        "rows": {
            "row": _names(rows.row[shown]),
            "texts": texts,
            "label": rows.label[shown].tolist(),
            "flipped": np.flatnonzero(rows.flipped[shown]).tolist(),
            **{name: of[shown].tolist() for name, of in influence.items()},
        },
        "suspects": _packed_suspects(suspects, len(sets[0].margins), places),
    }


def _packed_set(each: TargetSet, kept: int, places: Any) -> dict[str, Any]:
    return {
        "name": each.name,
        "of": len(each),
        "target": each.target[:kept].tolist(),
        "row": _names(each.row[:kept]),
        "texts": [column[:kept] for column in each.texts],
        "label": each.label[:kept].tolist(),
        "prediction": None if each.prediction is None else each.prediction[:kept].tolist(),
        "margin": rounded(each.margin[:kept]),
        "margins": [rounded(of[:kept]) for of in each.margins],
        "total": rounded(each.total[:kept]),
        "lists": {
            side: {
                "length": of["row"].shape[1],
                "place": places(of["row"][:kept]),
                "score": rounded(of["score"][:kept]),
                "error": rounded(of["error"][:kept]),
                **{
                    name: of[name][:kept].ravel().tolist()
                    for name in ("sign_stable", "rank_best", "rank_worst")
                },
            }
            for side, of in each.lists.items()
        },
    }


def _packed_suspects(suspects: pa.Table | None, trainings: int, places: Any) -> dict[str, Any] | None:
    if suspects is None or not len(suspects):
        return None
    lengths = np.asarray(suspects["against_row"].combine_chunks().value_lengths())
    against_std = _flat(suspects["against_std"]).to_numpy(zero_copy_only=False)
    stable = _flat(suspects["against_sign_stable"]).cast(pa.int8()).fill_null(-1)
    listed_by = "trust" if "trust" in suspects.column_names else "support"
    return {
        "place": places(suspects["row"].to_numpy()),
        "listed_by": listed_by,
        "value": rounded(suspects[listed_by].to_numpy()),
        "predicted": suspects["predicted"].to_pylist(),
        "margin": rounded(suspects["margin"].to_numpy()),
        "against": {
            "length": lengths.tolist(),
            "place": places(_flat(suspects["against_row"]).to_numpy()),
            "score": rounded(_flat(suspects["against_score"]).to_numpy()),
            "error": rounded(error_of(against_std, trainings)),
            "sign_stable": stable.to_pylist(),
        },
    }


def _names(ids: NDArray[np.int64]) -> list[str]:
    """Ids as the page has them: its numbers are exact only up to 2⁵³."""
    return [str(row) for row in ids.tolist()]


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks().flatten()


def influence_of(sets: Sequence[TargetSet], rows: TrainRows) -> dict[str, NDArray[Any]]:
    """How many targets' lists each row is in, as proponent and as opponent, and the sum of its scores'
    sizes there: [n] each, over all targets of all sets.
    """
    n = len(rows.row)
    found: dict[str, NDArray[Any]] = {side: np.zeros(n, np.int64) for side in SIDES}
    total = np.zeros(n)
    for each in sets:
        for side, of in each.lists.items():
            at = rows.places(of["row"].ravel())
            found[side] += np.bincount(at, minlength=n)
            total += np.bincount(at, np.abs(of["score"].ravel()), n)
    return {**found, "influence": np.asarray(rounded(total))}


def rounded(values: NDArray[Any]) -> list[float | None]:
    """Numbers with few digits, in one row; None for those that are not known."""
    flat = np.asarray(values, np.float64).ravel()
    return [float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None for value in flat]
