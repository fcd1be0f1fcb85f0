"""Numbers in words."""


def number(x: float) -> str:
    """A number as text: one decimal from 10 on, else three significant digits."""
    return f"{x:.1f}" if abs(x) >= 10 or x == 0 else f"{x:.3g}"


def signed(x: float) -> str:
    """A number with its sign."""
    return ("+" if x >= 0 else "") + number(x)
