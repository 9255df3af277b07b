"""The configuration of a run: its sections, the rules between them, and what follows from them.

Defaults are in `configs/`. The settings of a part stand beside the part.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, make_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from .environment import EnvironmentSettings
from .errors import ConfigError
from .games import BENCHMARK_GAMES, DEVELOPMENT_GAMES, canonical
from .networks import feature_shape
from .objectives import objective_type
from .policy import read_config
from .rainbow import RainbowSettings
from .replay import ReplaySettings, check_capacity, steps_off_limits
from .run import config
from .run.disk import one_line
from .run.schema import RunSettings, Subject, bounded, construct

_SETS = {"all": BENCHMARK_GAMES, "dev": DEVELOPMENT_GAMES}
LAYOUT = config.Layout(Path(__file__).resolve().parents[1] / "configs", "game", canonical, _SETS)


@dataclass(frozen=True, kw_only=True)
class CapacitySettings:
    """The section `replay`; how steps are drawn is the agent's."""

    capacity: int = bounded(1)


@dataclass(frozen=True, kw_only=True)
class AgentSettings(RainbowSettings, ReplaySettings):
    """The section `agent`. With an objective it is an instance of the objective's settings too."""

    name: str = ""  # of its file; an agent made by hand may do without
    objective: str | None


@dataclass(frozen=True)
class Workload:
    """What a run will do."""

    agent_steps: int  # decisions in the whole run
    env_steps: int  # emulator frames in the whole run
    updates: int  # of the agent
    evaluations: tuple[int, ...]  # agent steps after which to evaluate; the last is the end
    capacity: int  # transitions that the replay has room for


@dataclass(frozen=True, kw_only=True)
class Config(RunSettings):
    """All that a run is configured with."""

    game: Subject
    environment: EnvironmentSettings
    replay: CapacitySettings
    agent: AgentSettings

    def __post_init__(self) -> None:
        """Raises: ConfigError: keys that do not go together."""
        super().__post_init__()
        agent, starts, environment = self.agent, self.agent.learning_starts, self.environment
        if starts >= self.budget:
            remedy = "before any update; use a larger budget or fewer random steps"
            raise ConfigError(f"agent.learning_starts={starts}: the run ends {remedy}")
        # Sequences with their n-step returns can be drawn at every update.
        least = steps_off_limits(agent, environment.frame_stack) + 1
        if starts < least:
            problem = f"no sequence can be drawn so early; use at least {least}"
            raise ConfigError(f"agent.learning_starts={starts}: {problem}")
        check_capacity(self.replay.capacity, agent, environment.frame_stack)
        # What looks at images says itself if it cannot be made for the environment's.
        feature_shape(environment.image_size, agent.encoder, agent.num_filters)
        if agent.objective is not None:
            objective_type(agent.objective).check(agent, environment.image_size)
        if not agent.rl and not objective_weight(agent):
            remedy = "choose one that has, such as agent=mlr"
            raise ConfigError(f"agent.rl=false: no objective to train by itself; {remedy}")

    @property
    def subject(self) -> str:
        """Name of the game."""
        return self.game.name

    @property
    def workload(self) -> Workload:
        """The budget is in agent steps; it is scored every `evaluation.every`, and at the end."""
        budget, agent, every = self.budget, self.agent, self.evaluation.every
        return Workload(
            agent_steps=budget,
            env_steps=budget * self.environment.frame_skip,
            updates=max(0, budget - agent.learning_starts) * agent.updates_per_step,
            evaluations=(*range(every, budget, every), budget),
            capacity=min(self.replay.capacity, budget),
        )


def load(argv: Sequence[str]) -> Config:
    """The configuration of a command line; `--help` and `--print-config` print and end the process.

    Raises: ConfigError: the first thing that is wrong, in one line.
    """
    if {"-h", "--help"} & set(argv):
        print(config.help_text(LAYOUT))
        raise SystemExit(0)
    cfg = compose(argv)
    if "--print-config" in argv:
        print(yaml.safe_dump(asdict(cfg), sort_keys=False).rstrip())
        raise SystemExit(0)
    return cfg


def compose(words: Sequence[str]) -> Config:
    """The configuration of one run from its words. Raises: ConfigError: as `load`."""
    return from_values(config.compose(words, LAYOUT))


def of_run(run: Path, own: str = "", **changes: Any) -> Config:
    """The configuration in a run's folder or an exported one, but for `changes`.

    Args: `own`: the own environment that was typed; what a folder alone names is never imported.

    Raises: ConfigError: none is there, or it is of another version or an environment not typed.
    """
    try:  # on a machine of its own
        values = {**read_config(run), "cuda_graph": False, "fused_kernels": False}
        if isinstance(values.get("logging"), dict):
            values["logging"] |= {"sinks": ["tensorboard"]}
        cfg = from_values({**values, **changes})
        if ":" in cfg.subject and cfg.subject != own:
            remedy = f"no folder's word imports code; if yours: evaluate.py --own {cfg.subject}"
            raise ConfigError(f"was trained on {cfg.subject}, and {remedy}")
    except ConfigError as error:
        raise ConfigError(f"RUN={run}: {one_line(error)}") from error
    return cfg


def from_values(values: Mapping[str, Any]) -> Config:
    """The configuration from a run's config.yaml. Raises: ConfigError: as `load`."""
    return construct(Config, {**values, "agent": agent_settings(values.get("agent"))})


def agent_settings(values: Any) -> AgentSettings:
    """The section `agent` from plain values. Raises: ConfigError: as `load`."""
    name = values.get("objective") if isinstance(values, Mapping) else None
    return construct(_agent_type(None if name is None else str(name)), values, "agent")


@cache  # one class for an objective, so that equal settings are equal
def _agent_type(objective: str | None) -> type[AgentSettings]:
    if objective is None:
        return AgentSettings
    bases = objective_type(objective).settings_type, AgentSettings
    kind: Any = make_dataclass("AgentSettings", [], bases=bases, frozen=True, kw_only=True)
    return kind  # type: ignore[no-any-return]


def objective_weight(agent: AgentSettings) -> float:
    """Weight of the agent's objective; 0 without one."""
    return 0.0 if agent.objective is None else float(getattr(agent, f"{agent.objective}_weight"))
