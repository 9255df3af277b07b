"""Whole runs that are killed, damaged, out of disk, misused or wrong: one test an exit code.

Real processes throughout, on real run folders; tables of cases are in the tests of the parts.
"""

import json
import math
import random
import signal
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import small_run
from faults import asked, full_disk, no_score, not_a_number, out_of_memory, report, slow_disk
from small_checkpoints import contents, leftovers, steps
from small_run import EVALUATION_AT, LEARNING_STARTS, LOG_EVERY
from whole_runs import Started, finish, folder, newest, train

from mlr_dmcontrol.run.checkpoint import plain

EVERY = 5  # agent steps between checkpoints
SAVING = f"checkpoint.every_steps={EVERY}"


# --- 2: wrong input -------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    train(tmp_path, what=(partial(asked, "SIGTERM", LEARNING_STARTS + 3),), code=75)
    before = contents(folder(tmp_path))
    for word in ("agent.mask_ratio=0.3", "resume=never"):
        ended = train(tmp_path, word, code=2)
        assert ended.output == ended.last_line + "\n"
        assert ended.output.startswith(f"error: {word}")
        assert contents(folder(tmp_path)) == before


def test_what_does_not_fit_into_a_gpu_is_told(tmp_path: Path) -> None:
    ended = train(tmp_path, what=(partial(out_of_memory, LEARNING_STARTS),), code=2)
    assert ended.last_line.startswith("error: device=cpu: CUDA out of memory.")
    assert json.loads((folder(tmp_path) / "run.json").read_text())["status"] == "failed"


# --- 3: the disk ----------------------------------------------------------------------------------


def test_a_full_disk_costs_saves_then_ends_the_run_which_goes_on_later(tmp_path: Path) -> None:
    ended = train(tmp_path, SAVING, what=(partial(full_disk, (2, 3, 6, 7, 8)),), code=3)
    assert ended.output.count("training goes on (") == 4
    assert f"step {8 * EVERY} could not be saved" in ended.last_line
    assert f"last good step: {5 * EVERY} (" in ended.last_line
    assert steps(folder(tmp_path)) == [4 * EVERY, 5 * EVERY]
    assert not leftovers(folder(tmp_path))
    finish(tmp_path, SAVING)


# --- 4: numbers that are none ---------------------------------------------------------------------


def test_a_nan_ends_the_run_soon_and_is_in_no_checkpoint(tmp_path: Path) -> None:
    step = LEARNING_STARTS + 7
    ended = train(tmp_path, SAVING, what=(partial(not_a_number, step),), code=4)
    assert ended.last_line.startswith("error: ")
    text = (folder(tmp_path) / "nonfinite.json").read_text()
    facts = json.loads(text, parse_constant=pytest.fail)
    assert step <= facts["agent_step"] <= step + LOG_EVERY
    assert facts["update_step"] == step - LEARNING_STARTS  # the very first one
    assert any(not math.isfinite(float(value)) for value in facts.values())
    saved = newest(tmp_path)
    assert saved.step <= step
    plain(saved.items, "finite")
    assert json.loads((folder(tmp_path) / "run.json").read_text())["status"] == "failed"


def test_an_evaluation_that_gives_no_number_keeps_what_was_trained(tmp_path: Path) -> None:
    assert train(tmp_path, what=(no_score,), code=4).last_line == "error: score=nan"
    assert steps(folder(tmp_path)) == [EVALUATION_AT]
    finish(tmp_path)


# --- 75 and none: asked to stop, killed -----------------------------------------------------------


def reached(output: str) -> int:
    """The last step that is known to have begun."""
    begun = [line.split() for line in output.splitlines() if line.startswith("at ")]
    return max((int(line[1]) for line in begun if len(line) == 4), default=0)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("times", [4, pytest.param(20, marks=pytest.mark.soak)])
def test_killed_or_asked_to_stop_at_random_moments_it_ends_the_same(
    tmp_path: Path, times: int
) -> None:
    """Every other time killed while the disk is slow, and so within a save."""
    chance, torn, known = random.Random(times), 0, 0
    for number in range(times):
        run = Started(tmp_path, SAVING, what=(report, partial(slow_disk, 0.1 * (number % 2))))
        run.wait_for_steps(1 + chance.randrange(2 * EVERY))
        if number % 2:
            run.wait_until(lambda: any((folder(tmp_path) / "checkpoints").glob("files/.*.tmp")))
        time.sleep(chance.uniform(0, 0.2))
        run.kill(signal.SIGKILL if number % 2 else chance.choice([signal.SIGKILL, signal.SIGTERM]))
        ended = run.end()
        assert ended.code in (-signal.SIGKILL, 75, 0), ended.output
        torn += bool(leftovers(folder(tmp_path)))
        known = max(known, reached(ended.output))
        if ended.code == 75:
            assert newest(tmp_path).step >= reached(ended.output)
        elif known >= EVERY:
            assert newest(tmp_path).step >= known // EVERY * EVERY  # at most one interval is lost
        if ended.code == 0:
            break
    assert torn, f"none of {times} hit a save"
    finish(tmp_path, SAVING)


# --- long runs ------------------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_long_run_needs_no_more_memory_and_files_than_a_short_one(tmp_path: Path) -> None:
    words = (*small_run.LONG, "checkpoint.every_steps=50", "logging.every=50")
    ended = train(tmp_path, *words, what=(report,))
    lines = [line.split() for line in ended.output.splitlines() if line.startswith("at ")]
    pages, opened = ([int(line[column]) for line in lines] for column in (2, 3))
    settled = 400  # steps
    assert len(lines) == 1000
    assert pages[-1] < 1.02 * pages[settled]
    assert opened[-1] == opened[settled]
    assert "Warning" not in ended.output  # Python's, PyTorch's
