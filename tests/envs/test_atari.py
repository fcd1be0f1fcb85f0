"""The rules of Atari-100k, one by one: on an emulator made for it, and on the real one."""

import importlib
import importlib.util
import inspect
import sys
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest

import dreaming  # noqa: F401 (registers the tasks)
from envs import atari
from envs.atari import GAMES, Atari, Rules, make_emulator, shrink
from envs.errors import EnvError
from envs.real import CONTINUES, make_real
from tests.envs.emulator import NO_OP, Emulator

FIRE, RIGHT, LEFT = 0, 2, 3
needs_ale = pytest.mark.skipif(
    importlib.util.find_spec("ale_py") is None, reason="needs ale-py: pip install 'dreaming[atari]'"
)


@pytest.fixture
def game(monkeypatch):
    """`game(emulator, **rules)`: a game on an emulator."""

    def make(emulator=None, **rules):
        emulator = emulator or Emulator()
        monkeypatch.setattr(atari, "make_emulator", lambda *_: emulator)
        return Atari("Breakout", **({"grey": True, "side": 21} | rules))

    return make


def test_a_game_begins_with_one_to_thirty_frames_without_action(game):
    env, counts = game(), set()
    for seed in range(400):
        _, info = env.reset(seed=seed)
        assert set(env.emulator.actions) == {NO_OP}
        assert info["frames"] == len(env.emulator.actions)
        counts.add(info["frames"])
    assert counts == set(range(1, 31))
    assert env.reset(seed=7)[1] == env.reset(seed=7)[1]


def test_a_game_that_is_over_before_it_began_begins_again(game):
    env = game(Emulator(lives=1, frames=10))
    for seed in range(30):
        assert 0 < env.reset(seed=seed)[1]["frames"] + 1 <= 10


def test_an_action_is_held_for_four_frames(game):
    env = game()
    env.reset(seed=0)
    before = len(env.emulator.actions)
    _, _, _, _, info = env.step(LEFT)
    assert env.emulator.actions[before:] == [LEFT] * 4 and info["frames"] == before + 4


def test_a_decision_shows_the_maximum_of_the_last_two_frames(game):
    env = game(side=2, no_ops=1)
    o, _ = env.reset(seed=0)  # frame 1 alone: its block is below, on the left
    np.testing.assert_array_equal(o[..., 0], [[1, 1], [200, 1]])
    o, *_ = env.step(LEFT)  # frames 4 and 5
    np.testing.assert_array_equal(o[..., 0], [[200, 5], [200, 5]])


def test_a_lost_life_ends_an_episode_in_training_and_the_next_goes_on_with_the_game(game):
    emulator = Emulator(lives=2, frames=50)
    env = game(emulator, life_loss=True, no_ops=1)
    env.reset(seed=0)
    ends = [env.step(LEFT)[2:4] for _ in range(13)]  # frames 2 to 53: a life is lost at frame 50
    assert ends[:12] == [(False, False)] * 12 and ends[12] == (True, False)
    shown, frames = env._seen(), len(emulator.actions)
    o, info = env.reset(seed=99)
    assert info[CONTINUES] and info["frames"] == frames and info["lives"] == 1
    np.testing.assert_array_equal(o, shown)
    assert len(emulator.seeds) == 1  # the emulator was not asked to begin
    while not env.step(LEFT)[2]:
        pass
    _, info = env.reset(seed=99)
    assert CONTINUES not in info and info["lives"] == 2 and len(emulator.seeds) == 2


def test_a_lost_life_ends_no_episode_in_an_evaluation(game):
    env = game(Emulator(lives=2, frames=50), no_ops=1)
    env.reset(seed=0)
    lives, terminated = [], False
    while not terminated:
        _, _, terminated, _, info = env.step(LEFT)
        lives.append(info["lives"])
    assert 1 in lives and lives[-1] == 0 and info["frames"] == 100


