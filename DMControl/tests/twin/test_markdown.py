"""Tables, and the blocks of a README that programs write. The same file in both trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlr_dmcontrol import markdown
from mlr_dmcontrol.errors import ConfigError
from mlr_dmcontrol.report import readme

TREE = Path(__file__).resolve().parents[2]
BEGIN, END = markdown.markers("name")


def test_tables() -> None:
    text = markdown.table(("what", "a", "b"), [("x", "1", "2"), ("y", "3", "4")])
    assert text == "| what | a | b |\n| --- | --- | --- |\n| x | 1 | 2 |\n| y | 3 | 4 |"
    text = markdown.table(("what", "a"), [], numbers=True)
    assert text == "| what | a |\n| --- | ---: |"


def test_only_what_is_between_the_markers_changes() -> None:
    text = f"above\n{BEGIN}\nold\n{END}\nbelow\n"
    assert markdown.replaced(text, "name", "new") == text.replace("old", "new")


@pytest.mark.parametrize(
    "text",
    ["", BEGIN, END, f"{END}\n{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}", f"{BEGIN}{BEGIN}{END}{END}"],
)
def test_markers_that_are_not_there_once_and_in_order(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^README\.md: needs one <!-- name:begin -->"):
        markdown.replaced(text, "name", "new")


@pytest.mark.parametrize("name", [readme.BLOCK])
def test_this_readme_has_every_block(name: str) -> None:
    text = (TREE / "README.md").read_text(encoding="utf-8")
    assert "new" in markdown.replaced(text, name, "new")
