"""Tests that any world model can be put through: `check_world_model(model, params, o)`."""

import dataclasses
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Num

from envs.types import Context
from worldmodels.config import FitConfig
from worldmodels.protocol import ModelError, RowChunk, is_trainable, missing
from worldmodels.types import HeadTargets, Windows

ROWS = 4
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}


def check_world_model(model: Any, params: Any, o: Num[np.ndarray, "N O"]) -> None:
    """Put a model through what dreams, searches, judges and fits rely on.

    `o` are some real observation features; a `Trainable` is checked as one. Raises `AssertionError`
    with one line that says what is wrong.
    """
    lacks = missing(model, is_trainable(model))
    assert not lacks, f"{type(model).__name__} lacks {lacks[0]}"
    assert hash(model) == hash(model), f"{type(model).__name__} must be hashable"
    context = contexts_of(model, o)
    z = model.root(params, context)
    check_states(model, params, z, o.shape[1])
    check_members(model, params, z)
    check_rows(model, params, context)
    check_export(model, params, context)
    check_optional(model, params, z, o)
    if is_trainable(model):
        check_heads(model, params, z)
        check_loss(model, params, o)
        check_adjusted(model)


def contexts_of(model: Any, o: np.ndarray) -> Context:
    """ROWS contexts of these observations, the oldest ones not valid."""
    different = np.unique(o, axis=0)
    assert len(different) > 1, "give observations of which at least two differ"
    rows: Any = np.resize(different, (ROWS, model.window, o.shape[1]))
    valid: Any = np.broadcast_to(np.arange(model.window) >= model.window // 2, rows.shape[:2])
    a: Any = np.zeros((ROWS, model.window - 1, model.action_size), np.float32)
    elapsed: Any = np.maximum(np.arange(model.window) - model.window // 2, 0)
    elapsed = np.broadcast_to(elapsed, rows.shape[:2]).astype(np.int32)
    return jax.tree.map(jnp.asarray, Context(o=rows, a=a, elapsed=elapsed, valid=valid))


def actions_of(model: Any, count: int = ROWS) -> Any:
    """One-hot action features, another in each row."""
    return jax.nn.one_hot(jnp.arange(count) % model.action_size, model.action_size)


def advance(model: Any, params: Any, z: Any) -> tuple[Any, Any, Any]:
    """(logits of the codes, the states after one step, what is said of them): another action and
    another code in each row."""
    logits, y = model.afterstate(params, z, actions_of(model))
    return logits, *model.outcome(params, y, jnp.arange(ROWS, dtype=jnp.int32) % model.num_codes)


def check_states(model: Any, params: Any, z: Any, size: int) -> None:
    """Shapes, ranges, and that a state after a step can be stepped again in a loop."""
    fields = getattr(type(z), "__dataclass_fields__", {})
    assert "member" in fields, "root must return a dataclass that is a pytree, with a field member"
    _shaped("root(...).member", z.member, (ROWS,))
    assert z.member.dtype == jnp.int32, f"member is {z.member.dtype}, expected int32"
    assert (z.member == -1).all(), "root must return member -1, the mean of all"
    logits, after, said = advance(model, params, z)
    _shaped("chance_logits of afterstate", logits, (ROWS, model.num_codes))
    assert not jnp.isnan(logits).any(), "chance_logits of afterstate are NaN"
    for name in ("r", "continuation", "v", "uncertainty"):
        _shaped(f"{name} of outcome", getattr(said, name), (ROWS,))
        assert jnp.isfinite(getattr(said, name)).all(), f"{name} of outcome is not finite"
    within = (said.continuation >= 0) & (said.continuation <= 1)
    assert within.all(), "continuation of outcome must be a probability, in [0, 1]"
    assert (said.uncertainty >= 0).all(), "uncertainty of outcome must be at least 0"
    shape = lambda tree: [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]
    same = jax.tree.structure(after) == jax.tree.structure(z) and shape(after) == shape(z)
    assert same, "outcome must return a state of the same structure and shapes as root"
    found = model.predict(params, after)
    sizes = ((ROWS,), (ROWS, model.num_actions), (ROWS, model.action_size))
    for name, x, axes in zip(("v", "pi_logits", "legal_logits"), found, sizes, strict=True):
        _shaped(f"{name} of predict", x, axes)
        told = f"{name} of outcome differs from what predict says of the state that it leads to"
        _close(getattr(said, name), x, told)
    _shaped("decode", model.decode(params, after), (ROWS, size))
    span = model.value_span(params)
    _shaped("value_span", span, ())
    assert float(span) > 0, f"value_span is {float(span)}, expected a number above 0"


def check_members(model: Any, params: Any, z: Any) -> None:
    """Every member can carry a row on, and does so to the end."""
    for member in range(-1, model.num_members):
        ours = dataclasses.replace(z, member=jnp.full_like(z.member, member))
        _, after, _ = advance(model, params, ours)
        assert (after.member == member).all(), f"outcome forgets the member {member} of a row"


def check_rows(model: Any, params: Any, context: Context) -> None:
    """Rows do not influence each other, and compiling changes nothing."""
    whole = lambda context: advance(model, params, model.root(params, context))
    jitted = jax.jit(whole)
    every = jitted(context)
    for changed, like in ((0, 1), (1, 0)):
        other = jax.tree.map(lambda x, i=changed, j=like: x.at[i].set(x[j]), context)
        found = jitted(other)
        for row in set(range(ROWS)) - {changed}:
            for x, y in zip(jax.tree.leaves(every), jax.tree.leaves(found), strict=True):
                told = f"row {row} changed although only row {changed} of the contexts did"
                _close(x[row], y[row], told)
    plain = whole(context)
    for x, y in zip(jax.tree.leaves(every), jax.tree.leaves(plain), strict=True):
        _close(x, y, "compiled, the model says another thing")


def check_export(model: Any, params: Any, context: Context) -> None:
    """Methods work on a number of rows that is not known yet, as in the programs of a file."""
    (rows,) = jax.export.symbolic_shape("b")
    of = lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype)
    c = jax.ShapeDtypeStruct((rows,), jnp.int32)
    a = jax.ShapeDtypeStruct((rows, model.action_size), jnp.float32)

    def whole(context, a, c):
        logits, y = model.afterstate(params, model.root(params, context), a)
        z, said = model.outcome(params, y, c)
        return logits, said, model.predict(params, z), model.decode(params, z)

    try:
        jax.eval_shape(whole, jax.tree.map(of, context), a, c)
    except Exception as error:  # tracing can fail in any way
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise AssertionError(f"the number of rows must stay open ({what})") from error


def check_optional(model: Any, params: Any, z: Any, o: np.ndarray) -> None:
    """`sample` and `observe`, where a model has them."""
    a = actions_of(model)
    like = [(x.shape, x.dtype) for x in jax.tree.leaves(z)]
    if hasattr(model, "sample"):
        _, y = model.afterstate(params, z, a)
        c, keys = jnp.zeros(ROWS, jnp.int32), jax.random.key_data(jax.random.split(_key(), ROWS))
        one, other = (model.sample(params, y, c, keys) for _ in range(2))
        for x, same in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            assert np.array_equal(x, same), "sample draws from more than its key"
        assert [(x.shape, x.dtype) for x in jax.tree.leaves(one[0])] == like, (
            "sample must return a state of the same shapes as root"
        )
    if hasattr(model, "observe"):
        seen = model.observe(params, z, a, jnp.asarray(np.resize(o, (ROWS, o.shape[1]))))
        assert [(x.shape, x.dtype) for x in jax.tree.leaves(seen)] == like, (
            "observe must return a state of the same shapes as root"
        )


def check_heads(model: Any, params: Any, z: Any) -> None:
    """Heads can be taken out, put back, begun anew and improved."""
    heads = model.heads(params)
    assert set(heads) == {"value", "policy"}, f"heads are {set(heads)}, expected value and policy"
    back = model.with_heads(params, heads)
    same = jax.tree.map(lambda x, y: bool(jnp.array_equal(x, y)), params, back)
    assert jax.tree.all(same), "with_heads(params, heads(params)) must give params again"
    fresh = model.fresh_heads(params, _key())
    assert jax.tree.structure(fresh) == jax.tree.structure(heads), "fresh_heads differ from heads"
    pi = jnp.full((ROWS, model.head.num_candidates), 1.0 / model.head.num_candidates)
    proposals = jnp.broadcast_to(actions_of(model)[:, None], (ROWS, 1, model.action_size))
    if model.head.kind == "box":
        proposals = jnp.broadcast_to(proposals, (*pi.shape, model.action_size))
    one, v = jnp.ones(ROWS), jnp.zeros(ROWS)
    targets = HeadTargets(
        z=z, v=v, weight=one, taught_z=z, pi=pi, proposals=proposals, taught_weight=one
    )
    total = lambda heads: sum(model.heads_loss(model.with_heads(params, heads), targets).values())
    loss, grads = jax.jit(jax.value_and_grad(total))(fresh)
    assert jnp.isfinite(loss), f"heads_loss is {loss}"
    finite = jax.tree.map(lambda x: bool(jnp.isfinite(x).all()), grads)
    assert jax.tree.all(finite), "the gradient of heads_loss is not finite"


def check_loss(model: Any, params: Any, o: np.ndarray) -> None:
    """The loss of windows and its gradient are finite numbers; `measured` keeps the shapes."""
    config = FitConfig(unroll_steps=2, discount=0.99)
    batch = windows_of(model, o, config.unroll_steps + config.td_steps + 1)

    def total(net):
        return model.loss(params | {"net": net}, params, batch, config, _key())

    (loss, metrics), grads = jax.jit(jax.value_and_grad(total, has_aux=True))(params["net"])
    assert jnp.shape(loss) == () and jnp.isfinite(loss), f"loss is {loss}, expected a finite number"
    assert all(jnp.shape(x) == () for x in metrics.values()), "metrics of loss must be numbers"
    finite = jax.tree.map(lambda x: bool(jnp.isfinite(x).all()), grads)
    assert jax.tree.all(finite), "the gradient of loss is not finite"
    bare = {name: params[name] for name in ("net", "scale")}
    measured = model.measured(bare, iter([RowChunk(windows_of(model, o, 2), ROWS)]))
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)
    assert shapes(measured) == shapes(bare), "measured must keep the structure of params"


