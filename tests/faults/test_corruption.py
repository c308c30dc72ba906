"""Damage in every kind of output: each change of content is found before a number is built on it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from faults.damage import DAMAGES, files_of, means_the_same, remove
from trak_steps.config import Settings
from trak_steps.console.show import top_lines
from trak_steps.errors import TrakError
from trak_steps.run.layout import Layout
from trak_steps.steps.checkpoints import finetune
from trak_steps.steps.data import prepare
from trak_steps.steps.features import featurize
from trak_steps.steps.kernels import kernel
from trak_steps.steps.scores import calibrate, gather, rank, score
from trak_steps.steps.summary import provenance, summarize
from trak_steps.store.artefact import artefact_manifest, check_artefact

TRIALS = 72
Step = Callable[[Layout, Settings], object]


@dataclass(frozen=True)
class Reader:
    """A step that reads an output, and what that step writes."""

    step: Step
    writes: Callable[[Layout], Path]


TARGETS = "validation"
PART = "0-60.0-5"
PREPARE = Reader(prepare.run_train, lambda run: run.train)
PREPARE_TARGETS = Reader(
    lambda run, settings: prepare.run_targets(run, settings, TARGETS), lambda run: run.targets(TARGETS)
)
FINETUNE = Reader(lambda run, settings: finetune.run(run, settings, 0), lambda run: run.checkpoint("0"))
FEATURIZE = Reader(
    lambda run, settings: featurize.run_train(run, settings, "0", 1),
    lambda run: run.train_shard("0", "00001"),
)
FEATURIZE_TARGETS = Reader(
    lambda run, settings: featurize.run_targets(run, settings, "0", TARGETS),
    lambda run: run.target_features("0", TARGETS),
)
KERNEL = Reader(lambda run, settings: kernel.run(run, settings, "0"), lambda run: run.kernel("0"))
SCORE = Reader(
    lambda run, settings: score.run(run, settings, TARGETS, 32),
    lambda run: run.score_part(TARGETS, PART),
)
GATHER = Reader(
    lambda run, settings: gather.run(run, settings, TARGETS, 32), lambda run: run.scores(TARGETS)
)
CALIBRATE = Reader(calibrate.run, lambda run: run.calibration)
RANK = Reader(lambda run, settings: rank.run(run, settings, TARGETS), lambda run: run.top(TARGETS))
SUMMARIZE = Reader(summarize.run, lambda run: run.summary)
PROVENANCE = Reader(provenance.run, lambda run: run.provenance)


@pytest.mark.parametrize(
    ("kind", "of", "readers"),
    [
        ("model", lambda run: run.model, [PREPARE, PREPARE_TARGETS, FINETUNE]),
        ("train set", lambda run: run.train, [FINETUNE, SCORE, GATHER, RANK]),
        ("targets", lambda run: run.targets(TARGETS), [SCORE, GATHER, RANK]),
        ("checkpoint", lambda run: run.checkpoint("0"), [FEATURIZE, FEATURIZE_TARGETS]),
        ("features", lambda run: run.train_shard("0", "00000"), [KERNEL, SCORE]),
        ("target features", lambda run: run.target_features("0", TARGETS), [SCORE]),
        ("kernel", lambda run: run.kernel("0"), [CALIBRATE, SCORE]),
        ("calibration", lambda run: run.calibration, [SCORE]),
        ("score part", lambda run: run.score_part(TARGETS, PART), [GATHER]),
        ("scores", lambda run: run.scores(TARGETS), [RANK]),
        ("top", lambda run: run.top(TARGETS), [SUMMARIZE]),
        ("summary", lambda run: run.summary, [PROVENANCE]),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else None,
)
def test_every_change_of_content_is_found(
    copy_run: Callable[[], tuple[Layout, Settings]],
    kind: str,
    of: Callable[[Layout], Path],
    readers: list[Reader],
) -> None:
    """By ``trak-steps verify``, and by the steps that read what was changed, before they write."""
    layout, settings = copy_run()
    path = of(layout)
    random = np.random.default_rng([7, len(kind), TRIALS])
    tried = found = refused = harmless = 0
    whole = [artefact_manifest(reader.writes(layout)).content for reader in readers]
    for reader in readers:
        remove(reader.writes(layout))
    for trial in range(TRIALS):
        file = _pick(path, kind, random)
        before = file.read_bytes()
        DAMAGES[trial % len(DAMAGES)](file, random)
        try:
            if means_the_same(file, before):
                harmless += 1
                continue
            tried += 1
            with pytest.raises(TrakError):
                check_artefact(path)
            found += 1
            made = [_contents(reader, layout, settings) for reader in readers]
            assert all(
                content in (None, undisturbed) for content, undisturbed in zip(made, whole, strict=True)
            ), f"{file.name} {DAMAGES[trial % len(DAMAGES)].__name__}"
            refused += None in made
        finally:
            file.write_bytes(before)
    print(f"{kind}: {found} of {tried} found, {refused} refused by steps, {harmless} without effect")
    assert found == tried >= 50
    assert refused >= tried / 4


def _pick(path: Path, kind: str, random: np.random.Generator) -> Path:
    """A file of an output, now and then its largest one; empty ones cannot be damaged."""
    files = [file for file in files_of(path) if file.stat().st_size]
    if kind != "top" and random.random() < 0.3:
        return max(files, key=lambda file: file.stat().st_size)
    return files[int(random.integers(len(files)))]


def _contents(reader: Reader, layout: Layout, settings: Settings) -> str | None:
    """What the step makes; none if it refuses."""
    path = reader.writes(layout)
    try:
        reader.step(layout, settings)
    except TrakError:
        assert not path.exists()
        return None
    content = artefact_manifest(path).content
    remove(path)
    return content


def test_a_reader_that_takes_a_part_of_the_rows_finds_damage_in_that_part(
    copy_run: Callable[[], tuple[Layout, Settings]],
) -> None:
    """Featurizing a shard reads its own rows alone, however large the set is."""
    layout, settings = copy_run()
    arrow = max(files_of(layout.train), key=lambda file: file.stat().st_size)
    before = arrow.read_bytes()
    random = np.random.default_rng(3)
    shards = [layout.train_shard("0", f"{i:05d}") for i in range(3)]
    whole = [_numbers(shard) for shard in shards]
    refused = 0
    for place in random.integers(len(before), size=12):
        data = bytearray(before)
        data[place] ^= 0x55
        arrow.write_bytes(data)
        for i in range(3):
            remove(shards[i])
            try:
                featurize.run_train(layout, settings, "0", i)
            except TrakError:
                assert not shards[i].exists()
                refused += 1
            else:
                assert _numbers(shards[i]) == whole[i]
    assert refused


def _numbers(shard: Path) -> dict[str, bytes]:
    return {str(file.relative_to(shard)): file.read_bytes() for file in files_of(shard / "features")}


def test_a_damaged_list_is_not_shown(copy_run: Callable[[], tuple[Layout, Settings]]) -> None:
    layout, _ = copy_run()
    file = layout.top(TARGETS)
    before = file.read_bytes()
    shown = list(top_lines(file, first=5, count=3, side="proponent"))
    random = np.random.default_rng(5)
    for trial in range(60):
        DAMAGES[trial % 5](file, random)
        try:
            now = list(top_lines(file, first=5, count=3, side="proponent"))
        except TrakError:
            now = shown
        assert now == shown
        file.write_bytes(before)
