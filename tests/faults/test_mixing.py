"""Parts of two runs that differ in one thing: no step goes on with a mixture, and verify names it."""

import itertools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import SMALL, attribute, small_settings

from faults.damage import put, remove
from trak_steps.audit.verify import verify_run
from trak_steps.config import Settings, restrict
from trak_steps.errors import TrakError
from trak_steps.run.layout import Layout
from trak_steps.run.parts import require_one_recipe
from trak_steps.steps.checkpoints import finetune, import_checkpoint
from trak_steps.steps.data import model as base_model
from trak_steps.steps.data import prepare
from trak_steps.steps.features import featurize
from trak_steps.steps.kernels import kernel
from trak_steps.steps.scores import calibrate, gather, rank, score
from trak_steps.steps.summary import summarize
from trak_steps.store.artefact import artefact_manifest

Run = tuple[Layout, Settings]
TARGETS = "validation"
# Each differs from the small run in one thing.
OTHERS: dict[str, dict[str, dict[str, object]]] = {
    "weights": {"finetune": {"learning_rate": 1e-3}},
    "data": {"dataset": {"flip_labels": 0.3}},
    "rows": {"dataset": {"sample": "first"}},
    "text length": {"model": {"max_length": 20}},
    "k": {"features": {"dim": 8}},
    "projection": {"features": {"projection": "rademacher"}},
    "model output": {"features": {"loss_temperature": 2.0}},
    "parameters": {"features": {"parameters": {"include": [".*"], "exclude": [".*embeddings.*"]}}},
    "ridge": {"kernel": {"ridge": 1.0}},
    "loss weight": {"scores": {"loss_weight_power": 1.0}},
}


@dataclass(frozen=True)
class Reader:
    """A step that reads an output, and what that step writes."""

    name: str
    step: Callable[[Layout, Settings], object]
    writes: Callable[[Layout], Path]


FINETUNE = Reader("finetune", lambda run, s: finetune.run(run, s, 0), lambda run: run.checkpoint("0"))
FEATURIZE = Reader(
    "featurize",
    lambda run, s: featurize.run_train(run, s, "0", 1),
    lambda run: run.train_shard("0", "00001"),
)
KERNEL = Reader("kernel", lambda run, s: kernel.run(run, s, "0"), lambda run: run.kernel("0"))
CALIBRATE = Reader("calibrate", calibrate.run, lambda run: run.calibration)
PART = "0-60.0-5"
SCORE = Reader(
    "score",
    lambda run, s: score.run(run, s, TARGETS, 32),
    lambda run: run.score_part(TARGETS, PART),
)
GATHER = Reader(
    "gather", lambda run, s: gather.run(run, s, TARGETS, 32), lambda run: run.scores(TARGETS)
)
RANK = Reader("rank", lambda run, s: rank.run(run, s, TARGETS), lambda run: run.top(TARGETS))
SUMMARIZE = Reader("summarize", summarize.run, lambda run: run.summary)

# Which steps must not go on when one output is another run's and all others are this one's.
PARTS: dict[str, tuple[Callable[[Layout], Path], list[Reader]]] = {
    "model": (lambda run: run.model, [FINETUNE]),
    "train set": (lambda run: run.train, [FEATURIZE, KERNEL, SCORE, GATHER, RANK, SUMMARIZE]),
    "targets": (lambda run: run.targets(TARGETS), [SCORE, GATHER, RANK, SUMMARIZE]),
    "checkpoint": (lambda run: run.checkpoint("0"), [FEATURIZE, KERNEL, CALIBRATE, SCORE]),
    "shard": (lambda run: run.train_shard("0", "00000"), [KERNEL, CALIBRATE, SCORE]),
    "target features": (lambda run: run.target_features("0", TARGETS), [SCORE, SUMMARIZE]),
    "kernel": (lambda run: run.kernel("0"), [CALIBRATE, SCORE]),
    "calibration": (lambda run: run.calibration, [SCORE, GATHER, RANK]),
    "part of scores": (lambda run: run.score_part(TARGETS, PART), [GATHER]),
    "scores": (lambda run: run.scores(TARGETS), [RANK, SUMMARIZE]),
    "top": (lambda run: run.top(TARGETS), [SUMMARIZE]),
}


@pytest.fixture(scope="module")
def runs(
    small_run: Run, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Layout, Settings]]:
    """The run that differs in the thing named; made once."""
    made: dict[str, Run] = {}

    def run(thing: str) -> Run:
        if thing not in made:
            changes = OTHERS.get(thing, {})
            settings = small_settings(**changes)
            if thing == "seed":
                settings = Settings.model_validate({**SMALL, "seed": 1})
            root = tmp_path_factory.mktemp("other") / "run"
            made[thing] = (_make(Layout(root), settings, small_run, changes), settings)
        return made[thing]

    return run


def _make(layout: Layout, settings: Settings, small_run: Run, changes: dict[str, object]) -> Layout:
    """A whole run; what does not depend on the change is the small run's."""
    later = {"features", "kernel", "scores"}
    if changes and set(changes) <= later:
        shutil.copytree(small_run[0].root, layout.root)
        for name in ("features", "kernel", "scores", "scores.calibration.zarr"):
            remove(layout.root / name)
    else:
        base_model.run(layout, settings)
        prepare.run_train(layout, settings)
        prepare.run_targets(layout, settings, TARGETS)
        finetune.run(layout, settings, 0)
    attribute(layout, settings)
    return layout


