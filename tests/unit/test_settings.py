"""Settings: defaults, errors a user can act on, and what each step may see."""

import contextlib
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reruns import PRESETS
from workspace import leave_trainings

from trak_steps.config import arguments, document, load_settings, parse_settings, restrict
from trak_steps.config.load import setting_names
from trak_steps.config.settings import Settings
from trak_steps.errors import TrakError
from trak_steps.workflow.registry import HANDED, STEPS, reads

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("features.dims=3", "features.dims: ... features.dim?"),
        ("dim=3", "features.dim?"),
        ("targets.validation.sise=3", "targets.validation.size?"),
        ("features.dim=0", "features.dim: ... 1; given 0"),
        ("features.projection=dense", "'rademacher' or 'normal'; given 'dense'"),
        ("features.dim=.nan", "features.dim"),
        ("features=3", "features: ... section ... given 3"),
        ("seed=-1", "seed: ... 0; given -1"),
        ("run=../elsewhere", "run: ... letters, digits"),
        ("targets={a/b: {}}", "targets.a/b: ... letters, digits"),
        ("targets={}", "targets: ... at least 1"),
        ("dataset.text=[a, b, c]", "dataset.text: ... at most 2"),
        ("checkpoints.keep=[0.5, 0.5]", "fraction twice"),
        ("checkpoints.keep=[1.5]", "checkpoints.keep[0]"),
        ("scores.loss_weight_power=2", "scores.loss_weight_power: ... 1; given 2"),
        ("features.model_output=image", "`module:Class`; given 'image'"),
        ("features.dim=[", "not valid YAML"),
        ("features.dim=!!python/object/apply:os.getcwd []", "not valid YAML"),
        ("features.dim", "should read setting=value"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(override: str, message: str) -> None:
    with pytest.raises(TrakError) as error:
        load_settings(None, [override])
    for part in message.split(" ... "):
        assert part in str(error.value)


def test_checkpoints_on_the_same_step_are_refused_when_the_rows_are_known() -> None:
    """100 rows in batches of 16 are 7 steps an epoch."""
    values = {
        "dataset": {"train_size": 100},
        "finetune": {"epochs": 1, "batch_size": 16},
        "checkpoints": {"keep": [1.0, 0.3, 0.25]},
    }
    with pytest.raises(TrakError, match=r"checkpoints\.keep: 0\.25 and 0\.3 both .* step 2 .* 7"):
        parse_settings(values)
    for other in (
        {"dataset": {}},
        {"finetune": {"epochs": 4, "batch_size": 16}},
        {"checkpoints": {"keep": [1.0, 0.3], "existing": []}},
        {"checkpoints": {"keep": [1.0, 0.3, 0.25], "existing": ["a"]}},
    ):
        parse_settings({**values, **other})


def test_a_checkpoint_is_imported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "linked").symlink_to("a")
    for other in ("a", "./a", "a/", str(tmp_path / "a"), "linked", "../" + tmp_path.name + "/a"):
        with pytest.raises(TrakError, match=r"checkpoints: existing: 'a' and .* same checkpoint"):
            parse_settings({"checkpoints": {"existing": ["a", "b", other]}})
    with pytest.raises(TrakError, match=r"'org/m' and 'org/m'"):
        parse_settings({"checkpoints": {"existing": ["org/m", "org/m"]}})
    parse_settings({"checkpoints": {"existing": ["a", "org/m", "org/a", "~nobody-of-that-name/a"]}})


def test_classes_are_of_imported_checkpoints_and_named_once() -> None:
    with pytest.raises(TrakError, match=r"checkpoints\.classes: .*checkpoints\.existing"):
        parse_settings({"checkpoints": {"classes": ["a", "b"]}})
    with pytest.raises(TrakError, match=r"classes: names a class twice: 'a, a'"):
        parse_settings({"checkpoints": {"classes": ["a", "a"], "existing": ["x"]}})
    found = parse_settings({"checkpoints": {"classes": [1, 0], "existing": ["x"]}})
    assert found.checkpoints.classes == ["1", "0"]


def test_as_many_rows_as_there_are_cannot_be_left_out() -> None:
    for rows in (30, 31):
        values = {"dataset": {"train_size": 30}, "evaluation": {"removal": {"rows": rows}}}
        with pytest.raises(TrakError, match=rf"evaluation\.removal\.rows: {rows} of 30"):
            parse_settings(values)
        # Of imported checkpoints nothing is retrained.
        parse_settings({**values, "checkpoints": {"existing": ["x"]}})
    fewer = {"dataset": {"train_size": 30}, "evaluation": {"removal": {"rows": 29}}}
    assert parse_settings(fewer).evaluation.removal.rows == 29


def test_few_rows_without_a_word_on_evaluation_are_a_run() -> None:
    settings = parse_settings({"dataset": {"train_size": 1}, "checkpoints": {"keep": [1.0]}})
    assert settings.evaluation.removal.rows > 1
    assert parse_settings(settings.model_dump()) == settings


