"""``python -m matrix_e2e_keys``."""

import sys

from matrix_e2e_keys.cli import main

if __name__ == "__main__":
    sys.exit(main())
