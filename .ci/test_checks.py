"""The repository's own checks find what they are for, and let good code pass."""

import pytest
import style
import twins


@pytest.mark.parametrize(
    "source",
    [
        "import numpy as np\nnp.random.rand(3)",
        "import numpy as np\nnp.random.default_rng()",
        "from numpy import random\nrandom.seed(1)",
        "from random import choice\nchoice([1])",
        "import torch\ntorch.randn(3)",
        "import torch\ntorch.randperm(3, generator=None)",
        "import torch\ntorch.cuda.manual_seed_all(1)",
        "from torch.nn import functional as F\nF.dropout(x)",
        "x.normal_(0, 1)",
    ],
)
def test_global_draws_are_found(source: str) -> None:
    assert style.global_draws(source)


@pytest.mark.parametrize(
    "source",
    [
        "import numpy as np\nnp.random.default_rng(3).normal()",
        "import torch\ntorch.randn(3, generator=g)\nx.normal_(generator=g)",
        "import torch\nfrom torch import nn\nnn.init.trunc_normal_(w, std=0.02)",
    ],
)
def test_named_generators_pass(source: str) -> None:
    assert not style.global_draws(source)


def test_paths_of_a_machine_and_registries_are_found() -> None:
    text = "cd {}home/me\nsee a/work/b\npip --index-url x\n".format("/")
    assert len(style.names_a_machine(text)) == 2


def test_twins_that_drift_apart_are_found() -> None:
    ours = dict.fromkeys(twins.SINGLES, "") | {"{package}/run/a.py": "1", "own.py": "1"}
    assert not twins.differences(ours, ours | {"own.py": "2"})
    assert len(twins.differences(ours, ours | {"{package}/run/a.py": "2", "own.py": "2"})) == 1
    assert len(twins.differences(ours, ours)) == 1, "own.py could be a twin"
