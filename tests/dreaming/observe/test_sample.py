"""What of a long log is learned from."""

import numpy as np
import pytest

from dreaming.config import LogConfig
from dreaming.errors import ConfigError
from dreaming.observe.sample import chosen_episodes, most_rows


def test_a_log_that_fits_is_learned_from_as_it_is():
    np.testing.assert_array_equal(chosen_episodes(np.array([5, 1, 7]), 13), [0, 1, 2])


def test_of_a_longer_one_evenly_spread_episodes_are_as_many_as_fit():
    rows = np.full(1000, 10)
    chosen = chosen_episodes(rows, 2509)
    assert chosen.size == 250 and chosen[0] == 0 and chosen[-1] == 999
    assert set(np.diff(chosen).tolist()) <= {4, 5}  # 999 / 249 = 4.01


def test_long_and_short_episodes_have_the_same_chance():
    """Lengths that repeat every seven episodes, of which every fourth or so is taken."""
    rows = np.tile([1, 2, 4, 8, 100, 3, 5], 1000)
    chosen = chosen_episodes(rows, int(rows.sum()) // 4)
    assert rows[chosen].sum() <= rows.sum() // 4
    assert abs(rows[chosen].mean() / rows.mean() - 1) < 0.05


def test_those_of_the_newest_policy_come_first_and_no_single_one_takes_the_room():
    rows = np.full(1000, 10)
    rows[500] = 2000  # leaves no room for others
    newest = np.arange(990, 1000)
    chosen = chosen_episodes(rows, 2500, newest)
    assert set(newest) <= set(chosen) and 500 not in chosen and rows[chosen].sum() <= 2500
    old = chosen[chosen < 990]
    assert len(old) == 240 and np.diff(old).max() <= 6
    half = chosen_episodes(np.full(100, 10), 200, np.arange(20, 100))
    assert len(half) == 20 and (half < 20).sum() == 2  # half the room is theirs, the rest is shared


def test_episodes_that_do_not_fit_are_told_with_what_to_do():
    with pytest.raises(ConfigError, match="of 2 episodes with 60 observations .* 40 .* log.most"):
        chosen_episodes(np.array([30, 30]), 40)


def test_frames_are_bounded_by_their_bytes():
    config = LogConfig(most_steps=1000, most_mib=1)
    assert most_rows(config, row_bytes=4) == 1000
    assert most_rows(config, row_bytes=96 * 96 * 3) == (1 << 20) // 27648