def test_a_game_is_cut_at_its_cap_in_frames_and_that_is_no_termination(game):
    env = game(Emulator(lives=9, frames=1000), max_frames=103, no_ops=1)
    env.reset(seed=0)
    steps = [env.step(LEFT) for _ in range(26)]  # frames 2 to 105, were it not for the cap
    assert [step[2:4] for step in steps] == [(False, False)] * 25 + [(False, True)]
    assert steps[-1][4]["frames"] == 103
    assert CONTINUES not in env.reset(seed=1)[1]


def test_the_end_of_a_game_at_its_cap_is_a_termination(game):
    env = game(Emulator(lives=1, frames=103), max_frames=103, no_ops=1)
    env.reset(seed=0)
    assert [env.step(LEFT) for _ in range(26)][-1][2:4] == (True, False)


def test_rewards_are_clipped_to_their_sign_in_training_alone(game):
    earned = lambda env, action: env.step(action)[1]
    for clip, expected in ((True, [1, 0, -1]), (False, [8, 0, -12])):
        env = game(clip_rewards=clip)
        env.reset(seed=0)
        assert [earned(env, action) for action in (FIRE, LEFT, RIGHT)] == expected
        assert env.score == -4  # raw, whatever is clipped


def test_only_with_sticky_actions_every_game_has_a_seed_of_its_own(game):
    for sticky, seeds in ((0.0, [0, None, None]), (0.25, [5, 6, 7])):
        emulator = Emulator()
        env = game(emulator, sticky=sticky)
        for seed in (5, 6, 7):
            env.reset(seed=seed)
        assert emulator.seeds == seeds


@pytest.mark.parametrize(("grey", "channels"), [(True, 1), (False, 3)])
@pytest.mark.parametrize("side", [64, 84, 96])
def test_frames_have_the_size_and_the_channels_of_the_rules(game, side, grey, channels):
    env = game(Emulator(grey=grey), side=side, grey=grey)
    o, _ = env.reset(seed=0)
    assert o.shape == (side, side, channels) and env.observation_space.contains(o)
    assert env.observation_space.contains(env.step(LEFT)[0])


def test_a_new_pixel_is_the_mean_of_the_area_it_covers():
    screen = np.array([[0, 30, 60], [90, 120, 150]], np.uint8)[..., None]
    # Two columns of 1.5 pixels: (0 + 30 / 2) / 1.5 = 10, (30 / 2 + 60) / 1.5 = 50.
    np.testing.assert_array_equal(shrink(screen, 2)[..., 0], [[10, 50], [100, 140]])
    np.testing.assert_array_equal(shrink(screen, 1)[..., 0], [[75]])
    whole = np.full((210, 160, 3), 255, np.uint8)
    assert (shrink(whole, 96) == 255).all() and shrink(whole, 96).shape == (96, 96, 3)


def test_the_mean_is_that_of_overlaps_with_every_pixel():
    screen = np.random.default_rng(0).integers(0, 256, (210, 160, 1)).astype(np.uint8)
    overlap = lambda n: np.array(
        [
            [max(0, min((i + 1) * n, (j + 1) * 84) - max(i * n, j * 84)) for j in range(n)]
            for i in range(84)
        ]
    )
    expected = overlap(210) @ screen[..., 0].astype(float) @ overlap(160).T / (210 * 160)
    assert np.abs(shrink(screen, 84)[..., 0] - expected).max() <= 0.5


def test_nothing_is_left_to_the_defaults_of_an_id(monkeypatch):
    asked = {}

    def make(id, **options):
        asked.update(options, id=id)
        return SimpleNamespace(unwrapped="the emulator")

    quiet = SimpleNamespace(setLoggerMode=lambda mode: None)
    ale = SimpleNamespace(ALEInterface=quiet, LoggerMode=SimpleNamespace(Error=2), __version__="9")
    monkeypatch.setitem(sys.modules, "ale_py", ale)
    monkeypatch.setitem(gymnasium.registry, "ALE/Pong-v5", None)
    monkeypatch.setattr(gymnasium, "register_envs", lambda module: None)
    monkeypatch.setattr(gymnasium, "make", make)
    assert make_emulator("Pong", Rules(grey=True, sticky=0.25, max_frames=77)) == "the emulator"
    assert asked == {
        "id": "ALE/Pong-v5",
        "obs_type": "grayscale",
        "repeat_action_probability": 0.25,
        "full_action_space": False,
        "frameskip": 1,
        "mode": None,
        "difficulty": None,
        "max_num_frames_per_episode": 77,
        "disable_env_checker": True,
    }
    with pytest.raises(EnvError, match="game=Pung is not known to ale-py 9"):
        make_emulator("Pung", Rules())


