"""Certification finds an oracle perfect, each kind of wrong model wrong, and ranks policies."""

import dataclasses
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from scipy import stats

from dreaming.config import SearchConfig
from dreaming.observe.collect import behaviour_return, record
from dreaming.observe.log import Log
from dreaming.student.evaluate import evaluate
from dreaming.student.network import (
    act,
    action_probabilities,
    head_of,
    init_student,
    with_uniform,
)
from dreaming.student.walks import dream_episodes, dream_returns
from dreaming.world import ranking
from dreaming.world.certify import (
    foreseen,
    held_out,
    rare_states,
    sentence,
    summarise,
    weak_regions,
)
from dreaming.world.physics import OraclePhysics
from dreaming.world.ranking import distinguishable, rank, rank_agreement, rank_correlation
from dreaming.world.words import promise_sentence
from envs import tabular
from envs.dream import start_context
from envs.types import Features, Trace, action_features

DISCOUNT, HORIZON = 0.95, 100


@dataclass(frozen=True)
class Lake:
    """A lake, its log, and its true dynamics."""

    log: Log
    table: tabular.Table
    model: Any
    world: Any
    slippery: bool

    @property
    def expert(self):
        """A student that acts as the optimum does."""
        return student(tabular.solve(self.table, DISCOUNT)[2])


def make_lake(slippery):
    env = gymnasium.make("FrozenLake-v1", is_slippery=slippery)
    traces = list(record("FrozenLake-v1", "random", 2500, 0, env_options={"is_slippery": slippery}))
    log = Log(traces, Features(env.observation_space), action_features(env.action_space))
    table = tabular.from_gym(env)
    model = tabular.TabularModel(table, DISCOUNT)
    oracle = OraclePhysics(model, model.params, DISCOUNT)
    world = oracle.world(log, SearchConfig(), HORIZON)
    return Lake(log, table, model, world, slippery)


@pytest.fixture(scope="module", params=[False, True], ids=["dry", "slippery"])
def lake(request):
    return make_lake(request.param)


@pytest.fixture(scope="module")
def dry():
    return make_lake(False)


def student(actions):
    """A greedy student of one-hot observations that takes `actions[s]` in s: exact weights."""
    size = len(actions)
    params = init_student(jax.random.key(0), size, 4, size, np.zeros(size), np.ones(size))
    eye = jnp.eye(size) * 10
    table = jnp.asarray(np.eye(4)[np.asarray(actions)], jnp.float32)
    blank = jnp.zeros(size)
    layers = [{"w": eye, "b": blank}, {"w": eye, "b": blank}, {"w": table, "b": jnp.zeros(4)}]
    return params | {"layers": layers}


def figures_of(model, params, log):
    """The figures of a model on a log."""
    tested = held_out(model, params, log, jax.random.key(0), discount=DISCOUNT, span=1.0, window=1)
    return summarise([tested], log, log.observation.kind)


def test_the_oracle_of_a_task_without_chance_is_perfect(dry):
    figures, found = figures_of(dry.model, dry.model.params, dry.log)
    assert {k: figures[f"skill_{k}"] for k in (1, 5, 15)} == {1: 1, 5: 1, 15: 1}
    for name in ("reward_mae", "termination_brier", "termination_ece", "chance"):
        assert figures[name] == 0, name
    assert figures["value_equivalence"] < 1e-6
    assert figures["termination_auroc"] == figures["termination_recall"] == 1
    assert figures["coverage_set"] == figures["chance_probability"] == 1
    assert figures["trust_steps"] == figures["trust_tested"] >= 15
    assert "uncertainty_spearman" not in figures  # it never varies
    assert sentence(figures, found["regions"], False).startswith("Trust it up to")


def test_the_oracle_of_a_task_with_chance_knows_its_odds():
    lake = make_lake(True)
    figures, found = figures_of(lake.model, lake.model.params, lake.log)
    assert figures["chance_probability"] == pytest.approx(figures["chance_expected"], abs=0.02)
    assert figures["coverage_set"] > 0.9 and figures["termination_ece"] < 0.02
    # n-step returns scatter around the oracle's mean: nobody foresees more.
    assert 0 < figures["value_equivalence"] < 0.1
    assert 0.3 < figures["skill_1"] < 0.6
    assert "Trust its odds, not single futures" in sentence(figures, found["regions"], True)


