"""The agreements that the code keeps, checked on the code itself (the same file in both trees).

Sizes, exceptions, randomness, loading, layers, twins; every rule is shown to find what it is for.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[1]
PACKAGE = next(path.parent for path in sorted(TREE.glob("mlr_*/__init__.py")))
MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = sorted([*TREE.glob("*.py"), *MODULES])
SIBLINGS = [
    path.parent
    for path in sorted(TREE.parent.glob("*/mlr_*/__init__.py"))
    if path.parent != PACKAGE and (path.parents[1] / "pyproject.toml").exists()
]

MAX_FILE, MAX_FUNCTION, MAX_COLUMNS = 350, 50, 100

# The same file, byte for byte, in both trees. {package} is mlr_atari or mlr_dmcontrol.
TWINS = (
    "constraints.txt",
    "pyproject.toml",
    "requirements-dev.txt",
    "requirements-ray.txt",
    "tests/completeness.py",
    "tests/conftest.py",
    "tests/driver.py",
    "tests/test_ablation.py",
    "tests/test_acceleration.py",
    "tests/test_bookkeeping.py",
    "tests/test_completeness.py",
    "tests/test_config.py",
    "tests/test_interruptions.py",
    "tests/test_launchers.py",
    "tests/test_methods.py",
    "tests/test_probe.py",
    "tests/test_probe_command.py",
    "tests/test_progress.py",
    "tests/test_readme.py",
    "tests/test_resources.py",
    "tests/test_resume.py",
    "tests/test_style.py",
    "tests/test_trace.py",
    "tests/test_sweep.py",
    "configs/sweep.yaml",
    "configs/launcher/local.yaml",
    "configs/launcher/ray.yaml",
    "configs/launcher/slurm.yaml",
    "tests/whole_runs.py",
    "{package}/__init__.py",
    "{package}/acceleration.py",
    "{package}/benchmark/__init__.py",
    "{package}/benchmark/checkpoints.py",
    "{package}/benchmark/command.py",
    "{package}/benchmark/counters.py",
    "{package}/benchmark/measure.py",
    "{package}/benchmark/methods.py",
    "{package}/benchmark/page.py",
    "{package}/benchmark/printed.py",
    "{package}/benchmark/processes.py",
    "{package}/benchmark/scaling.py",
    "{package}/benchmark/table.py",
    "{package}/benchmark/timing.py",
    "{package}/errors.py",
    "{package}/frames.py",
    "{package}/machine.py",
    "{package}/momentum.py",
    "{package}/seeds.py",
    "{package}/settings.py",
    "{package}/objectives/__init__.py",
    "{package}/objectives/decoder.py",
    "{package}/objectives/masking.py",
    "{package}/benchmark/__init__.py",
    "{package}/probe/__init__.py",
    "{package}/probe/alone.py",
    "{package}/probe/command.py",
    "{package}/probe/linear.py",
    "{package}/probe/measure.py",
    "{package}/probe/output.py",
    "{package}/probe/recording.py",
    "{package}/report/__init__.py",
    "{package}/report/cli.py",
    "{package}/report/fairness.py",
    "{package}/report/output.py",
    "{package}/report/page.py",
    "{package}/report/plots.py",
    "{package}/report/published.py",
    "{package}/report/readme.py",
    "{package}/report/repro.py",
    "{package}/report/results.py",
    "{package}/report/rows.py",
    "{package}/report/runs.py",
    "{package}/report/statistics.py",
    "{package}/report/status.py",
    "{package}/report/study.py",
    "{package}/report/tables.py",
    "{package}/run/__init__.py",
    "{package}/run/ablation.py",
    "{package}/run/bookkeeping.py",
    "{package}/run/checkpoint.py",
    "{package}/run/chunks.py",
    "{package}/run/command.py",
    "{package}/run/console.py",
    "{package}/run/doctor.py",
    "{package}/run/folder.py",
    "{package}/run/guard.py",
    "{package}/run/help.py",
    "{package}/run/logger.py",
    "{package}/run/pack.py",
    "{package}/run/plan_text.py",
    "{package}/run/preemption.py",
    "{package}/run/progress.py",
    "{package}/run/schema.py",
    "{package}/run/seeding.py",
    "{package}/run/slots.py",
    "{package}/run/storage.py",
    "{package}/run/sweep.py",
    "{package}/run/timing.py",
)

# The same but for the package's name, in imports.
NAMESAKES = (
    "tests/small_checkpoints.py",
    "tests/synthetic_runs.py",
    "tests/test_benchmark.py",
    "tests/test_checkpoint.py",
    "tests/test_checkpoint_damage.py",
    "tests/test_checkpoint_faults.py",
    "tests/test_console.py",
    "tests/test_decoder.py",
    "tests/test_errors.py",
    "tests/test_folder.py",
    "tests/test_frames.py",
    "tests/test_guard.py",
    "tests/test_logger.py",
    "tests/test_masking.py",
    "tests/test_momentum.py",
    "tests/test_preemption.py",
    "tests/test_report.py",
    "tests/test_results.py",
    "tests/test_seeding.py",
    "tests/test_settings.py",
    "tests/test_statistics.py",
    "tests/test_status.py",
)

# Who must not know whom: data flows one way, so imports do too. A name stands for what is below it.
LEARNING = ("networks", "momentum", "sac", "rainbow", "objectives", "official", "build")
HOUSEKEEPING = ("run", "report")
KNOWS_NOTHING_OF = {
    "frames": (*LEARNING, *HOUSEKEEPING, "environment", "replay"),
    "environment": (*LEARNING, *HOUSEKEEPING, "replay", "augmentation"),
    "replay": (*LEARNING, *HOUSEKEEPING, "environment"),
    "augmentation": (*LEARNING, *HOUSEKEEPING, "environment", "replay"),
    "momentum": ("sac", "rainbow", "objectives", "build", *HOUSEKEEPING, "environment", "replay"),
    "networks": ("sac", "rainbow", "objectives", "build", *HOUSEKEEPING, "environment", "replay"),
    "objectives": ("sac", "rainbow", "official", "build", *HOUSEKEEPING, "environment", "replay"),
    "sac": ("objectives", "official", "build", *HOUSEKEEPING, "environment", "replay"),
    "rainbow": ("objectives", "official", "build", *HOUSEKEEPING, "environment", "replay"),
    "run": (*LEARNING, "augmentation", "replay"),
    "report": (*LEARNING, "augmentation", "replay", "environment"),
}
OPEN_TO_ALL = ("run.seeding", "objectives.interface")  # named random streams; what an objective is
WITHOUT_TORCH = (
    "environment",
    "tasks",
    "games",
    "seeds",
    "errors",
)  # evaluation workers load these

TEXT_SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".sh", ".csv", ".json", ""}
NOT_OURS = {"runs", "multirun", "outputs", "LICENSE"}
MACHINE_PATH = re.compile(r"(?<![\w.$}])/(?:work|root|farm|opt|home)/\w")
REGISTRY_HOST = re.compile(
    r"pypi\.(?:org|python)|pythonhosted|download\.pytorch|--(?:extra-)?index-url"
)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


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


def aliases(module: ast.Module) -> dict[str, str]:
    """What each imported name stands for, as in {'np': 'numpy', 'F': 'torch.nn.functional'}."""
    names = {}
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                short = alias.asname or alias.name.split(".")[0]
                names[short] = alias.name if alias.asname else short
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


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


@pytest.mark.parametrize("rule", RULES)
def test_rule_holds_in_every_module(rule: str) -> None:
    excepted = [PACKAGE / path for name, path in EXCEPTIONS if name == rule]
    found = [
        f"{path.relative_to(TREE)}:{finding}"
        for path in SOURCES
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


def test_files_are_short_and_lines_narrow() -> None:
    found = []
    for path in sorted([*SOURCES, *TREE.glob("tests/**/*.py")]):
        lines = path.read_text().splitlines()
        if path in SOURCES and len(lines) > MAX_FILE:
            found.append(f"{path.relative_to(TREE)}: {len(lines)} lines")
        wide = [number for number, line in enumerate(lines, 1) if len(line) > MAX_COLUMNS]
        found += [f"{path.relative_to(TREE)}:{number}: over {MAX_COLUMNS}" for number in wide]
    assert not found, "\n".join(found)


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


# --- layers -------------------------------------------------------------------------------------


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def own_imports(path: Path, names: set[str]) -> set[str]:
    """Modules of the package that `path` imports, wherever in the file, by name in the package."""
    container = list(path.relative_to(PACKAGE).parts[:-1])
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names if alias.name.startswith(PACKAGE.name)]
            found |= {target.removeprefix(PACKAGE.name).lstrip(".") for target in targets}
        if not isinstance(node, ast.ImportFrom):
            continue
        parts = (node.module or "").split(".") if node.module else []
        if node.level:
            parts = container[: len(container) - node.level + 1] + parts
        elif parts[0] == PACKAGE.name:
            parts = parts[1:]
        else:
            continue
        for alias in node.names:
            whole = ".".join([*parts, alias.name])
            found.add(whole if whole in names else ".".join(parts))
    return found & names - {module_name(path)}


def imports_graph() -> dict[str, set[str]]:
    names = {module_name(path) for path in MODULES}
    return {module_name(path): own_imports(path, names) for path in MODULES}


def below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - seen
        seen |= new
        waiting += new
    return seen


def test_imports_never_run_upward() -> None:
    found = [
        f"{name} imports {imported}"
        for name, imports in imports_graph().items()
        for layer, forbidden in KNOWS_NOTHING_OF.items()
        if below(name, layer)
        for imported in sorted(imports)
        if imported not in OPEN_TO_ALL and any(below(imported, each) for each in forbidden)
    ]
    assert not found, "\n".join(found)


def test_imports_have_no_circles() -> None:
    graph = imports_graph()
    circles = [name for name in graph if name in reachable(graph, name)]
    assert not circles, f"modules that import themselves by way of others: {sorted(circles)}"


def test_evaluation_workers_need_no_torch() -> None:
    graph = imports_graph()
    with_torch = {
        module_name(path)
        for path in MODULES
        if any(name.split(".")[0] == "torch" for name in aliases(parsed(path)).values())
    }
    found = [
        f"{name} reaches torch through {sorted(reached)}"
        for name in WITHOUT_TORCH
        if name in graph and (reached := (reachable(graph, name) | {name}) & with_torch)
    ]
    assert not found, "\n".join(found)


# --- twins --------------------------------------------------------------------------------------


def twin_paths(package: Path) -> dict[str, Path]:
    return {twin: package.parent / twin.format(package=package.name) for twin in TWINS}


@pytest.mark.skipif(not SIBLINGS, reason="the sibling tree is not beside this one")
def test_twins_are_the_same_file() -> None:
    ours, theirs = twin_paths(PACKAGE), twin_paths(SIBLINGS[0])
    missing = [twin for twin in TWINS if not (ours[twin].exists() and theirs[twin].exists())]
    assert not missing, f"named as twins but not in both trees: {missing}"
    differ = [twin for twin in TWINS if ours[twin].read_bytes() != theirs[twin].read_bytes()]
    assert not differ, f"twins that have drifted apart: {differ}"


def without_name(path: Path, package: Path) -> str:
    return path.read_text(encoding="utf-8").replace(package.name, "{package}")


@pytest.mark.skipif(not SIBLINGS, reason="the sibling tree is not beside this one")
def test_namesakes_differ_in_the_name_alone() -> None:
    other = SIBLINGS[0]
    differ = [
        name
        for name in NAMESAKES
        if without_name(TREE / name, PACKAGE) != without_name(other.parent / name, other)
    ]
    assert not differ, f"namesakes that have drifted apart: {differ}"


@pytest.mark.skipif(not SIBLINGS, reason="the sibling tree is not beside this one")
def test_tests_that_are_the_same_are_known_as_such() -> None:
    other = SIBLINGS[0]
    names = {path.relative_to(TREE).as_posix() for path in (TREE / "tests").glob("*.py")}
    unlisted = [
        name
        for name in names - {*TWINS, *NAMESAKES}
        if (there := other.parent / name).exists()
        and without_name(TREE / name, PACKAGE) == without_name(there, other)
    ]
    assert not unlisted, f"the same in both trees, so list them above: {sorted(unlisted)}"


@pytest.mark.skipif(not SIBLINGS, reason="the sibling tree is not beside this one")
def test_files_that_are_the_same_are_known_as_twins() -> None:
    listed = set(twin_paths(PACKAGE).values())
    unlisted = [
        path.relative_to(TREE).as_posix()
        for path in MODULES
        if path not in listed
        and (other := SIBLINGS[0] / path.relative_to(PACKAGE)).exists()
        and other.read_bytes() == path.read_bytes()
    ]
    assert not unlisted, f"the same in both trees, so list them in TWINS: {unlisted}"
