"""Blackjack-v1 as a table: cards are drawn from an endless deck, the dealer sticks at 17."""

import functools
import itertools

import numpy as np

from envs.tabular import Table

CARDS = {card: (4 if card == 10 else 1) / 13 for card in range(1, 11)}
FLAG = (False, True)


def _points(total: int, ace: bool) -> int:
    """The sum of a hand whose aces count one in `total`."""
    return total + 10 * (ace and total <= 11)


@functools.cache
def _dealt(total: int, ace: bool) -> np.ndarray:
    """Probability [22] of each final score of the dealer; 0 is a bust."""
    points = _points(total, ace)
    if points >= 17:
        return np.eye(22)[points if points <= 21 else 0]
    after = [p * _dealt(total + card, ace or card == 1) for card, p in CARDS.items()]
    return np.sum(after, axis=0)


def _row(total: int, ace: bool, two: bool, card: int) -> int:
    """The number of a state of Blackjack."""
    return (total - 2) * 40 + ace * 20 + two * 10 + card - 1


def blackjack() -> Table:
    """Blackjack-v1: 0 sticks, 1 hits. State = (total, ace, no more than two cards, dealer's card).

    Two cards tell a natural, which beats all but another natural.
    """
    p, r, ends = np.zeros((3, 800, 2, 800))
    start = np.zeros(800)
    for total, ace, two, card in itertools.product(range(2, 22), FLAG, FLAG, CARDS):
        s, points = _row(total, ace, two, card), _points(total, ace)
        dealer = _dealt(card, card == 1)
        p[s, 0, s] = ends[s, 0, s] = 1
        r[s, 0, s] = dealer[:points].sum() - dealer[points + 1 :].sum()
        if ace and two and total == 11:
            r[s, 0, s] = 1 - {1: CARDS[10], 10: CARDS[1]}.get(card, 0)
        for drawn, chance in CARDS.items():
            bust = total + drawn > 21
            n = s if bust else _row(total + drawn, ace or drawn == 1, False, card)
            p[s, 1, n] += chance
            r[s, 1, n], ends[s, 1, n] = -1.0 * bust, bust
    for (one, x), (other, y), (card, z) in itertools.product(CARDS.items(), repeat=3):
        start[_row(one + other, 1 in (one, other), True, card)] += x * y * z
    return Table(p, r, ends, start)
