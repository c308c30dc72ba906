"""Looking at a run: what verify, inspect and the provenance say."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import small_settings
from faults.damage import put, remove
from stores import save_features
from typer.testing import CliRunner

from trak_steps.audit import clean
from trak_steps.audit.clean import removable
from trak_steps.audit.find import present
from trak_steps.audit.inspect import describe
from trak_steps.audit.verify import verify_run
from trak_steps.cli import app
from trak_steps.config import Settings
from trak_steps.data.digests import DIGESTS
from trak_steps.errors import TrakError
from trak_steps.run.layout import Layout
from trak_steps.run.lineage import Lineage
from trak_steps.steps.kernels import kernel
from trak_steps.steps.scores import calibrate
from trak_steps.store.artefact import artefact_manifest
from trak_steps.store.codecs import codec_arguments
from trak_steps.store.features import FeatureStore
from trak_steps.store.kernel import KernelStore, save_kernel
from trak_steps.store.lock import try_lock
from trak_steps.store.manifest import Manifest
from trak_steps.store.plan import Plan, save_plan
from trak_steps.store.retrained import ANSWERS, Answers, Identity, save_answers, save_shard
from trak_steps.store.tree import RECEIPT

Run = tuple[Layout, Settings]
Copy = Callable[[], Run]


def test_a_whole_run_has_nothing_wrong(small_run: Run) -> None:
    layout, _ = small_run
    done = CliRunner().invoke(app, ["verify", str(layout.root)])
    assert done.exit_code == 0, done.output
    assert "complete, unaltered" in done.output
    assert len(present(layout)) == 21


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DEFECTS: dict[str, tuple[Callable[[Layout], None], str, str]] = {
    "missing shard": (
        lambda run: remove(run.train_shard("0", "00001")),
        "missing",
        "features/0/train/00001.zarr: is not there ... snakemake",
    ),
    "missing kernel": (lambda run: remove(run.kernel("0")), "missing", "kernel/0.zarr: is not there"),
    "missing summary": (lambda run: remove(run.summary), "missing", "summary.json: is not there"),
    "altered weights": (
        lambda run: _flip(run.checkpoint("0") / "model.safetensors"),
        "altered",
        "checkpoints/0: its model.safetensors ... altered",
    ),
    "altered chunk": (
        lambda run: _flip(run.kernel("0") / "kernel" / "c" / "0" / "0"),
        "altered",
        "kernel/0.zarr: its kernel/c/0/0 ... altered",
    ),
    "altered manifest": (
        lambda run: _rewrite(run.train / "manifest.json", '"seed": 0', '"seed": 1'),
        "altered",
        "data/train/manifest.json: was altered",
    ),
    "altered digests": (
        lambda run: _flip(run.train / DIGESTS),
        "altered",
        "data/train: its digests.npy is damaged",
    ),
    "altered figures": (
        lambda run: _rewrite(run.summary, '"train_rows": 60', '"train_rows": 61'),
        "altered",
        "summary.json: was altered",
    ),
    "strange file": (
        lambda run: (run.checkpoint("0") / "extra.json").write_text("{}"),  # type: ignore[dict-item,return-value]
        "altered",
        "checkpoints/0: extra.json does not belong ... delete",
    ),
    "other shard": (
        lambda run: put(run.train_shard("0-0.5", "00001"), run.train_shard("0", "00001")),
        "mismatched",
        "kernel/0.zarr: ... another features/0/train/00001.zarr",
    ),
    "killed writer": (
        lambda run: (run.root / "kernel" / ".0.zarr.1@elsewhere.0123abcd.tmp").mkdir(),
        "unfinished",
        "0123abcd.tmp: ... killed writer",
    ),
    "unfinished training": (
        lambda run: (run.training("1") / "trainer").mkdir(parents=True),
        "unfinished",
        "training/1: ... not finished",
    ),
    "no manifest": (
        lambda run: (run.checkpoint("0") / "manifest.json").unlink(),
        "altered",
        "checkpoints/0/manifest.json: is missing",
    ),
}


def _rewrite(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize("defect", DEFECTS)
def test_verify_names_what_is_wrong_and_what_to_do(copy_run: Copy, defect: str) -> None:
    layout, _ = copy_run()
    make, what, words = DEFECTS[defect]
    make(layout)
    done = CliRunner().invoke(app, ["verify", str(layout.root)])
    assert done.exit_code == 1
    assert "Traceback" not in done.output
    lines = [line for line in done.output.splitlines() if line.startswith(what)]
    parts = words.split(" ... ")
    assert any(all(part in line for part in parts) for line in lines), done.output


def test_verify_of_what_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(TrakError, match="there is no such run"):
        verify_run(Layout(tmp_path / "nowhere"))
    with pytest.raises(TrakError, match="holds no outputs"):
        verify_run(Layout(tmp_path))


def test_every_output_can_be_inspected(small_run: Run) -> None:
    layout, _ = small_run
    for path in present(layout):
        text = "\n".join(describe(path))
        assert artefact_manifest(path).content in text
        assert "as it was written" in text
    shard = "\n".join(describe(layout.train_shard("0", "00001") / "features" / "c" / "0" / "0"))
    assert "features: float32 25 × 16 (row, dim)" in shard
    assert "data/train#25:50" in shard


def test_inspect_says_what_is_damaged_or_no_output(copy_run: Copy, tmp_path: Path) -> None:
    layout, _ = copy_run()
    _flip(layout.checkpoint("0") / "model.safetensors")
    assert "its model.safetensors is damaged" in "\n".join(describe(layout.checkpoint("0")))
    (tmp_path / "x.json").write_text("{}")
    for path, words in (
        (tmp_path / "x.json", "is not an output"),
        (tmp_path / "no", "there is nothing"),
    ):
        with pytest.raises(TrakError, match=words):
            list(describe(path))


def test_provenance_traces_a_score_back_to_the_model_and_the_rows(small_run: Run) -> None:
    layout, _ = small_run
    record = json.loads(layout.provenance.read_text())
    outputs, lineage = record["outputs"], Lineage(layout)
    waiting, seen = list(record["scores"]), set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        assert outputs[name]["content"] == lineage.content(name)
        for source, content in outputs[name]["made_from"].items():
            assert lineage.content(source) == content
            waiting.append(source.partition("#")[0])
    assert {
        "model",
        "data/train",
        "data/targets/validation",
        "checkpoints/0",
        "kernel/0-0.5.zarr",
    } < seen
    assert all(f"features/0/train/{shard:05d}.zarr" in seen for shard in range(3))
    assert outputs["checkpoints/0"]["settings"]["learning_rate"] == 5e-4
    assert outputs["features/0/train/00000.zarr"]["settings"]["projection"] == "fold"
    assert {"torch", "transformers", "zarr"} <= set(outputs["model"]["versions"])


def test_a_shard_of_the_wrong_length_is_refused(copy_run: Copy) -> None:
    """Also one that is sealed, and says that it is right."""
    layout, settings = copy_run()
    remove(layout.kernel("0"))
    path = layout.train_shard("0", "00001")
    store = FeatureStore.open(path)
    values = store.features(25, 50)[:20]
    names = ("loss_weight", "margin", "prediction", "row")
    columns = {name: store.column(name)[:20] for name in names}
    save_features(path, values, columns, store.manifest, codec_arguments("none", 10, "float32"))
    with pytest.raises(TrakError, match=r"`features` has shape \(20, 16\), expected \(25, 16\)"):
        kernel.run(layout, settings, "0")
    assert not layout.kernel("0").exists()


@pytest.mark.parametrize("wrong", ["negative", "asymmetric", "nan"])
def test_a_kernel_that_is_not_positive_definite_is_refused(copy_run: Copy, wrong: str) -> None:
    """Sealed, of the right shape, and made from the right features, as it claims."""
    layout, settings = copy_run()
    path = layout.kernel("0")
    stored = KernelStore.open(path)
    factor = stored.cholesky.copy()
    if wrong == "negative":
        factor[3, 3] = -1.0
    elif wrong == "asymmetric":
        factor[0, 5] = 2.0
    else:
        factor[2, 1] = np.nan
    save_kernel(path, factor @ factor.T, factor, stored.total(), stored.manifest)
    with pytest.raises(TrakError, match=r"kernel/0\.zarr: .*(positive definite|non-finite)"):
        calibrate.run(layout, settings)


def _to_remove(layout: Layout, settings: Settings | None = None) -> set[Path]:
    return {one.path for one in removable(layout, settings) if one.why != "empty"}


def _add(layout: Layout) -> list[Path]:
    """What earlier settings left: another shard size, an intermediate checkpoint, a target set."""
    shard, targets = layout.train_shard("0", "00003"), layout.targets("old")
    kernel_, scores = layout.kernel("0-0.25"), layout.scores("old")
    sources = (layout.train_shard("0", "00001"), layout.targets("validation"), layout.kernel("0"))
    for path, source in zip((shard, targets, kernel_), sources, strict=True):
        shutil.copytree(source, path)
    shutil.copytree(layout.scores("validation"), scores)
    added = [shard, targets, kernel_, scores]
    for path in added:
        os.utime(path, (1e9, 1e9))
    return added


@pytest.mark.parametrize("by_settings", [False, True])
def test_what_earlier_settings_left_is_surplus_and_no_error(copy_run: Copy, by_settings: bool) -> None:
    layout, settings = copy_run()
    known = settings if by_settings else None
    added = _add(layout)
    found = verify_run(layout, known)
    assert found.problems == []
    assert set(found.surplus) == set(added)
    done = CliRunner().invoke(app, ["verify", str(layout.root)])
    assert done.exit_code == 0, done.output
    assert len([line for line in done.output.splitlines() if line.startswith("surplus")]) == 4
    assert _to_remove(layout, known) == set(added)


def test_what_was_made_since_the_last_complete_run_is_no_surplus(copy_run: Copy) -> None:
    """A run that is being extended is not thinned out by the record of the time before."""
    layout, _ = copy_run()
    later = layout.provenance.stat().st_mtime + 10
    for path in _add(layout):
        os.utime(path, (later, later))
    assert _to_remove(layout) == set()


def test_a_dropped_checkpoint_is_surplus_by_the_settings(copy_run: Copy) -> None:
    layout, _ = copy_run()
    found = _to_remove(layout, small_settings(checkpoints={"keep": [1.0]}))
    shards = [layout.train_shard("0-0.5", f"{i:05d}") for i in range(3)]
    features = [*shards, layout.target_features("0-0.5", "validation")]
    assert found == {layout.checkpoint("0-0.5"), *features, layout.kernel("0-0.5")}


def test_clean_lists_first_and_removes_when_told(copy_run: Copy) -> None:
    layout, _ = copy_run()
    whole = {path for path in layout.root.rglob("*") if path.is_file()}
    added = _add(layout)
    killed = layout.root / "kernel" / f".0.zarr.999999999@{socket.gethostname()}.0123abcd.tmp"
    killed.mkdir()
    alive = layout.root / "kernel" / f".0.zarr.{os.getpid()}@{socket.gethostname()}.0123abcd.tmp"
    alive.mkdir()
    trained = layout.training("0") / "trainer"
    trained.mkdir(parents=True)
    (trained / "state").write_text("x")
    (layout.root / "nothing" / "here").mkdir(parents=True)
    listed = CliRunner().invoke(app, ["clean", str(layout.root)])
    assert listed.exit_code == 0, listed.output
    for path in (*added, killed, layout.training("0"), layout.root / "nothing"):
        assert f"{path.relative_to(layout.root)}: " in listed.output
        assert path.exists()
    assert alive.name not in listed.output
    removed = CliRunner().invoke(app, ["clean", str(layout.root), "--yes"])
    assert removed.exit_code == 0, removed.output
    assert {path for path in layout.root.rglob("*") if path.is_file()} == whole
    assert alive.exists()
    assert not (layout.root / "nothing").exists()
    alive.rmdir()
    assert verify_run(layout).problems == verify_run(layout).surplus == []


def test_an_unfinished_training_that_is_needed_stays(copy_run: Copy) -> None:
    layout, settings = copy_run()
    remove(layout.checkpoint("0"))
    (layout.training("0") / "trainer").mkdir(parents=True)
    (layout.training("0") / "trainer" / "state").write_text("x")
    assert _to_remove(layout, settings) == set()


def test_a_run_that_snakemake_works_on_is_not_cleaned(copy_run: Copy) -> None:
    layout, _ = copy_run()
    added = _add(layout)
    layout.lock("snakemake").parent.mkdir(exist_ok=True)
    held = try_lock(layout.lock("snakemake"))
    assert held is not None
    with pytest.raises(TrakError, match="Snakemake works on it"):
        clean.remove(removable(layout), layout.root)
    os.close(held)
    assert all(path.exists() for path in added)


def test_answers_that_no_run_uses_can_be_removed(tmp_path: Path) -> None:
    run = Layout(tmp_path / "run")
    identities = [Identity({"model": i}, {"targets": "x"}) for i in range(3)]
    answers = Answers(np.zeros(2, np.float32), np.zeros(2))
    for identity in identities:
        save_answers(run.retrained_models, identity, answers)
    plan = Plan(np.ones((2, 4), bool), np.arange(2), {})
    save_plan(run.plan("subsets"), plan, Manifest("plan"))
    with pytest.raises(TrakError, match=r"not all .*retrained"):
        clean.unused_answers(run.retrained_models)
    details = {"start": 0, "stop": 2, ANSWERS: [identities[0].name, identities[2].name]}
    shard = [{"x": answers}, {"x": answers}]
    save_shard(run.retrained("subsets", "00000"), shard, 0, Manifest("retrained", details=details))
    done = CliRunner().invoke(app, ["clean", str(run.retrained_models), "--yes"])
    assert done.exit_code == 0, done.output
    left = {
        path.relative_to(run.retrained_models).as_posix() for path in run.retrained_models.glob("*/*")
    }
    assert left == {identities[0].name, identities[2].name}
    save_shard(
        run.retrained("subsets", "00000"),
        shard,
        0,
        Manifest("retrained", details={"start": 0, "stop": 2}),
    )
    with pytest.raises(TrakError, match="which answers it uses"):
        clean.unused_answers(run.retrained_models)


def test_receipts_are_checked_where_they_are(copy_run: Copy) -> None:
    """A missing one only makes the workflow ask again; the step keeps the folder."""
    layout, settings = copy_run()
    receipt = layout.kernel("0") / RECEIPT
    before = receipt.read_text()
    receipt.write_text("0" * 64)
    (problem,) = verify_run(layout).problems
    assert (problem.what, problem.path) == ("altered", layout.kernel("0"))
    assert str(receipt) in problem.words
    receipt.unlink()
    assert verify_run(layout).problems == []
    made = (layout.kernel("0") / "zarr.json").stat().st_mtime_ns
    kernel.run(layout, settings, "0")
    assert receipt.read_text() == before
    assert (layout.kernel("0") / "zarr.json").stat().st_mtime_ns == made
