"""Record `tools/demo.py` in a terminal of its own, and draw what it shows as a GIF (`make recording`).

python tools/recording.py [--draw]

Writes docs/demo.cast (asciicast v2: a line an event, with its time) and docs/demo.gif; --draw draws the cast that
is there.
Pauses longer than `PAUSE` are shortened to it; nothing else is changed.
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
from pathlib import Path

from matplotlib import get_data_path
from PIL import Image, ImageColor, ImageDraw, ImageFont

ROOT = Path(__file__).parent.parent
CAST, PICTURE = ROOT / "docs" / "demo.cast", ROOT / "docs" / "demo.gif"
COMMAND = ("python", "tools/demo.py", "runs/demo")
COLUMNS, ROWS = 92, 27
PAUSE, LAST = 1.5, 6.0
"""Seconds: the longest between two events, and how long the end is shown."""
FRAME = 0.1
"""Seconds that a frame lasts at least: events in between come with the next one."""

SIZE, LINE, MARGIN = 19, 25, 18
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


def shortened(events: list[Event]) -> list[Event]:
    """The events, with no longer pause than `PAUSE`.

    >>> shortened([(0.0, "a"), (1.0, "b"), (9.0, "c")])
    [(0.0, 'a'), (1.0, 'b'), (2.5, 'c')]
    """
    found, before, now = [], 0.0, 0.0
    for at, text in events:
        now += min(at - before, PAUSE)
        found.append((now, text))
        before = at
    return found


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
    events = shortened([(at, text) for at, _, text in map(json.loads, lines)])
    font = ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSansMono.ttf", SIZE)
    terminal, frames, seconds = Terminal(), list[Image.Image](), list[float]()
    for (at, text), (until, _) in zip(events, [*events[1:], (events[-1][0] + LAST, "")], strict=True):
        terminal.write(text)
        if until - at >= FRAME or not frames:
            frames.append(picture(terminal.lines, font))
            seconds.append(until - at)
        else:
            seconds[-1] += until - at
    colours = palette()
    frames = [frame.quantize(palette=colours, dither=Image.Dither.NONE) for frame in frames]
    frames[0].save(
        PICTURE, save_all=True, append_images=frames[1:], duration=[round(100 * each) * 10 for each in seconds], loop=0
    )


if __name__ == "__main__":
    if sys.argv[1:] != ["--draw"]:
        record()
    draw()
