"""The teacher's word becomes the student's: by hand, by finite differences, and to the end."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from gymnasium.spaces import Discrete

from dreaming.config import DistillConfig, RehearseConfig, SearchConfig
from dreaming.observe.replay import contexts, make_replay
from dreaming.search.teachers import SearchResult, make_teacher
from dreaming.student.distill import (
    distill_loss,
    distill_optimiser,
    init_distill,
    make_distill,
    minibatches,
)
from dreaming.student.network import init_student, student_logits
from dreaming.student.rehearse import Rehearsal, make_rehearse
from dreaming.types import Minibatch, Walks
from envs.dream import start_context
from envs.tabular import TabularModel, corridor
from envs.types import Context, Features, Trace
from worldmodels.actions import make_head
from worldmodels.config import ModelConfig
from worldmodels.types import HeadTargets
from worldmodels.vectors.contacts import no_contacts
from worldmodels.vectors.family import make_mlp
from worldmodels.vectors.measure import measure_scale
from worldmodels.vectors.types import LatentState

SIZE, DISCOUNT = 5, 0.9
ORACLE = TabularModel(corridor(SIZE), DISCOUNT)
KEY = jax.random.key(0)
HEAD = make_head((2,), 2)


def everywhere() -> Context:
    """A context for each state of the corridor."""
    return jax.tree.map(jnp.asarray, start_context(np.eye(SIZE), 2))


def tabular_student():
    """A student of one layer: its logits are a table over states."""
    layers = [{"w": jnp.zeros((SIZE, 2)), "b": jnp.zeros(2)}]
    scale = {"o_mean": jnp.zeros(SIZE), "o_std": jnp.ones(SIZE)}
    return {"layers": layers, "scale": scale}


def batch_of(pi, context, weight=None, z=None, v=None):
    """One minibatch in which every state is taught."""
    rows = len(pi)
    weight = jnp.ones(rows) if weight is None else weight
    v = jnp.zeros(rows) if v is None else v
    z = ORACLE.root(ORACLE.params, context) if z is None else z
    targets: dict[str, Any] = dict(z=z, v=v, weight=weight, taught_z=z, pi=pi, proposals=None)
    return Minibatch(HeadTargets(**targets, taught_weight=weight), context)


def loss_of_oracle(trained, batch, incumbent, anchor):
    """`distill_loss` where the model is the oracle."""
    rules = {"model": ORACLE, "head": HEAD, "params": ORACLE.params}
    return distill_loss(trained, batch, **rules, incumbent=incumbent, anchor=anchor)


def test_divergence_by_hand():
    pi = jnp.array([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]])
    logits = jnp.log(jnp.array([[0.25, 0.75]] * 3)) + 7.0  # an offset changes nothing
    first = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    np.testing.assert_allclose(HEAD.divergence(pi, None, logits), [first, 0, np.log(4)], atol=1e-6)


def test_the_student_loss_is_a_weighted_mean():
    pi = jnp.array([[0.5, 0.5]] * 4 + [[1.0, 0.0]])
    loss = lambda *weight: loss_of_oracle(
        (tabular_student(), {}), batch_of(pi, everywhere(), jnp.array(weight)), None, 1.0
    )[0]
    np.testing.assert_allclose(loss(1, 1, 1, 1, 0.0), 0, atol=1e-6)
    np.testing.assert_allclose(loss(0, 0, 0, 3, 1.0), np.log(2) / 4, rtol=1e-5)


def learned():
    """(model, params): a learned model of two members with random weights."""
    config = ModelConfig(latent=4, width=4, members=2, features=8, value_bins=5)
    o, r = np.random.default_rng(0).normal(size=(9, SIZE)), np.arange(9.0)
    rules = {"config": config, "discount": DISCOUNT, "is_number": np.ones(SIZE, bool)}
    scale = measure_scale(o, np.diff(o, axis=0), [r], [True], **rules)
    model = make_mlp(config, (("box", SIZE),), HEAD, scale)
    blank = jax.eval_shape(lambda: model.init(KEY, scale))
    random = np.random.default_rng(1)
    draw = lambda x: jnp.asarray(random.normal(size=x.shape) * 0.7, jnp.float32)
    base = jax.tree.map(draw, blank["scale"]["base"])
    base |= {"noise": jnp.ones(SIZE), "low": jnp.full(SIZE, -9.0), "high": jnp.full(SIZE, 9.0)}
    base["contacts"] = no_contacts(SIZE)
    scale = scale | {"base": base, "share": jnp.full(SIZE, 0.5)}
    return model, {"net": jax.tree.map(draw, blank["net"]), "scale": scale}


def test_gradients_agree_with_finite_differences():
    """Of the student and of the planner's heads, with an incumbent to stay near."""
    model, params = learned()
    keys = jax.random.split(KEY, 5)
    student, incumbent = (
        init_student(k, SIZE, 2, 4, np.zeros(SIZE), np.ones(SIZE)) for k in keys[:2]
    )
    pi = jax.nn.softmax(jax.random.normal(keys[2], (SIZE, 2)))
    latent, o = jax.random.normal(keys[3], (SIZE, SIZE + 4)), jnp.zeros((SIZE, SIZE))
    z = LatentState(latent, jnp.full(SIZE, -1, jnp.int32), o, o)
    batch = batch_of(pi, everywhere(), jnp.linspace(0.1, 1, SIZE), z, jnp.linspace(0, 5, SIZE))
    start = student["layers"], model.heads(params)

    @jax.jit
    def loss(trained):
        layers, heads = trained
        trained = student | {"layers": layers}, heads
        rules = {"model": model, "head": HEAD, "params": params}
        return distill_loss(trained, batch, **rules, incumbent=incumbent, anchor=0.5)[0]

    gradient = jax.jit(jax.grad(loss))(start)
    random = np.random.default_rng(0)
    for part in (0, 1):
        nothing = jax.tree.map(np.zeros_like, start)
        way = jax.tree.map(lambda x: random.normal(size=x.shape).astype(np.float32), start[part])
        way = (way, nothing[1]) if part == 0 else (nothing[0], way)
        move = lambda h, way=way: loss(jax.tree.map(lambda x, d: x + h * d, start, way))
        slope = (move(1e-2) - move(-1e-2)) / 2e-2
        products = jax.tree.map(lambda x, y: jnp.sum(x * y), gradient, way)
        np.testing.assert_allclose(sum(jax.tree.leaves(products)), slope, rtol=0.02, atol=1e-3)
        assert abs(slope) > 0.01


