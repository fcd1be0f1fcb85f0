"""Reanalysis with an oracle writes the oracle's own values beside the log's rows."""

import jax
import numpy as np
from gymnasium.spaces import Discrete

from dreaming.config import SearchConfig
from dreaming.observe.log import Log
from dreaming.search.reanalyze import reanalyze
from dreaming.world.physics import make_world
from envs import tabular
from envs.types import Features, Trace, action_features

DISCOUNT = 0.9
TABLE = tabular.corridor(4)
ORACLE = tabular.TabularModel(TABLE, DISCOUNT)


def log_of(*traces):
    return Log(traces, Features(Discrete(4)), action_features(Discrete(2)))


def test_every_state_but_the_terminal_one_gets_the_searched_value_and_policy():
    array = np.array
    ended = Trace(array([0, 1, 2, 3]), array([1, 1, 1]), array([0, 0, 1]), True, False)
    cut = Trace(array([0, 0, 1]), array([0, 1]), array([0, 0]), False, True)
    log = log_of(ended, cut)
    world = make_world(ORACLE, ORACLE.params, log, 10, {"discount": DISCOUNT})
    search = SearchConfig(teacher="one_step", temperature=0.01, penalty=0.0)
    before = log.replay()
    after = reanalyze(world, log.head, search, jax.random.key(0), before)

    # From state s the goal is 3 - s steps away: v = 0.9 ** (2 - s), always by going right.
    value = {0: 0.81, 1: 0.9, 2: 1.0}
    states = [0, 1, 2, 3, 0, 0, 1]
    for row, s in enumerate(states):
        if s == 3:
            assert not after.searched[row] and after.v_search[row] == 0
            assert (after.pi_target[row] == 0).all()
        else:
            assert after.searched[row]
            assert np.isclose(after.v_search[row], value[s], atol=1e-3)
            assert after.pi_target[row, 1] > 0.99
    assert (after.o == before.o).all() and not before.searched.any()
