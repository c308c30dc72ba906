"""The command line: help that reads well, one step at a time, errors without tracebacks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from conftest import SMALL
from typer.testing import CliRunner

from trak_steps import __main__
from trak_steps.cli import app
from trak_steps.config import Settings
from trak_steps.data.prepared import PreparedRows
from trak_steps.errors import TrakError
from trak_steps.run.layout import Layout
from trak_steps.store.scores import ScoreStore
from trak_steps.workflow.registry import STEPS


def _help(*command: str) -> str:
    shown = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "120"})
    assert shown.exit_code == 0
    return " ".join(shown.output.split())


COMMANDS = {
    each.callback.__name__.replace("_", "-"): each for each in app.registered_commands if each.callback
}
STEPS_BY_HAND = {step if not step.startswith("retrain-") else "retrain" for step in STEPS}


def test_every_step_is_a_command() -> None:
    assert COMMANDS.keys() > STEPS_BY_HAND


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    """Whole, in the list of commands too, and with what every step takes."""
    explained = " ".join((getattr(COMMANDS[command].callback, "__doc__", "")).split())
    assert len(explained) > 20
    shown = _help(command)
    assert explained in shown
    first = (COMMANDS[command].callback.__doc__ or "").partition("\n")[0]
    assert f"{command} {first}" in _help()
    for option in ("--config", "-c", "--set", "--results"):
        assert option in shown or command not in STEPS_BY_HAND


def test_help_loads_nothing_that_only_steps_need() -> None:
    """They would take longer than all the rest."""
    code = (
        "import sys; from trak_steps.cli import app; app(['finetune', '--help'], standalone_mode=False);"
        "print(sorted(n for n in sys.modules if n in ('rich', 'yaml', 'numpy', 'trak_steps.config')))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--training" in said.stdout
    assert said.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(("outside", "used"), [(None, 1), ("2", 2)])
def test_a_step_by_hand_uses_the_threads_of_the_settings(
    tmp_path: Path, outside: str | None, used: int
) -> None:
    """The workflow, or whoever sets OMP_NUM_THREADS, says otherwise."""
    code = (
        "import sys, types\n"
        "from pathlib import Path\n"
        "from trak_steps.cli import Given\n"
        f"given = Given(None, ['run=x', 'execution.threads=1'], Path({str(tmp_path)!r}))\n"
        "seen = types.ModuleType('trak_steps.steps.kernels.kernel')\n"
        "def run(layout, settings):\n"
        "    import torch\n"
        "    print(torch.get_num_threads())\n"
        "seen.run = run\n"
        "sys.modules[seen.__name__] = seen\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "given.call('kernel')\n"
    )
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    if outside:
        environment["OMP_NUM_THREADS"] = outside
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert said.stdout == f"{used}\n", said.stderr


def test_the_steps_run_alone_one_after_the_other(tmp_path: Path) -> None:
    """The whole chain by hand, as the workflow would call it."""
    config = tmp_path / "small.yaml"
    config.write_text(yaml.safe_dump({**SMALL, "checkpoints": {"count": 1, "keep": [1.0]}}))
    common = ["--config", str(config), "--results", str(tmp_path), "--set", "dataset.train_size=30"]
    for command in (
        "model",
        "prepare",
        "prepare-targets --targets validation",
        "finetune --training 0",
        "featurize --checkpoint 0 --shard 0",
        "featurize --checkpoint 0 --shard 1",
        "featurize --checkpoint 0 --targets validation",
        "kernel --checkpoint 0",
        "calibrate",
        "score --targets validation",
        "gather --targets validation",
        "rank --targets validation",
        "summarize",
        "provenance",
        "report",
    ):
        done = CliRunner().invoke(app, [*command.split(), *common], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "small" / "summary.json").read_text())
    assert {"accuracy", "accuracy_chance", "train_rows"} <= set(summary)


ALONE = ["--results", "{tmp}", "--set", "run=alone"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["settings", "--set", "features.dims=3"], "error: the settings:\n  features.dims: there is no"),
        (["settings", "--config", "nowhere.yaml"], "error: nowhere.yaml: cannot be read"),
        (["kernel", "--checkpoint", "0", *ALONE], "manifest.json: is missing"),
        (["model", "--set", "model.name_or_path=/nowhere", *ALONE], "there is no folder"),
        (
            ["prepare-targets", "--targets", "typo", *ALONE],
            "there is no set `typo`",
        ),
        (["kernel", "--checkpoint", "0"], "config/config.yaml: cannot be read"),
    ],
)
def test_what_is_wrong_is_said_without_a_traceback(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    command = [sys.executable, "-m", "trak_steps", *(a.format(tmp=tmp_path) for a in arguments)]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*/*"))


def test_a_shard_and_targets_at_once_are_refused() -> None:
    done = CliRunner().invoke(app, ["featurize", "--checkpoint", "0"])
    assert done.exit_code == 2
    assert "either --shard or --targets" in done.output


def test_settings_are_printed_whole() -> None:
    done = CliRunner().invoke(app, ["settings", "--set", "features.dim=77"])
    assert Settings.model_validate(yaml.safe_load(done.output)).features.dim == 77


def test_the_entry_point_is_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["trak-steps", "--version"])
    with pytest.raises(SystemExit) as stopped:
        __main__.main()
    assert not stopped.value.code


def test_the_top_file_holds_the_strongest_rows_with_their_texts(
    small_run: tuple[Layout, Settings],
) -> None:
    layout, settings = small_run
    rows = pq.read_table(layout.top("validation")).to_pylist()
    train, targets = PreparedRows.load(layout.train), PreparedRows.load(layout.targets("validation"))
    scores = ScoreStore.open(layout.scores("validation")).scores(0, len(train))
    assert len(rows) == len(targets) * 2 * settings.scores.top
    place_of = {int(row): place for place, row in enumerate(train.column("row"))}
    for row in rows:
        place = place_of[row["train_row"]]
        assert row["train_question"] == train.table["question"][place].as_py()
        assert row["target_sentence"] == targets.table["sentence"][row["target"]].as_py()
        assert row["train_label_name"] == train.label_names[row["train_label"]]
        assert row["score"] == scores[place, row["target"]]
        column = sorted(scores[:, row["target"]], reverse=row["side"] == "proponent")
        assert row["score"] == column[row["rank"] - 1]
        assert row["std"] >= 0


def test_the_top_is_shown_readably(small_run: tuple[Layout, Settings]) -> None:
    layout, _ = small_run
    file = layout.top("validation")
    rows = pq.read_table(file).to_pylist()
    shown = CliRunner().invoke(app, ["show", str(file), "--targets", "2", "--top", "2"])
    assert len(shown.output.splitlines()) == 2 * (1 + 2)
    best = next(row for row in rows if row["side"] == "proponent" and row["rank"] == 1)
    assert f"  {best['score']:+.3f}  {best['train_question']} | {best['train_sentence']}" in shown.output
    worst = next(row for row in rows if row["side"] == "opponent" and row["rank"] == 1)
    opponents = CliRunner().invoke(app, ["show", str(file), "--opponents"])
    assert f"{worst['score']:+.3f}  {worst['train_question']}" in opponents.output


def test_showing_what_is_not_there_is_an_error_without_traceback(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("x")
    for name, message in (("nowhere", "is missing"), ("other", "cannot be read")):
        with pytest.raises(TrakError, match=message):
            CliRunner().invoke(app, ["show", str(tmp_path / name)], catch_exceptions=False)
