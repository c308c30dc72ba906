"""Step ``report``: the run as a page that opens in a browser, with what is known of its scores."""

from trak_steps.api.run import Run
from trak_steps.config import Settings
from trak_steps.console.progress import say
from trak_steps.console.table import size
from trak_steps.report.contents import gather
from trak_steps.report.page import render
from trak_steps.run.layout import Layout
from trak_steps.run.lineage import Lineage
from trak_steps.store.manifest import Manifest
from trak_steps.store.page import save_page

# Raised by hand when what this step writes changes: see CONTRIBUTING.md.
VERSION = 1


def run(layout: Layout, settings: Settings) -> None:
    """Write ``report.html``."""
    contents = gather(Run.of(layout, settings))
    lineage = Lineage(layout)
    made_from = {}
    for path in contents.read:
        name = layout.name(path)
        # Of rows, texts are shown, too.
        part = f"{name}#table" if name.startswith("data/") else name
        made_from[part] = lineage.content(part) or ""
    for name in contents.stale:
        say(f"{name} is of other scores than the run has now, or another version's, and is not shown")
    save_page(layout.report, render(contents), Manifest("report", made_from=made_from, version=VERSION))
    say(f"wrote {layout.report}: {contents.shown} targets, {size(layout.report.stat().st_size)}")
