"""What a run holds, to compare it with another."""

from trak_steps.audit.find import present
from trak_steps.audit.verify import verify_run
from trak_steps.run.layout import Layout
from trak_steps.store.artefact import artefact_manifest


def contents_of(layout: Layout) -> dict[str, str]:
    """The content of every output; verified, so that it is what the files hold.

    But for figures that are made of others, and the page, which says what the run took.
    """
    found = verify_run(layout)
    assert found.problems == [], "\n".join(map(str, found.problems))
    return {
        layout.name(path): artefact_manifest(path).content
        for path in present(layout)
        if path not in (layout.provenance, layout.summary, layout.report)
    }
