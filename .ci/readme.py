"""Print a Markdown file's commands as one bash script: its `sh` blocks, and its `python` blocks run.

In their order and in one shell, as a reader types them, so that a line holds for those after it: what a
line installs or activates is there for them, and nothing else is. So are `python` blocks with no `sh`
block between them one program.
"""

import re
import sys
from itertools import groupby
from pathlib import Path

text = Path(sys.argv[1]).read_text(encoding="utf-8")
blocks = re.findall(r"^```(sh|python)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
for language, together in groupby(blocks, key=lambda block: block[0]):
    code = "".join(block for _, block in together)
    print(code if language == "sh" else f"python - <<'PROGRAM'\n{code}PROGRAM", end="\n")
