"""What the README says is true: its links lead somewhere, its keys exist, its examples run."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mlr_atari.run.folder import flatten

TREE = Path(__file__).resolve().parents[1]
README = "\n".join(page.read_text() for page in sorted(TREE.glob("*.md")))
IN_REPOSITORY = (TREE.parent / "Makefile").exists()
PAGES = [*TREE.glob("*.md"), *(sorted(TREE.parent.glob("*.md")) if IN_REPOSITORY else [])]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """`python <arguments>` in `folder`, whose modules come first."""
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def examples() -> dict[str, tuple[dict[str, str], list[str]]]:
    """By section: files to write, each named in its block's first line, and commands to run."""
    found = {}
    for section in re.split(r"^## ", README, flags=re.M)[1:]:
        blocks = [(block[1], block[2]) for block in FENCE.finditer(section)]
        named = ((re.match(r"# (\S+\.(?:py|yaml))", text), text) for _, text in blocks)
        files = {name[1]: text for name, text in named if name}
        commands = [text for kind, text in blocks if kind == "bash"]
        if files:
            found[section.splitlines()[0]] = (files, "".join(commands).splitlines())
    return found


def test_links_and_files_that_are_named_exist() -> None:
    written = {name for files, _ in examples().values() for name in files}
    named = set(re.findall(r"`((?:mlr_\w+|configs)/[\w/]+\.\w+)`", FENCE.sub("", README)))
    paths = {TREE / name for name in named - written}
    for page in PAGES:
        links = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text())
        paths |= {page.parent / link for link in links if IN_REPOSITORY or link[:2] != ".."}
    assert not [path for path in paths if not path.exists()]


def test_keys_that_are_named_exist() -> None:
    shown = run(["train.py", "--print-config"], TREE)
    known = flatten(yaml.safe_load(shown.stdout))
    text = FENCE.sub("", README)
    named = set(re.findall(r"`((?:agent|environment|evaluation|replay|checkpoint)\.\w+)\b", text))
    assert named <= {*known, "environment.kwargs"}


@pytest.mark.parametrize("section", examples())
def test_examples_run(section: str, tmp_path: Path) -> None:
    files, commands = examples()[section]
    folder = tmp_path / "tree"
    shutil.copytree(TREE, folder, ignore=shutil.ignore_patterns("runs", "tests", "__pycache__"))
    for name, text in files.items():
        (folder / name).write_text(text)
    for command in commands:
        result = run([*shlex.split(command)[1:], "preset=smoke"], folder)
        assert result.returncode == 0, result.stdout + result.stderr
    assert list(folder.glob("runs/**/final.json"))
