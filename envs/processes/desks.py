"""A family of desks: the same work everywhere, by rules that each deployment keeps to itself.

An item has a vendor, a department, an amount, marks (duplicate, purchase order, asked before), the
desk it lies on, and the bits of a client code that mean nothing. The four decisions grow stricter:
approve, ask for the purchase order, escalate, reject. Which one is right follows on the invoice
desk from a latent rule, different in every deployment; on the desks for travel and contracts from
rules that are the same everywhere. `right` is the oracle, `bits` says how much a rule holds.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

APPROVE, ASK, ESCALATE, REJECT = range(4)
NUM_ACTIONS = 4
DESKS = ("invoice", "travel", "contracts")
OUTCOMES = ("right", "too lax", "too strict")
VENDOR, DEPARTMENT, AMOUNT, DUPLICATE, ORDER, ASKED, DESK = range(7)  # columns of an item
BLOCKED, NEEDS_ORDER, IS_DUPLICATE, HAS_ORDER, ARRIVES = 0.3, 0.5, 0.15, 0.5, 0.8
STRICT = (ESCALATE, REJECT)  # how a blocked vendor, or an amount above a limit, may be treated
REPEATED = (APPROVE, ESCALATE, REJECT)  # how a duplicate may be


@dataclass(frozen=True)
class Sizes:
    """How many values each factor of an item has. `detailed` rules treat duplicates and large
    amounts differently in each department; else duplicates alike, and large amounts escalate."""

    vendors: int = 6
    departments: int = 4
    amounts: int = 5
    code_bits: int = 6
    detailed: bool = False

    @property
    def factors(self) -> tuple[int, ...]:
        """The number of values of each column of an item."""
        own = (self.vendors, self.departments, self.amounts, 2, 2, 2, len(DESKS))
        return own + (2,) * self.code_bits


LARGE = Sizes(vendors=12, departments=8, detailed=True)  # a rule of more than 60 bits


@dataclass(frozen=True)
class Rule:
    """What is right on a desk: per vendor, and per department."""

    blocked: np.ndarray  # bool [vendors]
    treatment: np.ndarray  # [vendors], of STRICT, where blocked
    needs_order: np.ndarray  # bool [departments]
    limit: np.ndarray  # [departments], in 1..amounts: amounts from here on are large
    above: np.ndarray  # [departments], of STRICT, for large amounts
    duplicate: np.ndarray  # [departments], of REPEATED


def draw_rule(random: np.random.Generator, sizes: Sizes) -> Rule:
    """A rule, every part of it drawn by itself."""
    vendors, departments = sizes.vendors, sizes.departments
    groups = departments if sizes.detailed else 1
    above = random.choice(STRICT, departments) if sizes.detailed else np.full(departments, ESCALATE)
    return Rule(
        blocked=random.random(vendors) < BLOCKED,
        treatment=random.choice(STRICT, vendors),
        needs_order=random.random(departments) < NEEDS_ORDER,
        limit=random.integers(1, sizes.amounts + 1, departments),
        above=above,
        duplicate=np.resize(random.choice(REPEATED, groups), departments),
    )


def bits(sizes: Sizes) -> float:
    """The entropy of a latent rule in bits."""
    coin = -(BLOCKED * math.log2(BLOCKED) + (1 - BLOCKED) * math.log2(1 - BLOCKED))
    vendor = coin + BLOCKED * math.log2(len(STRICT))
    department = 1 + math.log2(sizes.amounts) + (math.log2(len(STRICT)) if sizes.detailed else 0)
    groups = sizes.departments if sizes.detailed else 1
    return (
        sizes.vendors * vendor + sizes.departments * department + groups * math.log2(len(REPEATED))
    )


def desk_rules(number: int, sizes: Sizes) -> tuple[Rule, ...]:
    """The rule of each desk in deployment `number`: only that for invoices depends on it."""
    own = draw_rule(np.random.default_rng([number, 1]), sizes)
    return (own, *(draw_rule(np.random.default_rng([desk, 2]), sizes) for desk in (1, 2)))


def right(rule: Rule, items: Int[np.ndarray, "*B F"]) -> Int[np.ndarray, "*B"]:
    """The right decision on each item. What stands first wins: a blocked vendor, a duplicate, a
    large amount, a missing order (ask once, then escalate); the rest is approved."""
    vendor, department = items[..., VENDOR], items[..., DEPARTMENT]
    lacks = rule.needs_order[department] & (items[..., ORDER] == 0)
    cases = [
        (rule.blocked[vendor], rule.treatment[vendor]),
        (items[..., DUPLICATE] == 1, rule.duplicate[department]),
        (items[..., AMOUNT] >= rule.limit[department], rule.above[department]),
        (lacks, np.where(items[..., ASKED] == 1, ESCALATE, ASK)),
    ]
    return np.select([case for case, _ in cases], [answer for _, answer in cases], APPROVE)


def decide_right(rules: tuple[Rule, ...], items: Int[np.ndarray, "*B F"]) -> Int[np.ndarray, "*B"]:
    """The right decision on items of any desk."""
    answers = np.stack([right(rule, items) for rule in rules])
    return np.take_along_axis(answers, items[None, ..., DESK], 0)[0]


def draw_items(
    random: np.random.Generator, sizes: Sizes, count: int, desk: int
) -> Int[np.ndarray, "N F"]:
    """Fresh items on a desk."""
    items = random.integers(0, sizes.factors, (count, len(sizes.factors)))
    items[:, DUPLICATE] = random.random(count) < IS_DUPLICATE
    items[:, ORDER] = random.random(count) < HAS_ORDER
    items[:, ASKED], items[:, DESK] = 0, desk
    return items


def all_items(sizes: Sizes, desk: int) -> tuple[Int[np.ndarray, "N F"], Float[np.ndarray, " N"]]:
    """(every fresh item of a desk, how probable it is)."""
    factors = list(sizes.factors)
    factors[ASKED], factors[DESK] = 1, 1
    items = np.indices(factors).reshape(len(factors), -1).T
    items[:, DESK] = desk
    chance = np.ones(len(items)) / np.prod([f for i, f in enumerate(factors) if i not in (3, 4)])
    chance *= np.where(items[:, DUPLICATE] == 1, IS_DUPLICATE, 1 - IS_DUPLICATE)
    chance *= np.where(items[:, ORDER] == 1, HAS_ORDER, 1 - HAS_ORDER)
    return items, chance
