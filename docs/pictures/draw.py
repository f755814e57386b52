#!/usr/bin/env python3
"""Text -> SVG: each NAME.txt here becomes NAME.svg. Boxes of ┌─┐│└┘├┤┬┴┼ and arrows ▶▼◀▲ become lines and triangles, the rest is text.

    draw.py            writes them
    draw.py --check    says which are not what their text makes; status 1 if any
"""
import re
import sys
from html import escape
from pathlib import Path

WIDE, HIGH, PAD = 8.4, 18, 14
#: Which sides of its cell a character joins: left, right, up, down.
LINES = {"─": "lr", "│": "ud", "┌": "rd", "┐": "ld", "└": "ru", "┘": "lu", "├": "rud", "┤": "lud", "┬": "lrd", "┴": "lru", "┼": "lrud"}
ARROWS = {"▶": "lr", "◀": "lr", "▼": "ud", "▲": "ud"}
STYLE = "text{font:13px ui-monospace,monospace;fill:#1f2933;white-space:pre}path{stroke:#52606d;fill:none;stroke-width:1.3}" \
        "polygon{fill:#52606d}rect{fill:#fff}@media(prefers-color-scheme:dark){text{fill:#e4e7eb}path{stroke:#9aa5b1}polygon{fill:#9aa5b1}rect{fill:#161b22}}"


def svg(text):
    rows = text.rstrip("\n").split("\n")
    width, height = max(map(len, rows)) * WIDE + 2 * PAD, len(rows) * HIGH + 2 * PAD
    paths, shapes, words = [], [], []
    for y, row in enumerate(rows):
        run, start = "", 0
        for x, letter in enumerate(row + "\0"):
            left, top = PAD + x * WIDE, PAD + y * HIGH
            mid, centre = left + WIDE / 2, top + HIGH / 2
            ends = {"l": (left, centre), "r": (left + WIDE, centre), "u": (mid, top), "d": (mid, top + HIGH)}
            for side in LINES.get(letter, ""):
                paths.append("M%.1f %.1fL%.1f %.1f" % (mid, centre, *ends[side]))
            if letter in ARROWS:
                size = 4.2
                points = {"▶": [(-size, -size), (size, 0), (-size, size)], "◀": [(size, -size), (-size, 0), (size, size)],
                          "▼": [(-size, -size), (size, -size), (0, size)], "▲": [(-size, size), (size, size), (0, -size)]}[letter]
                shapes.append('<polygon points="%s"/>' % " ".join("%.1f,%.1f" % (mid + dx, centre + dy) for dx, dy in points))
            if letter in LINES or letter in ARROWS or letter == "\0":
                # Blanks in a row are collapsed by who draws: what they part stands by itself.
                for part in re.finditer(r"\S+(?: \S+)*", run):
                    words.append('<text x="%.1f" y="%.1f" textLength="%.1f">%s</text>' % (
                        PAD + (start + part.start()) * WIDE, top + HIGH * 0.72, len(part[0]) * WIDE, escape(part[0])))
                run, start = "", x + 1
            else:
                run += letter
    return '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" width="%.0f" height="%.0f"><style>%s</style>' \
           '<rect width="100%%" height="100%%"/><path d="%s"/>%s%s</svg>\n' % (width, height, width, height, STYLE, "".join(paths), "".join(shapes), "".join(words))


def main():
    wrong = 0
    for source in sorted(Path(__file__).parent.glob("*.txt")):
        target, drawn = source.with_suffix(".svg"), svg(source.read_text())
        if "--check" not in sys.argv:
            target.write_text(drawn)
        elif not target.exists() or target.read_text() != drawn:
            print(f"{target.name} is not what {source.name} makes: run docs/pictures/draw.py")
            wrong = 1
    return wrong


if __name__ == "__main__":
    sys.exit(main())
