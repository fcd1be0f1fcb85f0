"""The HTML page of a report: its style and its building blocks."""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.pages.plots import number

STYLE = """
:root{--paper:#fff;--ink:#181b20;--muted:#667080;--rule:#e3e6ea;--wash:#f6f7f9;--accent:#1f55c4;
--on-accent:#fff;--good:#2e9e5b;--fair:#d98a16;--font:Inter,system-ui,-apple-system,"Segoe UI",
Roboto,"Helvetica Neue",Arial,sans-serif}
@media(prefers-color-scheme:dark){:root{--paper:#101318;--ink:#e7eaee;--muted:#98a2b0;
--rule:#2a3039;--wash:#171b22;--accent:#84a9ff;--on-accent:#0c1220}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.55 var(--font);
font-variant-numeric:tabular-nums;-webkit-font-smoothing:antialiased}
main{max-width:1040px;margin:0 auto;padding:48px 28px 64px}
.eyebrow{display:flex;flex-wrap:wrap;align-items:center;gap:8px 14px;margin:0 0 14px;
color:var(--muted);font-size:13px}
.badge{padding:2px 11px;border:1px solid var(--muted);border-radius:99px;color:var(--ink);
font-weight:600;letter-spacing:.02em}
.badge.accept{border-color:var(--accent);background:var(--accent);color:var(--on-accent)}
h1{max-width:30em;margin:0;font-size:29px;font-weight:650;line-height:1.24;letter-spacing:-.015em;
text-wrap:balance}
h2{margin:0 0 6px;font-size:17px;font-weight:650;letter-spacing:-.005em}
h3{margin:6px 0;font-size:13px;font-weight:600}
p{margin:0;max-width:68ch}
.lead{margin-top:12px;color:var(--muted);font-size:16px}
.note{margin-bottom:16px;color:var(--muted);font-size:14px}
section{margin-top:44px;padding-top:24px;border-top:1px solid var(--rule)}
dl.facts{display:flex;flex-wrap:wrap;gap:1px;margin:30px 0 0;border:1px solid var(--rule);
border-radius:8px;background:var(--rule);overflow:hidden}
.facts div{flex:1 1 160px;padding:13px 16px 12px;background:var(--paper)}
.facts dt{color:var(--muted);font-size:12.5px}
.facts dd{margin:1px 0 0;font-size:20px;font-weight:600;letter-spacing:-.01em}
ul.reasons{margin:12px 0 0;padding:0;list-style:none}
.reasons li{max-width:76ch;margin-top:8px;padding-left:14px;border-left:2px solid var(--accent)}
.wide{overflow-x:auto}
.wide+.wide{margin-top:18px}
.wide svg{min-width:640px}
.pictures{margin-top:24px}
.pictures th,.pictures td{padding:4px 0 4px 10px;border:0;text-align:left;vertical-align:middle}
.pictures img{display:block;width:100%;min-width:56px;border:1px solid var(--rule);
image-rendering:pixelated}
.wide table{min-width:560px}
svg{display:block;width:100%;height:auto}
svg text{font-family:var(--font)!important}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,300px),1fr));
gap:24px 28px}
.grid.two{grid-template-columns:repeat(auto-fill,minmax(min(100%,420px),1fr));gap:36px 48px}
figure{margin:0;min-width:0}
figcaption{display:flex;justify-content:space-between;gap:12px;margin-bottom:4px;font-size:13px;
font-weight:600}
figcaption span{color:var(--muted);font-weight:400;white-space:nowrap}
.key{display:inline-block;width:18px;margin:0 5px 3px 10px;border-top:2px solid var(--ink);
vertical-align:middle}
.key.dream{border-top:2px dashed var(--accent)}
.key.model{border-color:var(--accent)}
.key.still{border-top:2px dashed var(--muted)}
h1 span{white-space:nowrap}
table{width:100%;border-collapse:collapse;font-size:14px}
th,td{padding:6px 0 6px 16px;border-bottom:1px solid var(--rule);text-align:right;
vertical-align:baseline}
th{color:var(--muted);font-size:12.5px;font-weight:500}
th:first-child,td:first-child{padding-left:0;text-align:left}
td.text{overflow-wrap:anywhere}
tr.new td{color:var(--accent);font-weight:600}
p.verdict{max-width:76ch;margin-bottom:16px;padding-left:14px;border-left:2px solid var(--accent);
font-size:16px}
.mark{display:inline-block;min-width:68px;font-size:12.5px;text-align:left;white-space:nowrap}
.mark::before{content:"";display:inline-block;width:9px;height:9px;margin-right:7px;
border-radius:50%;background:var(--muted)}
.mark.met::before{background:var(--good)}
.mark.missed::before{background:var(--fair)}
.mark.none::before{display:none}
td.bar{width:38%;padding-left:16px}
td.bar i{display:block;height:7px;border-radius:2px;background:var(--accent);opacity:.8}
details{margin-top:18px}
summary{cursor:pointer;color:var(--muted);font-size:14px}
details .grid,details pre{margin-top:14px}
pre{margin:0;padding:14px 16px;border-radius:8px;background:var(--wash);overflow-x:auto;
font:12.5px/1.5 ui-monospace,"SF Mono",Menlo,Consolas,monospace}
footer{margin-top:48px;padding-top:16px;border-top:1px solid var(--rule);color:var(--muted);
font-size:12.5px;overflow-wrap:anywhere}
@media(max-width:560px){main{padding:28px 18px 44px}h1{font-size:23px}}
@media print{main{max-width:none;padding:0}section{break-inside:avoid}}
"""


