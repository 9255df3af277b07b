"""The agreements that the code keeps, checked on the code itself (the same file in both trees).

Sizes, exceptions, randomness, loading, texts; every rule is shown to find what it is for.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from source_files import PACKAGE, SIBLINGS, SOURCES, TESTS, TREE, aliases, parsed

MAX_FILE, MAX_FUNCTION, MAX_COLUMNS = 350, 50, 100

TEXT_SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".sh", ".csv", ".json", ""}
NOT_OURS = {"runs", "multirun", "outputs", "LICENSE"}
MACHINE_PATH = re.compile(r"(?<![\w.$}])/(?:work|root|farm|opt|home)/\w")
REGISTRY_HOST = re.compile(
    r"pypi\.(?:org|python)|pythonhosted|download\.pytorch|--(?:extra-)?index-url"
)


def files_of(root: Path, *, deep: bool = True) -> Iterator[Path]:
    """Text files below `root`, without caches, virtual environments and the runs' output."""
    for path in sorted(root.iterdir()):
        hidden = path.name.startswith(".") and path.name not in {".ci", ".gitignore"}
        if hidden or path.name in NOT_OURS or path.name == "__pycache__":
            continue
        if path.is_dir():
            yield from files_of(path) if deep else ()
        elif path.suffix in TEXT_SUFFIXES:
            yield path


# --- rules: each yields what it finds in one module ---------------------------------------------


