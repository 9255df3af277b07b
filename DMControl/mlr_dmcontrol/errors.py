"""Errors that end a run with one line for the user and an exit code for the scheduler."""

import difflib
from collections.abc import Sequence


class RunError(Exception):
    """Base of every error that `train.py` reports as `error: <message>`."""

    exit_code = 1


class ConfigError(RunError):
    """Wrong input. Message: `<key>=<value>: <what is wrong>; <what would be right>`."""

    exit_code = 2


class CheckpointError(RunError):
    """Checkpoints are there but none of them can be used; nothing was overwritten."""

    exit_code = 2


class SimulatorError(RunError):
    """The simulator itself raised within an episode, which is over by that.

    An environment raises it from `step` or `reset`; its `reset` begins the next episode. Whoever
    plays may go on with that, and gives up where episodes fail one after the other.
    """

    exit_code = 2


class StorageError(RunError):
    """Saving failed again and again (disk full, not writable)."""

    exit_code = 3


class NonFiniteError(RunError):
    """A NaN or infinity appeared in a loss, a gradient or a parameter."""

    exit_code = 4


class Preempted(RunError):
    """Asked to stop, and saved; the same command continues (75 is EX_TEMPFAIL)."""

    exit_code = 75


def suggestion(word: str, known: Sequence[str], otherwise: str = "") -> str:
    """`did you mean X?`; where nothing is close the choices, or what to do `otherwise`."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else otherwise or f"choose from {', '.join(known)}"
