"""Episodes while they are played: taken when they end, the running one only if it has a step."""

import gymnasium
import numpy as np

import dreaming  # noqa: F401 (registers Catch)
from dreaming.efficientzero.actors import Actors
from dreaming.efficientzero.recording import extend_once
from envs.traces import TraceStore

WORD = np.zeros((2, 3)), np.zeros(2), np.zeros(2)  # of a search: not used here


def played(ticks):
    actors = Actors(lambda: gymnasium.make("dreaming/Catch-v0"), 2, 0, 1, record=True)
    actors.begin()
    for tick in range(ticks):
        actors.tick(np.array([tick % 3, 1]), *WORD)
    return actors


def test_an_episode_is_taken_once_when_it_ends():
    one, other = (played(8).recordings[0], played(9).recordings[0])
    assert one.take() == [] and len(one.running()[0]) == 8 and one.running()[0].is_open
    [trace] = other.take()
    assert trace.terminated[-1] and trace.observations.shape == (10, 40, 40, 1)
    assert trace.actions.tolist() == [0, 1, 2] * 3
    assert trace.session == "environment 0, episode 0"
    assert other.take() == [] and other.running() == []  # its last row is no step
    assert len(played(11).recordings[0].running()[0]) == 1


def test_what_was_restored_gives_the_whole_running_episode():
    actors, again = played(14), played(0)
    again.restore(actors.saved())
    [one], [other] = (each.recordings[1].running() for each in (actors, again))
    np.testing.assert_array_equal(one.observations, other.observations)
    assert one.session == other.session == "environment 1, episode 1"


def test_a_store_gets_each_episode_once(tmp_path):
    traces, env = played(20).recordings[0].take(), gymnasium.make("dreaming/Catch-v0")
    assert len(traces) == 2
    for some in (traces[:1], traces, []):
        extend_once(tmp_path / "traces", some, env)
    assert [trace.session for trace in TraceStore(tmp_path / "traces")] == [
        "environment 0, episode 0",
        "environment 0, episode 1",
    ]
