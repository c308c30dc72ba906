"""Texts that a terminal would obey are shown without what it obeys."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import ESCAPES, message

from trak_steps import __main__
from trak_steps.console.printable import printable
from trak_steps.console.show import top_lines
from trak_steps.errors import TrakError
from trak_steps.store.manifest import Manifest
from trak_steps.store.table import save_table

TOP: dict[str, Any] = {
    "target": [0, 0],
    "rank": [1, 1],
    "side": ["proponent", "opponent"],
    "score": [0.5, -0.5],
    "sign_stable": [False, True],
    "train_row": [1, 2],
    "train_label": [0, 1],
    "train_label_name": [ESCAPES, "b"],
    "train_question": [ESCAPES, "c"],
    "target_row": [0, 0],
    "target_label": [0, 0],
    "target_question": ["é " + "x" * 10_000_000] * 2,
}


def shown(folder: Path, **changes: Any) -> list[str]:
    file = folder / "x.top.parquet"
    columns = {name: values for name, values in {**TOP, **changes}.items() if values is not None}
    save_table(file, pa.table(columns), Manifest("top"))
    return list(top_lines(file, first=10**30, count=10**30, side="proponent"))


def test_texts_are_shown_without_what_a_terminal_obeys_and_cut(tmp_path: Path) -> None:
    target, row, legend = shown(tmp_path)
    assert row == (
        "  +0.500? "
        + (seen := r"a\x1b[2J\x1b]0;title\x07\r\n\t\x00\x7f\x9b1m\u202eb\u200b")
        + f"   [{seen}]"
    )
    assert target.startswith("é xxx")
    assert len(target) < 400
    assert "…" in target
    assert legend.startswith("? another training")


@pytest.mark.parametrize("stable", [[True, True], [None, None], None], ids=["yes", "unknown", "older"])
def test_a_sign_is_marked_only_where_it_is_known_to_be_unstable(tmp_path: Path, stable: Any) -> None:
    _, row = shown(tmp_path, sign_stable=stable and pa.array(stable, pa.bool_()))
    assert row.startswith("  +0.500  ")


def test_a_file_that_is_no_list_of_top_rows_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x.top.parquet"
    pq.write_table(pa.table({"target": [0]}), file)
    assert "has no manifest" in message(
        lambda: list(top_lines(file, first=1, count=1, side="proponent"))
    )
    save_table(file, pa.table({"target": [0]}), Manifest("scores"))
    assert "holds scores, expected top" in message(
        lambda: list(top_lines(file, first=1, count=1, side="proponent"))
    )


def test_letters_of_every_script_are_shown_as_they_are() -> None:
    for text in ("naïve", "日本\u3000語", "می\u200cخواهم", "👩\u200d🔬", "a\xa0b", "ß\u0301"):
        assert printable(text) == text
    assert printable("ab" * 9, limit=4) == "abab…"
    assert printable("\ud800\U000e0041") == r"\ud800\U000e0041"


def test_a_message_does_not_reach_the_terminal_with_escapes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise TrakError(f"one\n{ESCAPES}\ud800")

    monkeypatch.setattr(__main__, "app", fail)
    with pytest.raises(SystemExit):
        __main__.main()
    said = capsys.readouterr().err
    assert said.startswith("error: one\na\\x1b[2J")
    assert printable(said, keep="\n") == said


def test_a_terminal_of_few_characters_is_no_reason_for_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trak_steps", "settings", "--set", "dataset.path=é🙂"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"path: \xe9\\U0001f642\n" in done.stdout
