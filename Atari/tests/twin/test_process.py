"""What is chosen for the whole process, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from mlr_atari.machine import processes_beside

TREE = Path(__file__).resolve().parents[2]
CODE = """
import os
from types import SimpleNamespace
import torch
from mlr_atari.build import set_up_process

for deterministic, precision in ((True, "fp32"), (False, "bf16")):
    cfg = SimpleNamespace(
        device="cpu", deterministic=deterministic, precision=precision, threads=2
    )
    assert set_up_process(cfg) == torch.device("cpu")
    assert torch.get_num_threads() == 2
    assert torch.are_deterministic_algorithms_enabled() == deterministic
    assert torch.backends.cudnn.deterministic == deterministic
    assert torch.backends.cudnn.benchmark == (not deterministic)
    assert not torch.utils.deterministic.fill_uninitialized_memory
    assert torch.backends.cuda.matmul.allow_tf32 == (precision != "fp32")
    assert torch.backends.cudnn.allow_tf32 == (precision != "fp32")
    assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
"""


def test_processes_work_beside_a_gpu_and_none_beside_a_cpu() -> None:
    assert processes_beside(torch.device("cpu")) == 0
    assert 1 <= processes_beside(torch.device("cuda", 0)) <= len(os.sched_getaffinity(0))


def test_the_process_is_set_up_in_one_place() -> None:
    environment = {key: os.environ[key] for key in os.environ if "CUBLAS" not in key}
    subprocess.run([sys.executable, "-c", CODE], cwd=TREE, env=environment, check=True)
