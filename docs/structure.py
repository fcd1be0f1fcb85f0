"""Draw docs/structure.svg: packages, their folders and files, and who imports whom.

`python docs/structure.py` writes it; with `check` it fails if the file is not up to date. Every
package is a staircase: an arrow leaves a room on the right and falls onto the step it imports.
"""

import ast
import sys
import textwrap
from collections import Counter
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "structure.svg"
FLOORS = (("experiments",), ("dreaming",), ("envs", "worldmodels"))  # imports point downwards
ABOUT = {"doors": "files of {}/ that use its folders", "ground": "files of {}/ that use no folder"}
LEGEND = "Arrows lead to what is imported: the thicker, the more imports; grey ones to a ground."
WIDTH, EDGE, SHAFT, PAD = 1100, 20, 64, 12  # shafts: where arrows pass the floor in between
STOREY, GAP, LINE, LANE = 44, 10, 15, 12  # between floors, rooms, lines of text, arrows
PROSE, MONO = 6.6, 6.8  # how wide a letter of a sentence and of a file name may be
STYLE = """svg { --paper: #fff; --house: #f3f5f8; --rim: #ccd2da; --ink: #1c2128; --dim: #57606a;
  --ground: #a3acb8; --experiments: #8250df; --dreaming: #0969da; --envs: #1a7f37;
  --worldmodels: #bc4c00 }
@media (prefers-color-scheme: dark) { svg { --paper: #0d1117; --house: #161b22; --rim: #3d444d;
  --ink: #e6edf3; --dim: #9198a1; --ground: #5b6470; --experiments: #ab7df8; --dreaming: #4493f8;
  --envs: #3fb950; --worldmodels: #f0883e } }
text { font: 12px system-ui, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif; fill: var(--dim) }
text { white-space: pre } tspan { font-weight: 600; fill: var(--ink) } .package { font-size: 17px }
.files { font: 11px ui-monospace, 'SF Mono', Menlo, Consolas, monospace }"""

Graph = dict[str, set[str]]  # module -> modules it imports anywhere, in functions too


