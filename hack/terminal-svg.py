#!/usr/bin/env python3
"""Draws a captured terminal screen as SVG, colours included.

usage, while `make demo` runs in a tmux window:  tmux capture-pane -ep | hack/terminal-svg.py > docs/images/demo.svg
hack/pictures.sh makes the other pictures. An argument is the width in columns at which longer lines go on below.
"""
import re
import sys
from html import escape

WIDTH, HEIGHT, MARGIN = 8.4, 18, 16
TEXT, GROUND, DIM = "#d5d9df", "#16191e", "#7d8590"
COLOURS = {"31": "#ff7b72", "32": "#56d364", "33": "#e3b341", "36": "#56d4dd"}


def spans(line):
    """The line's pieces of one style each: column, text, attributes."""
    colour, dim, bold, column = None, False, False, 0
    for piece in re.split(r"(\x1b\[[0-9;]*m)", line):
        code = re.fullmatch(r"\x1b\[([0-9;]*)m", piece)
        if not code:
            for part in re.findall(r"█+|░+|─+|[^█░─]+", piece):
                if part.strip():
                    style = {"fill": colour or (DIM if dim else TEXT)}
                    if bold:
                        style["font-weight"] = "bold"
                    yield column, part, style
                column += len(part)
            continue
        for number in code[1].split(";"):
            if number in ("", "0"):
                colour, dim, bold = None, False, False
            elif number == "1":
                bold = True
            elif number == "2":
                dim = True
            elif number == "39":
                colour = None
            elif number in COLOURS:
                colour = COLOURS[number]


def folded(line, columns):
    """The line in pieces of at most so many columns, colours going on in the next."""
    pieces, width, colours = [""], 0, ""
    for piece in re.findall(r"\x1b\[[0-9;]*m|.", line):
        if piece.startswith("\x1b"):
            colours = "" if piece == "\x1b[0m" else colours + piece
        else:
            if width == columns:
                # At a space, if there is one not far away.
                head, space, tail = pieces[-1].rpartition(" ")
                if not space or len(tail) > 30:
                    head, tail = pieces[-1], ""
                pieces[-1] = head
                pieces.append("    " + colours + tail)
                width = 4 + len(re.sub(r"\x1b\[[0-9;]*m", "", tail))
            width += 1
        pieces[-1] += piece
    return pieces


def main():
    lines = sys.stdin.read().replace("\r", "").rstrip().split("\n")
    if len(sys.argv) > 1:
        lines = [piece for line in lines for piece in folded(line, int(sys.argv[1]))]
    bare = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    width = max(map(len, bare)) * WIDTH + 2 * MARGIN
    height = len(lines) * HEIGHT + 2 * MARGIN
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" height="{height}" '
          'font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, \'DejaVu Sans Mono\', monospace" font-size="14">')
    print(f'<rect width="100%" height="100%" rx="8" fill="{GROUND}"/>')
    for row, line in enumerate(lines):
        top = MARGIN + row * HEIGHT
        for column, text, style in spans(line):
            left = MARGIN + column * WIDTH
            length = len(text) * WIDTH
            # Bars are drawn: block characters differ from font to font.
            if set(text) <= set("█░─"):
                bar = {"█": (3, 12, 1), "░": (3, 12, 0.35), "─": (9, 1, 0.6)}[text[0]]
                print(f'<rect x="{left:.1f}" y="{top + bar[0]}" width="{length:.1f}" height="{bar[1]}" '
                      f'fill="{style["fill"]}" opacity="{bar[2]}"/>')
                continue
            attributes = " ".join(f'{name}="{value}"' for name, value in style.items())
            # The length holds columns in line, whatever the font.
            print(f'<text x="{left:.1f}" y="{top + 14}" textLength="{length:.1f}" {attributes} xml:space="preserve">{escape(text)}</text>')
    print("</svg>")


main()
