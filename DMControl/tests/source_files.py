"""Where the code lies: the files of this tree, parsed, and the tree beside it; in both trees."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

TREE = Path(__file__).resolve().parents[1]
PACKAGE = next(path.parent for path in sorted(TREE.glob("mlr_*/__init__.py")))
MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = sorted([*TREE.glob("*.py"), *MODULES])
TESTS = sorted(TREE.glob("tests/**/*.py"))
SIBLINGS = [
    path.parent
    for path in sorted(TREE.parent.glob("*/mlr_*/__init__.py"))
    if path.parent != PACKAGE and (path.parents[1] / "pyproject.toml").exists()
]


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


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
