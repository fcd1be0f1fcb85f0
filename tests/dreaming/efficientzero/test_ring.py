"""The ring against a plain list of episodes; draws against the probabilities they should have."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreaming.efficientzero.ring import add, age, can_start, cut, draw, init_ring, stacks
from dreaming.efficientzero.types import Tick

ENVS, CAPACITY, WINDOW, LENGTH = 3, 36, 3, 5
write = jax.jit(add)


class Episodes:
    """What the ring should hold: every row of every environment, oldest first."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.rows = [[] for _ in range(ENVS)]  # of (frame, r, ended, has_step, elapsed)

    def tick(self):
        """The rows of one tick, as a host would give them."""
        for lane in self.rows:
            over = bool(lane) and lane[-1]["how"] != "goes on"
            begins = not lane or not lane[-1]["has_step"]
            how = self.random.choice(["goes on", "terminated", "truncated"], p=[0.7, 0.2, 0.1])
            how = "no step" if over and lane[-1]["has_step"] else str(how)
            lane.append(
                {
                    "frame": int(self.random.integers(256)),
                    "r": float(self.random.normal()),
                    "how": how,
                    "has_step": how != "no step",
                    "elapsed": 0 if begins else lane[-1]["elapsed"] + 1,
                }
            )
        newest = [lane[-1] for lane in self.rows]
        column = lambda name: np.array([row[name] for row in newest])
        return Tick(
            o=column("frame").astype(np.uint8).reshape(ENVS, 1, 1, 1),
            a=np.arange(ENVS, dtype=np.int32),
            r=column("r").astype(np.float32),
            terminated=column("how") == "terminated",
            truncated=column("how") == "truncated",
            pi_search=np.full((ENVS, 2), 0.5, np.float32),
            v_search=np.zeros(ENVS, np.float32),
            v=np.zeros(ENVS, np.float32),
        )


@pytest.fixture(scope="module", params=[7, 12, 29])
def both(request):
    """(ring, episodes) after so many ticks: half full, just full, overwritten more than once."""
    episodes = Episodes(request.param)
    ring = init_ring(CAPACITY, ENVS, (1, 1, 1), 2)
    for _ in range(request.param):
        ring = write(ring, episodes.tick())
    return ring, episodes


