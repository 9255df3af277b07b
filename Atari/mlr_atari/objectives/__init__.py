"""What shapes the representation: one objective a file, whose name `agent.objective` says.

A new idea is one file here that defines a subclass of `Objective`, and one YAML.
"""

import pkgutil
from importlib import import_module

from ..errors import ConfigError, suggestion
from .interface import Objective

__all__ = ["Objective", "available", "objective_type"]


def available() -> dict[str, type[Objective]]:
    """The objectives by name: `{"mlr": MLR, ...}`."""
    types: dict[str, type[Objective]] = {}
    for info in pkgutil.iter_modules(__path__):
        module = import_module(f"{__name__}.{info.name}")
        for value in vars(module).values():
            is_own = isinstance(value, type) and value.__module__ == module.__name__
            if is_own and issubclass(value, Objective) and value is not Objective:
                types[info.name] = value
    return types


def objective_type(name: str) -> type[Objective]:
    """The objective of that name. Raises: ConfigError: no file of this folder defines it."""
    if name not in (known := available()):
        remedy = suggestion(name, list(known))
        raise ConfigError(f"agent.objective={name}: no such objective; {remedy}")
    return known[name]