def long_functions(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION:
                yield f"{node.lineno}: {node.name} has {lines} lines"


def swallowed_exceptions(module: ast.Module) -> Iterator[str]:
    everything = {"Exception", "BaseException"}
    for node in ast.walk(module):
        if not isinstance(node, ast.ExceptHandler):
            continue
        if node.type is None:
            yield f"{node.lineno}: bare except"
        elif ast.unparse(node.type) in everything and all(
            isinstance(part, ast.Pass) for part in node.body
        ):
            yield f"{node.lineno}: swallows every exception"


def star_imports(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            yield f"{node.lineno}: import *"


def calls(module: ast.Module) -> Iterator[tuple[ast.Call, str | None, str]]:
    """Every call, its full imported name (None: a method of some value) and its last name."""
    names = aliases(module)
    for node in ast.walk(module):
        if not isinstance(node, ast.Call):
            continue
        parts, function = [], node.func
        while isinstance(function, ast.Attribute):
            parts.append(function.attr)
            function = function.value
        if isinstance(function, ast.Name) and function.id in names:
            full = ".".join([names[function.id], *reversed(parts)])
            yield node, full, full.rsplit(".", 1)[-1]
        elif parts:
            yield node, None, parts[0]
        elif isinstance(function, ast.Name):
            yield node, function.id, function.id


def keyword(call: ast.Call, name: str) -> str | None:
    return next((ast.unparse(each.value) for each in call.keywords if each.arg == name), None)


NUMPY_GENERATORS = {"default_rng", "Generator", "SeedSequence", "PCG64", "Philox", "BitGenerator"}
TORCH_DRAWS = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial"}
TORCH_DRAWS |= {"poisson", "rand_like", "randn_like", "randint_like"}
TORCH_GLOBAL = {"manual_seed", "seed", "set_rng_state", "fork_rng", "manual_seed_all"}
TORCH_HIDDEN = {"dropout", "dropout2d", "gumbel_softmax", "Dropout", "Dropout2d"}
IN_PLACE_DRAWS = {"normal_", "uniform_", "random_", "bernoulli_", "exponential_", "log_normal_"}
IN_PLACE_DRAWS |= {"geometric_", "cauchy_", "bernoulli", "rsample"}


def global_randomness(module: ast.Module) -> Iterator[str]:
    """Draws that no named generator makes. torch.nn.init draws inside `initialisation` only."""
    for call, full, last in calls(module):
        package = (full or "").split(".")[0]
        explicit = keyword(call, "generator") not in {None, "None"}
        if full is None:
            wrong = last in IN_PLACE_DRAWS and not explicit
        elif full.startswith("numpy.random."):
            wrong = last not in NUMPY_GENERATORS or (last == "default_rng" and not call.args)
        elif package == "random":
            wrong = full != "random.Random"
        elif package == "torch":
            draws = last in TORCH_DRAWS and full.count(".") == 1
            wrong = (draws and not explicit) or last in TORCH_GLOBAL | TORCH_HIDDEN
        else:
            wrong = False
        if wrong:
            yield f"{call.lineno}: {ast.unparse(call.func)} draws from, or sets, a global generator"


def unsafe_loading(module: ast.Module) -> Iterator[str]:
    """Ways by which a file could run code: only tensors and plain values are ever loaded."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imported = {getattr(node, "module", None), *(alias.name for alias in node.names)}
            for name in imported & {"pickle", "cloudpickle", "dill", "shelve", "marshal"}:
                yield f"{node.lineno}: imports {name}"
    for call, full, _ in calls(module):
        if full == "torch.load" and keyword(call, "weights_only") != "True":
            yield f"{call.lineno}: torch.load without weights_only=True"
        if keyword(call, "allow_pickle") not in {None, "False"}:
            yield f"{call.lineno}: allow_pickle"
        if full in {"eval", "exec", "yaml.load", "yaml.unsafe_load", "joblib.load"}:
            yield f"{call.lineno}: {full}"


RULES: dict[str, Callable[[ast.Module], Iterator[str]]] = {
    "long functions": long_functions,
    "swallowed exceptions": swallowed_exceptions,
    "star imports": star_imports,
    "global randomness": global_randomness,
    "unsafe loading": unsafe_loading,
}
EXCEPTIONS = {("global randomness", "run/seeding.py")}  # it is where the streams are made
FOR_TESTS_TOO = {"long functions"}


@pytest.mark.parametrize("rule", RULES)
def test_rule_holds_in_every_module(rule: str) -> None:
    excepted = [PACKAGE / path for name, path in EXCEPTIONS if name == rule]
    found = [
        f"{path.relative_to(TREE)}:{finding}"
        for path in [*SOURCES, *(TESTS if rule in FOR_TESTS_TOO else [])]
        if path not in excepted
        for finding in RULES[rule](parsed(path))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ("long functions", "def f():\n" + "    x = 1\n" * 50),
        ("swallowed exceptions", "try:\n    f()\nexcept:\n    raise"),
        ("swallowed exceptions", "try:\n    f()\nexcept Exception:\n    pass"),
        ("star imports", "from x import *"),
        ("global randomness", "import numpy as np\nnp.random.rand(3)"),
        ("global randomness", "import numpy as np\nnp.random.default_rng()"),
        ("global randomness", "from numpy import random\nrandom.seed(1)"),
        ("global randomness", "import random\nrandom.random()"),
        ("global randomness", "from random import choice\nchoice([1])"),
        ("global randomness", "import torch\ntorch.randn(3)"),
        ("global randomness", "import torch\ntorch.randperm(3, generator=None)"),
        ("global randomness", "import torch\ntorch.rand_like(x)"),
        ("global randomness", "import torch\ntorch.cuda.manual_seed_all(1)"),
        ("global randomness", "from torch.nn import functional as F\nF.dropout(x)"),
        ("global randomness", "x.normal_(0, 1)"),
        ("unsafe loading", "import pickle"),
        ("unsafe loading", "import torch\ntorch.load(p)"),
        ("unsafe loading", "import torch\ntorch.load(p, weights_only=False)"),
        ("unsafe loading", "import numpy as np\nnp.load(p, allow_pickle=True)"),
        ("unsafe loading", "eval('1')"),
    ],
)
def test_rule_finds_what_it_is_for(rule: str, code: str) -> None:
    assert list(RULES[rule](ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "import numpy as np\nnp.random.default_rng(3).normal()",
        "import torch\ntorch.randn(3, generator=g)\nx.normal_(generator=g)",
        "import torch\nfrom torch import nn\nnn.init.trunc_normal_(w, std=0.02)",
        "import torch\ntorch.load(p, weights_only=True)\nmodel.eval()",
    ],
)
def test_rules_let_good_code_pass(code: str) -> None:
    assert not [found for rule in RULES.values() for found in rule(ast.parse(code))]


# --- sizes and texts ----------------------------------------------------------------------------


def oversize(text: str) -> Iterator[str]:
    lines = text.splitlines()
    if len(lines) > MAX_FILE:
        yield f"{len(lines)} lines"
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_COLUMNS:
            yield f"line {number} has {len(line)} columns"


def test_files_are_short_and_lines_narrow() -> None:
    found = [
        f"{path.relative_to(TREE)}: {finding}"
        for path in [*SOURCES, *TESTS]
        for finding in oversize(path.read_text())
    ]
    assert not found, "\n".join(found)


def test_long_files_and_wide_lines_are_found() -> None:
    line = "x" * MAX_COLUMNS + "\n"
    assert not [*oversize(line * MAX_FILE)]
    assert [*oversize(line * MAX_FILE + "x")] == [f"{MAX_FILE + 1} lines"]
    assert [*oversize(line + "x" + line)] == [f"line 2 has {MAX_COLUMNS + 1} columns"]


def test_no_drawer_of_odds_and_ends() -> None:
    assert not [path for path in SOURCES if path.stem in {"utils", "util", "helpers", "misc"}]


def test_nothing_names_a_machine_or_a_registry() -> None:
    files = [*files_of(TREE)]
    if SIBLINGS:  # in the whole repository its own files count too
        files += files_of(TREE.parent, deep=False)
        files += [*files_of(TREE.parent / ".ci"), *files_of(TREE.parent / "figs")]
    found = [
        f"{path.relative_to(TREE.parent)}:{number}: {line.strip()[:80]}"
        for path in files
        if path.name != Path(__file__).name
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if MACHINE_PATH.search(line) or REGISTRY_HOST.search(line)
    ]
    assert not found, "\n".join(found)
