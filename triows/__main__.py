"""``python -m triows``: the same as ``triows``."""

import sys

from triows._cli import main

if __name__ == "__main__":
    sys.exit(main())
