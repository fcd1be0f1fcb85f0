"""With true dynamics the teachers act optimally; whatever the model, they obey their contract."""

import functools

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreaming.config import SearchConfig
from dreaming.search.teachers import SearchResult, make_teacher, model_steps, penalised
from envs.dream import start_context
from envs.tabular import (
    IMPOSSIBLE,
    Table,
    TabularModel,
    corridor,
    evaluate,
    from_gym,
    optimum,
    solve,
)
from envs.types import Prediction
from worldmodels.actions import make_head
from worldmodels.config import ModelConfig
from worldmodels.vectors.family import make_mlp
from worldmodels.vectors.measure import measure_scale
from worldmodels.vectors.types import LatentState

S, A, DISCOUNT = 16, 4, 0.9  # of every task here, so that each teacher compiles once
SIMULATIONS = {1: 32, 3: 64}
HEAD = make_head((A,), A)
TEACHERS = [("one_step", 1), ("one_step", 3), ("search", 1), ("search", 3)]  # with C codes
each_teacher = pytest.mark.parametrize(("teacher", "codes"), TEACHERS)


class Lab(TabularModel):
    """An oracle whose every number lies in its params and can be tampered with."""

    def __init__(self, table: Table, codes: int = 1):
        super().__init__(table, DISCOUNT)
        missing = ((0, 0), (0, 0), (0, codes - self.num_codes))
        pad = lambda x, value: jnp.pad(x, missing, constant_values=value)
        names = ("next", "r", "ended")
        self.params |= {name: pad(self.params[name], 0) for name in names}
        self.params["chance_logits"] = pad(self.params["chance_logits"], IMPOSSIBLE)
        self.params |= {"pi_logits": jnp.zeros((S, A)), "legal_logits": jnp.ones((S, A))}
        self.params |= {"continuation": jnp.ones((S, A)), "uncertainty": jnp.zeros((S, A))}
        self.num_codes = codes

    def outcome(self, params, y, c):
        z, p = super().outcome(params, y, c)
        at = (y.z.s, y.a)
        return z, Prediction(
            r=p.r,
            continuation=p.continuation * params["continuation"][at],
            v=p.v,
            pi_logits=p.pi_logits,
            legal_logits=p.legal_logits,
            uncertainty=params["uncertainty"][at],
        )

    def predict(self, params, z):
        v, _, _ = super().predict(params, z)
        return v, params["pi_logits"][z.s], params["legal_logits"][z.s]


def embed(table: Table) -> Table:
    """The same task among S states and A actions: what was not there stays where it is, for 0."""
    n, m = table.num_states, table.num_actions
    p, r, ends, start = np.zeros((S, A, S)), np.zeros((S, A, S)), np.zeros((S, A, S)), np.zeros(S)
    p[np.arange(S), :, np.arange(S)] = 1
    p[:n, :m] = 0
    p[:n, :m, :n], r[:n, :m, :n], ends[:n, :m, :n] = table.p, table.r, table.terminated
    start[:n] = table.start
    return Table(p, r, ends, start)


LINE, LAKE = embed(corridor(5)), from_gym("FrozenLake-v1")
ICE = from_gym(gymnasium.make("FrozenLake-v1", is_slippery=False))


@functools.cache
def compiled(teacher: str, codes: int):
    """The teacher for any task with so many codes; it acts as well as it knows."""
    config = SearchConfig(teacher=teacher, num_simulations=SIMULATIONS[codes])
    return jax.jit(make_teacher(Lab(LINE, codes), HEAD, config, DISCOUNT, gumbel_scale=0.0))


def roots(model, states=None):
    """Root states of the model, one row per state."""
    states = np.arange(S) if states is None else states
    return model.root(model.params, start_context(np.eye(S)[states], A))


def ask(teacher, codes, model, states=None, span=1.0, **changes) -> SearchResult:
    """What a teacher says of each state when `changes` replace the model's numbers."""
    changes = {name: jnp.asarray(x, model.params[name].dtype) for name, x in changes.items()}
    params = model.params | changes
    return compiled(teacher, codes)(params, roots(model, states), jax.random.key(0), span)


# With true dynamics


@pytest.mark.parametrize("teacher", ["one_step", "search"])
def test_the_end_of_a_corridor_is_found(teacher):
    result = ask(teacher, 1, Lab(LINE))
    np.testing.assert_array_equal(result.action[:4], 1)
    np.testing.assert_array_equal(result.pi_search[:4].argmax(-1), 1)
    assert (result.q[:4, 1] > result.q[:4, 0]).all()


def test_the_one_step_values_are_those_of_the_optimum():
    _, q, _ = solve(LINE, DISCOUNT)
    np.testing.assert_allclose(ask("one_step", 1, Lab(LINE)).q, q, atol=1e-6)


def test_search_needs_no_values_to_see_several_steps_ahead():
    nothing_known = np.zeros(S)
    result = ask("search", 1, Lab(LINE), v=nothing_known)
    np.testing.assert_array_equal(result.action[2:4], 1)  # one and two steps from the end
    blind = ask("one_step", 1, Lab(LINE), v=nothing_known)
    np.testing.assert_allclose(blind.q[2], 0)  # the second step is out of its sight


