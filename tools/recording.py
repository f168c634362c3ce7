"""Record `tools/demo.py` in a terminal of its own, and draw what it shows as a GIF (`make recording`).

python tools/recording.py [--draw]

Writes docs/demo.cast (asciicast v2: a line an event, with its time) and docs/demo.gif; --draw draws the cast that
is there.
What is shown is what was written, in its order. How long a frame is shown lies within `SHOWN`: pauses are shorter than
they were, and what goes too fast to be seen takes longer.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import struct
import sys
import termios
import time
from itertools import pairwise
from pathlib import Path

from matplotlib import get_data_path
from PIL import Image, ImageColor, ImageDraw, ImageFont

ROOT = Path(__file__).parent.parent
CAST, PICTURE = ROOT / "docs" / "demo.cast", ROOT / "docs" / "demo.gif"
COMMAND = ("python", "tools/demo.py", "runs/demo")
COLUMNS, ROWS = 108, 35
TOGETHER = 0.04
"""Seconds: what is written within them is one frame."""
SHOWN, LAST = (0.25, 1.5), 6.0
"""Seconds: the shortest and the longest time that a frame is shown, and how long the last one is."""

SIZE, LINE, MARGIN = 17, 22, 16
"""Pixels: of letters, from line to line, around the text."""
GROUND, INK = "#14181d", "#d7dde4"
COLOURS = {
    "1": "#ffffff", "36": "#56b6c2", "1;31": "#ff6b6b", "1;32": "#8bd47f", "38;5;197": "#e5657b", "38;5;237": "#4a525c",
    "38;5;70": "#7fbf6a",
}  # fmt: skip
"""Parameters of an escape sequence → the colour; all others are `INK`."""
BARS = {"━": (0, 1), "╸": (0, 0.5), "╺": (0.5, 1)}
"""Pieces of the progress line → the part of a cell that they fill; drawn, so that they join whatever the font."""
SHADES = 9
"""Of each colour, between it and the ground: the edges of letters."""

Event = tuple[float, str]
Cell = tuple[str, str]
"""A character and its colour."""


class Terminal:
    """Understands what Rich's progress line writes.

    >>> terminal = Terminal()
    >>> terminal.write("one\\r\\ntwo\\r\\x1b[2Kthree")
    >>> terminal.text()
    ['one', 'three']
    """

    PIECES = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)")

    def __init__(self) -> None:
        self.lines: list[list[Cell]] = [[]]
        self._row, self._column, self._colour = 0, 0, INK

    def write(self, text: str) -> None:
        """What a process has written."""
        for parameters, command, carriage, newline, letters in self.PIECES.findall(text):
            if command:
                self._escape(command, parameters)
            elif carriage:
                self._column = 0
            elif newline:
                self._row += 1
                self.lines.extend([] for _ in range(self._row + 1 - len(self.lines)))
            else:
                self._letters(letters)

    def _escape(self, command: str, parameters: str) -> None:
        if command == "m":
            self._colour = COLOURS.get(parameters, INK)
        elif command == "K":
            self.lines[self._row] = []
        elif command == "A":
            self._row -= int(parameters or 1)

    def _letters(self, letters: str) -> None:
        line = self.lines[self._row]
        line.extend((" ", INK) for _ in range(self._column - len(line)))
        line[self._column : self._column + len(letters)] = [(letter, self._colour) for letter in letters]
        self._column += len(letters)

    def text(self) -> list[str]:
        """The lines without their colours."""
        return ["".join(letter for letter, _ in line) for line in self.lines]


def record() -> None:
    """Run the demo in a terminal and note what it writes, and when."""
    folder = ROOT / COMMAND[-1]
    shutil.rmtree(folder, ignore_errors=True)
    started = time.monotonic()
    events: list[Event] = [(0.0, f"$ {' '.join(COMMAND)}\r\n")]
    process, terminal = pty.fork()
    if not process:
        os.chdir(ROOT)
        os.environ.update(TERM="xterm-256color", COLUMNS=str(COLUMNS), LINES=str(ROWS))
        os.execv(sys.executable, [sys.executable, *COMMAND[1:]])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    with os.fdopen(terminal, "rb", buffering=0) as output:
        try:
            while data := output.read(1 << 16):
                events.append((round(time.monotonic() - started, 3), data.decode()))
        except OSError:  # Linux's way to say that the other end is closed
            pass
    _, status = os.waitpid(process, 0)
    shutil.rmtree(folder, ignore_errors=True)
    if status:
        raise SystemExit("".join(text for _, text in events))
    header = {"version": 2, "width": COLUMNS, "height": ROWS, "title": " ".join(COMMAND)}
    lines = [json.dumps(header), *(json.dumps([at, "o", text]) for at, text in events)]
    CAST.write_text("\n".join(lines) + "\n")


def frames(events: list[Event]) -> list[tuple[list[list[Cell]], float]]:
    """What the terminal shows, one after another, and for how many seconds.

    >>> shown = frames([(0.0, "a"), (0.01, "b"), (0.1, ""), (9.0, "\\n"), (9.5, "d")])
    >>> [(len(lines), seconds) for lines, seconds in shown]
    [(1, 1.5), (2, 0.5), (2, 6.0)]
    """
    terminal, found = Terminal(), list[tuple[float, list[list[Cell]]]]()
    for (at, text), (until, _) in zip(events, [*events[1:], (float("inf"), "")], strict=True):
        terminal.write(text)
        lines = [line[:] for line in terminal.lines]
        if until - at >= TOGETHER and (not found or lines != found[-1][1]):
            found.append((at, lines))
    times = [after - at for (at, _), (after, _) in pairwise(found)]
    seconds = [*(min(max(each, SHOWN[0]), SHOWN[1]) for each in times), LAST]
    return [(lines, shown) for (_, lines), shown in zip(found, seconds, strict=True)]


def picture(lines: list[list[Cell]], font: ImageFont.FreeTypeFont) -> Image.Image:
    """What the terminal shows."""
    across = font.getlength("M")
    frame = Image.new("RGB", (round(COLUMNS * across) + 2 * MARGIN, ROWS * LINE + 2 * MARGIN), GROUND)
    pen = ImageDraw.Draw(frame)
    for row, line in enumerate(lines[-ROWS:]):
        for column, (letter, colour) in enumerate(line):
            left, middle = MARGIN + column * across, MARGIN + row * LINE + LINE // 2
            if letter in BARS:
                begin, end = (left + across * part for part in BARS[letter])
                pen.rectangle((begin, middle - 2, end, middle + 1), fill=colour)
            elif letter != " ":
                pen.text((left, MARGIN + row * LINE), letter, font=font, fill=colour)
    return frame


def palette() -> Image.Image:
    """An image of one pixel that has the colours of all frames."""
    ground, *colours = (ImageColor.getrgb(colour) for colour in (GROUND, INK, *COLOURS.values()))
    found = Image.new("P", (1, 1))
    found.putpalette(
        [
            round(below + (above - below) * shade / SHADES)
            for colour in colours
            for shade in range(SHADES + 1)
            for below, above in zip(ground, colour, strict=True)
        ]
    )
    return found


def draw() -> None:
    """Draw the cast."""
    _, *lines = CAST.read_text().splitlines()
    font = ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSansMono.ttf", SIZE)
    shown = frames([(at, text) for at, _, text in map(json.loads, lines)])
    colours = palette()
    drawn = [picture(lines, font).quantize(palette=colours, dither=Image.Dither.NONE) for lines, _ in shown]
    milliseconds = [round(100 * seconds) * 10 for _, seconds in shown]
    drawn[0].save(PICTURE, save_all=True, append_images=drawn[1:], duration=milliseconds, loop=0)


if __name__ == "__main__":
    if sys.argv[1:] != ["--draw"]:
        record()
    draw()
