"""Features invert, values stay inside their spaces, and what is not supported is named."""

from typing import Any

import jax
import numpy as np
import pytest
from gymnasium.spaces import (
    Box,
    Dict,
    Discrete,
    Graph,
    MultiBinary,
    MultiDiscrete,
    OneOf,
    Sequence,
    Text,
    Tuple,
)
from hypothesis import given
from hypothesis import strategies as st

from envs.types import Features, SpaceError, action_features

NESTED = Dict(
    z=Box(-1, 1, (2, 1), np.float32),
    a=Tuple([Discrete(2, start=5), MultiBinary(3), Dict(m=MultiDiscrete(np.array([[2, 3]])))]),
)
ROWS: Any = {
    "z": np.array([[[0.5], [-1]], [[0.25], [1]]], np.float32),
    "a": (
        np.array([6, 5]),
        np.array([[1, 0, 1], [0, 0, 1]]),
        {"m": np.array([[[1, 2]], [[0, 0]]])},
    ),
}


def same(left, right):
    """Equal structures, dtypes and bits."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for x, y in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        np.testing.assert_array_equal(x, y)
    return True


def test_a_nested_space_lies_end_to_end_in_the_order_of_its_keys():
    features = Features(NESTED)
    parts = ("categorical", 2), ("binary", 3), ("categorical", 2), ("categorical", 3), ("box", 2)
    assert features.parts == parts
    assert (features.size, features.kind, features.factors) == (12, "mixed", (2, 2, 3))
    assert features.is_box.tolist() == [False] * 10 + [True] * 2
    assert features.flatten(ROWS).tolist() == [
        [0, 1, 1, 0, 1, 0, 1, 0, 0, 1, 0.5, -1],
        [1, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0.25, 1],
    ]
    assert features.flatten(ROWS).dtype == np.float32


def test_the_order_of_keys_in_a_space_does_not_matter():
    one = Dict([("b", Box(0, 1, (1,))), ("a", Discrete(2))])
    assert list(one.spaces) == ["b", "a"] and Features(one).parts[0] == ("categorical", 2)


def test_kinds():
    kind = lambda space: Features(space).kind
    assert kind(Discrete(3)) == kind(Dict(a=Discrete(3))) == "discrete"
    assert kind(Box(0, 1, ())) == kind(Tuple([Box(0, 1, (2,)), Box(0, 9, (3,))])) == "box"
    assert kind(MultiDiscrete([2, 2])) == kind(MultiBinary(1)) == kind(NESTED) == "mixed"


def test_spaces_that_mean_the_same_share_their_layout():
    layout = lambda space: Features(space).layout
    assert layout(Box(-1, 1, (2,))) == layout(Box(-np.inf, 9, (2,), np.float64))
    assert layout(Discrete(3)) != layout(Discrete(3, start=1)) != layout(Discrete(4, start=1))
    assert layout(Discrete(3)) != layout(MultiDiscrete([3])) != layout(Dict(a=Discrete(3)))
    assert layout(Dict(a=Discrete(3))) != layout(Dict(b=Discrete(3)))
    both = Dict(a=Discrete(3), b=Box(0, 1, (1,)))
    assert layout(both) == layout(Dict([("b", Box(0, 1, (1,))), ("a", Discrete(3))]))


def test_the_nearest_value_is_taken():
    nearest = lambda space, *x: Features(space).unflatten(np.array([x], np.float32)).tolist()
    assert nearest(Box(0, 9, (2,), np.int64), -3.0, 8.6) == [[0, 9]]
    assert nearest(Discrete(3, start=5), 0.1, 0.2, 0.15) == [6]
    assert nearest(MultiBinary(3), 0.4, 0.6, -7) == [[0, 1, 0]]
    assert nearest(MultiDiscrete([2, 3], start=[0, 4]), 2, 1, 0, 0, 0.1) == [[0, 6]]
    ends = Box(-(2**63), 2**63 - 1, (2,), np.int64)
    assert nearest(ends, -1e30, 1e30) == [[-(2**63), 2**63 - 1]]


shapes = st.lists(st.integers(1, 3), max_size=2).map(tuple)
boxes = st.builds(
    lambda shape, dtype: Box(
        *{"f": (-3, 5), "i": (-9, 99), "u": (0, 255)}[np.dtype(dtype).kind], shape, dtype
    ),
    shapes,
    st.sampled_from([np.float32, np.float64, np.uint8, np.int16, np.int64]),
)
multi_discretes = st.builds(
    lambda n, start: MultiDiscrete(np.array(n), start=np.full(len(n), start)),
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.integers(-2, 2),
)
plain = st.one_of(
    boxes,
    st.builds(lambda n, start: Discrete(n, start=start), st.integers(1, 6), st.integers(-3, 3)),
    st.builds(MultiBinary, st.one_of(st.integers(1, 4), st.lists(st.integers(1, 3), min_size=1))),
    multi_discretes,
)


def nested(inner: Any) -> Any:
    """Dict and Tuple of spaces."""
    names = st.sampled_from("abcd")
    dicts = st.dictionaries(names, inner, min_size=1, max_size=3).map(Dict)
    return dicts | st.lists(inner, min_size=1, max_size=3).map(Tuple)


spaces = plain | nested(plain) | nested(plain | nested(plain))


def samples(space, num=4) -> Any:
    """Values of a space; numbers that a float32 holds."""
    space.seed(0)
    out = [space.sample() for _ in range(num)]
    short = lambda x: x.astype(np.float32).astype(x.dtype) if x.dtype.kind == "f" else x
    return [jax.tree.map(lambda x: short(np.asarray(x)), value) for value in out]


@given(spaces)
def test_features_invert(space):
    features, values = Features(space), samples(space)
    batch = features.stack(values)
    flat = features.flatten(batch)
    assert flat.shape == (4, features.size) and flat.dtype == np.float32
    assert same(features.unflatten(flat), batch)
    assert len(features.is_box) == features.size == sum(size for _, size in features.parts)
    ones = [i for i, (kind, _) in enumerate(features.parts) if kind == "categorical"]
    groups = np.split(flat, np.cumsum([size for _, size in features.parts])[:-1], axis=1)
    assert all((groups[i].sum(1) == 1).all() for i in ones)
    deep = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), batch)
    np.testing.assert_array_equal(features.flatten(deep), flat.reshape(2, 2, -1))
    assert same(features.unflatten(flat.reshape(2, 2, -1)), deep)
    for i, value in enumerate(values):
        assert space.contains(features.row(batch, i))
        assert same(jax.tree.map(np.asarray, features.row(batch, i)), features.copy(value))


@given(spaces, st.integers(0, 2**32 - 1))
def test_any_vector_is_brought_into_the_space(space, seed):
    features = Features(space)
    x = np.random.default_rng(seed).normal(scale=30, size=(3, features.size))
    values = features.unflatten(x.astype(np.float32))
    for i in range(3):
        assert space.contains(features.row(values, i))
    assert same(features.unflatten(features.flatten(values)), values)  # and stays there


# Actions


def test_actions_in_numbers_are_scaled_to_their_bounds():
    low, high = [-2.0, -np.inf, 0, 3], [6.0, 1, np.inf, 3]
    features = action_features(Box(np.array(low, np.float32), np.array(high, np.float32)))
    a = np.array([[-2, 0.5, 7, 3], [6, -9, 0, 3], [2, 1, 1, 3]], np.float32)
    expected = [[-1, 0.5, 7, 0], [1, -9, 0, 0], [0, 1, 1, 0]]
    assert features.flatten(a).tolist() == expected
    np.testing.assert_array_equal(features.unflatten(features.flatten(a)), a)
    assert (features.kind, features.size, features.factors) == ("box", 4, ())
    beyond = features.unflatten(np.array([[-3, 5, -5, 9]], np.float32))
    assert beyond.tolist() == [[-2, 1, 0, 3]] and beyond.dtype == np.float32
    assert features.flatten(np.array([[-8, 5, -5, 9]])).tolist() == [[-1, 1, 0, 0]]


def test_factors_of_actions():
    features = action_features(MultiDiscrete([2, 3], start=[0, 4]))
    assert (features.kind, features.size, features.factors) == ("multidiscrete", 5, (2, 3))
    assert features.flatten(np.array([[1, 4]])).tolist() == [[0, 1, 1, 0, 0]]
    bits = action_features(MultiBinary([2, 1]))
    assert (bits.kind, bits.factors) == ("multidiscrete", (2, 2))
    assert bits.flatten(np.array([[[1], [0]]])).tolist() == [[0, 1, 1, 0]]
    back = bits.unflatten(np.array([[0, 1, 1, 0]]))
    assert back.tolist() == [[[1], [0]]] and back.dtype == np.int8
    one = action_features(Discrete(3, start=-1))
    assert (one.kind, one.factors) == ("discrete", (3,))
    assert one.unflatten(one.flatten(np.array([-1, 1]))).tolist() == [-1, 1]


floats = boxes.filter(lambda space: np.dtype(space.dtype).kind == "f")
actions = st.one_of(floats, plain.filter(lambda space: not isinstance(space, Box)))


@given(actions)
def test_actions_invert(space):
    features = action_features(space)
    a = features.stack(samples(space))
    flat = features.flatten(a)
    assert flat.dtype == np.float32 and (abs(flat) <= 1).all()
    back = features.unflatten(flat)
    assert back.dtype == space.dtype and all(
        space.contains(features.row(back, i)) for i in range(4)
    )
    np.testing.assert_allclose(back, a, atol=1e-6)
    if features.kind != "box":
        assert same(back, a) and sum(features.factors) == features.size


# What is refused


@pytest.mark.parametrize(
    "space",
    [Text(3), Sequence(Discrete(2)), OneOf([Discrete(2)]), Graph(Discrete(2), None)],
    ids=str,
)
def test_an_unsupported_space_is_named_with_what_is_supported(space):
    for whole, name in [(space, "observation"), (Dict(a=Tuple([space])), r"observation\.a\.0")]:
        with pytest.raises(SpaceError, match=f"^{name} space .* supported are Box, Disc") as caught:
            Features(whole)
        assert "\n" not in str(caught.value)
    for each in (space, Tuple([Discrete(2)]), Dict(a=Discrete(2)), Box(0, 9, (1,), np.int64)):
        with pytest.raises(SpaceError, match="^action space .* supported are Disc.*floats"):
            action_features(each)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (Box(0, 1, (0,)), "is empty"),
        (Dict({}), "is empty"),
        (Dict({3: Discrete(2)}), "has the key 3; keys must be text"),  # pyright: ignore
    ],
)
def test_spaces_without_content_or_names_are_refused(space, words):
    with pytest.raises(SpaceError, match=words):
        Features(space)


@pytest.mark.parametrize(
    ("space", "value", "words"),
    [
        (Discrete(3), [0, 3], r"observation 3 lies outside Discrete\(3\)"),
        (Discrete(3), [-1], "observation -1 lies outside"),
        (MultiDiscrete([2, 2]), [[0, 1], [2, 0]], r"observation \[2 0\] lies outside"),
        (Box(0, 1, (2,)), np.zeros((4, 3)), r"shape \(4, 3\), expected rows of shape \(2,\)"),
        (Dict(a=Discrete(2)), {"b": [0]}, "a dict with the keys b, expected the keys a"),
        (Dict(a=Discrete(2)), np.zeros(1), "a value of shape .1,., expected the keys a"),
        (Tuple([Discrete(2)]), ([0], [0]), "a tuple of 2, expected a tuple of 1"),
        (Tuple([Discrete(2)]), {"a": [0]}, "a dict with the keys a, expected a tuple of 1"),
        (Discrete(2), {"a": [0]}, r"a dict with the keys a, expected a value of Discrete\(2\)"),
        (Dict(a=Dict(b=Discrete(2))), {"a": {"b": [7]}}, "observation.a.b 7 lies outside"),
    ],
)
def test_values_of_another_space_are_named(space, value, words):
    with pytest.raises(SpaceError, match=words) as caught:
        Features(space).flatten(value)
    assert "\n" not in str(caught.value)
