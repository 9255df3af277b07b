"""The rules of settings dataclasses: what passes, and the one line that the user gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from mlr_atari.errors import ConfigError
from mlr_atari.ranges import bounded, check, choice


@dataclass(frozen=True, kw_only=True)
class Settings:
    mask_ratio: float = bounded(0, 1)
    learning_rate: float = bounded(above=0)
    tau: float = bounded(above=0, high=1)
    discount: float = bounded(0, below=1)
    log_std: float = bounded(high=2)
    batch_size: int = bounded(1)
    precision: str = choice("fp32", "tf32", "bf16")
    use_actions: bool
    name: str
    width: int | None = bounded(1)
    channels: tuple[int, ...] = bounded(1)
    betas: tuple[float, float] = bounded(0, below=1)


GOOD: dict[str, Any] = {
    "mask_ratio": 0.5,
    "learning_rate": 1e-3,
    "tau": 1,
    "discount": 0,
    "log_std": -10.0,
    "batch_size": 1,
    "precision": "tf32",
    "use_actions": False,
    "name": "mlr",
    "width": None,
    "channels": [32, 64],
    "betas": [0.9, 0.999],
}


def test_good_values_pass_and_foreign_keys_are_left_alone() -> None:
    check(Settings, GOOD, "agent")
    check(Settings, {**GOOD, "width": 7, "somebody_elses": object()}, "agent")
    check(Settings, {**GOOD, "mask_ratio": 0, "channels": (3,)}, "agent")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mask_ratio", 1.5, "agent.mask_ratio=1.5: must lie in [0, 1]"),
        ("mask_ratio", -1, "agent.mask_ratio=-1: must lie in [0, 1]"),
        ("mask_ratio", float("nan"), "agent.mask_ratio=nan: must be finite"),
        ("mask_ratio", "0.5", "agent.mask_ratio=0.5: must be a number"),
        ("mask_ratio", True, "agent.mask_ratio=true: must be a number"),
        ("mask_ratio", None, "agent.mask_ratio=None: must be a number"),
        ("learning_rate", 0, "agent.learning_rate=0: must be above 0"),
        ("learning_rate", float("inf"), "agent.learning_rate=inf: must be finite"),
        ("tau", 0.0, "agent.tau=0.0: must lie in (0, 1]"),
        ("discount", 1, "agent.discount=1: must lie in [0, 1)"),
        ("log_std", 3, "agent.log_std=3: must be at most 2"),
        ("batch_size", 0, "agent.batch_size=0: must be at least 1"),
        ("batch_size", 1.0, "agent.batch_size=1.0: must be a whole number"),
        ("batch_size", False, "agent.batch_size=false: must be a whole number"),
        (
            "precision",
            "bf61",
            "agent.precision=bf61: must be one of fp32, tf32, bf16; did you mean bf16?",
        ),
        ("precision", 16, "agent.precision=16: must be a word"),
        ("use_actions", 1, "agent.use_actions=1: must be true or false"),
        ("name", 3, "agent.name=3: must be a word"),
        ("width", 0, "agent.width=0: must be at least 1"),
        ("width", 0.5, "agent.width=0.5: must be a whole number"),
        ("channels", 32, "agent.channels=32: must be a list"),
        ("channels", "ab", "agent.channels=ab: must be a list"),
        ("channels", [32, 0], "agent.channels=[32, 0]: each entry must be at least 1"),
        ("betas", [0.9], "agent.betas=[0.9]: must have 2 entries"),
        ("betas", [0.9, 1], "agent.betas=[0.9, 1]: each entry must lie in [0, 1)"),
    ],
)
def test_wrong_values_are_named(key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check(Settings, {**GOOD, key: value}, "agent")
    assert str(raised.value) == message


def test_a_missing_key_is_named() -> None:
    values = {key: value for key, value in GOOD.items() if key != "tau"}
    with pytest.raises(ConfigError, match=r"^agent\.tau: missing"):
        check(Settings, values, "agent")


def test_an_end_cannot_be_inclusive_and_exclusive() -> None:
    with pytest.raises(TypeError):
        bounded(0, above=0)
    with pytest.raises(TypeError):
        bounded(high=1, below=1)


def test_settings_have_no_defaults() -> None:
    with pytest.raises(TypeError):
        Settings()
