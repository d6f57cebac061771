"""What pages are made of: one HTML file that needs no script and nothing from elsewhere, its figures inside.

Every word that comes from a record is escaped here. Files are written beside their place and renamed into it.
"""

import base64
import io
import re
import uuid
from collections.abc import Sequence
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

DPI = 150
PIXELS_PER_INCH = 104
"""Of figures in a page: their letters are then as large as the text around them."""


def image(figure: Figure, png_path: Path) -> str:
    """The figure as the attributes of an `<img>`, and as PNG at the path."""
    png, svg = _saved(figure)
    write_whole(png_path, png)
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    return f'src="{source}" style="width: {figure.get_figwidth() * PIXELS_PER_INCH:.0f}px"'


def _saved(figure: Figure) -> tuple[bytes, bytes]:
    """The figure as PNG and as SVG. Its panels are laid out once, not before each of four drawings."""
    figure.set_dpi(DPI)
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # the panels stay where they are
    png, svg = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI)
    figure.savefig(svg, format="svg", metadata={"Date": None})
    return png.getvalue(), svg.getvalue()


def html_table(head: Sequence[str], body: Sequence[Sequence[str]], words: int) -> str:
    """The first `words` columns are words, the others numbers, aligned right."""
    kind = ["" if i < words else ' class="number"' for i in range(len(head))]
    top = "".join(f"<th{k}>{escape(h)}</th>" for k, h in zip(kind, head, strict=True))
    rows = ["".join(f"<td{k}>{escape(c)}</td>" for k, c in zip(kind, row, strict=True)) for row in body]
    lines = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>\n{lines}\n</tbody></table></div>'


def note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 24px 20px 64px; background: #fff; color: #1c1c1c;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .5rem; padding-top: .8rem; border-top: 1px solid #ddd; }
h3 { font-size: 1.02rem; margin: 1.3rem 0 .3rem; overflow-wrap: anywhere; }
p { margin: .4rem 0; } .lead { color: #444; } .note, figcaption { color: #555; font-size: .9rem; max-width: 75ch; }
ul { padding-left: 1.2rem; margin: .3rem 0; max-width: 95ch; } li { margin: .25rem 0; overflow-wrap: anywhere; }
figure { margin: .8rem 0 1.2rem; }
.scroll { overflow-x: auto; max-width: 100%; }
img { display: block; max-width: max(100%, 620px); height: auto; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; margin: .6rem 0; }
th, td { padding: .25rem .7rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #eee; }
th { border-bottom: 1px solid #999; font-weight: 600; vertical-align: bottom; }
.number { text-align: right; } th.number { min-width: 4.6rem; } td { white-space: nowrap; }
pre { overflow-x: auto; background: #f6f6f6; padding: .8rem; font-size: .8rem; line-height: 1.35; }
summary { cursor: pointer; margin: .6rem 0; }
@media print { .scroll { overflow: visible; } img { max-width: 100%; } }
"""


def page(title: str, sections: Sequence[str]) -> str:
    body = "\n".join(section for section in sections if section)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def file_name(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)


def write_whole(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
