"""Read YAML as a user's settings are written: nothing is built, named twice or multiplied."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from trak_steps.console.printable import printable
from trak_steps.errors import TrakError

# Far above what settings need, and far below what an alias of an alias of an alias can make of a page.
FILE_BYTES = 2**20
VALUES = 100_000
LEVELS = 32
MERGED = 10_000
MESSAGE = 400


def read_file(file: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds; an empty file holds none.

    Raises:
        TrakError: naming the file, if it cannot be read or is something else.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or error
        raise TrakError(f"{file}: cannot be read ({words})") from None
    if len(content) > FILE_BYTES:
        raise TrakError(f"{file}: is larger than {FILE_BYTES} bytes, so it is no file of settings")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise TrakError(f"{file}: is not UTF-8 text") from None
    values = read_text(text, f"{file}: is")
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise TrakError(f"{file}: should hold `setting: value` lines, holds {kind(values)}")
    tree: dict[str, Any] = as_tree(values, str(file))
    return tree


def read_text(text: str, what: str) -> Any:
    """The value that a YAML text stands for.

    Args:
        text: YAML.
        what: the beginning of a message, such as ``config.yaml: is``.

    Raises:
        TrakError: if it is not YAML, asks for an object, or names a key twice.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise TrakError(f"{what} not valid YAML: it is nested too deep") from None
    except (yaml.YAMLError, ValueError) as error:
        words = printable(str(error), MESSAGE, keep="\n")
        raise TrakError(f"{what} not valid YAML: {words}") from None
    except Exception:  # what `!!bool x` or `!!int ""` make the parser stumble over
        raise TrakError(f"{what} not valid YAML: a value does not fit its tag") from None


def as_tree(values: Any, where: str) -> Any:
    """The values as plain dicts and lists that share nothing, as if every alias had been written out.

    Raises:
        TrakError: if that is too much, or without end.
    """
    left = VALUES

    def copy(value: Any, level: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or level > LEVELS:
            raise TrakError(
                f"{where}: holds more than {VALUES} values or {LEVELS} levels once every alias "
                "(`*name`) is followed; write the settings out"
            )
        if isinstance(value, Mapping):
            return {key: copy(inner, level + 1) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [copy(inner, level + 1) for inner in value]
        return value

    return copy(values, 0)


def kind(value: Any) -> str:
    """What a value is, in words."""
    if value is None:
        return "nothing"
    names = {"list": "a list", "str": "a text", "int": "a number", "float": "a number"}
    names |= {"dict": "a section", "bool": "true or false"}
    name = type(value).__name__
    return names.get(name, f"a {name}")


class _Loader(yaml.SafeLoader):
    """The safe loader, which also refuses a key named twice and merges that multiply."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node: Any = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise ComposerError(None, None, f"`{key.value}` is named twice", key.start_mark)
                seen.add((key.tag, key.value))
        return node

    def flatten_mapping(self, node: Any) -> None:
        merged = 0
        for key, value in node.value:
            if key.tag != "tag:yaml.org,2002:merge":
                continue
            for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if isinstance(part, yaml.MappingNode):
                    self.flatten_mapping(part)
                    merged += len(part.value)
                if merged > MERGED:
                    raise ConstructorError(
                        None, None, f"merges (`<<`) of more than {MERGED} keys", key.start_mark
                    )
        super().flatten_mapping(node)
