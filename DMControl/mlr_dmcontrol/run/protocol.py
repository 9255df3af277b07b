"""The benchmark's arithmetic: how many steps, updates and evaluations a budget means.

A budget counts env steps; an agent step (one decision) is `action_repeat` of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import DictConfig


@dataclass(frozen=True)
class Plan:
    """What a run will do, all counted in agent steps or updates."""

    agent_steps: int  # decisions in the whole run
    updates: int  # updates of the agent
    evaluations: tuple[int, ...]  # agent steps after which to evaluate; the last is the end
    capacity: int  # transitions that the replay has room for


def agent_steps(budget: int, action_repeat: int) -> int:
    """Decisions in `budget` env steps."""
    return budget // action_repeat


def updates(budget: int, action_repeat: int, learning_starts: int) -> int:
    """Updates in `budget` env steps: one per agent step once learning has started."""
    return max(0, agent_steps(budget, action_repeat) - learning_starts)


def evaluations(budget: int, action_repeat: int, every: int) -> tuple[int, ...]:
    """Agent steps at which the policy is scored: every `every` env steps, and at the budget.

    A multiple of `every` that no decision ends on is scored at the next decision's end.
    """
    last = agent_steps(budget, action_repeat)
    marks = (-(-mark // action_repeat) for mark in range(every, budget, every))
    return tuple(sorted({*(mark for mark in marks if mark < last), last}))


def replay_capacity(capacity: int, steps: int) -> int:
    """Transitions to make room for: all of the run's, but never more than `capacity`."""
    return min(capacity, steps)


def plan(cfg: DictConfig) -> Plan:
    """The numbers of a configured run."""
    repeat = cfg.environment.action_repeat
    steps = agent_steps(cfg.budget, repeat)
    return Plan(
        agent_steps=steps,
        updates=updates(cfg.budget, repeat, cfg.training.learning_starts),
        evaluations=evaluations(cfg.budget, repeat, cfg.evaluation.every),
        capacity=replay_capacity(cfg.replay.capacity, steps),
    )
