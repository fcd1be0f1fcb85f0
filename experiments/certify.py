"""Say how far a world can be trusted: figures with targets.

A finished run is certified on the episodes it held out, and its policies are
ranked by models that did not plan; certificate.json and the report in its
directory are written again. A dream file is certified on any log with the same
spaces; the log should be one that the dream was not fitted on. Examples:
  dreaming certify run=runs/dream/CartPole-v1/seed0
  dreaming certify world=my.dream traces=my/log
  dreaming certify world=my.dream traces=my/log policy=my/policy env=cartpole
"""

import sys
from pathlib import Path

from experiments.command.cli import run_verb
from experiments.command.progress import Progress
from experiments.command.unread import certify_rules, refuse
from experiments.config import CertifyVerbConfig
from experiments.pages.certificate import text

ONE = "name either run= (a finished run) or world= (a dream file) with traces="


def run(config: CertifyVerbConfig, run_dir: Path) -> int:
    """Certify, write the certificate and print it."""
    with Progress() as progress:
        from dreaming.checkpoint import atomic_write
        from experiments.command import runtime
        from experiments.pages.run_report import render
        from experiments.pages.words import to_json

        _check(config)
        refuse(certify_rules(config))
        runtime.configure(devices=config.devices)
        from experiments.runs.certify import certify_file, certify_finished

        certificate = (certify_finished if config.run else certify_file)(config, progress)
    path = Path(config.path) if config.path else None
    if config.run:
        path = path or Path(config.run) / "certificate.json"
    if path:
        atomic_write(path, to_json(certificate))
    if config.run and not config.path:
        render(config.run)
    print(text(certificate))
    return 0


def _check(config: CertifyVerbConfig) -> None:
    """Raise `ConfigError` for options that cannot be combined."""
    from dreaming.errors import ConfigError

    has_log = config.traces is not None or config.source.name is not None
    if (config.run is None) == (config.world is None):
        raise ConfigError(ONE)
    others = {"traces": has_log, "policy": config.policy, "env": config.env.id != "none"}
    given = [name for name, value in others.items() if value]
    if config.run and given:
        raise ConfigError(f"{given[0]}= belongs to world=; a run knows its own")
    if config.world and not has_log:
        raise ConfigError("world= needs a log that it has not seen; name it with traces=")


def main(argv: list[str] | None = None) -> int:
    """The command line of this verb; returns the exit code."""
    return run_verb(run, argv, config_name="certify", schema=CertifyVerbConfig)


if __name__ == "__main__":
    sys.exit(main())
