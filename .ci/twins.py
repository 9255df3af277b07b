"""Twins: files that are the same in both trees once the package's own name is replaced.

    python .ci/twins.py          compares them; exit code 1 where two have drifted apart
    python .ci/twins.py copy     makes Atari's those of DMControl

There is no common package, so that a tree copied out alone works; this keeps what is written twice
equal. The rule is by folder; single files are named.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE, COPY = ("DMControl", "mlr_dmcontrol"), ("Atari", "mlr_atari")

# Everything below these folders. {package} is mlr_dmcontrol or mlr_atari.
FOLDERS = (
    "configs/launcher/",
    "tests/twin/",
    "{package}/probe/",
    "{package}/report/",
    "{package}/run/",
)
SINGLES = (
    "configs/sweep.yaml",
    "constraints.txt",
    "pyproject.toml",
    "requirements-dev.txt",
    "benchmark.py",
    "probe.py",
    "report.py",
    "requirements-ray.txt",
    "tests/conftest.py",
    "tests/faults.py",
    "tests/test_on_device.py",
    "tests/test_readme.py",
    "tests/test_resume.py",
    "tests/test_run_faults.py",
    "tests/test_trace.py",
    "tests/whole_runs.py",
    "{package}/__init__.py",
    "{package}/device.py",
    "{package}/errors.py",
    "{package}/frames.py",
    "{package}/kernels.py",
    "{package}/momentum.py",
    "{package}/names.py",
    "{package}/objectives/__init__.py",
    "{package}/objectives/decoder.py",
    "{package}/objectives/latents.py",
    "{package}/objectives/masking.py",
    "{package}/own_environment.py",
    "{package}/policy.py",
)
# In the folders above, but each benchmark's own.
OWN = ("{package}/probe/world.py",)


def generic_files(tree: str, package: str) -> dict[str, str]:
    """Text of every tracked or new file of a tree, by its path, both with `{package}` for its name.

    Files that are no text are left out.
    """
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", tree]
    output = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    texts = {}
    for name in output.splitlines():
        path = ROOT / name
        if path.suffix not in {".py", ".yaml", ".toml", ".txt", ".html"} or not path.exists():
            continue
        generic = name.removeprefix(f"{tree}/").replace(package, "{package}")
        texts[generic] = path.read_text(encoding="utf-8").replace(package, "{package}")
    return texts


def is_twin(name: str) -> bool:
    return name not in OWN and (name in SINGLES or name.startswith(FOLDERS))


def differences(ours: dict[str, str], theirs: dict[str, str]) -> list[str]:
    """A line for each twin that is no twin any more, and each file that could be one."""
    lines = []
    for name in sorted({*ours, *theirs, *SINGLES}):
        same = ours.get(name) == theirs.get(name)
        if is_twin(name) and (not same or name not in ours):
            lines.append(f"{name}: differs between the trees, or is missing in one")
        elif not is_twin(name) and name in ours and same and name.endswith(".py"):
            lines.append(f"{name}: the same in both trees, so name it in .ci/twins.py")
    return lines


def copy(ours: dict[str, str], theirs: dict[str, str]) -> None:
    """Make the twins of `COPY` those of `SOURCE`: write, and remove what has no counterpart."""
    tree, package = COPY
    for name in sorted({*ours, *theirs}):
        path = ROOT / tree / name.replace("{package}", package)
        if not is_twin(name) or ours.get(name) == theirs.get(name):
            continue
        print(path.relative_to(ROOT))
        if name in ours:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(ours[name].replace("{package}", package), encoding="utf-8")
        else:
            path.unlink()


def main(words: list[str]) -> int:
    """Exit code: 1 where twins differ, 2 for an unknown word."""
    if words not in ([], ["copy"]):
        print(__doc__, file=sys.stderr)
        return 2
    ours, theirs = generic_files(*SOURCE), generic_files(*COPY)
    if words:
        copy(ours, theirs)
        return 0
    lines = differences(ours, theirs)
    print("\n".join(lines), file=sys.stderr, end="\n" if lines else "")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
