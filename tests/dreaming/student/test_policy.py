"""The student: saved and loaded bit for bit, acting in the task's actions, searching if asked."""

import dataclasses
import json
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete

import dreaming
from dreaming.config import SearchConfig
from dreaming.student.network import act, head_of, init_student, student_logits
from dreaming.student.policy import CARD, WEIGHTS, Policy, load_policy, save_policy
from envs.dream import World, start_context
from envs.dreamfile import write_dream
from envs.tabular import TabularModel, from_gym, solve
from envs.types import Prediction, UserError, container
from worldmodels.contexts import row_size

CART = Box(-5, 5, (2,), np.float32)
DISCOUNT = 0.99


@pytest.fixture(autouse=True)
def mixed_ranks():
    """Normalisers [O] meet observations [B, W, O]."""
    with jax.numpy_rank_promotion("allow"):
        yield


def make_policy(action_space=None, window=1, greedy=True, sharp=100.0, seed=0):
    """A random policy over two numbers; `sharp` makes its preferences clear."""
    actions = Discrete(3) if action_space is None else action_space
    size = window * row_size(window, 2, int(actions.n))
    params = init_student(jax.random.key(seed), size, int(actions.n), 8, [1.0, 2.0], [2.0, 0.5])
    params["layers"][-1]["w"] = params["layers"][-1]["w"] * sharp
    params["greedy"] = jnp.array(greedy)
    return Policy(params, CART, actions, window, {"verdict": "accept"})


def observations(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 2)).astype(np.float32)


def logits_by_hand(policy, x):
    """Two hidden layers with silu, in NumPy and float64."""
    *hidden, last = [jax.tree.map(lambda u: np.asarray(u, float), p) for p in layers(policy)]
    for layer in hidden:
        x = x @ layer["w"] + layer["b"]
        x = x / (1 + np.exp(-x))
    return x @ last["w"] + last["b"]


def layers(policy):
    return policy.params["layers"]


# Saving and loading


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("greedy", [True, False])
def test_what_is_saved_comes_back_bit_for_bit(tmp_path, window, greedy):
    policy = make_policy(Discrete(4, start=-2), window, greedy)
    save_policy(tmp_path / "policy", policy)
    loaded = dreaming.load_policy(tmp_path / "policy")
    for mine, theirs in zip(
        jax.tree.leaves(policy.params), jax.tree.leaves(loaded.params), strict=True
    ):
        assert np.asarray(mine).tobytes() == np.asarray(theirs).tobytes()
        assert np.asarray(mine).dtype == np.asarray(theirs).dtype
    assert (loaded.observation_space, loaded.action_space) == (CART, Discrete(4, start=-2))
    assert (loaded.window, loaded.card) == (window, {"verdict": "accept"})
    for o in observations(5):
        assert policy.act(o, seed=3) == loaded.act(o, seed=3)


def test_equal_policies_are_equal_files(tmp_path):
    for name in ("one", "other"):
        save_policy(tmp_path / name, make_policy())
    for name in (WEIGHTS, CARD):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


@pytest.mark.parametrize("at", [0, 8, 200, -1])
def test_a_flipped_bit_in_the_weights_is_one_line(tmp_path, at):
    save_policy(tmp_path, make_policy())
    data = bytearray((tmp_path / WEIGHTS).read_bytes())
    data[at] ^= 1
    (tmp_path / WEIGHTS).write_bytes(data)
    with pytest.raises(UserError, match=f"^{tmp_path}: {WEIGHTS}.* is damaged; copy both again$"):
        load_policy(tmp_path)


def test_no_flipped_bit_in_the_card_changes_the_policy(tmp_path):
    save_policy(tmp_path, make_policy())
    whole = (tmp_path / CARD).read_bytes()
    assert load_policy(tmp_path).window == 1
    for at in range(len(whole)):
        data = bytearray(whole)
        data[at] ^= 1
        (tmp_path / CARD).write_bytes(data)
        if json.loads(whole) == parsed(data):
            continue  # white space
        with pytest.raises(UserError, match=f"^{tmp_path}"):
            load_policy(tmp_path)


