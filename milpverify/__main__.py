"""`python -m milpverify`."""

import sys

from milpverify.cli import main

if __name__ == "__main__":
    sys.exit(main())