def windows_of(model: Any, o: np.ndarray, length: int) -> Windows:
    """ROWS windows of an episode that goes through these observations, all of it real."""
    rows, steps = (ROWS, length), (ROWS, length - 1)
    size = o.shape[1]
    a = jnp.broadcast_to(actions_of(model)[:, None], (*steps, model.action_size))
    full = jnp.broadcast_to(actions_of(model)[:, None], (*rows, model.action_size))
    return Windows(
        o=jnp.asarray(np.resize(o, (*rows, model.window, size))),
        a_past=jnp.zeros((*rows, model.window - 1, model.action_size)),
        valid=jnp.ones((*rows, model.window), bool),
        is_real_o=jnp.ones(rows, bool),
        is_absorbing=jnp.zeros(rows, bool),
        a=a,
        r=jnp.zeros(steps),
        terminated=jnp.zeros(steps, bool),
        is_real_step=jnp.ones(steps, bool),
        pi=model.head.target(full),
        has_pi=jnp.ones(rows, bool),
        legal=jnp.ones((*rows, model.action_size), bool),
        member_weights=jnp.ones((ROWS, model.num_members)),
        weight=jnp.ones(ROWS),
    )


def check_adjusted(model: Any) -> None:
    """A more careful model is one of the same kind, or `ModelError` says why there is none."""
    for way in ("pessimism", "behaviour_penalty"):
        try:
            careful = model.adjusted(**{way: 1.0})
        except ModelError as error:
            assert len(str(error).splitlines()) == 1, "a ModelError says what is wrong in one line"
            continue
        assert careful != model, f"adjusted({way}=1.0) must name another program"
        assert model.adjusted(**{way: 1.0}) == careful, "adjusted gives a new program at each call"


def _shaped(name: str, x: Any, shape: tuple[int, ...]) -> None:
    assert jnp.shape(x) == shape, f"{name} has the shape {jnp.shape(x)}, expected {shape}"


def _close(x: Any, y: Any, told: str) -> None:
    assert np.allclose(x, y, **CLOSE), told


def _key() -> jax.Array:
    return jax.random.key(0)
