"""Lines that are drawn over themselves."""

from __future__ import annotations

import random

import pyte
import pytest

from hpckit.cli.picture import redrawn
from hpckit.paint import RESET, cut, harmless, width_of

RED = "\x1b[31m"
COLUMNS, ROWS = 30, 12


class Screen:
    def __init__(self):
        self.screen = pyte.Screen(COLUMNS, ROWS)
        self.stream = pyte.Stream(self.screen)
        self.drawn = []
        self.stream.feed("$ hpckit watch\r\n")

    def draw(self, lines):
        sent = redrawn(self.drawn, lines)
        # As a terminal's driver does.
        self.stream.feed(sent.replace("\n", "\r\n"))
        self.drawn = lines
        return sent

    @property
    def lines(self):
        return [line.rstrip() for line in self.screen.display]


def test_only_what_has_changed_is_sent():
    screen = Screen()
    screen.draw(["agent   RUNNING", "step 9 of 100", "loss 2.5"])
    sent = screen.draw(["agent   RUNNING", "step 10 of 100", "loss 2.5"])
    assert screen.lines[:5] == [
        "$ hpckit watch",
        "agent   RUNNING",
        "step 10 of 100",
        "loss 2.5",
        "",
    ]
    assert "agent" not in sent
    assert "step" not in sent
    assert "loss" not in sent
    assert screen.draw(screen.drawn) == ""


def test_colours_that_change_leave_no_others_behind():
    screen = Screen()
    screen.draw([f"ab{RED}!{RESET}cd", "x"])
    screen.draw([f"ab{RED}!!{RESET}d", "x"])
    assert screen.lines[1] == "ab!!d"
    assert [screen.screen.buffer[1][i].fg for i in range(5)] == ["default"] * 2 + ["red"] * 2 + [
        "default"
    ]
    screen.draw([f"abc{RED}!{RESET}", f"{RED}x{RESET}"])
    assert [screen.screen.buffer[1][i].fg for i in range(4)] == ["default"] * 3 + ["red"]
    assert screen.screen.buffer[2][0].fg == "red"


@pytest.mark.parametrize("seed", range(20))
def test_whatever_was_drawn_the_next_picture_is_whole(seed):
    draw = random.Random(seed)
    screen = Screen()
    for _ in range(50):
        lines = []
        for _ in range(draw.randrange(ROWS - 2)):
            parts = [draw.choice(["", "abc", "漢字", "▁█", f"{RED}!{RESET}"]) for _ in range(4)]
            lines.append(cut("".join(parts), COLUMNS - 1))
        screen.draw(lines)
        plain = [line.replace(RED, "").replace(RESET, "") for line in lines]
        # A wide sign takes two cells, the second of which is empty.
        shown = [each.replace(" ", "") for each in screen.lines]
        assert shown == ["$hpckitwatch", *plain, *[""] * (ROWS - 1 - len(plain))]
        assert screen.screen.cursor.y == 1 + len(lines)


def test_a_line_takes_no_more_than_its_columns():
    assert cut("漢字漢字", 5) == "漢字"
    assert cut(f"{RED}abc{RESET}def", 4) == f"{RED}abc{RESET}d"
    assert cut(f"{RED}abcdef{RESET}", 2) == f"{RED}ab{RESET}"
    assert width_of("e\u0301漢") == 3


@pytest.mark.parametrize(
    "evil",
    ["\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "\x9d0;t\x9c", "\u202e", "\ud800", "\x07", "a\r"],
)
def test_what_a_program_prints_moves_nobodys_cursor(evil):
    assert harmless(f"{evil}loss").endswith("loss")
    kept = harmless(f"{evil}loss").removesuffix("loss")
    assert kept.isprintable()
    assert kept.isascii()
