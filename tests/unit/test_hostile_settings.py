"""Settings and paths that are wrong on purpose: one clear message, and nothing run."""

import json
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import yaml
from hostile import message
from typer.testing import CliRunner

from trak_steps.cli import app
from trak_steps.config import load_settings, parse_settings
from trak_steps.config.checkpoints import CheckpointSettings
from trak_steps.console.printable import printable
from trak_steps.errors import TrakError
from trak_steps.run.layout import checkpoint_names


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("features.dim=true", "features.dim: ... true or false ... True"),
        ("seed=no", "seed: ... true or false ... False"),
        ("kernel.ridge=yes", "kernel.ridge: ... true or false"),
        ("checkpoints.keep=[0.5, true]", "checkpoints.keep: ... true or false"),
        ("dataset.train_size=on", "dataset.train_size: ... true or false"),
        ("run=2024-01-01", "run: ... a text ... datetime.date(2024, 1, 1)"),
        ("features.dim=2024-01-01", "features.dim: ... integer"),
        ("dataset.path=!!binary aGVsbG8=", "dataset.path: ... a text ... binary"),
        ("dataset.text=!!set {a, b}", "dataset.text: ... a set"),
        ("features.shard_size=100000000000000000000", "features.shard_size: ... below"),
        ("features.dim=0x" + "f" * 9999, "too many digits"),
        ("features.dim=" + "9" * 9999, "4300 digits"),
        ("kernel.ridge=1e300", "kernel.ridge: ... below"),
        ("kernel.ridge=.inf", "kernel.ridge: ... finite"),
        ("finetune.learning_rate=.nan", "finetune.learning_rate: ... finite"),
        ("targets={1: {}}", "targets[1]: ... a text"),
        ("dataset={null: 2}", "dataset.None: ... a text ... name"),
        ("dataset.data_files={train: 3}", "dataset.data_files.train: ... a list ... 3"),
        ("features.dim=&a [*a]", "alias (`*name`)"),
        ("targets=&a {v: *a}", "alias (`*name`)"),
        ("features.dim=" + "[" * 100_000, "nested too deep"),
        ("features={dim: 1, dim: 2}", "`dim` is named twice"),
        ("features.parameters.include=['(']", "'(' is not a regular expression"),
        ("execution.device='cuda\n'", "execution.device: ... `auto`"),
        ('dataset.path="a\\0b"', "dataset.path: ... NUL"),
        ("dataset.text=[a, a]", "'a' twice"),
        ("dataset={text: gold, label: gold}", "'gold', the label column"),
        ("..=3", "should read setting=value"),
        ("[key]=1", "[key]: ... no such setting"),
        ("dataset={'list[x]': 1}", "dataset.list[x]: ... no such setting"),
        ("features.\x1b[2Jdim=3", "features.\\x1b[2Jdim: ... no such setting"),
        ("x" * 100_000 + "=1", "x…: ... no such setting"),
        ('run="' + "x" * 100_000 + '"', "run: ... 100 characters"),
    ],
)
def test_a_setting_of_the_wrong_kind_is_named_briefly(override: str, said: str) -> None:
    found = message(lambda: load_settings(None, [override]))
    for part in said.split(" ... "):
        assert part in found
    assert len(found) < 1000
    assert printable(found, keep="\n") == found


def test_numbers_that_yaml_reads_as_texts_are_numbers() -> None:
    settings = load_settings(None, ["finetune.learning_rate=1e-4", "features.dim='256'"])
    assert (settings.finetune.learning_rate, settings.features.dim) == (1e-4, 256)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"a: \x07", "special characters are not allowed"),
        (b"seed: 1\nrun: x\nseed: 2\n", "`seed` is named twice"),
        (b"true", "holds true or false"),
        (b"- a\n- b\n", "holds a list"),
        (b"? [a, b]\n: 1\n", "unhashable key"),
        (b"a: !!int ''\n", "fit its tag"),
        (b"a: !!bool q\n", "fit its tag"),
        (b"a: !!timestamp q\n", "fit its tag"),
        (b"a:\n" + b"".join(b" " * i + b"a:\n" for i in range(1, 900)), "nested too deep"),
        (b"<<: &a {<<: *a}\n", "nested too deep"),
        (b"seed: " + b"1" * 500_000, "4300 digits"),
        (b"#" * (2**20 + 1), "is larger than 1048576 bytes"),
        (b"".join(b"k%d: 1\n" % i for i in range(20_000)), "… and 19980 more"),
    ],
)
def test_a_file_that_is_no_settings_is_named(tmp_path: Path, text: bytes, said: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(text)
    found = message(lambda: load_settings(file))
    assert found.startswith(str(file))
    assert said in found
    assert len(found) < 5000


def test_a_path_that_is_no_file_is_named(tmp_path: Path) -> None:
    assert "cannot be read (Is a directory)" in message(lambda: load_settings(tmp_path))
    assert "cannot be read (embedded null byte)" in message(lambda: load_settings(Path("a\0b")))
    assert "is larger than" in message(lambda: load_settings(Path("/dev/zero")))


def bomb(of: str, join: str) -> bytes:
    """Nine levels of ten aliases each: a page that stands for 10⁹ values."""
    lines = [f"a: &a {of}"]
    for above, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} " + join.format(", ".join([f"*{above}"] * 10)))
    return "\n".join([*lines, "features: *i", "seed: *i", ""]).encode()


