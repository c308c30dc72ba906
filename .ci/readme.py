"""Print the contents of a Markdown file's code blocks in one language, each block after the other."""

import re
import sys
from pathlib import Path

text, language = Path(sys.argv[1]).read_text(encoding="utf-8"), sys.argv[2]
for block in re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
    print(block, end="")
