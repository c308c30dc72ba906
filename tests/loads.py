"""What Python loads when it imports a step, of all steps in the time that one takes.

Each step is imported by a fork of a process that has torch and the models' part of transformers, where
most of the time goes. That a fork loads those too is told by its imports of them.
"""

import json
import os
import subprocess
import sys
from functools import cache

from trak_steps.workflow.registry import STEPS

LARGE = frozenset({"torch", "transformers", "datasets", "zarr"})
_THERE = ("torch", "transformers.modeling_utils")
_PROGRAM = f"""
import builtins, json, os, sys
from importlib import import_module

for name in {_THERE}:
    import_module(name)
there = {LARGE!r} & set(sys.modules)
assert there == {{"torch", "transformers"}}
assert not any(name.startswith("trak_steps") for name in sys.modules)
asked, imports = set(), builtins.__import__

def noting(name, *more, **named):
    asked.add(name.partition(".")[0])
    return imports(name, *more, **named)

builtins.__import__ = noting
for module in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        asked.clear()
        import_module(f"trak_steps.steps.{{module}}")
        large = ({LARGE!r} & set(sys.modules)) - there | (there & asked)
        ours = [name for name in sys.modules if name.startswith("trak_steps.")]
        print(json.dumps([module, sorted(large), ours]), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, module
"""


@cache
def loaded() -> dict[str, tuple[set[str], set[str]]]:
    """For each step, the large libraries and the modules of the package that its import loads."""
    modules = sorted({step.module for step in STEPS.values()})
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *modules],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    lines = map(json.loads, done.stdout.splitlines())
    found = {module: (set(large), set(ours)) for module, large, ours in lines}
    return {name: found[step.module] for name, step in STEPS.items()}