@pytest.mark.parametrize("teacher", ["one_step", "search"])
def test_every_action_on_the_lake_of_dry_ice_is_optimal(teacher):
    """Without a prior. Mean backups fail here: they keep every step that was tried into a hole."""
    v, q, _ = solve(ICE, DISCOUNT)
    result = ask(teacher, 1, Lab(ICE))
    assert evaluate(ICE, np.asarray(result.action), 100) == 1
    np.testing.assert_allclose(q[np.arange(S), np.asarray(result.action)], v, atol=1e-6)
    if teacher == "search":
        np.testing.assert_allclose(result.q.max(-1), v, atol=1e-5)


@pytest.mark.parametrize("codes", [1, 3])
def test_an_action_that_was_given_up_comes_back(codes):
    """Each search starts from what the last one said; the first prior rules the right step out."""
    pi_logits = np.tile([0.0, -1e6] + [-1e6] * (A - 2), (S, 1))
    for _ in range(20):
        result = ask("search", codes, Lab(LINE, codes), pi_logits=pi_logits)
        pi_logits = np.log(np.asarray(result.pi_search) + 1e-30)
    np.testing.assert_array_equal(result.pi_search[:4].argmax(-1), 1)


@pytest.mark.parametrize("teacher", ["one_step", "search"])
def test_chance_is_weighed_on_the_slippery_lake(teacher):
    """At most 64 simulations, 0.95 of the optimum; one sample per edge would reach 0.04 of 0.74."""
    assert SIMULATIONS[3] <= 64
    result = ask(teacher, 3, Lab(LAKE, 3))
    assert evaluate(LAKE, np.asarray(result.action), 100) >= 0.95 * optimum(LAKE, 100)


# The arithmetic


@each_teacher
def test_continuation_discounts(teacher, codes):
    """State 0 leads to state 1, worth 1 for ever (0.1 a step), with probability 0, 0.5 or 1."""
    p, r, v = np.zeros((S, A, S)), np.zeros((S, A, S)), np.zeros(S)
    p[:, :, 1] = 1
    r[1:, :, 1], v[1:] = 0.1, 1.0
    r[0, :, 1] = [1.0, 0.8, 0.5, 0.0]
    model = Lab(Table(p, r, np.zeros((S, A, S)), np.eye(S)[0]), codes)
    goes_on = np.ones((S, A))
    goes_on[0] = [0.0, 0.5, 1.0, 1.0]
    result = ask(teacher, codes, model, v=v, continuation=goes_on)
    np.testing.assert_allclose(result.q[0], [1, 0.8 + 0.45, 0.5 + 0.9, 0.9], atol=1e-5)
    assert result.action[0] == 2


@each_teacher
def test_the_root_value_is_unbiased(teacher, codes):
    """Where every state is worth the same and rewards agree, so does the search."""
    table = LAKE if codes == 3 else ICE
    model = Lab(table, codes)
    result = ask(
        teacher,
        codes,
        model,
        v=np.full(S, 7.0),
        r=np.full(model.params["r"].shape, 0.7),  # (1 - discount) * 7
        ended=np.zeros(model.params["ended"].shape),
    )
    np.testing.assert_allclose(result.v_search, 7, rtol=1e-5)
    np.testing.assert_allclose(result.q, 7, rtol=1e-5)
    np.testing.assert_allclose(result.pi_search, 1 / A, atol=1e-3)


@pytest.mark.parametrize(("span", "most"), [(1.0, 0.27), (1e-6, 1.0)])
def test_differences_below_the_floor_hardly_count(span, most):
    """One action is better by 1e-5: nothing beside a range of 1, all there is in one of 1e-6."""
    model = Lab(LINE)
    r = np.zeros(model.params["r"].shape)
    r[:, 2] = 1e-5
    everything_ends = np.ones(model.params["ended"].shape)
    result = ask("search", 1, model, span=span, r=r, ended=everything_ends, v=np.zeros(S))
    pi = np.asarray(result.pi_search)
    assert (pi.argmax(-1) == 2).all() and (pi[:, 2] <= most).all()
    assert (pi[:, 2] > 0.9).all() or span == 1.0


@each_teacher
def test_uncertainty_costs(teacher, codes):
    """0.5 units of doubt cost 0.5 typical rewards, (1 - discount) of the range."""
    p = Prediction(*jnp.array([2.0, 1, 0, 0, 0, 0.5]))
    np.testing.assert_allclose(penalised(p, 3.0, 0.9, 10.0), 2 - 3 * 0.1 * 10 * 0.5, rtol=1e-5)
    doubt = np.zeros((S, A))
    doubt[3, 1] = 5.0  # the last step of the corridor: 1 - 1.0 * 0.1 * 1 * 5
    result = ask(teacher, codes, Lab(LINE, codes), uncertainty=doubt)
    np.testing.assert_allclose(result.q[3, 1], 0.5, atol=1e-5)


# The contract


