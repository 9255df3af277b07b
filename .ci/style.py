"""Agreements that no common tool knows: where randomness comes from, and what no file may name.

`python .ci/style.py` prints what breaks them; exit code 1 if anything does.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TREES = ("DMControl", "Atari")
WHERE_STREAMS_ARE_MADE = "run/seeding.py"

NUMPY_GENERATORS = {"default_rng", "Generator", "SeedSequence", "PCG64", "Philox", "BitGenerator"}
TORCH_DRAWS = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial"}
TORCH_DRAWS |= {"poisson", "rand_like", "randn_like", "randint_like"}
TORCH_GLOBAL = {"manual_seed", "seed", "set_rng_state", "fork_rng", "manual_seed_all"}
TORCH_HIDDEN = {"dropout", "dropout2d", "gumbel_softmax", "Dropout", "Dropout2d"}
IN_PLACE_DRAWS = {"normal_", "uniform_", "random_", "bernoulli_", "exponential_", "log_normal_"}
IN_PLACE_DRAWS |= {"geometric_", "cauchy_", "bernoulli", "rsample"}

MACHINE_PATH = re.compile(r"(?<![\w.$}])/(?:work|root|farm|opt|home)/\w")
REGISTRY_HOST = re.compile(
    r"pypi\.(?:org|python)|pythonhosted|download\.pytorch|--(?:extra-)?index-url"
)
NO_TEXT = {".gif", ".gz", ".npz", ".pdf", ".png", ".safetensors"}
DRAWERS = {"utils", "util", "helpers", "misc"}


def imported_names(module: ast.Module) -> dict[str, str]:
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
    names = imported_names(module)
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


def is_global_draw(call: ast.Call, full: str | None, last: str) -> bool:
    """Whether a call draws from, or sets, a generator that nobody handed it.

    torch.nn.init is left out: it draws inside `seeding.initialisation` only.
    """
    generators = [word.value for word in call.keywords if word.arg == "generator"]
    explicit = any(ast.unparse(value) != "None" for value in generators)
    if full is None:
        return last in IN_PLACE_DRAWS and not explicit
    if full.startswith("numpy.random."):
        return last not in NUMPY_GENERATORS or (last == "default_rng" and not call.args)
    package = full.split(".")[0]
    if package == "random":
        return full != "random.Random"
    if package == "torch":
        draws = last in TORCH_DRAWS and full.count(".") == 1
        return (draws and not explicit) or last in TORCH_GLOBAL | TORCH_HIDDEN
    return False


def global_draws(source: str) -> list[str]:
    """`<line>: <call>` for each draw of a module's text that no named generator makes."""
    return [
        f"{call.lineno}: {ast.unparse(call.func)} draws from, or sets, a global generator"
        for call, full, last in calls(ast.parse(source))
        if is_global_draw(call, full, last)
    ]


def names_a_machine(text: str) -> list[str]:
    """`<line>: <text>` wherever a file names a path of one machine or a package registry."""
    return [
        f"{number}: {line.strip()[:80]}"
        for number, line in enumerate(text.splitlines(), 1)
        if MACHINE_PATH.search(line) or REGISTRY_HOST.search(line)
    ]


def findings() -> Iterator[str]:
    """Everything in the repository's files that breaks an agreement."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    output = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for path in sorted(Path(name) for name in output.splitlines()):
        if not (ROOT / path).is_file() or path.suffix in NO_TEXT:
            continue
        text = (ROOT / path).read_text(encoding="utf-8", errors="replace")
        if path.parent.name != ".ci" or path.suffix != ".py":  # these hold the patterns themselves
            yield from (f"{path}:{finding}" for finding in names_a_machine(text))
        ours = path.suffix == ".py" and path.parts[0] in TREES and "tests" not in path.parts
        if ours and not path.as_posix().endswith(WHERE_STREAMS_ARE_MADE):
            yield from (f"{path}:{finding}" for finding in global_draws(text))
        if path.stem in DRAWERS:
            yield f"{path}: a drawer of odds and ends; name the file for its one job"


def main() -> int:
    """Exit code: 1 if anything breaks an agreement."""
    lines = list(findings())
    print("\n".join(lines), file=sys.stderr, end="\n" if lines else "")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