@dataclass(frozen=True, eq=False)
class Wrong:
    """An oracle made wrong on purpose, by what its params say beside the table."""

    model: Any
    num_members: int = 1

    def __getattr__(self, name):
        return getattr(self.model, name)

    def outcome(self, params, y, c):
        z, said = self.model.outcome(params, y, c)
        continuation = jnp.where(params["blind"], 1.0, said.continuation)  # never sees an end
        changes = {"r": said.r + params["reward"], "continuation": continuation}
        return z, dataclasses.replace(said, **changes)

    def decode(self, params, z):
        """Another observation in a share of the states, always the same ones."""
        o = self.model.decode(params, z)
        hidden = (z.s * 7919 % 100 < 100 * params["noise"])[:, None]
        return jnp.where(hidden, jnp.roll(o, 1, axis=-1), o)


def test_a_wrong_model_is_found_out(dry):
    """Each fault in the figure that is for it, and in no other."""
    model, none = Wrong(dry.model), {"reward": 0.0, "blind": False, "noise": 0.0}
    told = lambda **fault: figures_of(model, dry.model.params | none | fault, dry.log)[0]
    right = told()
    own = {
        "reward": ("reward_mae", "value_equivalence", "reward_error"),
        "blind": (
            "termination_brier",
            "termination_ece",
            "termination_recall",
            "value_equivalence",
        ),
        "noise": ("skill_1", "chance_probability", "coverage_set", "chance"),
    }
    shifted = told(reward=0.5)
    assert shifted["reward_mae"] == pytest.approx(0.5) and shifted["value_equivalence"] > 0.5
    blind = told(blind=True)
    ends = np.mean(np.concatenate([trace.terminated for trace in dry.log.traces]))
    assert blind["termination_ece"] == pytest.approx(ends)
    assert blind["termination_recall"] == 0 and blind["termination_auroc"] == 0.5
    noisy = told(noise=0.5)
    assert noisy["skill_1"] < 0.6 and noisy["trust_steps"] == 0 and noisy["coverage_set"] < 0.85
    about = {"trust", "skill", "uncertainty"}
    for name, found in (("reward", shifted), ("blind", blind), ("noise", noisy)):
        others = {x for x in right if x not in own[name] and x.partition("_")[0] not in about}
        others -= {"termination_auroc"} if name == "blind" else set()
        for other in others:
            assert found[other] == pytest.approx(right[other]), (name, other)


@dataclass(frozen=True, eq=False)
class Walk:
    """x' = x + a + noise of the world, as members that each err by their own share of it."""

    errors: Any  # [E, N] of member e at step N of the log, looked up by the observation itself
    num_codes: int = 1

    @property
    def num_members(self):
        return len(self.errors)

    def root(self, params, context):
        member = jnp.full(context.o.shape[0], -1)
        return tabular.TabularState(context.o[:, -1], jnp.zeros(len(member), bool), member)

    def afterstate(self, params, z, a):
        return jnp.zeros((len(z.member), 1)), (z, a)

    def outcome(self, params, y, c):
        z, a = y
        at = jnp.round(z.s[:, 1]).astype(int)  # the second feature counts the steps of the log
        each = jnp.asarray(self.errors)[:, at % self.errors.shape[1]]
        picked = jnp.take_along_axis(each, jnp.maximum(z.member, 0)[None], axis=0)[0]
        error = jnp.where(z.member < 0, each.mean(0), picked)
        s = jnp.stack([z.s[:, 0] + 2 * a[:, 1] - 1 + error, z.s[:, 1] + 1], axis=-1)
        v, pi, legal = self.predict(params, z)
        said = {"r": v, "continuation": v + 1, "v": v, "pi_logits": pi, "legal_logits": legal}
        z = dataclasses.replace(z, s=s)
        return z, SimpleNamespace(**said, uncertainty=each.std(0))

    def predict(self, params, z):
        zeros = jnp.zeros(len(z.member))
        return zeros, jnp.zeros((len(zeros), 2)), jnp.ones((len(zeros), 2))

    def decode(self, params, z):
        return z.s


