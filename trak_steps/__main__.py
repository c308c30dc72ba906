"""``trak-steps`` and ``python -m trak_steps``."""

import sys

from trak_steps.cli import app
from trak_steps.errors import TrakError


def main() -> None:
    """Run a command; what is wrong with the input is printed as a message, not a traceback."""
    try:
        app()
    except TrakError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
