"""Step ``find-opponents``: what argues most against the suspects, of some train rows."""

import numpy as np
import torch

from trak_steps.config import Settings
from trak_steps.console.progress import say
from trak_steps.data.prepared import PreparedRows
from trak_steps.kernel.blocks import scores as scores_cost
from trak_steps.kernel.blocks import targets_at_once
from trak_steps.run.fit import bytes_allowed, cells_at_once
from trak_steps.run.layout import Layout
from trak_steps.run.lineage import contents
from trak_steps.run.parts import features_of_span, open_calibration
from trak_steps.run.scoring import Scoring
from trak_steps.run.spans import Span, suspect_spans
from trak_steps.run.suspects import (
    AGAINST,
    SUSPECTS_AT_ONCE,
    open_picked,
    opponent_settings,
    strongest_against,
    suspects_of,
)
from trak_steps.scoring.lists import Top
from trak_steps.store.artefact import keep
from trak_steps.store.manifest import Manifest
from trak_steps.store.suspects import save_arrays

# Raised by hand when the numbers that this step writes change: see CONTRIBUTING.md.
VERSION = 1


def run(layout: Layout, settings: Settings, rows: str) -> None:
    """Write ``evaluation/opponents/<rows>.zarr``.

    Args:
        layout: of the run.
        settings: of the run.
        rows: the part's name.
    """
    train = PreparedRows.open(layout.train)
    span = Span.planned(rows, suspect_spans(settings, layout, len(train)))
    place = span.start, span.stop
    count = suspects_of(settings, train)
    scoring = Scoring.open(layout, settings, train, place)
    calibration = open_calibration(layout, settings, scoring.kernels)
    picked = open_picked(layout, settings, count)
    made_from = contents(layout, picked, calibration, *scoring.kernels)
    path = layout.opponents(rows)
    manifest = Manifest(
        "opponents",
        made_from=features_of_span(layout, train, scoring.features) | made_from,
        settings=opponent_settings(settings, count),
        version=VERSION,
        details={"rows": [*place], "features": scoring.features[0].manifest.version},
    )
    if keep(path, manifest):
        say(f"kept {path}: made from the same")
        return
    m, suspects = len(scoring.names), picked.place()
    at_once = targets_at_once(
        bytes_allowed(settings),
        min(SUSPECTS_AT_ONCE, max(1, count)),
        lambda q: scores_cost(q, scoring.dim, m),
    )
    cost = scores_cost(at_once, scoring.dim, m)
    block_rows = cells_at_once(settings, cost, f"{at_once} suspects of {m} checkpoints")
    listed = min(AGAINST, len(span))
    nothing = np.zeros((0, listed), np.float32)
    tops = [Top(nothing.astype(np.int64), nothing, (nothing,))]  # also of no suspects
    for start in range(0, count, at_once):
        some = slice(start, start + at_once)
        wanted = (torch.from_numpy(picked.features(of)[some]) for of in range(m))
        solved = scoring.solve(wanted, calibration.scale).weights
        tops.append(strongest_against(scoring, solved, suspects[some], block_rows).result())
    arrays = {
        "place": np.concatenate([top.place for top in tops]),
        "score": np.concatenate([top.score for top in tops]),
        "std": np.concatenate([top.more[0] for top in tops]),
    }
    save_arrays(path, {name: (of, ("suspect", "opponent")) for name, of in arrays.items()}, manifest)
    say(f"wrote {path}: {count} suspects against {len(span)} rows")