def walk_log(noise):
    """One long episode of x' = x + a + noise[t]; the second feature counts."""
    random = np.random.default_rng(1)
    a = random.integers(2, size=len(noise))
    x = np.concatenate([[0.0], np.cumsum(2 * a - 1 + noise)])
    o = np.stack([x, np.arange(len(x))], axis=1).astype(np.float32)
    space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    trace = Trace(o, a, np.zeros(len(a)), False, True)
    return Log([trace], Features(space), action_features(gymnasium.spaces.Discrete(2)))


def test_members_that_know_their_ignorance_cover_reality_and_others_do_not():
    """Reality is one more draw from where the members' errors come from, or from farther away."""
    random = np.random.default_rng(0)
    scale = 0.1 * random.gamma(2, size=1500)  # some steps are harder than others
    draws = scale * random.normal(size=(6, 1500))
    honest = figures_of(Walk(draws[1:]), {}, walk_log(draws[0]))[0]
    # The second feature is exact and always covered: 95 % is 90 % of the first.
    assert honest["coverage_o"] == pytest.approx(0.95, abs=0.015)
    assert honest["uncertainty_spearman"] > 0.3 and honest["skill_1"] > 0.9
    proud = figures_of(Walk(draws[1:] / 5), {}, walk_log(draws[0]))[0]
    assert proud["coverage_o"] < 0.75
    assert "termination_auroc" not in proud and "reward_error" not in proud


def test_a_slice_with_half_of_the_error_is_a_region():
    random = np.random.default_rng(0)
    o, still = random.uniform(size=(2000, 3)), np.ones(2000)
    even = random.gamma(1, 0.01, size=2000)
    assert weak_regions(o, even, still) == []
    worse = even + 0.3 * (o[:, 1] > 0.9)
    [region] = weak_regions(o, worse, still)
    assert region.startswith("o[1] above 0.89") and "10% of the steps" in region
    assert weak_regions(o, worse, still * 100) == []  # even there it meets the target
    freak = even.copy()
    freak[7] = 1000
    assert weak_regions(o, freak, still) == []  # one step is no region


def test_states_that_the_log_hardly_left_are_named():
    space = gymnasium.spaces.Discrete(12, start=5)
    o = np.array([5] * 20 + [6] * 3 + [5] * 12 + [9])
    trace = Trace(o, np.zeros(len(o) - 1, int), np.zeros(len(o) - 1), True, False)
    log = Log([trace], Features(space), action_features(gymnasium.spaces.Discrete(2)))
    assert rare_states(log) == ["state 6, left fewer than 10 times"]  # 9 ended: it was never left
    many = Trace(np.arange(5, 16), np.zeros(10, int), np.zeros(10), False, True)
    [named] = rare_states(dataclasses.replace(log, traces=[many]))
    assert named == "states 5, 6, 7, 8, 9, 10 and 4 more, left fewer than 10 times"


def test_the_sentence():
    tested = {"trust_tested": 50.0, "skill_1": 0.31}
    told = lambda steps, regions, chance=False, **more: sentence(
        tested | {"trust_steps": float(steps)} | more, regions, chance
    )
    assert told(15, []) == "Trust it up to 15 steps; no region stands out."
    assert told(1, ["o[0] above 3"]) == (
        "Trust it up to 1 step, but not where it was weak: o[0] above 3."
    )
    assert told(50, None) == (
        "Trust it up to 50 steps (the most that was tested); where it is weak is not known."
    )
    assert told(0, []).startswith("Do not trust it for a single step (skill 0.31 after one step")
    odds = {"chance_probability": 0.36, "chance_expected": 0.37}
    assert told(0, [], True, **odds).startswith("Trust its odds, not single futures")
    odds["chance_probability"] = 0.2
    assert told(0, [], True, **odds).startswith("Trust neither its futures")
    unknown = "How far to trust it is not known"
    assert sentence({"reward_mae": 0.1}, [], False).startswith(f"{unknown}, in too few held-out")
    for figures in ({}, {"life_dreamed": 9.0, "life_logged": 10.0}):  # tested on nothing
        said = sentence(figures, None, False)
        assert said == f"{unknown}: no episode could be held out to test it."


