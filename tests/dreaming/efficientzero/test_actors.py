"""Environments in threads show what they show one at a time, and can be put back exactly."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

import dreaming  # noqa: F401 (registers Catch)
from dreaming.efficientzero.actors import Actors, episode_seed
from dreaming.errors import EnvError, SpaceError
from envs import atari
from envs.frames import frame_shape, is_frame
from tests.envs.emulator import Emulator

CATCH, STEPS = "dreaming/Catch-v0", 9
WORD = np.zeros((2, 3)), np.zeros(2), np.zeros(2)  # of a search: not used here
ONE = tuple(x[:1] for x in WORD)


class Odd(gymnasium.Env):
    """Frames of 4 x 5 bytes that show what `show(step)` says; actions begin at 3."""

    observation_space, action_space = Box(0, 255, (4, 5), np.uint8), Discrete(2, start=3)

    def __init__(self, show, reward=1.0):
        self.show, self.reward, self.seen = show, reward, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.show(0), {}

    def step(self, action):
        self.count += 1
        self.seen.append(action)
        return self.show(self.count), self.reward, False, self.count == 3, {}


def catch(seed=5, num=2, window=3, keep=0):
    actors = Actors(lambda: gymnasium.make(CATCH), num, seed, window, keep)
    actors.begin()
    return actors


def choices(count, num=2):
    return np.random.default_rng(0).integers(3, size=(count, num))


def test_a_row_after_an_end_shows_where_it_led_and_the_next_one_begins_an_episode():
    actors, env = catch(), gymnasium.make(CATCH)
    o, _ = env.reset(seed=episode_seed(5, 1, 0))
    actions, earned = choices(2 * STEPS + 3), 0.0
    for t in range(STEPS):
        rows, real_steps, returns = actors.tick(actions[t], *WORD)
        np.testing.assert_array_equal(rows.o[1], o)
        o, r, terminated, _, _ = env.step(int(actions[t, 1]))
        earned += float(r)
        assert real_steps == 2 and rows.r[1] == r and rows.terminated[1] == terminated
        assert len(returns) == 2 * terminated
    assert terminated and returns[1] == earned
    rows, real_steps, returns = actors.tick(actions[STEPS], *WORD)
    np.testing.assert_array_equal(rows.o[1], o)
    assert real_steps == 0 and not rows.terminated.any() and not rows.r.any() and not returns
    rows, real_steps, _ = actors.tick(actions[STEPS], *WORD)
    first, _ = env.reset(seed=episode_seed(5, 1, 1))
    np.testing.assert_array_equal(rows.o[1], first)
    assert real_steps == 2


def test_stacks_repeat_the_first_frame_of_an_episode():
    actors = catch(window=3)
    first = actors.stacks
    assert first.shape == (2, 3, 40, 40, 1) and (first == first[:, :1]).all()
    actors.tick(choices(1)[0], *WORD)
    second = actors.stacks
    np.testing.assert_array_equal(second[:, :2], first[:, 1:])
    for action in choices(STEPS + 1):
        actors.tick(action, *WORD)
    assert (actors.stacks[:, :-1] == actors.stacks[:, :1]).all()  # the next episode has begun


@pytest.mark.parametrize("ticks", [0, 4, STEPS, STEPS + 1, STEPS + 5])
def test_what_was_restored_goes_on_as_what_was_not_disturbed(ticks):
    actors, other = catch(), catch(seed=5)
    for action in choices(ticks):
        actors.tick(action, *WORD)
    other.restore(actors.saved())
    np.testing.assert_array_equal(other.stacks, actors.stacks)
    for action in choices(2 * STEPS):
        ours, theirs = actors.tick(action, *WORD), other.tick(action, *WORD)
        for x, y in zip(vars(ours[0]).values(), vars(theirs[0]).values(), strict=True):
            np.testing.assert_array_equal(x, y)
        assert ours[1:] == theirs[1:]


@pytest.mark.parametrize("ticks", [0, 4, STEPS + 1, 24, 25, 26, 4 * STEPS, 5 * STEPS + 5])
def test_replay_shows_what_a_ring_holds_also_when_it_went_round(ticks):
    keep, frame = 25, (40, 40, 1)
    actors, other, ring = catch(keep=keep), catch(keep=keep), np.zeros((keep, 2, *frame), np.uint8)
    for tick, action in enumerate(choices(ticks)):
        ring[tick % keep] = actors.tick(action, *WORD)[0].o
    np.testing.assert_array_equal(
        other.replay(actors.saved(), ticks, 2 * keep), ring.reshape(-1, *frame)
    )
    assert other.saved() == actors.saved()
    np.testing.assert_array_equal(other.stacks, actors.stacks)


def test_only_episodes_that_the_ring_still_shows_are_remembered():
    actors = catch(keep=25)  # an episode fills 10 rows
    for number, action in enumerate(choices(100)):
        actors.tick(action, *WORD)
        past = [len(actor.past) for actor in actors.each]
        assert past == [min((number + 1) // 10, 3)] * 2
    assert catch().saved()[0]["past"] == []


@pytest.fixture
def lives(monkeypatch):
    """`lives(keep)`: two games of three lives, of which each is an episode of about 12 steps."""
    monkeypatch.setattr(atari, "make_emulator", lambda *_: Emulator())
    rules = {"side": 8, "grey": True, "life_loss": True}

    def make(keep=0):
        actors = Actors(lambda: atari.Atari("Pong", **rules), 2, 5, 2, keep)
        actors.begin()
        return actors

    return make


@pytest.mark.parametrize("ticks", [0, 5, 12, 13, 14, 20, 30, 45, 100])
def test_lives_of_a_game_are_repeated_from_its_beginning(lives, ticks):
    actors, other = lives(), lives()
    for action in choices(ticks):
        actors.tick(action, *WORD)
    other.restore(actors.saved())
    assert other.saved() == actors.saved()
    for action in choices(60):
        ours, theirs = actors.tick(action, *WORD), other.tick(action, *WORD)
        for x, y in zip(vars(ours[0]).values(), vars(theirs[0]).values(), strict=True):
            np.testing.assert_array_equal(x, y)
        assert ours[1:] == theirs[1:]


@pytest.mark.parametrize("ticks", [4, 13, 30, 60, 100, 133])
def test_replay_of_lives_shows_what_a_ring_holds(lives, ticks):
    keep, frame = 30, (8, 8, 1)
    actors, other = lives(keep), lives(keep)
    ring = np.zeros((keep, 2, *frame), np.uint8)
    for tick, action in enumerate(choices(ticks)):
        ring[tick % keep] = actors.tick(action, *WORD)[0].o
    np.testing.assert_array_equal(
        other.replay(actors.saved(), ticks, 2 * keep), ring.reshape(-1, *frame)
    )
    assert other.saved() == actors.saved()


def test_games_are_forgotten_as_a_whole(lives):
    actors, seen = lives(keep=1), set()
    for action in choices(200):
        actors.tick(action, *WORD)
        past = actors.each[0].past
        seen.add(len(past))
        assert not past or not past[0].continues  # what is remembered begins with a game
        assert actors.each[0].continues == bool(past) or not actors.each[0].continues
    assert actors.each[0].episode > 9 and max(seen) <= 3
    assert seen >= {0, 1, 2}  # the lives before the running one stay


def test_a_state_from_before_there_were_lives_is_read():
    actors, other = catch(keep=25), catch(keep=25)
    for action in choices(24):
        actors.tick(action, *WORD)
    told = actors.saved()
    old = [{k: x for k, x in each.items() if "continues" not in k} for each in told]
    other.restore(old)
    assert other.saved() == told


def test_environments_and_episodes_have_seeds_of_their_own():
    seeds = {episode_seed(0, row, episode) for row in range(4) for episode in range(50)}
    assert len(seeds) == 200


def test_an_environment_that_does_not_repeat_itself_is_told():
    shown = iter(range(100))
    env = Odd(lambda step: np.full((4, 5), next(shown), np.uint8))
    actors = Actors(lambda: env, 1, 0, 1)
    actors.begin()
    saved = actors.saved()
    with pytest.raises(EnvError, match="episode 0 of environment 0, step 0: .* another frame"):
        actors.restore(saved)


def test_actions_reach_a_space_that_begins_elsewhere_and_a_clock_is_no_termination():
    env = Odd(lambda step: np.zeros((4, 5), np.uint8))
    actors = Actors(lambda: env, 1, 0, 2)
    actors.begin()
    ticks = [actors.tick(np.array([a]), *ONE)[0] for a in (0, 1, 1)]
    assert env.seen == [3, 4, 4] and actors.frame == (4, 5, 1)
    assert [bool(rows.truncated[0]) for rows in ticks] == [False, False, True]
    assert not any(rows.terminated[0] for rows in ticks)


def test_a_frame_of_another_shape_is_told_with_its_place():
    env = Odd(lambda step: np.zeros((4, 5 + step // 2), np.uint8))
    actors = Actors(lambda: env, 1, 0, 1)
    actors.begin()
    actors.tick(np.array([0]), *ONE)
    words = r"Odd: episode 0 of environment 0, step 2: the frame is uint8\[4, 6\], .*uint8\[4, 5\]"
    with pytest.raises(EnvError, match=words):
        actors.tick(np.array([0]), *ONE)


def test_a_reward_that_is_no_number_is_told():
    actors = Actors(lambda: Odd(lambda step: np.zeros((4, 5), np.uint8), np.nan), 1, 0, 1)
    actors.begin()
    with pytest.raises(EnvError, match="the reward is nan"):
        actors.tick(np.array([0]), *ONE)


def test_what_is_an_image():
    assert is_frame(Box(0, 255, (8, 8, 3), np.uint8)) and is_frame(Box(0, 255, (8, 8), np.uint8))
    assert frame_shape(Box(0, 255, (8, 6), np.uint8)) == (8, 6, 1)
    assert not is_frame(Box(0, 255, (8,), np.uint8)) and not is_frame(Discrete(3))
    assert not is_frame(Box(0, 1, (8, 8, 3), np.float32))
    with pytest.raises(SpaceError, match="expected frames of bytes"):
        Actors(lambda: gymnasium.make("CartPole-v1"), 1, 0, 1)