def parsed(data):
    """JSON of damaged bytes, None where there is none."""
    try:
        return json.loads(bytes(data))
    except ValueError:
        return None


def test_what_is_no_policy_is_one_line(tmp_path):
    def told():
        with pytest.raises(UserError) as error:
            load_policy(tmp_path / "policy")
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "no policy can be read" in told() and CARD in told()
    save_policy(tmp_path / "policy", make_policy())
    card = tmp_path / "policy" / CARD
    whole = card.read_text()
    for damaged in ("", whole[:50], "[]", "{}", "null", whole.replace('"window"', '"widow"')):
        card.write_text(damaged)
        assert str(tmp_path / "policy") in told()
    card.write_text(json.dumps(json.loads(whole) | {"schema_version": 99}))
    assert "schema 99 is not 1" in told()
    card.write_text(whole)
    (tmp_path / "policy" / WEIGHTS).write_bytes(b"")
    assert "damaged" in told()
    (tmp_path / "policy" / WEIGHTS).unlink()
    assert "no policy can be read" in told()


# Acting


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
def test_actions_are_the_tasks_own(dtype):
    space = Discrete(3, start=4, dtype=dtype)
    policy = make_policy(space)
    taken = [policy.act(o) for o in observations(50)]
    assert all(space.contains(a) and a.dtype == dtype for a in taken)
    assert set(taken) == {4, 5, 6}  # every action is somewhere the best


def test_a_greedy_policy_takes_the_best_action_whatever_the_seed():
    policy = make_policy()
    for o in observations(20):
        best = logits_by_hand(policy, (o - [1, 2]) / [2, 0.5]).argmax()
        assert {int(policy.act(o, seed=seed)) for seed in range(3)} == {best}


def test_a_sampled_policy_draws_by_its_probabilities_and_a_seed_fixes_the_draw():
    policy = make_policy(greedy=False)
    o = observations(1)[0]
    logits = logits_by_hand(policy, (o - [1, 2]) / [2, 0.5])
    p = np.exp(logits - logits.max())
    p /= p.sum()
    assert p.max() < 0.95  # there is something to draw
    drawn = [int(policy.act(o, seed=seed)) for seed in range(2000)]
    assert drawn == [int(policy.act(o, seed=seed)) for seed in range(2000)]
    frequency = np.bincount(drawn, minlength=3) / 2000
    assert np.abs(frequency - p).max() < 4 * np.sqrt(0.25 / 2000)
    taken, propensity = policy.behaviour()(o, None, np.random.default_rng(0))
    assert propensity == pytest.approx(p[int(taken)], rel=1e-4)


def test_one_at_a_time_is_what_the_batch_does():
    policy, o = make_policy(), observations(30)
    keys = jnp.zeros((30, 2), jnp.uint32)
    batch = act(policy.params, start_context(o, 3), keys, head_of(Discrete(3)))
    assert [int(policy.act(x)) for x in o] == batch.argmax(-1).tolist()


def test_a_policy_with_a_window_sees_past_observations_and_its_own_actions():
    policy, o = make_policy(window=3), observations(4)
    x, change = (o - [1, 2]) / [2, 0.5], np.diff(o, axis=0) / [2, 0.5]
    one_hot, taken, nothing = np.eye(3), [], np.zeros(2 + 2 + 3 + 1)

    def row(age):
        """o, how it changed, the action in between, whether it is real: nothing but o at first."""
        if age < 0:
            return nothing
        since = (change[age - 1], one_hot[taken[age - 1]]) if age else (np.zeros(2), np.zeros(3))
        return np.concatenate([x[age], *since, [1.0]])

    for t in range(4):
        a = int(policy.act(o[t]))
        rows = [row(age) for age in (t - 2, t - 1, t)]
        rows[0][2:-1] = 0  # what was before the window is not known
        by_hand = logits_by_hand(policy, np.concatenate(rows))
        assert a == by_hand.argmax(), t
        taken.append(a)
    first = policy.act(o[0])  # in the middle of an episode
    policy.reset()
    assert int(policy.act(o[0])) == taken[0]
    assert first.shape == ()


