"""Exit codes are what schedulers and scripts rely on."""

from __future__ import annotations

import pytest

from mlr_dmcontrol import errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError, 2),
        (errors.CheckpointError, 2),
        (errors.StorageError, 3),
        (errors.NonFiniteError, 4),
        (errors.Preempted, 75),
    ],
)
def test_exit_codes(error: type[errors.RunError], code: int) -> None:
    assert error("why").exit_code == code
    assert issubclass(error, errors.RunError)
    assert str(error("why")) == "why"


def test_every_error_is_listed_above() -> None:
    assert {each.__name__ for each in errors.RunError.__subclasses__()} == {
        "ConfigError",
        "CheckpointError",
        "StorageError",
        "NonFiniteError",
        "Preempted",
    }
