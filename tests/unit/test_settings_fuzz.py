"""Whatever is given as settings is either settings or a message, and settings survive every way they go.

The examples are the same on every run: each test draws a fixed number from a fixed seed.
"""

import contextlib
import datetime
import io
import math
import shlex
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from hypothesis import HealthCheck, example, given
from hypothesis import settings as budget
from hypothesis import strategies as st
from workspace import leave_trainings

from trak_steps import __main__
from trak_steps.config import Settings, arguments, load_settings, parse_settings
from trak_steps.config.load import setting_names
from trak_steps.console.printable import printable
from trak_steps.errors import TrakError

FIXED = {
    "derandomize": True,
    "database": None,
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.filter_too_much],
}
LONGEST_MESSAGE = 10_000

NAMES = sorted({part for name in setting_names(Settings) for part in name.split(".")})
SECTIONS = list(Settings.model_fields)

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**4290, 10**4310)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=10)
    | st.dates()
    | st.datetimes(timezones=st.just(datetime.UTC))
    | st.complex_numbers()
)
keys = (
    st.sampled_from([*NAMES, "[key]", "list[x]", "constrained-str"])
    | st.text(max_size=8)
    | st.integers()
    | st.none()
    | st.dates()
)
junk = st.recursive(
    scalars | st.sets(st.integers(), max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4).map(OrderedDict)
    ),
    max_leaves=12,
)

# Texts that a setting takes: anything without NUL and lone surrogates, and so line ends of every kind.
texts = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12
) | st.sampled_from(
    ["a'b", '"', "{x}", "$(id)", "`", "\u2028", "\x85", "\ufeff", "\x7f", "\U0001f600", "1e5"]
)
names = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_-]{0,10}\Z")
shares = st.floats(0, 1, exclude_min=True)
VALID: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "dataset": {
        "path": texts,
        "name": texts | st.none(),
        "data_files": st.none()
        | st.dictionaries(texts, texts | st.lists(texts, max_size=3), max_size=3),
        "text": st.none() | texts | st.lists(texts, min_size=1, max_size=2),
        "label": texts,
        "train_size": st.none() | st.integers(1, 10**6),
        "flip_labels": st.floats(0, 1),
    },
    "model": {
        "name_or_path": texts,
        "max_length": st.integers(4, 512),
        "trust_remote_code": st.booleans(),
    },
    "checkpoints": {
        "count": st.integers(1, 9),
        "keep": st.lists(shares, min_size=1, max_size=3),
        "existing": st.lists(texts, max_size=3),
    },
    "finetune": {
        "epochs": shares,
        "learning_rate": shares | st.just("1e-4"),
        "batch_size": st.just(8.0),
    },
    "features": {
        "dim": st.integers(1, 2**20),
        "parameters": st.fixed_dictionaries({}, optional={"exclude": st.lists(texts, max_size=2)}),
        "model_output": st.just("text_classification") | texts,
        "loss_temperature": st.floats(0, 1e300),
        "codec": st.sampled_from(["none", "zstd", "blosc", "bitround", "zip"]),
    },
    "kernel": {"ridge": st.floats()},
    "scores": {"top": st.integers()},
    "execution": {"device": st.sampled_from(["auto", "cpu", "cuda:1", "cuda\n"]), "save_every": shares},
}
sections = {name: st.fixed_dictionaries({}, optional=values) for name, values in VALID.items()}
likely = st.fixed_dictionaries(
    {},
    optional={
        "run": names,
        "seed": st.integers(0, 2**31 - 1),
        "targets": st.dictionaries(
            names,
            st.fixed_dictionaries({}, optional={"split": texts, "size": st.integers(1, 9)}),
            max_size=4,
        ),
        **sections,
    },
)
YAML_PIECES = [
    *[
        "&a ",
        "*a",
        "<<: ",
        "- ",
        "? ",
        ": ",
        "{",
        "}",
        "[",
        "]",
        ", ",
        "'",
        '"',
        "|\n",
        ">\n",
        "#",
        "%YAML 1.1\n",
    ],
    *[
        "!!int ",
        "!!binary ",
        "!!set ",
        "!!bool ",
        "!!float ",
        "!!timestamp ",
        "!!omap ",
        "!!python/name:os ",
        "! ",
    ],
    *[
        "\n",
        "\n  ",
        "\n    ",
        "\t",
        "---\n",
        "...\n",
        "~",
        "2001-01-01",
        "0x1",
        "1e-4",
        ".nan",
        "-.inf",
        "\\x1b",
    ],
    *["true", "é", "\u2028", "\x85", "\x00", "\x1b", "\ufeff", "🙂", *NAMES],
]
yaml_like = st.lists(st.sampled_from(YAML_PIECES), max_size=25).map("".join)


def load(values: Any) -> Settings | None:
    """The settings, or none where a message says what is wrong."""
    try:
        return parse_settings(values)
    except TrakError as error:
        message = str(error)
    assert 0 < len(message) < LONGEST_MESSAGE
    return None


