"""Print a Markdown file's commands as one bash script: its `sh` blocks, and its `python` blocks run.

In their order and in one shell, as a reader types them, so that a line holds for those after it: what a
line installs or activates is there for them, and nothing else is.
"""

import re
import sys
from pathlib import Path

text = Path(sys.argv[1]).read_text(encoding="utf-8")
for language, block in re.findall(r"^```(sh|python)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
    print(block if language == "sh" else f"python - <<'PROGRAM'\n{block}PROGRAM", end="\n")