def places(episodes):
    """(slot, lane, index) of every row that is still in the ring."""
    ticks = len(episodes.rows[0])
    for index in range(max(0, ticks - CAPACITY // ENVS), ticks):
        for lane in range(ENVS):
            yield (index * ENVS + lane) % CAPACITY, lane, index


def test_stacks_never_cross_episodes_and_repeat_the_first_frame(both):
    ring, episodes = both
    seen = np.asarray(stacks(ring, jnp.arange(CAPACITY), ENVS, WINDOW)).reshape(CAPACITY, WINDOW)
    oldest = max(0, len(episodes.rows[0]) - CAPACITY // ENVS)
    for slot, lane, index in places(episodes):
        first = max(index - episodes.rows[lane][index]["elapsed"], oldest)
        at = [max(index - back, first) for back in range(WINDOW - 1, -1, -1)]
        assert seen[slot].tolist() == [episodes.rows[lane][i]["frame"] for i in at]


def test_windows_start_where_everything_is_known(both):
    ring, episodes = both
    allowed = np.asarray(can_start(ring, ENVS, WINDOW))
    oldest = max(0, len(episodes.rows[0]) - CAPACITY // ENVS)
    expected = np.zeros(CAPACITY, bool)
    for slot, lane, index in places(episodes):
        row = episodes.rows[lane][index]
        whole = index - min(row["elapsed"], WINDOW - 1) >= oldest
        expected[slot] = row["has_step"] and index + 1 < len(episodes.rows[lane]) and whole
    np.testing.assert_array_equal(allowed, expected)
    assert expected.any()


def test_windows_are_the_rows_of_one_episode_and_then_absorbing_or_unknown(both):
    ring, episodes = both
    found = jax.tree.map(np.asarray, cut(ring, jnp.arange(CAPACITY), ENVS, LENGTH))
    for slot, lane, index in places(episodes):
        rows, real, absorbing = episodes.rows[lane], True, False
        for k in range(LENGTH):
            assert found.is_real_o[slot, k] == real and found.is_absorbing[slot, k] == absorbing
            assert found.slots[slot, k] == (index * ENVS + lane) % CAPACITY
            if k == LENGTH - 1:
                break
            row = rows[index]
            real = real and row["has_step"] and index + 1 < len(rows)
            assert found.is_real_step[slot, k] == real
            assert found.r[slot, k] == (np.float32(row["r"]) if real else 0)
            ended = real and row["how"] == "terminated"
            assert found.terminated[slot, k] == ended
            absorbing = absorbing or ended
            index += real
    assert found.is_absorbing.any() and not found.is_real_o.all()


def test_rows_are_counted_and_numbered(both):
    ring, episodes = both
    ticks = len(episodes.rows[0])
    assert ring.added == ticks * ENVS
    newest = (jnp.arange(ENVS) + (ticks - 1) * ENVS) % CAPACITY
    assert age(ring, newest).tolist() == [2, 1, 0]
    for lane in range(ENVS):
        number = sum(row["elapsed"] == 0 for row in episodes.rows[lane])
        assert ring.episode[newest[lane]] == number
        assert ring.elapsed[newest[lane]] == episodes.rows[lane][-1]["elapsed"]


def flat_ring(priority):
    """One environment that never ends, of one row more than there are priorities."""
    ring = init_ring(len(priority) + 1, 1, (1, 1, 1), 2)
    one = jnp.zeros(1)
    o, a = jnp.zeros((1, 1, 1, 1), jnp.uint8), jnp.zeros(1, jnp.int32)
    blank = Tick(o, a, one, one > 0, one > 0, jnp.zeros((1, 2)), one, one)
    for _ in range(len(priority) + 1):
        ring = write(ring, blank)
    return ring.replace(priority=jnp.append(jnp.asarray(priority), 7.0))


def test_draws_are_as_likely_as_their_priorities_say_and_all_different():
    ring, alpha, beta = flat_ring([1.0, 2.0, 3.0, 0.5]), 0.6, 0.4
    one = functools.partial(draw, batch=3, envs=1, window=1, alpha=alpha, beta=beta)
    slots, weights = jax.jit(jax.vmap(lambda key: one(ring, key)))(
        jax.random.split(jax.random.key(0), 20_000)
    )
    slots, weights = np.asarray(slots), np.asarray(weights)
    p = np.array([1.0, 2.0, 3.0, 0.5]) ** alpha
    p /= p.sum()
    first = np.bincount(slots[:, 0], minlength=4) / len(slots)
    np.testing.assert_allclose(first, p, atol=5 * 0.5 / np.sqrt(len(slots)))
    # Without replacement: given the first, the second is drawn from what is left.
    after = slots[slots[:, 0] == 2, 1]
    left = np.where(np.arange(4) == 2, 0, p)
    second = np.bincount(after, minlength=4) / len(after)
    np.testing.assert_allclose(second, left / left.sum(), atol=5 * 0.5 / np.sqrt(len(after)))
    assert all(len(set(row)) == 3 for row in slots[:500].tolist())
    # (M p) ** -beta over the greatest of the batch.
    by_hand = (4 * p[slots[:500]]) ** -beta
    np.testing.assert_allclose(weights[:500], by_hand / by_hand.max(1, keepdims=True), rtol=1e-4)


def test_rows_that_cannot_start_are_never_drawn():
    ring = flat_ring([1.0, 1.0])  # the newest of the three rows has the highest priority
    slots, weights = draw(ring, jax.random.key(1), 3, envs=1, window=1, alpha=1.0, beta=1.0)
    assert sorted(slots[:2].tolist()) == [0, 1]
    np.testing.assert_allclose(weights, [1, 1, 0])


def test_new_rows_enter_at_the_greatest_priority_of_now():
    episodes, ring = Episodes(0), init_ring(CAPACITY, ENVS, (1, 1, 1), 2)
    ring = write(ring, episodes.tick())
    assert ring.priority[:4].tolist() == [1, 1, 1, 0]
    ring = write(ring.replace(priority=ring.priority.at[1].set(5.0)), episodes.tick())
    assert ring.priority[:7].tolist() == [1, 5, 1, 5, 5, 5, 0]
    ring = ring.replace(priority=0.1 * ring.priority)  # all have become known: not 5 for ever
    ring = write(ring, episodes.tick())
    np.testing.assert_allclose(ring.priority[6:9], 0.5)


def test_what_cannot_be_stored_is_refused():
    with pytest.raises(ValueError, match="capacity=10 must be a multiple of envs=3"):
        init_ring(10, 3, (1, 1, 1), 2)
    rows = Episodes(0).tick().replace(o=np.zeros((ENVS, 2, 1, 1), np.uint8))
    with pytest.raises(ValueError, match=r"shape \(2, 1, 1\), expected \(1, 1, 1\)"):
        add(init_ring(CAPACITY, ENVS, (1, 1, 1), 2), rows)