def test_the_anchor_is_zero_where_the_student_is_the_incumbent():
    student = init_student(KEY, SIZE, 2, 4, np.zeros(SIZE), np.ones(SIZE))
    pi = jax.nn.softmax(student_logits(student, everywhere()))  # the teacher agrees as well

    def loss(layers, incumbent, anchor=3.0):
        trained = student | {"layers": layers}, {}
        return loss_of_oracle(trained, batch_of(pi, everywhere()), incumbent, anchor)

    (total, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(student["layers"], student)
    np.testing.assert_allclose([total, metrics["distill/anchor_loss"]], 0, atol=1e-6)
    assert max(jnp.abs(x).max() for x in jax.tree.leaves(gradient)) < 1e-6
    moved = jax.tree.map(lambda x: x + jax.random.normal(KEY, x.shape), student["layers"])
    _, metrics = loss(moved, student)
    once = loss(moved, student, 1.0)[1]["distill/anchor_loss"]
    assert once > 1e-4
    np.testing.assert_allclose(metrics["distill/anchor_loss"], 3 * once, rtol=1e-5)
    assert "distill/anchor_loss" not in loss(moved, None)[1]  # none in round 0


def test_an_exact_model_makes_distillation_soft_policy_iteration():
    """The student becomes softmax(q / tau) of the true dynamics, to 1e-5."""
    tau, context = 0.5, everywhere()
    teach = make_teacher(ORACLE, HEAD, SearchConfig(teacher="one_step", temperature=tau), DISCOUNT)
    taught = teach(ORACLE.params, ORACLE.root(ORACLE.params, context), KEY, 1.0)
    # By hand: v = .729 .81 .9 1 0, q = discount * v of where the action leads, 1 at the end.
    q = np.array([[0.6561, 0.729], [0.6561, 0.81], [0.729, 0.9], [0.81, 1.0]])
    expected = jax.nn.softmax(jnp.asarray(q) / tau)
    np.testing.assert_allclose(taught.pi_search[:4], expected, atol=1e-5)

    student = tabular_student()
    optimiser = optax.sgd(2.0)

    def loss_of(layers):
        trained = student | {"layers": layers}, {}
        batch = batch_of(taught.pi_search, context)
        return loss_of_oracle(trained, batch, None, 0.0)[0]

    @jax.jit
    def descend(layers):
        def step(carry, _):
            layers, state = carry
            updates, state = optimiser.update(jax.grad(loss_of)(layers), state)
            return (optax.apply_updates(layers, updates), state), None

        return jax.lax.scan(step, (layers, optimiser.init(layers)), length=1000)[0][0]

    layers = descend(student["layers"])
    pi = jax.nn.softmax(student_logits(student | {"layers": layers}, context))
    np.testing.assert_allclose(pi[:4], expected, atol=1e-5)


def test_minibatches_hold_each_state_once():
    n, t = 12, 6
    z, context = jnp.arange(n), start_context(np.arange(t)[:, None], 2)
    numbers = jnp.arange(t, dtype=jnp.float32)
    pi = jnp.stack([numbers, -numbers], -1)
    none, visits = jnp.zeros((t, 0, 2)), jnp.zeros((t, 2), jnp.int32)
    taught = SearchResult(jnp.arange(t), pi, pi, none, numbers, pi, visits)
    walked = Rehearsal(
        z=z,
        v_target=10.0 * z,
        weight=100.0 * z,
        taught_z=jnp.arange(t),
        taught_context=jax.tree.map(jnp.asarray, context),
        taught_weight=2 * numbers,
        taught=taught,
        last=context,
        goes_on=jnp.zeros(t, bool),
    )
    batches = minibatches(walked, KEY, 3)
    targets = batches.targets
    assert targets.z.shape == (3, 4) and targets.taught_z.shape == (3, 2)
    assert sorted(targets.z.ravel().tolist()) == list(range(n))
    assert sorted(targets.taught_z.ravel().tolist()) == list(range(t))
    assert targets.z.ravel().tolist() != list(range(n))  # in random order
    np.testing.assert_array_equal(targets.v, 10.0 * targets.z)  # rows stay together
    np.testing.assert_array_equal(targets.weight, 100.0 * targets.z)
    np.testing.assert_array_equal(targets.pi[..., 0], targets.taught_z)
    np.testing.assert_array_equal(batches.context.o[..., 0, 0], targets.taught_z)
    np.testing.assert_array_equal(targets.taught_weight, 2.0 * targets.taught_z)


def test_rehearsing_with_an_oracle_teaches_the_corridor():
    """From two aimless episodes and the true dynamics the student learns to walk to the end."""
    trace = lambda *o: Trace(np.array(o), np.array([0] * (len(o) - 1)), np.zeros(len(o) - 1), 0, 1)
    log = [trace(0, 0, 0), trace(3, 2, 1, 0)]
    replay = make_replay(log, Features(Discrete(SIZE)), Features(Discrete(2)), HEAD)
    config = DistillConfig(learning_rate=0.02, minibatches=2, width=8)
    walks = RehearseConfig(iterations=40, dreams=16, horizon=8, taught=32)
    teach = make_teacher(ORACLE, HEAD, SearchConfig(teacher="one_step"), DISCOUNT)
    rehearse = make_rehearse(ORACLE, HEAD, teach, walks, discount=DISCOUNT, penalty=0.0)
    practise: Any = make_distill(ORACLE, HEAD, rehearse, config, walks.iterations, chunk=10)
    student = init_student(KEY, SIZE, 2, config.width, np.zeros(SIZE), np.ones(SIZE))
    optimiser = distill_optimiser(config, walks.iterations)
    first = contexts(replay, jnp.zeros(16, int), 1)
    nowhere = Walks(first, jnp.zeros(16, bool))
    state = init_distill(ORACLE, ORACLE.params, student, optimiser, nowhere, KEY)
    programs = []
    for calls in (1, 2, 3, 4):
        state, metrics = practise(state, ORACLE.params, replay, None)
        assert int(state.iterations) == 10 * calls
        programs.append(practise._cache_size())
    assert programs[1:] == programs[1:2] * 3 and programs[1] <= 2  # devices may change once
    pi = jax.nn.softmax(student_logits(state.student, everywhere()))
    assert (pi[:4, 1] > 0.9).all()
    assert metrics["distill/student_loss"] < 0.1 and metrics["rehearse/search_gain"] < 0.05
    np.testing.assert_array_equal(state.student["scale"]["o_std"], 1)  # normalisers stay
