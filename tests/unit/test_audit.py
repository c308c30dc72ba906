"""Looking at a run: what verify, inspect and the provenance say."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from faults.damage import put, remove
from typer.testing import CliRunner

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
from trak_steps.steps.scores import score
from trak_steps.store.artefact import artefact_manifest
from trak_steps.store.codecs import codec_arguments
from trak_steps.store.features import FeatureStore, save_features
from trak_steps.store.kernel import KernelStore, save_kernel

Run = tuple[Layout, Settings]
Copy = Callable[[], Run]


def test_a_whole_run_has_nothing_wrong(small_run: Run) -> None:
    layout, _ = small_run
    done = CliRunner().invoke(app, ["verify", str(layout.root)])
    assert done.exit_code == 0, done.output
    assert "complete, unaltered, and made from one another" in done.output
    assert len(present(layout)) == 19


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DEFECTS: dict[str, tuple[Callable[[Layout], None], str, str]] = {
    "missing shard": (
        lambda run: remove(run.train_shard("0", "00001")),
        "missing",
        "features/0/train/00001.zarr: is not there; run the same snakemake command again",
    ),
    "missing kernel": (lambda run: remove(run.kernel("0")), "missing", "kernel/0.zarr: is not there"),
    "missing summary": (lambda run: remove(run.summary), "missing", "summary.json: is not there"),
    "altered weights": (
        lambda run: _flip(run.checkpoint("0") / "model.safetensors"),
        "altered",
        "checkpoints/0: its model.safetensors is damaged or was altered",
    ),
    "altered chunk": (
        lambda run: _flip(run.kernel("0") / "kernel" / "c" / "0" / "0"),
        "altered",
        "kernel/0.zarr: its kernel/c/0/0 is damaged or was altered",
    ),
    "altered manifest": (
        lambda run: _rewrite(run.train / "manifest.json", '"seed": 0', '"seed": 1'),
        "altered",
        "data/train/manifest.json: was altered after it was written",
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
        "checkpoints/0: extra.json does not belong to it; delete that file",
    ),
    "other shard": (
        lambda run: put(run.train_shard("0-0.5", "00001"), run.train_shard("0", "00001")),
        "mismatched",
        "kernel/0.zarr: was made from another features/0/train/00001.zarr than the one here",
    ),
    "killed writer": (
        lambda run: (run.root / "kernel" / ".0.zarr.1@elsewhere.0123abcd.tmp").mkdir(),
        "unfinished",
        "0123abcd.tmp: left by a killed writer, or still being written",
    ),
    "unfinished training": (
        lambda run: (run.training("1") / "trainer").mkdir(parents=True),
        "unfinished",
        "training/1: a training that is not finished",
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
    assert any(words in line for line in lines), done.output


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
    outputs, lineage = record["outputs"], Lineage(layout, artefact_manifest)
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
    remove(layout.scores("validation"))
    path = layout.kernel("0")
    stored = KernelStore.open(path)
    factor = stored.cholesky.copy()
    if wrong == "negative":
        factor[3, 3] = -1.0
    elif wrong == "asymmetric":
        factor[0, 5] = 2.0
    else:
        factor[2, 1] = np.nan
    save_kernel(path, factor @ factor.T, factor, stored.manifest)
    with pytest.raises(TrakError, match=r"kernel/0\.zarr: .*(positive definite|non-finite)"):
        score.run(layout, settings, "validation")
    assert not layout.scores("validation").exists()
