"""The published size on a CPU: slow, so not part of `make test`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_UPDATE = """
import resource
from small_agents import agent_cfg, make_batch
from mlr_dmcontrol.build import build_agent
from mlr_dmcontrol.run.seeding import Streams

agent = build_agent(agent_cfg("mlr"), obs_shape=(9, 100, 100), action_dim=3, device="cpu", seed=0)
noise = agent.draw_noise(Streams(0))
agent.update(make_batch(agent), noise, actor_step=True, target_step=True)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.soak
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in KiB on Linux")
def test_peak_memory_of_a_whole_update() -> None:
    """Below 3 GiB; the published code needs 14."""
    tests = Path(__file__).parent
    process = subprocess.run(
        [sys.executable, "-c", _UPDATE],
        env={"PYTHONPATH": f"{tests}:{tests.parent}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert float(process.stdout.split()[-1]) < 3.0
