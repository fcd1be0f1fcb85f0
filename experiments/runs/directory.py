"""A run directory: what it holds while a run works, and when it is done."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dreaming.errors import ConfigError
from experiments.config import DreamConfig, OnlineConfig


def read_config(run_dir: Path) -> DreamConfig:
    """The configuration that a run was made with. Raises `ConfigError`."""
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise ConfigError(
            f"{run_dir} holds no config.yaml; name a finished run of `dreaming dream`"
        )
    try:
        merged = OmegaConf.merge(OmegaConf.structured(DreamConfig), OmegaConf.load(path))
        config = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"{path} is of another version ({reason}); make the run anew") from error
    assert isinstance(config, DreamConfig)
    return config


def check_new(target: Path) -> None:
    """Raise `ConfigError` for a directory that something lies in."""
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ConfigError(f"to={target} exists already; choose another path, or remove it")


def parse_config(text: str) -> Any:
    """The configuration of an online run from YAML. Raises `ConfigError`."""
    try:
        given = OmegaConf.create(text)
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(OnlineConfig), given))
    except (OmegaConfBaseException, ValueError) as error:
        what = str(error).partition("\n")[0]
        raise ConfigError(f"not the configuration of an online run: {what}") from error
