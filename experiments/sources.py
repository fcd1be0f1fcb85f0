"""Which sources of logs there are, and what each accepts.

Packages bring sources of their own (entry-point group dreaming.sources); one
that cannot be loaded is named, with the reason. Examples:
  dreaming sources
  dreaming sources name=minari
  dreaming sources json=sources.json
Use one with source.name=NAME source.uri=... +source.options.KEY=VALUE
"""

import json
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path

from experiments.command.cli import run_verb
from experiments.config import SourcesConfig

WIDTH = 100


def run(config: SourcesConfig, run_dir: Path) -> int:
    """Print them, and write the same to `config.json` if it is given."""
    from dreaming.checkpoint import atomic_write
    from dreaming.errors import ConfigError
    from envs.sources import SourceInfo, describe_sources

    def told(info: SourceInfo) -> list[str]:
        if info.broken is not None:
            return [f"broken: {info.broken}; repair or uninstall {info.package}"]
        options = f"options: {info.options}" if info.options else "no options"
        return [*textwrap.wrap(info.about, WIDTH - 4), options]

    infos = [info for info in describe_sources() if config.name in (None, info.name)]
    if not infos:
        raise ConfigError(f"name={config.name} is no source; `dreaming sources` lists all")
    if config.json is not None:
        atomic_write(config.json, json.dumps([asdict(info) for info in infos], indent=1).encode())
    for info in infos:
        print(f"{info.name} ({info.package})")
        print("\n".join(f"    {line}" for line in told(info)))
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command line of this verb; returns the exit code."""
    return run_verb(run, argv, config_name="sources", schema=SourcesConfig)


if __name__ == "__main__":
    sys.exit(main())
