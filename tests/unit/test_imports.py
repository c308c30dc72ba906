"""A step imports what it needs: a library that takes seconds to load is not loaded for nothing."""

import ast
import re
from pathlib import Path

import pytest
from loads import loaded

import trak_steps
from trak_steps.config import Settings
from trak_steps.workflow.registry import STEPS

MODELS = {"torch", "transformers", "zarr"}
LOADS = {
    "model": {"torch", "transformers", "datasets"},
    "prepare": {"torch", "transformers", "datasets"},
    "prepare-targets": {"torch", "transformers", "datasets"},
    "finetune": {"torch", "transformers", "datasets"},
    "import-checkpoint": {"torch", "transformers", "datasets"},
    "featurize": MODELS,
    "sum-kernel": {"torch", "zarr"},
    "kernel": {"torch", "zarr"},
    "sum-weighted": {"torch", "zarr"},
    "calibrate": {"torch", "zarr"},
    "score": {"torch", "zarr"},
    "gather": {"zarr"},
    "rank": {"zarr"},
    "summarize": {"zarr"},
    "provenance": set(),
    "report": {"zarr"},
    "check-recipe": {"torch", "transformers", "datasets", "zarr"},
    "plan-subsets": set(),
    "plan-removal": MODELS,
    "retrain-subsets": {"torch", "transformers", "datasets"},
    "retrain-removal": {"torch", "transformers", "datasets"},
    "measure-lds": MODELS,
    "measure-removal": {"zarr"},
    "measure-stability": {"torch", "zarr"},
    "sum-classes": {"torch", "zarr"},
    "find-support": {"torch", "zarr"},
    "pick-suspects": {"torch", "zarr"},
    "find-opponents": {"torch", "zarr"},
    "find-mislabelled": {"torch", "zarr"},
}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_loads_no_library_that_it_does_not_need(step: str) -> None:
    large, _ = loaded()[step]
    assert large == LOADS[step]


@pytest.mark.parametrize("package", ["gradients", "projection", "kernel", "scoring", "evaluation"])
def test_the_mathematics_names_no_setting(package: str) -> None:
    """Which setting helps is said by the step that has read it."""
    setting = re.compile(rf"\b({'|'.join(Settings.model_fields)})\.[a-z_]+\b")
    for file in Path(trak_steps.__file__).with_name(package).glob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert id(node) in docstrings or not setting.search(node.value), (file, node.value)
