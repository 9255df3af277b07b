"""The benchmark's arithmetic: how many steps, updates and evaluations a budget means.

A budget counts agent steps (decisions); emulator frames are `frame_skip` times as many.
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


def updates(budget: int, learning_starts: int, updates_per_step: int) -> int:
    """Updates in `budget` agent steps, each step once learning has started."""
    return max(0, budget - learning_starts) * updates_per_step


def evaluations(budget: int, every: int) -> tuple[int, ...]:
    """Agent steps at which the policy is scored: every `every`, and at the budget."""
    return (*range(every, budget, every), budget)


def replay_capacity(capacity: int, steps: int) -> int:
    """Transitions to make room for: all of the run's, but never more than `capacity`."""
    return min(capacity, steps)


def plan(cfg: DictConfig) -> Plan:
    """The numbers of a configured run."""
    agent = cfg.agent
    return Plan(
        agent_steps=cfg.budget,
        updates=updates(cfg.budget, agent.learning_starts, agent.updates_per_step),
        evaluations=evaluations(cfg.budget, cfg.evaluation.every),
        capacity=replay_capacity(cfg.replay.capacity, cfg.budget),
    )
