"""Who imports whom, and what is loaded without torch (the same file in both trees)."""

from __future__ import annotations

import ast
from pathlib import Path

from source_files import MODULES, PACKAGE, aliases, parsed

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
