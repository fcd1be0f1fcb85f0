"""`python -m experiments <verb>`, the same as `dreaming <verb>`."""

import sys

from experiments.command.cli import main

if __name__ == "__main__":
    sys.exit(main())