def test_with_all_pairs_the_rank_correlation_is_spearmans():
    random, everyone = np.random.default_rng(0), ~np.eye(6, dtype=bool)
    for _ in range(20):
        x, y = random.integers(4, size=(2, 6)).astype(float)
        if np.ptp(x) and np.ptp(y):
            expected = stats.spearmanr(x, y)[0]
            assert rank_correlation(x, y, everyone) == pytest.approx(expected)


def test_pairs_that_reality_cannot_tell_apart_do_not_count():
    real = np.array([1.0, 1.1, 5.0])
    pairs = np.array([[0, 0, 1], [0, 0, 1], [1, 1, 0]], bool)
    assert rank_correlation(np.array([2.0, 1.0, 9.0]), real, pairs) == pytest.approx(1)
    assert rank_correlation(np.array([9.0, 8.0, 1.0]), real, pairs) == pytest.approx(-1)
    # Wins of the dream (1, -1, 0) against those of reality (-1, -1, 2).
    mixed = np.array([5.0, 1.0, 3.0])
    assert rank_correlation(mixed, real, pairs) == pytest.approx(0)
    assert rank_agreement(mixed, real, pairs) == 0.5
    assert rank_agreement(np.array([5.0, 1.0, 5.0]), real, pairs) == 0.75  # a tie counts half
    assert np.isnan(rank_correlation(mixed, real, pairs & False))


def test_telling_apart_is_welchs_test():
    random = np.random.default_rng(0)
    returns = [random.normal(mean, 1, size) for mean, size in ((0, 9), (0.9, 30), (1.1, 30))]
    found = distinguishable([*returns, np.full(5, 1.0), np.full(5, 2.0), np.array([99.0])])
    for i in range(3):
        for j in range(3):
            p: Any = stats.ttest_ind(returns[i], returns[j], equal_var=False)[1]
            assert found[i, j] == (i != j and p < 0.05), (i, j)
    assert found[3, 4] and not found[3, 3] and not found[5].any()  # constants; a single episode
    assert np.array_equal(found, found.T)


def test_the_interval_of_the_rank_correlation_knows_noise():
    random = np.random.default_rng(0)
    real = [random.normal(mean, 1, 32) for mean in range(6)]
    sure = rank([random.normal(mean, 0.1, 32) for mean in range(6)], real)
    assert (sure.correlation, sure.interval, sure.agreement) == (pytest.approx(1), (1, 1), 1)
    assert sure.pairs == 15
    vague = rank([random.normal(mean / 20, 1, 8) for mean in range(6)], real)
    assert vague.interval is not None and np.ptp(vague.interval) > 0.3
    same = rank(real, [np.zeros(9)] * 6)
    assert same.correlation is None and "told apart in reality" in same.why
    flat = rank([np.ones(5)] * 6, real)
    assert flat.correlation is None and flat.agreement == 0.5 and flat.pairs == 15


def test_a_uniform_share_is_mixed_into_what_a_student_does(dry):
    context = start_context(np.eye(16, dtype=np.float32), 4)
    keys = jax.random.key_data(jax.random.split(jax.random.key(0), 16))
    expert, head = dry.expert, head_of(Discrete(4))
    best = np.asarray(act(expert, context, keys, head)).argmax(-1)
    assert np.array_equal(best, tabular.solve(dry.table, DISCOUNT)[2])
    own = act(with_uniform(expert, 0.0), context, keys, head)
    assert np.array_equal(np.asarray(own).argmax(-1), best)
    mixed = with_uniform(expert, 0.4)
    p = np.asarray(action_probabilities(mixed, context, head, jnp.ones((16, 4), bool)))
    assert np.allclose(p.sum(-1), 1) and np.allclose(p[np.arange(16), best], 0.6 + 0.4 / 4)
    many = jax.tree.map(lambda x: jnp.repeat(x[:1], 4000, axis=0), context)
    keys = jax.random.key_data(jax.random.split(jax.random.key(1), 4000))
    drawn = np.asarray(act(mixed, many, keys, head)).mean(0)
    assert np.allclose(drawn, p[0], atol=0.03)


