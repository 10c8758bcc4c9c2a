"""The program `mixdown`, as a wheel installs it."""

import sys

from . import _mixdown


def main() -> int:
    """Runs the program with the arguments of this process."""
    return _mixdown.program(["mixdown", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
