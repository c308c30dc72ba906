"""``trak-steps`` and ``python -m trak_steps``."""

import io
import sys

from trak_steps.cli import app
from trak_steps.console.printable import printable
from trak_steps.errors import TrakError


def main() -> None:
    """Run a command; what is wrong with the input is printed as a message, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that knows fewer characters than Unicode is shown the others written out.
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except TrakError as error:
        print(f"error: {printable(str(error), keep=chr(10))}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