def test_an_observation_that_is_none_of_the_task_is_one_line():
    policy = make_policy()
    for bad in (np.zeros(3), [np.nan, 0.0], 1.0):
        with pytest.raises(UserError, match="does not fit Box"):
            policy.act(bad)


# Searching


@pytest.fixture(scope="module", params=["search", "one_step"])
def lake_file(request, tmp_path_factory):
    """The true dynamics of FrozenLake on dry ice as a dream file, and the teacher it names."""
    teacher = request.param
    task = gymnasium.make("FrozenLake-v1", is_slippery=False)
    model = TabularModel(from_gym(task), DISCOUNT)
    world = World(
        model=model,
        params=model.params,
        observation_space=task.observation_space,
        action_space=task.action_space,
        horizon=100,
        starts=start_context(np.eye(16), 4),
        initial=np.arange(16) == 0,
        card={"discount": DISCOUNT, "value_span": 1.0, "search": vars(SearchConfig(teacher))},
    )
    folder = tmp_path_factory.mktemp("lake")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder))
        write_dream(folder / "world.dream", world)
        yield folder / "world.dream", teacher


def lost_policy():
    """A policy of FrozenLake that always goes left."""
    params = init_student(jax.random.key(0), 16, 4, 8, np.zeros(16), np.ones(16))
    params["layers"][-1]["b"] = jnp.array([9.0, 0, 0, 0])
    return Policy(params, Discrete(16), Discrete(4))


def test_a_policy_that_knows_nothing_finds_the_goal_by_searching_in_a_loaded_world(lake_file):
    path, teacher = lake_file
    policy, world = lost_policy(), dreaming.load_world(path)
    _, q, _ = solve(from_gym(gymnasium.make("FrozenLake-v1", is_slippery=False)), DISCOUNT)
    # One look ahead with true values is exact; a tree of 16 simulations is so next to the goal.
    for s in np.flatnonzero(q.max(-1) > 0) if teacher == "one_step" else [14]:
        policy.reset()
        assert int(policy.act(s)) == 0
        policy.reset()
        a = policy.act(s, search=True, world=world, seed=0)
        assert q[s, int(a)] > q[s].max() - 1e-6, s
        assert a.dtype == policy.action_space.dtype


def test_a_search_needs_a_world():
    with pytest.raises(UserError, match=r"needs a world; pass world=dreaming\.load_world"):
        lost_policy().act(0, search=True)


def test_a_teacher_is_compiled_once_per_world(lake_file):
    policy, world = lost_policy(), dreaming.load_world(lake_file[0])
    policy.act(0, search=True, world=world)
    held = policy._teach
    policy.act(0, search=True, world=world)
    assert policy._teach is held and held[0] is world
    policy.act(0, search=True, world=dataclasses.replace(world))
    assert policy._teach is not held


# Windows that are read step by step, numbers, masks


def gru_by_hand(params, o, a, valid):
    """The newest row and the memory of all rows, in NumPy and float64."""
    w, b = (np.asarray(params["gru"][name], float) for name in "wb")
    width = b.size // 3
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    scale = {name: np.asarray(x, float) for name, x in params["scale"].items()}
    x = (o - scale["o_mean"]) / scale["o_std"] * valid[:, None]
    change = np.diff(o, axis=0) / scale["o_step"] * valid[:-1, None]
    after = lambda u: np.concatenate([np.zeros((1, u.shape[1])), u])
    rows = np.concatenate([x, after(change), after(a), valid[:, None]], 1)
    h = np.zeros(width)
    for row in rows:
        update, reset = np.split(
            sigmoid(np.concatenate([row, h]) @ w[:, : 2 * width] + b[: 2 * width]), 2
        )
        new = np.tanh(np.concatenate([row, reset * h]) @ w[:, 2 * width :] + b[2 * width :])
        h = update * h + (1 - update) * new
    return np.concatenate([rows[-1], h])


