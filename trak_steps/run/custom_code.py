"""A digest of a custom model output's source code: it decides features as settings do."""

import ast
import hashlib
import importlib.util
import sys
from pathlib import Path

from trak_steps.config.settings import BUILT_IN

_STANDARD = Path(ast.__file__).parent


def custom_code(model_output: str) -> str:
    """The digest of the module of a custom model output; empty for the built-in one.

    It covers the modules that lie beside it and that it imports. A module that cannot be found has
    an empty one: the step itself says so.

    Args:
        model_output: ``module:Class``, or the name of the built-in one.
    """
    module = model_output.partition(":")[0]
    if model_output == BUILT_IN:
        return ""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = importlib.util.find_spec(module)
        if found is None or not found.origin or not Path(found.origin).is_file():
            return ""
        root = Path(found.origin).parents[module.count(".") + (Path(found.origin).stem == "__init__")]
        files = _beside(Path(found.origin), root)
        digest = hashlib.sha256()
        for file in sorted(files):
            digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    except Exception:  # finding a module may run its package, which may fail in any way
        return ""
    return digest.hexdigest()[:16]


def _beside(start: Path, root: Path) -> set[Path]:
    """A source file and those below the same root that it imports, and they in turn."""
    seen: set[Path] = set()
    waiting = [start]
    # Of a library that is installed, its own file says enough with the versions in the manifest.
    within = root if "site-packages" not in root.parts and root != _STANDARD else start.parent
    while waiting:
        file = waiting.pop()
        if file in seen or not file.is_file() or file.suffix != ".py":
            continue
        seen.add(file)
        if within != root:
            break
        for node in ast.walk(ast.parse(file.read_bytes())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                at = file.parents[node.level - 1].relative_to(root).parts if node.level else ()
                base = ".".join([*at, *([node.module] if node.module else [])])
                names = [base, *(f"{base}.{alias.name}".strip(".") for alias in node.names)]
            for name in filter(None, names):
                path = root.joinpath(*name.split("."))
                waiting += [path.with_suffix(".py"), path / "__init__.py"]
    return seen or {start}