def page(title: str, body: str) -> str:
    """A self-contained document, without scripts or network access."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def section(title: str, note: str, *parts: str) -> str:
    """A section; '' if all its parts are empty."""
    inside = "\n".join(part for part in parts if part)
    if not inside:
        return ""
    about = f'<p class="note">{html.escape(note)}</p>' if note else ""
    return f"<section>\n<h2>{html.escape(title)}</h2>\n{about}\n{inside}\n</section>"


def figure(svg: str, caption: str, aside: str = "", keys: Mapping[str, str] | None = None) -> str:
    """A figure below its caption, with `aside` or the keys of its lines beside the caption."""
    marks = (f'<i class="key {kind}"></i>{word}' for kind, word in (keys or {}).items())
    right = f"<span>{html.escape(aside)}{''.join(marks)}</span>"
    return f"<figure><figcaption>{html.escape(caption)}{right}</figcaption>{svg}</figure>"


def pictures(steps: Sequence[int], rows: Mapping[str, Sequence[str]]) -> str:
    """A table of frames (PNG in base64): a row per name, a column per step."""
    head = "".join(f"<th>{html.escape(number(k))}</th>" for k in steps)
    image = lambda name, k, x: (
        f'<td><img alt="{html.escape(name)}, step {k}" src="data:image/png;base64,{x}"></td>'
    )
    body = "".join(
        f"<tr><td>{html.escape(name)}</td>"
        f"{''.join(image(name, k, x) for k, x in zip(steps, row, strict=True))}</tr>"
        for name, row in rows.items()
    )
    top = f"<thead><tr><th>step</th>{head}</tr></thead>"
    return f'<div class="wide pictures"><table>{top}<tbody>{body}</tbody></table></div>'


def grid(parts: Iterable[str], kind: str = "") -> str:
    """Parts side by side, in rows that fit the width."""
    inside = "\n".join(part for part in parts if part)
    return f'<div class="grid {kind}">\n{inside}\n</div>' if inside else ""


def facts(pairs: Iterable[tuple[str, Any]]) -> str:
    """A row of values with their names."""
    cells = [
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(number(value))}</dd></div>"
        for name, value in pairs
    ]
    return f'<dl class="facts">{"".join(cells)}</dl>' if cells else ""


def table(head: Sequence[str], rows: Iterable[tuple[Sequence[Any], bool]]) -> str:
    """A table; rows marked true are highlighted. Numbers are formatted by `number`."""
    cell = lambda x: (
        f"<td>{html.escape(number(x))}</td>"
        if isinstance(x, int | float)
        else f'<td class="text">{html.escape(str(x))}</td>'
    )
    first = lambda x: f"<td>{html.escape(str(x))}</td>"
    body = "".join(
        f"<tr{' class=new' if marked else ''}>{first(row[0])}{''.join(map(cell, row[1:]))}</tr>"
        for row, marked in rows
    )
    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>" if body else ""


def pairs_table(title: str, values: Mapping[str, Any]) -> str:
    """A titled table of two columns."""
    if not values:
        return ""
    rows = [((name.replace("_", " "), value), False) for name, value in values.items()]
    body = table(("", ""), rows).replace("<thead><tr><th></th><th></th></tr></thead>", "")
    return f"<div><h3>{html.escape(title)}</h3>{body}</div>"


def bars_table(title: str, values: Mapping[str, float], unit: str) -> str:
    """A titled table with a bar beside each number."""
    if not values:
        return ""
    most = max([*values.values(), 1e-9])
    rows = "".join(
        f"<tr><td>{html.escape(name.replace('_', ' '))}</td><td>{value:,.1f} {unit}</td>"
        f'<td class="bar"><i style="width:{max(100 * value / most, 0.5):.1f}%"></i></td></tr>'
        for name, value in values.items()
    )
    return f"<div><h3>{html.escape(title)}</h3><table><tbody>{rows}</tbody></table></div>"


def details(summary: str, inside: str) -> str:
    """Content that opens on demand; '' if there is none."""
    return f"<details><summary>{html.escape(summary)}</summary>{inside}</details>" if inside else ""


def code(text: str) -> str:
    """Preformatted text."""
    return f"<pre>{html.escape(text)}</pre>" if text.strip() else ""
