"""Run `snakemake --lint`; fail on all that it finds but one thing.

It wants a conda environment or a container for every rule. All steps are commands of one package, which
is installed with Snakemake, so there is none.
"""

import re
import subprocess
import sys

EXPECTED = "Specify a conda environment or container for each rule."

command = [sys.executable, "-m", "snakemake", "--lint"]
done = subprocess.run(command, capture_output=True, text=True, check=False)
said = done.stdout + done.stderr
lints = re.split(r"^ {4}\* ", said, flags=re.MULTILINE)[1:]
# Without a single finding, a failure is another: the workflow cannot be read.
if any(not lint.startswith(EXPECTED) for lint in lints) or (done.returncode and not lints):
    sys.exit(said)