def recurrent_policy():
    params = init_student(
        jax.random.key(3), 0, 3, 8, [1.0, 2.0], [2.0, 0.5], o_step=[0.5, 0.1], gru_row=8
    )
    params["layers"][-1]["w"] = params["layers"][-1]["w"] * 100
    return Policy(params, CART, Discrete(3), window=4)


def test_a_recurrent_student_by_hand():
    policy, o, taken = recurrent_policy(), observations(6), []
    for t in range(6):
        a = int(policy.act(o[t]))
        ages = [t - k for k in (3, 2, 1, 0)]
        seen = np.stack([o[max(age, 0)] for age in ages])
        between = np.stack([np.eye(3)[taken[age]] if age >= 0 else np.zeros(3) for age in ages[:3]])
        x = gru_by_hand(policy.params, seen, between, np.array([age >= 0 for age in ages], float))
        by_hand = logits_by_hand(policy, x)
        logits = student_logits(policy.params, policy._buffer.context())[0]
        np.testing.assert_allclose(logits, by_hand, rtol=1e-3, atol=1e-3)
        assert a == by_hand.argmax()
        taken.append(a)


def test_a_recurrent_student_comes_back_from_disk(tmp_path):
    policy, o = recurrent_policy(), observations(6)
    save_policy(tmp_path, policy)
    again = load_policy(tmp_path)
    assert [int(policy.act(x)) for x in o] == [int(again.act(x)) for x in o]
    jax.tree.map(np.testing.assert_array_equal, policy.params, again.params)


def test_a_mask_is_respected_by_greedy_and_by_sampled_students():
    o, mask = observations(1)[0], np.array([0, 1, 1])
    for greedy in (True, False):
        policy = make_policy(greedy=greedy)
        policy.params["layers"][-1]["b"] = jnp.array([50.0, 0.0, 0.0])
        assert int(policy.act(o, seed=0)) == 0
        policy.reset()
        assert {int(policy.act(o, seed=s, action_mask=mask)) for s in range(20)} <= {1, 2}
    with pytest.raises(UserError, match="has 2 entries, expected 3"):
        policy.act(o, action_mask=[1, 0])


def test_a_recorder_is_answered_as_one_who_asks_act_and_every_episode_begins_anew():
    policy, o = make_policy(window=3), observations(4)
    random = np.random.default_rng(0)
    for _ in range(2):
        answer = policy.behaviour()
        recorded = [int(answer(x, None, random)[0]) for x in o]
        policy.reset()
        assert recorded == [int(policy.act(x)) for x in o]


def test_a_policy_over_numbers_acts_inside_the_box():
    space = Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32))
    params = init_student(jax.random.key(0), 2, 4, 8, np.zeros(2), np.ones(2))
    params["layers"][-1]["b"] = jnp.array([0.5, -7.0, 0.0, 0.0])  # means, spreads
    policy = Policy(params, CART, space)
    a = policy.act(observations(1)[0])
    assert space.contains(a) and a.dtype == np.float32
    np.testing.assert_allclose(a, [1.0, 0.0], atol=0.05)  # half way up; below the lowest
    assert policy.behaviour()(observations(1)[0], None, np.random.default_rng(0))[1] is None


@container
class Counted:
    """A state that remembers how many observations there were."""

    seen: Any
    member: Any