def product() -> dict[str, str]:
    """Module -> source, of everything but the tests."""
    found = {}
    packages = [ROOT / name for floor in FLOORS for name in floor]
    for path in (path for package in packages for path in package.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text("utf-8")
    return found


def imports(source: str, modules: set[str]) -> set[str]:
    """Which of these modules a source imports, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            base = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            names = {base + alias.name for alias in node.names}
            found |= {name if name in modules else name.rpartition(".")[0] for name in names}
    return found & modules


def rooms(package: str, graph: Graph) -> dict[str, str]:
    """Module -> its room: a folder; "doors" for files that use folders; "ground" for the others.

    A file between folders, that one uses and that uses another, is a room of its own.
    """
    home = {name: (name.split(".") + [""])[1] for name in graph if name.split(".")[0] == package}
    folders = {room for name, room in home.items() if name.count(".") > 1}
    known: Graph = {}

    def below(name: str) -> set[str]:
        """The folders and files of the package that a module imports, directly or not."""
        if name not in known:
            others = graph[name] & set(home)
            known[name] = {home[other] for other in others}.union(*map(below, others))
        return known[name]

    used = set().union(*(below(name) for name, room in home.items() if room in folders))
    label = {name: f"{room}.py" if room in used else "doors" for name, room in home.items()}
    label |= {name: "ground" for name in home if not below(name) & folders}
    return label | {name: f"{room}/" for name, room in home.items() if room in folders}


def about(package: str, room: str, sources: dict[str, str]) -> str:
    """What a room is for; with the room "" what a package is for."""
    if room in ABOUT:
        return ABOUT[room].format(package)
    source = sources.get(f"{package}.{room.removesuffix('.py')}".strip("./"), "")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def files(names: list[str], sources: dict[str, str]) -> list[str]:
    """File names of modules; an `__init__` counts if there is more in it than a docstring."""
    folders = {name for name in names if any(other.startswith(f"{name}.") for other in sources)}
    doors = {"__init__.py" for name in folders if len(ast.parse(sources[name]).body) > 1}
    return sorted(doors | {f"{name.rpartition('.')[2]}.py" for name in set(names) - folders})


def text(x: int, y: int, width: int, name: str, says: str, *, kind="room", listed=()) -> list[str]:
    """Lines of text, the first at (x, y): a name, what it stands for, and a list in columns."""
    indent = " " * (len(name) + 2)
    first, *rest = textwrap.wrap(says, int(width / PROSE), initial_indent=indent) or [""]
    label = f'<tspan class="{kind}">{name}</tspan>  {escape(first.strip())}'
    column = max(map(len, listed), default=0) + 2
    row = max(1, int(width / MONO + 2) // column) * column
    names = textwrap.wrap("".join(one.ljust(column) for one in listed), row)
    lines = [f">{line}" for line in (label, *map(escape, rest))]
    lines += [f' class="files">{line}' for line in names]
    return [
        f'<text x="{x}" y="{y + LINE * at}" xml:space="preserve"{line}</text>'
        for at, line in enumerate(lines)
    ]


def box(x: int, y: int, width: int, height: int, fill: str, rim: str) -> str:
    """A rectangle with its upper left corner at (x, y)."""
    shape = f'x="{x}" y="{y}" width="{width}" height="{height}" rx="6"'
    return f'<rect {shape} fill="var(--{fill})" stroke="var(--{rim})"/>'


def arrow(path: str, x: int, y: int, count: int, ink: str) -> str:
    """A line that goes along `path` and then down to its head at (x, y), for `count` imports."""
    thick = 0.8 + 0.6 * count**0.5
    head = 2.5 + 0.9 * thick
    line = f'fill="none" stroke="var(--{ink})" stroke-width="{thick:.1f}"'
    tip = f"M{x},{y} l{-head:.1f},{-1.6 * head:.1f} h{2 * head:.1f} z"
    return f'<path d="{path} V{y - head:.1f}" {line}/>\n<path d="{tip}" fill="var(--{ink})"/>'


def staircase(
    package: str, sources: dict[str, str], graph: Graph, x: int, y: int, width: int
) -> tuple[list[str], int]:
    """What is in a package whose upper left corner is (x, y), and where it ends below."""
    home = rooms(package, graph)
    count = Counter((home[a], home[b]) for a in home for b in graph[a] if b in home)
    arrows = {(a, b) for a, b in count if a != b}
    level = lambda room: 1 + max((level(b) for a, b in arrows if a == room), default=0)
    order = sorted(set(home.values()), key=lambda room: (-level(room), room == "ground", room))
    right, top, leaves = {}, {}, {}  # of rooms; where arrows leave
    end = x + width - PAD
    for room in reversed(order):
        right[room] = end
        end -= LANE * (1 + sum(b == room for _, b in arrows))
    says = about(package, "", sources)
    drawn = text(x + PAD, y + 24, width - 2 * PAD, f"{package}/", says, kind="package")
    y += 20 + LINE * len(drawn)
    for room in order:
        top[room], wide = y, right[room] - x - PAD
        listed = files([name for name in home if home[name] == room], sources)
        says = about(package, room, sources)
        lines = text(x + 2 * PAD, y + 18, wide - 2 * PAD, room, says, listed=listed)
        targets = [b for b in reversed(order) if (room, b) in arrows]
        high = max(12 + LINE * len(lines), 9 * (len(targets) + 1))
        leaves |= {(room, b): y + high * k // (len(targets) + 1) for k, b in enumerate(targets, 1)}
        drawn += [box(x + PAD, y, wide, high, "paper", "rim"), *lines]
        y += high + GAP
    for b in order:
        ink = "ground" if b == "ground" else package
        for lane, a in enumerate((a for a in order if (a, b) in arrows), 1):
            at = right[b] - LANE * lane
            path = f"M{right[a]},{leaves[a, b]} H{at - 6} q6,0 6,6"
            drawn.append(arrow(path, at, top[b], count[a, b], ink))
    return drawn, y - GAP + PAD


def picture() -> str:
    """The whole house as SVG."""
    sources = product()
    graph = {name: imports(source, set(sources)) for name, source in sources.items()}
    drawn = text(EDGE, 34, WIDTH - 2 * EDGE, "The house", LEGEND, kind="package")
    corners, y = {}, 54
    for floor in FLOORS:
        inset = EDGE if floor in (FLOORS[0], FLOORS[-1]) else EDGE + SHAFT
        wide = (WIDTH - 2 * inset - EDGE * (len(floor) - 1)) // len(floor)
        lefts = {name: inset + (wide + EDGE) * place for place, name in enumerate(floor)}
        inner = {name: staircase(name, sources, graph, x, y, wide) for name, x in lefts.items()}
        bottom = max(end for _, end in inner.values())
        for name, x in lefts.items():
            corners[name] = (x, y, x + wide, bottom)
            drawn += [box(x, y, wide, bottom - y, "house", name), *inner[name][0]]
        y = bottom + STOREY
    count = Counter((a.split(".")[0], b.split(".")[0]) for a in graph for b in graph[a])
    for a, b in sorted(pair for pair in count if pair[0] != pair[1]):
        (left_a, _, right_a, start), (left_b, end, right_b, _) = corners[a], corners[b]
        at = (max(left_a, left_b) + min(right_a, right_b)) // 2
        if end - start > STOREY:  # through a shaft
            at = EDGE + SHAFT // 2 if at < WIDTH / 2 else WIDTH - EDGE - SHAFT // 2
        drawn.append(arrow(f"M{at},{start}", at, end, count[a, b], a))
        beside = f'x="{at + 14}"' if at < WIDTH / 2 else f'x="{at - 14}" text-anchor="end"'
        drawn.append(f'<text {beside} y="{end - 18}">{count[a, b]} imports</text>')
    height = y - STOREY + EDGE
    start = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
        f' viewBox="0 0 {WIDTH} {height}">',
        "<title>dreaming: its packages, folders and files, and who imports whom</title>",
        f"<style>\n{STYLE}\n</style>",
        box(0, 0, WIDTH, height, "paper", "paper"),
    ]
    return "\n".join([*start, *drawn, "</svg>\n"])


if __name__ == "__main__":
    if sys.argv[1:] != ["check"]:
        PICTURE.write_text(picture(), "utf-8")
    elif not PICTURE.exists() or PICTURE.read_text("utf-8") != picture():
        sys.exit("docs/structure.svg is not up to date: python docs/structure.py writes it")