@pytest.mark.parametrize("thing", ["seed", *OTHERS])
def test_no_step_goes_on_with_a_part_of_another_run(
    runs: Callable[[str], Run], copy_run: Callable[[], Run], thing: str
) -> None:
    layout, settings = copy_run()
    other, _ = runs(thing)
    assert verify_run(layout).problems == []
    tried = []
    for part, (of, readers) in PARTS.items():
        path = of(layout)
        if _same(of(other), path):
            continue
        aside = layout.root.parent / "aside"
        put(path, aside)
        put(of(other), path)
        assert verify_run(layout).problems, f"verify misses the {part}"
        for reader in readers:
            written = layout.root.parent / "written"
            put(reader.writes(layout), written)
            if reader.writes(layout) != path:
                remove(reader.writes(layout))
            with pytest.raises(TrakError, match=r"another|not from|was made|holds") as refusal:
                reader.step(layout, settings)
            assert str(layout.root) in str(refusal.value), f"{reader.name} names no path"
            assert not (layout.training("0") / "trainer").exists()
            if reader.writes(layout) != path:
                assert not reader.writes(layout).exists()
                put(written, reader.writes(layout))
            tried.append(f"{part} → {reader.name}")
        put(aside, path)
    print(f"{thing}: {len(tried)} mixtures refused: {', '.join(tried)}")
    assert verify_run(layout).problems == []
    assert tried


def _same(first: Path, second: Path) -> bool:
    """Whether two outputs hold the same, and were made by the same settings from the same."""
    one, two = artefact_manifest(first), artefact_manifest(second)
    return (one.content, one.settings, one.made_from) == (two.content, two.settings, two.made_from)


def test_shards_of_two_runs_do_not_mix_whichever_comes_first(
    runs: Callable[[str], Run], copy_run: Callable[[], Run]
) -> None:
    layout, settings = copy_run()
    remove(layout.kernel("0"))
    other, _ = runs("k")
    for chosen in itertools.product((layout, other), repeat=3):
        run = Layout(layout.root.parent / "mixed")
        shutil.copytree(layout.root, run.root)
        for i, source in enumerate(chosen):
            put(source.train_shard("0", f"{i:05d}"), run.train_shard("0", f"{i:05d}"))
        if set(chosen) == {layout}:
            kernel.run(run, settings, "0")
        else:
            with pytest.raises(TrakError, match="another dim"):
                kernel.run(run, settings, "0")
            assert not run.kernel("0").exists()
        remove(run.root)


def test_a_checkpoint_of_another_recipe_with_all_that_was_made_of_it_is_refused(
    runs: Callable[[str], Run], copy_run: Callable[[], Run]
) -> None:
    """Whole and consistent in itself, but not trained like the other checkpoint of the run."""
    layout, settings = copy_run()
    other, _ = runs("weights")
    for of in (
        lambda run: run.checkpoint("0-0.5"),
        lambda run: run.root / "features" / "0-0.5",
        lambda run: run.kernel("0-0.5"),
    ):
        put(of(other), of(layout))
    remove(layout.calibration)
    with pytest.raises(TrakError, match=r"checkpoints/0: .*learning_rate"):
        calibrate.run(layout, settings)
    assert not layout.calibration.exists()
    assert any("learning_rate" in str(problem) for problem in verify_run(layout).problems)


def test_a_kernel_of_more_rows_than_the_train_set_has_is_refused(small_run: Run, tmp_path: Path) -> None:
    """The first shards are the same, so only the kernel tells that there were more."""
    existing = str(small_run[0].checkpoint("0"))
    larger = small_settings(checkpoints={"existing": [existing]}, dataset={"train_size": 75})
    fewer = small_settings(checkpoints={"existing": [existing]}, dataset={"train_size": 50})
    run = Layout(tmp_path / "sizes")
    base_model.run(run, larger, existing)
    prepare.run_train(run, larger)
    prepare.run_targets(run, larger, TARGETS)
    import_checkpoint.run(run, larger, "0", existing)
    attribute(run, larger)
    prepare.run_train(run, fewer)
    remove(run.train_shard("0", "00002"))
    remove(run.calibration)
    with pytest.raises(TrakError, match=r"from features/0/train/00002\.zarr too"):
        calibrate.run(run, fewer)
    assert any("is a sum over 75 rows" in str(problem) for problem in verify_run(run).problems)
    kernel.run(run, fewer, "0")
    calibrate.run(run, fewer)
    score.run(run, fewer, TARGETS, 32)


def test_scores_of_other_checkpoints_are_neither_ranked_nor_summed_up(
    copy_run: Callable[[], Run],
) -> None:
    layout, _ = copy_run()
    one = small_settings(checkpoints={"keep": [1.0]})
    for step in (lambda: rank.run(layout, one, TARGETS), lambda: summarize.run(layout, one)):
        with pytest.raises(TrakError, match="another checkpoints"):
            step()


def test_trained_and_brought_checkpoints_do_not_mix(copy_run: Callable[[], Run]) -> None:
    layout, settings = copy_run()
    seen = restrict(settings, ["run", "seed", "features", "execution", "model.trust_remote_code"])
    with pytest.raises(TrakError, match=r"checkpoints/0: was fine-tuned here"):
        featurize.run_train(layout, seen, "0", 0)
    with pytest.raises(TrakError, match=r"fine-tuned here, .* imported"):
        require_one_recipe(layout, ["0", "0-0.5"], imported=True)
    require_one_recipe(layout, ["0", "0-0.5"], imported=False)
