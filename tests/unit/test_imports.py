"""A step imports what it needs: a library that takes seconds to load is not loaded for nothing."""

import json
import os
import subprocess
import sys

import pytest

from trak_steps.workflow.registry import STEPS

LARGE = {"torch", "transformers", "datasets", "zarr"}
MODELS = {"torch", "transformers", "zarr"}
LOADS = {
    "model": {"torch", "transformers", "datasets"},
    "prepare": {"torch", "transformers", "datasets"},
    "prepare-targets": {"torch", "transformers", "datasets"},
    "finetune": {"torch", "transformers", "datasets"},
    "import-checkpoint": {"torch", "transformers", "datasets"},
    "featurize": MODELS,
    "kernel": {"torch", "zarr"},
    "score": {"torch", "zarr"},
    "rank": {"zarr"},
    "summarize": {"zarr"},
    "provenance": set(),
    "plan-subsets": set(),
    "plan-removal": MODELS,
    "retrain-subsets": {"torch", "transformers", "datasets"},
    "retrain-removal": {"torch", "transformers", "datasets"},
    "measure-lds": MODELS,
    "measure-removal": {"zarr"},
    "measure-stability": {"torch", "zarr"},
    "find-mislabelled": {"torch", "zarr"},
}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_loads_no_library_that_it_does_not_need(step: str) -> None:
    module = f"trak_steps.steps.{STEPS[step].module}"
    code = f"import json, sys, {module}; print(json.dumps(sorted({LARGE!r} & set(sys.modules))))"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert set(json.loads(done.stdout)) == LOADS[step]
