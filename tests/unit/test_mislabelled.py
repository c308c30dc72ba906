"""Train rows whose labels look wrong and what argues against them; and how files are shown."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import small_settings
from typer.testing import CliRunner

from trak_steps.cli import app
from trak_steps.config import Settings
from trak_steps.console.show import LEGEND, lines
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.evaluation.suspicion import class_sums, relative_support, standing
from trak_steps.kernel.gram import factor_kernel
from trak_steps.run import suspects
from trak_steps.run.layout import Layout, checkpoint_names
from trak_steps.run.parts import open_kernel, open_train_features
from trak_steps.run.row_weights import row_weights_of
from trak_steps.run.scoring import Scoring
from trak_steps.scoring.uncertainty import students
from trak_steps.steps.evaluation import find_mislabelled
from trak_steps.store.features import TrainFeatures
from trak_steps.store.manifest import Manifest
from trak_steps.store.table import load_table, save_table
from trak_steps.store.texts import LONGEST

SUSPECTS = 8


@dataclass
class Checkpoint:
    """Stands for the features of n train rows by one checkpoint, and for their kernel."""

    phi: np.ndarray
    loss_weight: np.ndarray

    def __post_init__(self) -> None:
        self.n, self.dim = self.phi.shape
        self.start, self.stop = 0, self.n
        self.cholesky = factor_kernel(torch.from_numpy(self.kernel()), self.n, 0.1).numpy()

    def features(self, start: int, stop: int) -> np.ndarray:
        return self.phi[start:stop].astype(np.float32)

    def column(self, name: str) -> np.ndarray:
        return np.asarray(getattr(self, name))

    def kernel(self) -> np.ndarray:
        return self.phi.T @ self.phi

    def scores(self) -> np.ndarray:
        """Of each row for each as a target, [n, n]."""
        return self.phi @ np.linalg.inv(self.cholesky @ self.cholesky.T) @ self.phi.T


def checkpoints(n: int = 30) -> list[Any]:
    """Of two runs, two states each, which have the run's features in common; one is far out of scale."""
    draw = np.random.default_rng(0)
    every = draw.normal(size=(n, 6))
    runs = [every + 0.5 * draw.normal(size=(n, 6)) for _ in range(2)]
    states = [run + 0.1 * draw.normal(size=(n, 6)) for run in runs for _ in range(2)]
    states[3] = states[3] * np.linspace(0.01, 3, n)[:, None]
    return [Checkpoint(phi, draw.uniform(size=n)) for phi in states]


NAMES = ["0-0.5", "0", "1-0.5", "1"]


def scoring(settings: Settings, names: list[str], of_run: list[Any]) -> Scoring:
    """Of such checkpoints, as a run opens it."""
    weights, cpu = row_weights_of(settings, of_run), torch.device("cpu")
    return Scoring(names, of_run[0].n, of_run, of_run, weights, settings.scores.balance, cpu)


@pytest.fixture(scope="module")
def found(
    small_run: tuple[Layout, Settings], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Layout, Settings]:
    """A copy of the small run with its suspects."""
    settings = small_settings(evaluation={"suspects": SUSPECTS})
    layout = Layout(tmp_path_factory.mktemp("found") / "small")
    shutil.copytree(small_run[0].root, layout.root)
    find_mislabelled.run(layout, settings)
    return layout, settings


def suspects_of(layout: Layout) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = load_table(layout.suspects, "suspects")[0].to_pylist()
    return rows


@pytest.mark.parametrize(("power", "loss_weight"), [(0.0, "own"), (0.5, "mean"), (1.0, "own")])
@pytest.mark.parametrize("balance", [False, True])
def test_what_argues_is_negative_and_its_sign_is_held_against_other_runs(
    power: float, loss_weight: str, balance: bool
) -> None:
    """By the scores that the run would give, were its train rows targets."""
    of_run, suspects = checkpoints(), np.arange(30)
    products = [checkpoint.scores() for checkpoint in of_run]
    if balance:
        roots = [np.sqrt(np.square(of).mean(0)) for of in products]
        products = [of / root * np.mean(roots, 0) for of, root in zip(products, roots, strict=True)]
    weights = np.stack([checkpoint.loss_weight for checkpoint in of_run])
    if loss_weight == "mean":
        weights = np.broadcast_to(weights.mean(0), weights.shape)
    products = [of * weight[:, None] ** power for of, weight in zip(products, weights, strict=True)]
    by_run = np.stack([np.mean(products[:2], 0), np.mean(products[2:], 0)])
    score, std = by_run.mean(0), by_run.std(0, ddof=1)
    settings = small_settings(
        scores={"balance": balance, "loss_weight": loss_weight, "loss_weight_power": power}
    )
    scale = 3.0
    against = find_mislabelled._opponents(settings, scoring(settings, NAMES, of_run), scale, suspects)
    score, std = scale * score, scale * std
    for suspect in suspects:
        listed = np.isfinite(against.score[suspect])
        place = against.place[suspect, listed]
        assert suspect not in place
        assert len(place) == min(5, (score[:, suspect] < 0).sum())
        assert place.tolist() == np.argsort(score[:, suspect], kind="stable")[: len(place)].tolist()
        np.testing.assert_allclose(against.score[suspect, listed], score[place, suspect], rtol=1e-4)
        np.testing.assert_allclose(against.std[suspect, listed], std[place, suspect], rtol=1e-3)
        stable = np.abs(score[place, suspect]) > students(2) * std[place, suspect] / np.sqrt(2)
        assert against.stable[suspect, listed].tolist() == stable.tolist()
    assert set(against.stable.ravel()) == {True, False}


