"""``trak-steps`` and ``python -m trak_steps``."""

import io
import sys

from trak_steps.cli import app
from trak_steps.console.printable import printable
from trak_steps.errors import TrakError
from trak_steps.workflow.refused import keep_refusal, refused_before


def main() -> None:
    """Run a command; what is wrong with the input is printed as a message, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that knows fewer characters than Unicode is shown the others written out.
            stream.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:]
    try:
        if before := refused_before(arguments):
            print("refused before; not computed again", file=sys.stderr)
            raise TrakError(before)
        app()
    except TrakError as error:
        keep_refusal(arguments, error)
        print(f"error: {printable(str(error), keep=chr(10))}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