def test_policies_dream_the_same_dreams_and_as_they_would_alone(dry):
    students = [dry.expert, with_uniform(dry.expert, 0.5), dry.expert]
    key = jax.random.key(3)
    together = dream_episodes(dry.world, students, key, 8)
    for who, returns in zip(students, together.returns, strict=True):
        assert np.array_equal(dream_returns(dry.world, who, key, 8), returns)
    assert np.array_equal(together.returns[0], together.returns[2])
    assert together.trusted.tolist() == [1, 1, 1]
    assert (together.returns[0] == 1).all()
    doubtful = dataclasses.replace(dry.world, u_max=-1.0)
    assert dream_episodes(doubtful, students[:1], key, 8).trusted.tolist() == [0]


def real_of(lake):
    """Episodes on the lake itself."""

    def real(who, seeds, update):
        scores = evaluate(
            lambda: gymnasium.make("FrozenLake-v1", is_slippery=lake.slippery),
            compiled(who),
            seeds,
            observation=lake.log.observation,
            action=lake.log.action,
        )
        return scores.returns, scores.lengths

    compiled = lambda who: lambda context, keys, legal: run(who, context, keys, legal)
    head = head_of(Discrete(4))
    run = jax.jit(lambda who, context, keys, legal: act(who, context, keys, head, legal))
    return real


def test_an_oracle_ranks_policies_as_reality_does(lake):
    """Rank 1 and no exploitation gap, within what sampling leaves open."""
    uniform = with_uniform(lake.expert, 1.0)
    policies = ranking.fixed_set(uniform, lake.expert)
    args = lake.world, [lake.world], real_of(lake), list(range(64))
    rules = {"key": jax.random.key(0), "dreams": 64, "update": lambda n: None}
    tried = ranking.try_policies(policies, *args, **rules)
    blank = ranking.blank_tries(len(policies), 1, 64, 64)
    shape = lambda x: (np.shape(x), np.asarray(x).dtype)
    assert jax.tree.map(shape, tried) == jax.tree.map(shape, blank)
    figures, missing, rows = ranking.rank_figures(
        list(policies), tried, behaviour_return(lake.log.traces), has_limit=False
    )
    assert figures["rank_correlation"] > (0.9 if lake.slippery else 0.99)
    assert figures["rank_low"] <= figures["rank_correlation"] <= figures["rank_high"]
    assert abs(figures["exploitation_gap"]) < (0.25 if lake.slippery else 1e-9)
    assert set(missing) == {"candidate_coverage", "unrepeated"} and len(rows) == 8
    assert "no draws but those" in missing["unrepeated"]  # a table is no posterior
    assert [row["name"] for row in rows[:3]] == ["behaviour", "behaviour_cloning", "candidate"]


def test_without_reality_or_judges_the_reason_is_told(dry):
    policies = ranking.fixed_set(with_uniform(dry.expert, 1.0), dry.expert)
    args = dry.world, [], None, []
    rules = {"key": jax.random.key(0), "dreams": 4, "update": lambda n: None}
    tried = ranking.try_policies(policies, *args, **rules)
    figures, missing, rows = ranking.rank_figures(list(policies), tried, np.zeros(0), True)
    promised = {"promise", "promise_low", "promise_high"}
    assert figures["candidate_coverage"] == 1 and set(figures) == promised | {"candidate_coverage"}
    assert "did not plan" in missing.pop("unsupported") and missing.pop("unrepeated")
    assert all("no real environment" in why for why in missing.values()) and len(missing) == 3
    assert rows[0]["real"] is None and rows[0]["judges"] is None and rows[0]["planner"] is not None


def test_a_model_that_sees_too_rosy_is_ranked_down(dry):
    """A dream in which nothing ends badly: the best policy stays, the gap of others shows."""
    table = dataclasses.replace(dry.table, r=1 - dry.table.r)  # holes pay, the goal does not
    model = tabular.TabularModel(table, DISCOUNT)
    world = dataclasses.replace(dry.world, model=model, params=model.params)
    policies = ranking.fixed_set(with_uniform(dry.expert, 1.0), dry.expert)
    args = dry.world, [world], real_of(dry), list(range(32))
    rules = {"key": jax.random.key(0), "dreams": 32, "update": lambda n: None}
    tried = ranking.try_policies(policies, *args, **rules)
    figures, _, _ = ranking.rank_figures(list(policies), tried, np.zeros(0), False)
    assert figures["rank_correlation"] < 0.5 < 0.9 < figures["rank_correlation_planner"]