@each_teacher
def test_illegal_actions_are_never_taken_at_the_root_or_inside(teacher, codes):
    """Action 3 promises a fortune everywhere; it is illegal, in odd states alone or in all."""
    model = Lab(LINE, codes)
    r = np.array(model.params["r"])
    r[:, 3] = 1000.0
    odd = np.ones((S, A))
    odd[1::2, 3] = -1
    allowed = ask(teacher, codes, model, r=r)
    assert (np.asarray(allowed.action)[:5] == 3).all()  # the test can fail
    some = ask(teacher, codes, model, r=r, legal_logits=odd)
    np.testing.assert_array_equal(some.pi_search[1::2, 3], 0)
    assert (np.asarray(some.action)[1::2] != 3).all()
    nowhere = np.ones((S, A))
    nowhere[:, 3] = -1
    never = ask(teacher, codes, model, r=r, legal_logits=nowhere)
    np.testing.assert_array_equal(never.pi_search[:, 3], 0)
    np.testing.assert_array_equal(never.action[:4], 1)
    legal_q = np.asarray(never.q)[:, :3]
    assert legal_q.max() <= 1.001  # no fortune was found behind any legal action
    if teacher == "search":
        np.testing.assert_array_equal(some.visits[1::2, 3], 0)
        np.testing.assert_array_equal(never.visits[:, 3], 0)
        assert never.v_search.max() <= 1.001


@each_teacher
def test_where_all_is_forbidden_all_is_allowed(teacher, codes):
    result = ask(teacher, codes, Lab(LINE, codes), legal_logits=-np.ones((S, A)))
    np.testing.assert_array_equal(result.action[:4], 1)


def test_all_teachers_answer_alike():
    results = []
    for teacher, codes in TEACHERS:
        result = ask(teacher, codes, Lab(LINE, codes))
        assert type(result) is SearchResult
        np.testing.assert_allclose(result.pi_search.sum(-1), 1, rtol=1e-5)
        assert result.pi_search.min() >= 0 and result.pi_search.shape == (S, A)
        assert result.action.min() >= 0 and result.action.max() < A
        results.append({name: (x.shape, x.dtype) for name, x in vars(result).items()})
    assert all(result == results[0] for result in results)
    names = {"action", "a", "pi_search", "proposals", "v_search", "q", "visits"}
    assert set(results[0]) == names


def test_a_search_spends_its_budget():
    for codes, budget in SIMULATIONS.items():
        visits = ask("search", codes, Lab(LINE, codes)).visits
        np.testing.assert_array_equal(visits.sum(-1), budget)


@each_teacher
def test_a_row_does_not_see_its_neighbours(teacher, codes):
    model = Lab(LAKE if codes == 3 else ICE, codes)
    random = np.random.default_rng(0)
    for row in (0, 6):
        states = random.integers(S, size=(2, S))
        states[:, row] = 10
        one, other = (ask(teacher, codes, model, x) for x in states)
        for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(x[row], y[row])


@pytest.mark.parametrize("teacher", ["one_step", "search"])
@pytest.mark.parametrize("codes", [1, 2])
def test_a_learned_model_is_searched_like_an_oracle(teacher, codes):
    """Shapes alone: nothing is compiled."""
    config = ModelConfig(latent=8, width=16, members=2, chance_codes=codes, features=8)
    o, r = np.random.default_rng(0).normal(size=(9, 2)), np.arange(9.0)
    rules = {"config": config, "discount": 0.9, "is_number": np.ones(2, bool)}
    scale = measure_scale(o, np.diff(o, axis=0), [r], [True], **rules)
    model = make_mlp(config, (("box", 2),), make_head((3,), 3), scale)
    teach = make_teacher(model, model.head, SearchConfig(teacher=teacher, num_simulations=4), 0.9)

    def run(key):
        params = model.init(key, scale)
        o = jnp.zeros((5, 2))
        z = LatentState(jnp.zeros((5, 2 + 8)), jnp.full(5, -1, jnp.int32), o, o)
        return vars(teach(params, z, key, model.value_span(params)))

    with jax.numpy_rank_promotion("allow"):
        result = jax.eval_shape(run, jax.random.key(0))
    shapes = {name: x.shape for name, x in result.items()}
    wide = dict.fromkeys(("pi_search", "q", "visits"), (5, 3))
    rest = {"action": (5,), "a": (5, 3), "proposals": (5, 0, 0), "v_search": (5,)}
    assert shapes == wide | rest


def test_the_cost_of_a_call_by_hand():
    one_step = SearchConfig(teacher="one_step")
    search = SearchConfig(num_simulations=10)
    steps = lambda config, codes: model_steps(Lab(LINE, codes), HEAD, config)
    assert [steps(one_step, 1), steps(one_step, 3)] == [4, 12]
    assert [steps(search, 1), steps(search, 3)] == [10, 40]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (SearchConfig(num_simulations=0), "num_simulations must be at least 1, got 0"),
        (SearchConfig(teacher="guess"), "'guess'; choose search or one_step"),
        (SearchConfig(readout="best"), "'best'; choose greedy or mean"),
    ],
)
def test_what_cannot_teach_is_told(config, said):
    with pytest.raises(ValueError, match=said):
        make_teacher(Lab(LINE), HEAD, config, DISCOUNT)
