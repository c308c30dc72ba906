"""A digest of the source code that a step's numbers depend on.

Snakemake does not notice when an imported package changes, so each rule carries this digest among
its ``params``. It covers the step's module and whatever of this package that module imports, also
inside functions. Comments, docstrings and layout do not count; neither do the modules that only
carry messages and settings, since the settings themselves are in the rule's ``params`` too.
"""

import ast
import hashlib
import importlib.util
import sys
from functools import cache
from pathlib import Path

PACKAGE = "trak_steps"
_STANDARD = Path(ast.__file__).parent
ROOT = Path(__file__).parent
LEFT_OUT = frozenset(
    f"{PACKAGE}.{name}"
    for name in (
        "cli",
        "config",
        "errors",
        "fingerprint",
        "housekeeping",
        "audit",
        "inputs",
        "printable",
        "progress",
        "reference",
        "show",
        "steps.registry",
    )
)


def fingerprint(module: str) -> str:
    """The digest of ``trak_steps.<module>`` and of all it imports from this package."""
    digest = hashlib.sha256()
    for name in sorted(_closure(f"{PACKAGE}.{module}")):
        digest.update(f"{name} {_digest(name)}\n".encode())
    return digest.hexdigest()[:16]


def depends_on(module: str) -> frozenset[str]:
    """The modules that the digest of ``trak_steps.<module>`` covers."""
    return frozenset(_closure(f"{PACKAGE}.{module}"))


def all_modules() -> list[str]:
    """Every module of this package, by its full name."""
    names = []
    for file in sorted(ROOT.rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        names.append(".".join([PACKAGE, *parts]))
    return [name for name in names if name != PACKAGE]


def foreign_fingerprint(module: str) -> str:
    """The digest of a module outside this package, such as a person's own model output.

    It covers the modules that lie beside it and that it imports. A module that cannot be found has
    an empty one: the step itself says so.
    """
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


def _closure(start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name in seen or _left_out(name):
            continue
        seen.add(name)
        waiting += _imports(name)
    return seen


def _left_out(name: str) -> bool:
    return any(name == out or name.startswith(out + ".") for out in LEFT_OUT)


@cache
def _tree(name: str) -> ast.Module:
    return ast.parse(_file(name).read_text(encoding="utf-8"))


def _file(name: str) -> Path:
    path = ROOT.joinpath(*name.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def _imports(name: str) -> tuple[str, ...]:
    """Modules of this package that a module imports, and the packages they lie in."""
    found: set[str] = set()
    for node in ast.walk(_tree(name)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    ours = {module for module in found if module.split(".")[0] == PACKAGE}
    for module in list(ours):
        parts = module.split(".")
        ours.update(".".join(parts[:end]) for end in range(2, len(parts)))
    return tuple(sorted(module for module in ours if module != PACKAGE and _file(module).is_file()))


@cache
def _digest(name: str) -> str:
    return hashlib.sha256(_plain(_tree(name)).encode()).hexdigest()


def _plain(node: object) -> str:
    """The syntax tree as text: no positions, docstrings or empty fields, so it outlives versions."""
    if isinstance(node, ast.AST):
        fields = [
            f"{name}={_plain(_without_docstring(node, name, value))}"
            for name, value in ast.iter_fields(node)
            if value not in (None, [])
        ]
        return f"{type(node).__name__}({','.join(fields)})"
    if isinstance(node, list):
        return f"[{','.join(map(_plain, node))}]"
    return repr(node)


def _without_docstring(node: ast.AST, field: str, value: object) -> object:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    if field == "body" and isinstance(node, documented) and ast.get_docstring(node) is not None:
        return node.body[1:]
    return value