def promised(judges, candidate=1, clone=0, redrawn=(70.0, 50.0)):
    """(figures, missing) of dreams of 100 [10, 190] where the clone's earn 20."""
    dreamed = np.stack([np.full(19, 20.0), np.linspace(10, 190, 19)])
    tried = {"planner": dreamed, "judges": judges, "redrawn": np.array(redrawn)}
    return ranking.promise(tried, candidate, clone)


def test_a_promise_by_hand():
    found, missing = promised(np.array([[20.0, 20.0], [30.0, 50.0]]))
    assert not missing and found["promise"] == 100 and found["promise_judged"] == 40
    assert (found["promise_low"], found["promise_high"]) == pytest.approx((19, 181))
    assert found["promise_error"] == pytest.approx(np.sqrt(3000 / 19 + 100 / 2))
    assert found["unsupported"] == pytest.approx(60 / 80)
    assert found["promise_redrawn"] == 60 and found["unrepeated"] == pytest.approx(40 / 80)
    said = promise_sentence(found)
    assert "promises more than it can know" in said and "dreams of 100" in said and "of 40" in said
    kept, _ = promised(np.full((2, 2), 61.0))
    assert kept["unsupported"] == pytest.approx(39 / 80) and not promise_sentence(kept)
    assert promised(np.full((2, 2), 300.0))[0]["unsupported"] == 0  # judges see more
    assert promised(np.full((2, 2), 61.0), redrawn=[140.0])[0]["unrepeated"] == 0


def test_a_promise_that_cannot_be_held_against_anything_says_why():
    found, missing = promised(np.zeros((2, 0)))
    assert "did not plan" in missing["unsupported"] and not promise_sentence(found)
    found, missing = promised(np.zeros((2, 2)), candidate=0, clone=1)
    assert "no gain" in missing["unsupported"] and not promise_sentence(found)
    assert "no gain" in missing["unrepeated"]
    assert "no draws" in promised(np.zeros((2, 2)), redrawn=[])[1]["unrepeated"]


def test_a_small_gain_within_what_dreams_scatter_is_no_alarm():
    """Clone 490, candidate 492, judges 485, each +- 20."""
    scatter = np.tile([-20.0, 20.0], 16)
    tried = {
        "planner": np.stack([490 + scatter, 492 + scatter]),
        "judges": np.stack([485 + scatter] * 2),
        "redrawn": 490 + scatter,
    }
    found, _ = ranking.promise(tried, candidate=1, clone=0)
    assert found["unsupported"] > 3 and not promise_sentence(found)


class Guesser:
    """A model whose policy head takes action 1 with probability `p` wherever it is."""

    def __init__(self, p):
        self.p = p

    def root(self, params, context):
        return context.o[:, -1]

    def predict(self, params, z):
        logits = jnp.log(jnp.array([1 - self.p, self.p]))
        return None, jnp.broadcast_to(logits, (len(z), 2)), None


@pytest.mark.parametrize(
    ("p", "expected"),
    [(0.5, 0.0), (0.75, 1 - (0.75 * np.log(0.75) + 0.25 * np.log(0.25)) / np.log(0.5)), (0.2, 0.0)],
)
def test_a_behaviour_is_foreseen_in_part(p, expected):
    """Three of four actions are 1: what is foreseen of that, against a coin."""
    a = np.tile([1, 1, 1, 0], 100)
    trace = Trace(np.zeros((401, 1), np.float32), a, np.zeros(400), False, True)
    log = Log([trace], Features(Box(-1, 1, (1,))), action_features(Discrete(2)))
    assert foreseen(Guesser(p), None, log, window=1) == pytest.approx(expected, abs=0.01)


def test_what_only_a_mask_decides_is_not_foreseen():
    masks = np.tile(np.array([[1, 0], [1, 1]], np.int8), (201, 1))[:401]
    a = np.where(masks[:400, 1] == 0, 0, np.tile([0, 0, 1, 1], 100)[:400])
    o = np.zeros((401, 1), np.float32)
    trace = Trace(o, a, np.zeros(400), False, True, action_masks=masks)
    log = Log([trace], Features(Box(-1, 1, (1,))), action_features(Discrete(2)))
    assert foreseen(Guesser(0.5), None, log, window=1) == pytest.approx(0.0, abs=1e-6)
