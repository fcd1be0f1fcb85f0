"""Small arithmetic over columns, parsed into a tree of allowed operations and never run as code."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.types import TraceError

LONGEST = 1000  # characters
DEEPEST = 50  # operations within each other
QUOTED = re.compile(r"`([^`]+)`")  # a column whose name is no identifier

OPERATIONS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


@dataclass(frozen=True)
class Expression:
    """Arithmetic (+ - * / and parentheses) over columns and numbers.

    `parts` are the terms of a sum, as they were written: the expression itself if it is none.
    """

    text: str
    columns: tuple[str, ...]
    parts: tuple[str, ...]
    _tree: ast.expr
    _names: dict[str, str]

    def __call__(self, values: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """(float64 [rows], bool [rows] where something was divided by zero) of columns [rows]."""
        rows = len(next(iter(values.values())))
        by_zero = np.zeros(rows, bool)

        def value(node: ast.expr) -> Any:
            if isinstance(node, ast.Constant):
                return float(node.value)  # type: ignore[arg-type]
            if isinstance(node, ast.Name):
                return np.asarray(values[self._names.get(node.id, node.id)], np.float64)
            if isinstance(node, ast.UnaryOp):
                return OPERATIONS[type(node.op)](value(node.operand))
            assert isinstance(node, ast.BinOp)
            left, right = value(node.left), value(node.right)
            if not isinstance(node.op, ast.Div):
                return OPERATIONS[type(node.op)](left, right)
            zero = np.broadcast_to(np.asarray(right) == 0, rows)
            np.logical_or(by_zero, zero, out=by_zero)
            return left / np.where(zero, 1.0, right)

        with np.errstate(all="ignore"):  # what is not finite is refused with its row, later
            found = np.broadcast_to(np.asarray(value(self._tree), np.float64), rows)
        return found, by_zero


def parse(text: str) -> Expression:
    """The expression in `text`. A name in backticks may hold anything: `net price`.

    Raises `TraceError` for all that is not + - * / over columns and numbers.
    """
    if len(text) > LONGEST:
        raise TraceError(f"expression of {len(text)} characters; at most {LONGEST} are read")
    names: dict[str, str] = {}

    def stand_in(match: re.Match) -> str:
        names[f"_column_{len(names)}"] = match.group(1)
        return f"_column_{len(names) - 1}"

    plain = QUOTED.sub(stand_in, text)
    try:
        tree = ast.parse(plain.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _refusal(text, str(error).split("(")[0].strip()) from error
    columns: dict[str, None] = {}
    _check(tree, text, columns, DEEPEST)
    back = lambda part: re.sub(r"_column_\d+", lambda m: f"`{names[m.group()]}`", ast.unparse(part))
    used = tuple(names.get(name, name) for name in columns)
    if not used:
        raise _refusal(text, "it names no column")
    return Expression(text, used, tuple(back(part) for part in _terms(tree)), tree, names)


def _terms(tree: ast.expr) -> list[ast.expr]:
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Add):
        return [*_terms(tree.left), *_terms(tree.right)]
    return [tree]


def _check(node: ast.expr, text: str, columns: dict[str, None], depth: int) -> None:
    """Raise `TraceError` at the first node that is not allowed; gather the columns."""
    if depth < 0:
        raise _refusal(text, f"it is nested deeper than {DEEPEST}")
    if isinstance(node, ast.Name):
        columns[node.id] = None
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        if abs(node.value) > 1e300:  # type: ignore[operator, arg-type]
            raise _refusal(text, "a number is too large")
    elif isinstance(node, ast.UnaryOp) and type(node.op) in OPERATIONS:
        _check(node.operand, text, columns, depth - 1)
    elif isinstance(node, ast.BinOp) and (
        type(node.op) in OPERATIONS or isinstance(node.op, ast.Div)
    ):
        _check(node.left, text, columns, depth - 1)
        _check(node.right, text, columns, depth - 1)
    else:
        raise _refusal(text, f"{type(node).__name__} is not allowed")


def _refusal(text: str, why: str) -> TraceError:
    shown = " ".join(text.split())[:60]
    return TraceError(
        f"reward {shown!r} is neither a column nor arithmetic over columns ({why}); allowed are "
        "+ - * / ( ), numbers and columns, those with other characters in `backticks`"
    )