def require_the_same(loaded: Settings, settings: Settings) -> None:
    """Equal values, and the target sets in the same order."""
    assert loaded == settings
    assert list(loaded.targets) == list(settings.targets)


def with_change(values: dict[str, Any], where: list[str], junk: Any) -> dict[str, Any]:
    """A copy of the mapping in which what lies at a path is something else."""
    if len(where) == 1 or not isinstance(values.get(where[0], {}), dict):
        return {**values, where[0]: junk}
    return {**values, where[0]: with_change(values.get(where[0], {}), where[1:], junk)}


@budget(max_examples=400, **FIXED)
@given(junk)
@example({10**5000: 10**5000, "seed": 10**5000})
@example({"features": {"dim": 10**5000}, "targets": {("a", 1): {"size": math.nan}}})
def test_any_value_at_all_is_settings_or_a_message(value: Any) -> None:
    load(value)
    load({"features": value, "targets": {"a": value}, "seed": value, "dataset": {"text": value}})


@budget(max_examples=400, **FIXED)
@given(likely, st.sampled_from(setting_names(Settings)), junk)
def test_a_setting_that_became_something_else_is_settings_or_a_message(
    values: dict[str, Any], name: str, value: Any
) -> None:
    load(with_change(values, name.split("."), value))


@budget(max_examples=600, **FIXED)
@given(likely)
@example({"dataset": {"path": "\u2028\x85\x7f\x9b\ufeff\ufffe\uffff\U0001f600'\"\\ {x} $(id)"}})
@example({"targets": {"b": {}, "a": {}}, "finetune": {"learning_rate": "1e-4"}})
def test_what_is_accepted_comes_back_from_arguments_and_from_a_file(values: dict[str, Any]) -> None:
    settings = load(values)
    if settings is None:
        return
    words = shlex.split(arguments(settings, SECTIONS))
    require_the_same(load_settings(None, [word for word in words if word != "--set"]), settings)
    written = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
    require_the_same(parse_settings(yaml.safe_load(written)), settings)


def test_the_strategy_makes_settings_that_are_accepted() -> None:
    """Without this, the test above could pass on messages alone."""
    accepted = 0

    @budget(max_examples=200, **FIXED)
    @given(likely)
    def count(values: dict[str, Any]) -> None:
        nonlocal accepted
        accepted += load(values) is not None

    count()
    assert accepted > 50


@budget(max_examples=400, **FIXED)
@given(
    st.text(max_size=40)
    | st.tuples(st.sampled_from(setting_names(Settings)), st.text(max_size=20) | yaml_like).map("=".join)
    | st.tuples(st.text(max_size=10), st.just("="), yaml_like).map("".join)
)
def test_any_override_is_settings_or_a_message(override: str) -> None:
    message = ""
    try:
        load_settings(None, [override, "features.dim=8"])
    except TrakError as error:
        message = str(error)
    assert len(message) < LONGEST_MESSAGE


def run_main(*arguments: str) -> tuple[int, str, str]:
    """What the command line says and how it ends, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["trak-steps", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as stopped,
    ):
        __main__.main()
    return int(stopped.value.code or 0), out.getvalue(), err.getvalue()


@budget(max_examples=400, **FIXED)
@given(st.binary(max_size=60) | yaml_like.map(str.encode) | st.text(max_size=60).map(str.encode))
def test_any_file_is_settings_or_one_message_and_no_traceback(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    file.write_bytes(content)
    code, out, err = run_main("settings", "--config", str(file))
    if code == 0:
        file.write_text(out, encoding="utf-8")
        assert run_main("settings", "--config", str(file)) == (0, out, "")
        return
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {file}")
    assert "Traceback" not in err
    assert len(err) < LONGEST_MESSAGE
    assert printable(err, keep="\n") == err


@budget(max_examples=150, **FIXED)
@given(likely)
@example({"dataset": {"path": "é\u2028\x85\u202e\x9b\x1b[2J"}})
def test_settings_that_are_printed_are_read_as_the_same(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    settings = load(values)
    if settings is None:
        return
    file = tmp_path_factory.getbasetemp() / "printed.yaml"
    file.write_text(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
    code, out, _ = run_main("settings", "--config", str(file))
    assert code == 0
    assert printable(out, keep="\n") == out
    file.write_text(out, encoding="utf-8")
    require_the_same(load_settings(file), settings)


def test_every_preset_survives_its_own_printing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_trainings(tmp_path)
    monkeypatch.chdir(tmp_path)
    for preset in sorted((Path(__file__).parents[2] / "config").glob("*.yaml")):
        code, out, err = run_main("settings", "--config", str(preset))
        assert (code, err) == (0, "")
        (tmp_path / "printed.yaml").write_text(out, encoding="utf-8")
        require_the_same(load_settings(tmp_path / "printed.yaml"), load_settings(preset))
