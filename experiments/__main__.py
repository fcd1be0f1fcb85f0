"""`dreaming <verb>`, the same as `python -m experiments <verb>`."""

import sys

from experiments.command.process import as_command


def main() -> int:
    """The command line; Ctrl-C is minded before anything else is imported."""
    with as_command():
        from experiments.command import cli

        return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