def test_of_a_single_checkpoint_no_sign_is_known(found: tuple[Layout, Settings]) -> None:
    train = PreparedRows.load(found[0].train)
    some, of_run = np.arange(3), checkpoints(len(train))[:1]
    settings = small_settings(scores={"loss_weight_power": 0.0})
    against = find_mislabelled._opponents(settings, scoring(settings, NAMES[:1], of_run), 1.0, some)
    table = find_mislabelled._table(train, some, against, train.column("label")[some], {})
    for row in table.to_pylist():
        assert len(row["against_row"]) == 5
        assert row["against_sign_stable"] == row["against_std"] == [None] * 5


def test_blocks_of_rows_and_of_suspects_are_bounded_and_change_nothing(
    found: tuple[Layout, Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, settings = Layout(shutil.copytree(found[0].root, tmp_path / "small")), found[1]
    before = suspects_of(layout)
    reads: list[tuple[Path, int, int]] = []
    targets: list[int] = []
    read, scorer = TrainFeatures.features, suspects.Scorer

    def counted(self: TrainFeatures, start: int, stop: int) -> np.ndarray:
        reads.append((self.path, start, stop))
        return read(self, start, stop)

    def watched(solved: Any, trainings: Any) -> Any:
        targets.append(len(solved[0]))
        return scorer(solved, trainings)

    monkeypatch.setattr(TrainFeatures, "features", counted)
    monkeypatch.setattr(suspects, "Scorer", watched)
    for name in ("rows_at_once", "cells_at_once"):
        monkeypatch.setattr(find_mislabelled, name, lambda *_: 7)
    monkeypatch.setattr(find_mislabelled, "SUSPECTS_AT_ONCE", 3)
    find_mislabelled.run(layout, settings)
    blocks = {(start, min(start + 7, 60)) for start in range(0, 60, 7)}
    assert {(start, stop) for _, start, stop in reads} == blocks
    # Class sums and standing; then, for three parts of the suspects, to gather them and to score.
    assert max(reads.count(one) for one in reads) <= 2 + 3 * 2
    assert max(targets) == 3
    after = suspects_of(layout)
    assert [row["rank"] for row in after] == list(range(1, SUSPECTS + 1))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one.pop("against_std"), other.pop("against_std"), rtol=1e-2)
        assert one.keys() == other.keys()
        for name in one:
            close = isinstance(one[name], float) or name == "against_score"
            assert other[name] == (pytest.approx(one[name], rel=1e-4) if close else one[name])


def test_names_of_text_columns_meet_no_other_and_only_texts_shown_are_read(
    found: tuple[Layout, Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, settings = Layout(shutil.copytree(found[0].root, tmp_path / "small")), found[1]
    load, column = PreparedRows.load, PreparedRows.column

    def renamed(path: Path) -> PreparedRows:
        train = load(path)
        long = [f"{text} ".ljust(LONGEST + 5, "x") for text in train.table["sentence"].to_pylist()]
        rows = train.table.rename_columns({"question": "score"}).drop_columns("sentence")
        details = {**train.manifest.details, "text": ["score", "label_name"]}
        manifest = replace(train.manifest, details=details)
        return replace(train, manifest=manifest, table=rows.append_column("label_name", [long]))

    def numbers_only(self: PreparedRows, name: str, *rest: Any) -> np.ndarray:
        assert name not in self.text_columns
        return column(self, name, *rest)

    before = suspects_of(layout)
    monkeypatch.setattr(PreparedRows, "load", renamed)
    monkeypatch.setattr(PreparedRows, "column", numbers_only)
    find_mislabelled.run(layout, settings)
    for one, other in zip(before, suspects_of(layout), strict=True):
        assert other["text_score"] == one["text_question"]
        assert other["against_text_score"] == one["against_text_question"]
        assert other["against_row"] == one["against_row"]
        assert other["label_name"] == one["label_name"]
        assert other["text_label_name"].startswith(one["text_sentence"])
        assert {len(text) for text in other["against_text_label_name"]} == {LONGEST + 1}
    shown = list(lines(layout.suspects, first=2, count=1, side="proponent"))
    assert shown[0].startswith(f"{before[0]['text_question']} | {before[0]['text_sentence']} xxx")


def test_where_nothing_argues_against_a_suspect_the_list_is_short(
    found: tuple[Layout, Settings], tmp_path: Path
) -> None:
    """Two rows are at odds, the others have nothing to do with them or each other."""
    rows = np.concatenate([np.eye(5), -np.eye(1, 5)])
    of_run: list[Any] = [Checkpoint(rows, np.ones(6))]
    train, some = PreparedRows.load(found[0].train), np.array([0, 3, 5])
    settings = small_settings(scores={"balance": False})
    against = find_mislabelled._opponents(settings, scoring(settings, ["0"], of_run), 1.0, some)
    table = find_mislabelled._table(train, some, against, train.column("label")[some], {})
    first, last = train.column("row")[[0, 5]]
    assert table["against_row"].to_pylist() == [[last], [], [first]]
    file = tmp_path / "suspects.parquet"
    save_table(file, table, Manifest("suspects"))
    shown = list(lines(file, first=9, count=9, side="proponent"))
    assert [line.startswith("  -0.") for line in shown] == [False, True, False, False, True]
    nothing = replace(against, score=np.full((3, 5), np.inf, np.float32))
    table = find_mislabelled._table(train, some, nothing, train.column("label")[some], {})
    save_table(file, table, Manifest("suspects"))
    assert len(list(lines(file, first=9, count=9, side="proponent"))) == 3


def test_what_is_predicted_is_what_the_ends_of_trainings_say() -> None:
    settings = small_settings(checkpoints={"count": 2, "keep": [0.25, 1.0]})
    assert checkpoint_names(settings.checkpoints) == ["0-0.25", "0", "1-0.25", "1"]
    assert find_mislabelled._ends(settings) == [1, 3]


def test_the_class_that_most_give_is_predicted_whatever_their_number() -> None:
    many = np.array([[2**40, 0, 5], [2**40, 1, 5], [0, 1, 3]])
    assert find_mislabelled._predicted(many).tolist() == [2**40, 1, 5]
    assert find_mislabelled._predicted(many[1:]).tolist() == [0, 1, 3]


def test_what_a_persons_own_model_output_says_of_labels_is_not_known(
    found: tuple[Layout, Settings],
) -> None:
    layout, settings = found
    train, names = PreparedRows.load(layout.train), checkpoint_names(settings.checkpoints)
    features = [open_train_features(layout, settings, name, train) for name in names]
    pairs = zip(names, features, strict=True)
    of_run = names, features, [open_kernel(layout, settings, name, of) for name, of in pairs]
    own = small_settings(features={"model_output": "mine:Own"})
    built_in, theirs = (
        find_mislabelled._measures(chosen, train, *of_run).keys() for chosen in (settings, own)
    )
    assert built_in - theirs == {"trust", "loss"}


def test_support_is_on_one_scale_and_defined_everywhere() -> None:
    """Neither how large gradients are counts, nor how few rows a class has."""
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(12, 4)))
    rows[3:5] = rows[3]  # a class of two of a kind
    rows[5], rows[6] = 0, rows[6] * 1e-3
    rows[8:10] = torch.stack([rows[8], torch.zeros(4)])  # another has nothing but the row itself
    labels = torch.tensor([0, 0, 0, 1, 1, 0, 0, 2, 3, 3, 0, 0])  # the one row of class 2 is alone
    factor = factor_kernel(rows.T @ rows, 12, 0.1)

    def support(scale: torch.Tensor) -> torch.Tensor:
        scaled = rows * scale[:, None]
        by = standing([scaled], labels, class_sums([scaled], labels, 4), factor)
        return relative_support(by.mean_score, by.self_influence, by.others)

    found = support(torch.ones(12))
    assert torch.isfinite(found).all()
    assert found.abs().max() <= 1
    torch.testing.assert_close(found[3:5], torch.ones(2, dtype=found.dtype))
    assert found[[5, 7, 8, 9]].tolist() == [0.0] * 4
    torch.testing.assert_close(support(torch.where(labels == 0, 100.0, 1.0)), found)


def against_table(stable: list[bool | None]) -> pa.Table:
    return pa.table(
        {
            "text_score": ["a text"],
            "label_name": ["a"],
            "predicted_name": ["b"],
            "against_row": [[1, 2]],
            "against_score": [[-0.5, -0.25]],
            "against_sign_stable": pa.array([stable], pa.list_(pa.bool_())),
            "against_label_name": [["c", "d"]],
            "against_text_score": [["one", "two"]],
        }
    )


@pytest.fixture
def show(tmp_path: Path) -> Callable[..., list[str]]:
    def shown(table: pa.Table, kind: str, *arguments: str) -> list[str]:
        file = tmp_path / "any.parquet"
        save_table(file, table, Manifest(kind))
        done = CliRunner().invoke(app, ["show", str(file), *arguments], catch_exceptions=False)
        return done.output.splitlines()

    return shown


def test_what_argues_with_an_unstable_sign_is_marked(show: Callable[..., list[str]]) -> None:
    assert show(against_table([True, False]), "suspects") == [
        "a text   [a, predicted b]",
        "  -0.500  one   [c]",
        "  -0.250? two   [d]",
        LEGEND,
    ]
    for known in ([True, False], [True, True], [None, None]):
        few = show(against_table(known), "suspects", "--top", "1")
        assert few == ["a text   [a, predicted b]", "  -0.500  one   [c]"]
    assert "no suspects" in show(pa.table({"row": pa.array([], pa.int64())}), "suspects")[0]


def point(targets: str, curve: str, **values: Any) -> dict[str, Any]:
    own = {"checkpoints": ["0-0.5", "0"], "dim": 64, "ridge": None, "power": 0.0, "balance": True}
    figures = {"lds": 0.5, "lds_low": 0.456, "lds_high": -0.0312}
    adjusted = {f"class_adjusted{end}": np.nan for end in ("", "_low", "_high")}
    return {
        "targets": targets,
        "curve": curve,
        **own,
        "effective_dof": 0.2,
        **figures,
        **adjusted,
        **values,
    }


def test_curves_are_shown_as_tables(show: Callable[..., list[str]]) -> None:
    adjusted = {"class_adjusted": 0.4, "class_adjusted_low": 0.3, "class_adjusted_high": 0.5}
    rows = [
        point("dev", "ridge", ridge=0.01, **adjusted),
        point("dev", "ridge", ridge=100.0),
        point("dev", "dim", dim=4096),
        point("dev", "balance", balance=False),
        point("dev", "checkpoints", checkpoints=["0", "1"]),
        point("dev", "checkpoints"),
        point("test", "checkpoints", lds=None, lds_low=None, lds_high=None),
    ]
    assert show(pa.Table.from_pylist(rows), "lds") == [
        "dev, by ridge",
        "  ridge   LDS                    class-adjusted LDS",
        "  0.01    0.50 (0.46 to -0.03)   0.40 (0.30 to 0.50)",
        "  100     0.50 (0.46 to -0.03)   -",
        "dev, by dim",
        "  dim    LDS                    class-adjusted LDS",
        "  4096   0.50 (0.46 to -0.03)   -",
        "dev, by balance",
        "  balance   LDS                    class-adjusted LDS",
        "  no        0.50 (0.46 to -0.03)   -",
        "dev, by checkpoints",
        "  checkpoints   LDS                    class-adjusted LDS",
        "  0, 1          0.50 (0.46 to -0.03)   -",
        "  0-0.5, 0      0.50 (0.46 to -0.03)   -",
        "test, by checkpoints",
        "  checkpoints   LDS   class-adjusted LDS",
        "  0-0.5, 0      -     -",
    ]


def test_removals_are_shown_target_by_target(show: Callable[..., list[str]]) -> None:
    row = {"target": 0, "target_row": 17, "margin": [1.0, 2.0], "right_before": 1.0}
    rows = [
        {**row, "without": "proponents", "predicted": 0.75, "lost": [0.5, 1.0], "flipped": 0.5},
        {**row, "without": "random", "predicted": -0.25, "lost": [-0.5, 0.0], "flipped": None},
        {**row, "target": 1, "without": "random", "predicted": 0.0, "lost": [0.0], "flipped": None},
    ]
    assert show(pa.Table.from_pylist(rows), "removal", "--targets", "1") == [
        "target 0, row 17: margin +1.500",
        "  less +0.750, predicted +0.750   without proponents, prediction flipped in 0.50",
        "  less -0.250, predicted -0.250   without random",
    ]


def test_what_cannot_be_shown_is_named(show: Callable[..., list[str]], tmp_path: Path) -> None:
    with pytest.raises(TrakError, match=r"any\.parquet: holds plan; .*removal\.parquet"):
        show(pa.table({"seed": [0]}), "plan")
    with pytest.raises(TrakError, match="is a folder; show takes"):
        CliRunner().invoke(app, ["show", str(tmp_path)], catch_exceptions=False)
