"""A digest of the source code that a step's numbers depend on.

It covers the step's module and whatever of the package that module imports, also inside functions.
Comments, docstrings, layout and messages do not count; neither do the modules that carry only messages,
settings, paths and the mechanics of files.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

PACKAGE = "trak_steps"
ROOT = Path(__file__).parents[2] / PACKAGE
LEFT_OUT = (
    "audit",
    "cli",
    "config",
    "console",
    "errors",
    "run.layout",
    "store.atomic",
    "store.lock",
    "store.manifest",
    "store.tree",
    "store.verified",
    "workflow",
)
# What is only said: the arguments of these do not count.
SAYING = (
    "say",
    "progress",
    "counter",
    "TrakError",
    "GradientError",
    "SingularKernelError",
    "ZeroKernelError",
)


def digest_of(module: str, root: Path = ROOT) -> str:
    """The digest of ``trak_steps.<module>`` and of all it imports from the package at ``root``."""
    digest = hashlib.sha256()
    for name in sorted(depends_on(module, root)):
        digest.update(f"{name} {_digest(_file(name, root))}\n".encode())
    return digest.hexdigest()[:16]


def depends_on(module: str, root: Path = ROOT) -> frozenset[str]:
    """The modules that the digest of ``trak_steps.<module>`` covers."""
    seen: set[str] = set()
    parts = module.split(".")
    waiting = [".".join([PACKAGE, *parts[:end]]) for end in range(1, len(parts) + 1)]
    while waiting:
        name = waiting.pop()
        if name not in seen and not left_out(name):
            seen.add(name)
            waiting += _imports(name, root)
    return frozenset(seen)


def left_out(name: str) -> bool:
    """Whether a module decides no numbers."""
    return any(f"{name}.".startswith(f"{PACKAGE}.{out}.") for out in LEFT_OUT)


def _file(name: str, root: Path) -> Path:
    path = root.joinpath(*name.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _imports(name: str, root: Path) -> list[str]:
    """Modules of the package that a module imports, and the packages they lie in."""
    found = _named_in_imports(_file(name, root).read_bytes())
    ours = {module for module in found if module.split(".")[0] == PACKAGE}
    for module in list(ours):
        parts = module.split(".")
        ours.update(".".join(parts[:end]) for end in range(2, len(parts)))
    return sorted(module for module in ours if module != PACKAGE and _file(module, root).is_file())


@cache
def _named_in_imports(source: bytes) -> frozenset[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(found)


def _digest(file: Path) -> str:
    return _digest_of_text(file.read_bytes())


@cache
def _digest_of_text(source: bytes) -> str:
    return hashlib.sha256(plain(ast.parse(source)).encode()).hexdigest()


def plain(node: object) -> str:
    """A syntax tree as text, without what decides no numbers."""
    if isinstance(node, ast.Call) and _name(node.func) in SAYING:
        return f"Call({_name(node.func)})"
    if isinstance(node, ast.AST):
        fields = [
            f"{name}={plain(_counting(node, name, value))}"
            for name, value in ast.iter_fields(node)
            if value not in (None, [])
        ]
        return f"{type(node).__name__}({','.join(fields)})"
    if isinstance(node, list):
        return f"[{','.join(map(plain, node))}]"
    return repr(node)


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _counting(node: ast.AST, field: str, value: object) -> object:
    """A field's value, a body without its docstring and a step's version."""
    if field != "body" or not isinstance(value, list):
        return value
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    if isinstance(node, documented) and ast.get_docstring(node) is not None:
        value = value[1:]
    return [part for part in value if not _is_version(part)]


def _is_version(part: object) -> bool:
    return isinstance(part, ast.Assign) and [_name(target) for target in part.targets] == ["VERSION"]
