"""Opening the log that the options name."""

from typing import Any

from dreaming.errors import ConfigError
from envs.sources import open_source
from experiments.config import SourceConfig


def named_log(store: str | None, source: SourceConfig, option: str = "traces") -> Any:
    """The trace store at `store` (given as `option`), or the source; None if neither is named.

    Raises `UserError` if both are named, or if the log cannot be opened.
    """
    if store is not None and source.name is not None:
        raise ConfigError(f"{option}= and source.name= both name a log; give one of them")
    if store is not None:
        return open_source("store", store)
    if source.name is None:
        return None
    if source.uri is None:
        raise ConfigError(f"source.name={source.name} needs source.uri=...")
    options = source.options | ({"mapping": source.mapping} if source.mapping else {})
    return open_source(source.name, source.uri, **options)
