"""The page: its template, style and program, put together into one file that loads nothing."""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from trak_steps import __version__
from trak_steps.errors import TrakError
from trak_steps.report.contents import Contents

# What itables bundles: DataTables, as a module.
_EXPORTS = re.compile(r"export\{([^}]*)\};?")


def render(contents: Contents) -> str:
    """The page as HTML. Its policy allows the styles and the program that it has, and nothing else."""
    program = f"{_datatables()}\n{_own('report.js')}"
    styles = [_bundled("dt_bundle.css"), _own("report.css")]
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hashed(program)}",
            f"style-src {' '.join(map(_hashed, styles))}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    environment = Environment(
        loader=PackageLoader("trak_steps.report", "page"), autoescape=True, undefined=StrictUndefined
    )
    environment.globals["svg"] = _svg
    template = environment.get_template("report.html.j2")
    return template.render(
        contents=contents,
        version=__version__,
        policy=Markup(policy),
        styles=[_as_it_is(style, "style") for style in styles],
        program=_as_it_is(program, "script"),
    )


def _as_it_is(text: str, element: str) -> Markup:
    """What stands in an element, not escaped. Nothing in it may end that, or begin one like it."""
    if re.search(f"</?{element}|<!--", text, re.IGNORECASE):
        raise TrakError(
            f"itables: its bundle has <{element}> in it; pip install -c constraints.txt itables"
        )
    return Markup(text)


def _svg(drawing: bytes) -> str:
    """A drawing as an address."""
    return f"data:image/svg+xml;base64,{base64.b64encode(drawing).decode()}"


def _hashed(text: str) -> str:
    """A source that a policy allows."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _own(name: str) -> str:
    return (files("trak_steps.report") / "page" / name).read_text(encoding="utf-8")


@cache
def _datatables() -> str:
    """DataTables, as ``DataTable`` for the program that follows; nothing imports what it exports."""
    text = _bundled("dt_bundle.js")
    found = _EXPORTS.findall(text)
    parts = found[0].split(",") if len(found) == 1 else []
    names = dict(part.split(" as ")[::-1] for part in parts if " as " in part)
    if "default" not in names:
        raise TrakError(
            "itables: its dt_bundle.js has no default export; pip install -c constraints.txt itables"
        )
    # In its strings and patterns, what would begin or end an element to a reader of HTML.
    text = re.sub(r"<(?=/?script|!--)", r"\\x3C", _EXPORTS.sub("", text))
    return f"{text}\nconst DataTable={names['default']};"


def _bundled(name: str) -> str:
    return (files("itables") / "html" / name).read_text(encoding="utf-8")