@pytest.mark.parametrize(
    "values",
    [
        {"dataset": {"train_size": 10}, "finetune": {"epochs": 1}},
        {"checkpoints": {"existing": ["x"], "classes": ["b", "a"]}, "execution": {"device": "cuda:1"}},
    ],
)
def test_a_step_in_a_workflow_takes_the_settings_that_it_reads(values: dict[str, Any]) -> None:
    """The defaults of those that it does not read say nothing about the run."""
    allowed = {"checkpoints": {"keep": [1.0]}, **values}
    settings = parse_settings(allowed)
    for step in STEPS:
        names = [*reads(step, settings, targets="validation"), "execution"]
        words = shlex.split(arguments(settings, names))
        loaded = load_settings(None, [word for word in words if word != "--set"], partial=True)
        assert restrict(loaded, names) == restrict(settings, names)


@pytest.mark.parametrize(
    ("text", "message"),
    [("- a\n", "should hold `setting: value` lines"), ("a: [", "not valid YAML"), ("\xff", "UTF-8")],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(TrakError, match=r"config\.yaml") as error:
        load_settings(file)
    assert message in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrakError, match=r"nowhere\.yaml: cannot be read"):
        load_settings(tmp_path / "nowhere.yaml")


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("")
    assert load_settings(file) == Settings()


def test_one_text_column_may_be_written_without_a_list() -> None:
    assert load_settings(None, ["dataset.text=sentence"]).dataset.text == ["sentence"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["dim", "run", "path", "targets", "size", "keep", "features", "x"]),
                inner,
            )
        ),
        max_leaves=8,
    )
)
def test_whatever_is_given_is_settings_or_a_message(values: object) -> None:
    given_values = values if isinstance(values, dict) else {"features": values, "targets": values}
    with contextlib.suppress(TrakError):
        assert isinstance(parse_settings(given_values), Settings)


@pytest.mark.parametrize("step", STEPS)
def test_a_step_gets_back_from_its_arguments_what_it_may_see(step: str) -> None:
    settings = load_settings(ROOT / "config" / "config.yaml")
    names = reads(step, settings, targets="validation")
    words = shlex.split(arguments(settings, names))
    loaded = load_settings(None, [word for word in words if word != "--set"])
    assert restrict(loaded, names) == restrict(settings, names)


def test_a_setting_that_was_not_declared_is_absent() -> None:
    seen = restrict(Settings(), ["features.dim"])
    assert seen.features.dim == Settings().features.dim
    with pytest.raises(AttributeError):
        _ = seen.features.projection
    with pytest.raises(AttributeError):
        _ = seen.kernel


def test_every_setting_is_read_by_some_step() -> None:
    settings = Settings()
    declared = {name for step in STEPS for name in reads(step, settings, targets="NAME")}
    declared |= set(HANDED)
    declared |= set(reads("model", parse_settings({"checkpoints": {"existing": ["imported"]}})))
    for name in setting_names(Settings):
        for other in PRESETS.get(name, ()):  # it is no more than what it sets
            assert other in setting_names(Settings)
        if name in PRESETS:
            continue
        parts = name.split(".")
        prefixes = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
        assert prefixes & declared, f"no step reads {name}"


@pytest.mark.parametrize("file", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.name)
def test_every_preset_loads(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_trainings(tmp_path)
    monkeypatch.chdir(tmp_path)
    settings = load_settings(file)
    assert settings.run in ("demo", file.stem)


def test_the_tutorial_preset_is_the_tutorial() -> None:
    settings = load_settings(ROOT / "config" / "qnli_bert_base.yaml")
    assert (settings.model.name_or_path, settings.dataset.name) == ("bert-base-cased", "qnli")
    assert (settings.dataset.train_size, settings.targets["validation"].size) == (5000, 100)
    assert (settings.model.max_length, settings.features.dim) == (128, 1024)


def test_the_generated_documents_are_in_step() -> None:
    """If this fails, run `trak-steps settings --write`."""
    assert (ROOT / document.SCHEMA).read_text() == document.schema_text()
    readme = (ROOT / document.README).read_text()
    assert readme == document.with_table(readme)
    assert json.loads(document.schema_text())["additionalProperties"] is False


def test_the_reference_preset_sets_what_is_not_set() -> None:
    """Its rule: plain gradients, no ridge, the whole mean loss weight, trainings' ends as they come."""
    rule = parse_settings({"scoring": "reference"})
    assert rule.checkpoints.keep == [1.0]
    assert (rule.features.metric, rule.scores.loss_weight) == ("none", "mean")
    assert (rule.kernel.ridge, rule.scores.loss_weight_power, rule.scores.balance) == (0.0, 1.0, False)
    mixed = parse_settings({"scoring": "reference", "kernel": {"ridge": 0.5}, "scores": {"top": 3}})
    assert (mixed.kernel.ridge, mixed.scores.loss_weight_power, mixed.scores.top) == (0.5, 1.0, 3)
    default = parse_settings({"scoring": "default"})
    assert default == parse_settings({})
    with pytest.raises(TrakError, match=r"scoring: .*'default' or 'reference'"):
        parse_settings({"scoring": "other"})


def test_the_thorough_evaluation_sets_what_is_not_set() -> None:
    found = parse_settings({"evaluation": {"preset": "thorough", "lds": {"subsets": 10}}}).evaluation
    assert (found.lds.subsets, found.lds.repeats, found.removal.targets) == (10, 5, 20)
    handed = shlex.split(arguments(parse_settings({"scoring": "reference"}), ("kernel", "scores")))
    again = load_settings(None, handed[1::2])
    assert again.kernel.ridge == 0.0
    assert again.scores.balance is False
