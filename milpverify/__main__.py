"""`python -m milpverify`."""

import sys

from milpverify.cli import program

if __name__ == "__main__":
    sys.exit(program())