def test_a_missing_extra_says_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(EnvError, match=r"pip install 'dreaming\[atari\]'"):
        make_real("dreaming/Atari-v0", {"game": "Pong"})


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ({"skips": 4}, "skips is no rule; rules are side, grey, skip"),
        ({"side": 0}, "side is 0, expected at least 1"),
        ({"no_ops": 0}, "no_ops is 0"),
        ({"sticky": 1.0}, "sticky is 1.0, expected at least 0 and less than 1"),
    ],
)
def test_rules_that_cannot_be(game, rules, told):
    with pytest.raises(EnvError, match=told):
        game(**rules)


@needs_ale
def test_the_rules_name_every_setting_of_the_real_emulator():
    AtariEnv = importlib.import_module("ale_py.env").AtariEnv

    stated = {"self", "game", "mode", "difficulty", "obs_type", "frameskip"}
    stated |= {"repeat_action_probability", "full_action_space", "max_num_frames_per_episode"}
    without_effect = {"continuous", "continuous_action_threshold", "render_mode", "sound_obs"}
    assert set(inspect.signature(AtariEnv.__init__).parameters) == stated | without_effect


@needs_ale
@pytest.mark.parametrize(("name", "actions"), [("Breakout", 4), ("Freeway", 3), ("Alien", 18)])
def test_real_games_have_their_minimal_actions(name, actions):
    env = make_real("dreaming/Atari-v0", {"game": name, "side": 64, "grey": True})
    assert env.action_space.n == actions
    env.close()


@needs_ale
def test_all_games_are_known_to_the_real_emulator():
    gymnasium.register_envs(importlib.import_module("ale_py"))
    assert len(set(GAMES)) == 26
    assert {f"ALE/{game}-v5" for game in GAMES} <= set(gymnasium.registry)


@needs_ale
def test_a_real_game_follows_from_its_seed_and_actions_whatever_came_before():
    rules = {"side": 64, "grey": True, "life_loss": True}
    used, fresh = (make_real("dreaming/Atari-v0", {"game": "Breakout", **rules}) for _ in range(2))
    rng = np.random.default_rng(0)
    used.reset(seed=1)
    while used.unwrapped.lives > 0:
        if used.step(int(rng.integers(4)))[2]:
            _, info = used.reset(seed=2)
            if CONTINUES not in info:
                break
    (ours, _), (theirs, _) = used.reset(seed=3), fresh.reset(seed=3)
    while used.unwrapped._goes_on:
        ours, _ = used.reset(seed=3)
    np.testing.assert_array_equal(ours, theirs)
    for action in rng.integers(4, size=200):
        ours, theirs = used.step(int(action)), fresh.step(int(action))
        np.testing.assert_array_equal(ours[0], theirs[0])
        assert ours[1:] == theirs[1:]
        if ours[2]:
            assert used.reset(seed=4)[1] == fresh.reset(seed=4)[1]


@needs_ale
@pytest.mark.slow
@pytest.mark.parametrize("name", GAMES)
def test_without_sticky_actions_no_game_remembers_what_was_before_its_reset(name):
    emulator: Any = make_emulator(name, Rules(grey=True))

    def shown(seed):
        emulator.reset(seed=seed)
        rng = np.random.default_rng(1)
        steps = [emulator.step(int(rng.integers(emulator.action_space.n))) for _ in range(400)]
        return np.stack([step[0] for step in steps])

    fresh = shown(0)
    for seed in (None, 5, None):  # the cartridge stays, is loaded with another seed, stays
        np.testing.assert_array_equal(shown(seed), fresh)
