"""How long one game of Atari-100k would take at measured rates."""

from dreaming.efficientzero.config import AgentConfig


def minutes_per_game(
    game: AgentConfig, updates_per_s: float, refreshed_per_s: float, acted_per_s: float
) -> dict[str, float]:
    """Predicted minutes of a game with the schedule of `game`, without the emulator's own time.

    learn   = updates / updates_per_s
    refresh = sum over refreshes of the states stored then / refreshed_per_s
    act     = real_steps / acted_per_s

    with updates = (real_steps - learn_after) updates_per_step. A refresh (reanalysis) comes before
    the first update and after every `target.every` updates; it searches min(capacity, learn_after +
    updates done / updates_per_step) states.
    """
    minutes = {
        "learn_minutes": game.updates / updates_per_s / 60,
        "refresh_minutes": refreshed_states(game) / refreshed_per_s / 60,
        "act_minutes": game.real_steps / acted_per_s / 60,
    }
    return {"minutes_per_game": sum(minutes.values())} | minutes


def refreshed_states(game: AgentConfig) -> float:
    """Total number of states that all refreshes of a game search."""
    stored = (
        game.learn_after + updates / game.updates_per_step
        for updates in range(0, game.updates, game.target.every)
    )
    return sum(min(game.replay.capacity, each) for each in stored)