@pytest.mark.parametrize(
    "text",
    [
        bomb("[x, x, x, x, x, x, x, x, x, x]", "[{}]"),
        bomb("{k1: x, k2: x}", "{{<<: [{}]}}"),
        # Ten thousand sets of ten thousand wrong settings each.
        b"b: &b {%s}\ntargets: {%s}\n"
        % (
            b", ".join(b"k%d: 1" % i for i in range(10_000)),
            b", ".join(b"t%d: *b" % i for i in range(10_000)),
        ),
    ],
    ids=["lists", "merges", "targets"],
)
def test_an_alias_bomb_is_refused_before_it_goes_off(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "bomb.yaml"
    file.write_bytes(text)
    tracemalloc.start()
    try:
        found = message(lambda: load_settings(file))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "alias" in found or "merges" in found
    assert len(found) < 1000
    assert peak < 500e6  # followed, the aliases would be gigabytes


def test_a_bomb_that_another_reader_let_through_is_refused_too() -> None:
    values: Any = OrderedDict(x=1)
    for _ in range(30):
        values = OrderedDict(a=values, b=values)
    assert "alias" in message(lambda: parse_settings(OrderedDict(features=values)))
    endless: dict[str, Any] = {}
    endless["features"] = endless
    assert "alias" in message(lambda: parse_settings(endless))


def test_aliases_are_read_and_an_override_changes_one_place(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("targets:\n  one: &t {split: dev, size: 2}\n  two: *t\n  three: {<<: *t, size: 3}\n")
    targets = load_settings(file, ["targets.one.size=9"]).targets
    assert {name: chosen.size for name, chosen in targets.items()} == {"one": 9, "two": 2, "three": 3}
    assert {chosen.split for chosen in targets.values()} == {"dev"}


def test_yaml_builds_no_objects(tmp_path: Path, mark: Path) -> None:
    text = f"!!python/object/apply:os.mkdir ['{mark}']"
    file = tmp_path / "config.yaml"
    for content in (text, f"run: {text}", f"features: {{dim: {text}}}", "run: !!python/name:os.system"):
        file.write_text(content)
        assert "not valid YAML" in message(lambda: load_settings(file))
    assert "not valid YAML" in message(lambda: load_settings(None, [f"run={text}"]))
    yaml.unsafe_load(text)  # so much for the text: another reader would have done it
    mark.rmdir()


@pytest.mark.parametrize("given", [None, 3, "ab", [1], [("run", "x")]])
def test_what_is_no_mapping_is_no_settings(given: Any) -> None:
    assert "should be a mapping of settings" in message(lambda: parse_settings(given))


def test_what_the_workflow_hands_over_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    values = OrderedDict(run="x", features=OrderedDict(dim=8), dataset=OrderedDict(text=("a", "b")))
    settings = parse_settings(values)
    assert (settings.features.dim, settings.dataset.text) == (8, ["a", "b"])
    monkeypatch.setenv("TRAK_STEPS_HANDED", "{threads: [")
    done = CliRunner().invoke(app, ["summarize", "--set", "run=x"])
    assert isinstance(done.exception, TrakError)
    assert "TRAK_STEPS_HANDED" in str(done.exception)


# --- paths --------------------------------------------------------------------------------------------

OUTSIDE = [
    "../x",
    "../../x",
    "/x",
    "..",
    ".",
    "",
    "x/../y",
    "a\n",
    "0\n",
    "a\0b",
    "a b",
    "-x",
    "a/b",
    "~",
    "é",
]


@pytest.mark.parametrize(
    "name", [*OUTSIDE, "00", "0-", "0-2", "0-0.50", "0-nan", "0-1e5", "-1", "x", "0-0.5-0.5", "٣"]
)
def test_a_checkpoint_that_is_no_name_of_one_is_refused(tmp_path: Path, name: str) -> None:
    where = ["--results", str(tmp_path / "results"), "--set", "run=r", "--checkpoint", name]
    for command in (["featurize", "--shard", "0"], ["featurize", "--targets", "t"], ["kernel"]):
        done = CliRunner().invoke(app, [*command, *where])
        assert isinstance(done.exception, TrakError)
        assert "there is no checkpoint" in str(done.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_target_set_that_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    where = ["--results", str(tmp_path / "results"), "--set", "run=r", "--targets", name]
    for command in (["featurize", "--checkpoint", "0"], ["prepare-targets"], ["score"], ["rank"]):
        done = CliRunner().invoke(app, [*command, *where])
        assert isinstance(done.exception, TrakError), done.output
        assert "there is no set" in str(done.exception)
    assert "targets" in message(lambda: parse_settings({"targets": {name: {}}}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_run_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    override = f"run={json.dumps(name)}"
    assert "run: should be" in message(lambda: load_settings(None, [override])).replace("have at", "be")
    done = CliRunner().invoke(app, ["model", "--results", str(tmp_path / "results"), "--set", override])
    assert isinstance(done.exception, TrakError)
    assert not list(tmp_path.iterdir())


def test_every_name_that_a_run_gives_its_checkpoints_is_taken(tmp_path: Path) -> None:
    given = CheckpointSettings(count=12, keep=[1e-300, 1e-5, 0.25, 1 / 3, 0.9999999, 1.0][:5])
    for name in [*checkpoint_names(given), *checkpoint_names(CheckpointSettings(count=12))]:
        done = CliRunner().invoke(
            app, ["kernel", "--results", str(tmp_path), "--set", "run=r", "--checkpoint", name]
        )
        assert "manifest.json: is missing" in str(done.exception)
