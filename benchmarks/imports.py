"""What a job costs before it computes: CPU seconds of importing each step, and the wait for --help.

Prints JSON, medians of three.
"""

import json
import statistics
import subprocess
import sys
import time

from trak_steps.workflow.registry import STEPS

REPEATS = 3
MEASURE = "import resource, sys, importlib; importlib.import_module(sys.argv[1]); "
MEASURE += "used = resource.getrusage(resource.RUSAGE_SELF); print(used.ru_utime + used.ru_stime)"


def import_seconds(module: str) -> float:
    """CPU seconds of a Python that imports a module and ends."""
    command = [sys.executable, "-c", MEASURE, module]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def help_seconds(*command: str) -> float:
    """Seconds that a user waits for a command's --help."""
    start = time.perf_counter()
    arguments = [sys.executable, "-m", "trak_steps", *command, "--help"]
    subprocess.run(arguments, capture_output=True, check=True)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    steps = {}
    for name, step in STEPS.items():
        module = f"trak_steps.steps.{step.module}"
        steps[name] = statistics.median(import_seconds(module) for _ in range(REPEATS))
    helps = {
        " ".join(["trak-steps", *command]): statistics.median(
            help_seconds(*command) for _ in range(REPEATS)
        )
        for command in ((), ("finetune",))
    }
    found = {"import_cpu_seconds": steps, "help_wall_seconds": helps}
    rounded = {
        part: {name: round(seconds, 2) for name, seconds in values.items()}
        for part, values in found.items()
    }
    print(json.dumps(rounded, indent=2))


if __name__ == "__main__":
    main()