class Remembering:
    """Pays 1 for the action that is the number of observations, modulo 3."""

    window = num_codes = num_members = 1
    num_actions = action_size = 3

    def root(self, params, context):
        zero = jnp.zeros(context.o.shape[0], jnp.int32)
        return Counted(zero, zero - 1)

    def observe(self, params, z, a, o):
        return dataclasses.replace(z, seen=z.seen + 1)

    def afterstate(self, params, z, a):
        return jnp.zeros((a.shape[0], 1)), (z, a)

    def outcome(self, params, y, c):
        z, a = y
        r = (jnp.argmax(a, -1) == z.seen % 3).astype(jnp.float32)
        zero = jnp.zeros_like(r)
        v, pi, legal = self.predict(params, z)
        said = Prediction(
            r=r, continuation=zero, v=v, pi_logits=pi, legal_logits=legal, uncertainty=zero
        )
        return z, said

    def predict(self, params, z):
        rows = z.seen.shape[0]
        return jnp.zeros(rows), jnp.zeros((rows, 3)), jnp.ones((rows, 3))

    def decode(self, params, z):
        return jnp.zeros((z.seen.shape[0], 2))


def test_a_model_with_memory_keeps_its_state_for_who_searches():
    policy, model = make_policy(), Remembering()
    starts = start_context(observations(1), 3)
    card = {"discount": 0.9, "value_span": 1.0, "search": dataclasses.asdict(SearchConfig())}
    world = World(model, {}, CART, Discrete(3), 9, starts, np.array([True]), card=card)
    look = lambda o: policy.act(o, search=True, world=world, seed=0)
    assert [look(o) for o in observations(7)] == [0, 1, 2, 0, 1, 2, 0]
    policy.reset()
    assert [look(o) for o in observations(2)] == [0, 1]
    policy.act(observations(1)[0])  # without a search nothing is remembered
    assert look(observations(1)[0]) == 0


@pytest.mark.parametrize("teacher", ["search", "one_step"])
def test_a_search_takes_nothing_that_its_mask_forbids(teacher):
    card: dict[str, Any] = {"discount": 0.9, "value_span": 1.0}
    card["search"] = dataclasses.asdict(SearchConfig(teacher=teacher))
    starts = start_context(observations(1), 3)
    world = World(Remembering(), {}, CART, Discrete(3), 9, starts, np.array([True]), card=card)
    for mask, allowed in (([1, 1, 1], {0}), ([0, 1, 1], {1, 2}), ([0, 0, 1], {2})):
        policy = make_policy()
        ask = {"search": True, "world": world, "action_mask": np.array(mask)}
        found = set()
        for seed, o in enumerate(observations(6)):
            policy.reset()  # the first observation: 0 is what pays
            found.add(int(policy.act(o, **ask, seed=seed)))
        assert found <= allowed, mask


def test_a_search_over_factors_respects_a_mask_per_entry():
    space = MultiDiscrete([2, 3])
    params = init_student(jax.random.key(0), 2, 6, 8, [1.0, 2.0], [2.0, 0.5])
    policy = Policy(params, CART, space)
    card = {"discount": 0.9, "value_span": 1.0, "search": dataclasses.asdict(SearchConfig())}
    starts = start_context(observations(1), 5)
    world = World(Factored(), {}, CART, space, 9, starts, np.array([True]), card=card)
    assert policy.act(observations(1)[0], search=True, world=world).tolist() == [1, 2]
    policy.reset()
    mask = (np.array([1, 0]), np.array([1, 1, 0]))
    a = policy.act(observations(1)[0], search=True, world=world, action_mask=mask)
    assert a.tolist() == [0, 1]


class Factored(Remembering):
    """Pays most for the largest entries."""

    num_actions, action_size = 6, 5

    def outcome(self, params, y, c):
        z, a = y
        r = a @ jnp.array([0.0, 0.5, 0.0, 0.2, 0.4])
        zero = jnp.zeros_like(r)
        v, pi, legal = self.predict(params, z)
        return z, Prediction(
            r=r, continuation=zero, v=v, pi_logits=pi, legal_logits=legal, uncertainty=zero
        )

    def predict(self, params, z):
        rows = z.seen.shape[0]
        return jnp.zeros(rows), jnp.zeros((rows, 6)), jnp.ones((rows, 5))
