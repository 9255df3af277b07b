"""What is shown, on a terminal and elsewhere."""

from __future__ import annotations

import io
import logging

from mlr_atari.run.console import Console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_without_a_terminal() -> None:
    stream = io.StringIO()
    with Console(1000, "env steps", stream=stream) as console:
        console.start(200)
        console.banner("MLR", {"task": "cartpole", "folder": "runs/x"})
        console.progress(600, {"return": 123.456, "loss": 0.00012345})
        logging.getLogger("mlr_atari.run.checkpoint").warning("disk is %s", "full")
        logging.getLogger("mlr_atari.run.checkpoint").info("only for log.txt")
    lines = stream.getvalue().splitlines()
    assert lines[:3] == ["MLR", "  task    cartpole", "  folder  runs/x"]
    assert lines[3].startswith("600/1000 env steps  return 123.5  loss 0.0001234  ")
    assert lines[3].endswith(" left")
    assert lines[4:] == ["warning: disk is full"]
    logging.getLogger("mlr_atari").warning("after the run")
    assert len(stream.getvalue().splitlines()) == 5


def test_a_bar_on_a_terminal() -> None:
    stream = Terminal()
    with Console(1000, "env steps", stream=stream) as console:
        console.start(200)
        console.progress(600, {"return": 123.456})
        console.line("evaluation at 600: 130.2")
        console.progress(1000, {"return": 125.0})
    text = stream.getvalue()
    assert "evaluation at 600: 130.2\n" in text
    assert "1000/1000" in text
    assert "return=125" in text


def test_no_progress_yet_has_no_estimate() -> None:
    stream = io.StringIO()
    with Console(1000, "env steps", stream=stream) as console:
        console.start(0)
        console.progress(0, {})
    assert "? left" in stream.getvalue()
