"""`ablation=<name>` in a sweep: which runs it stands for, and that all of them can be composed."""

from __future__ import annotations

import sys
from pathlib import Path

import config_cases as cases
import pytest

TREE = Path(__file__).resolve().parents[2]
LAYOUT = cases.config.LAYOUT
ABLATIONS = LAYOUT.options("ablation")

sys.path.insert(0, str(TREE))
import train  # noqa: E402

sweep = train.sweep


def jobs(*words: str) -> list[list[str]]:
    return sweep.read(["-m", *words], LAYOUT).jobs


def test_an_ablation_is_the_agent_itself_and_a_run_for_each_value() -> None:
    assert jobs("ablation=mask_ratio", "seed=1,2") == [
        ["seed=1"],
        ["seed=2"],
        *(
            [f"seed={seed}", f"tag='mask_ratio-{ratio}'", f"agent.mask_ratio={ratio}"]
            for ratio in (0.1, 0.3, 0.7, 0.9)
            for seed in (1, 2)
        ),
    ]


def test_keys_of_one_file_change_together() -> None:
    found = jobs("ablation=loss_positions")
    assert [] in found and len(found) == 3
    assert found[2][0] == "tag='loss_positions-masked'"
    assert len(found[2]) == 3


def test_several_ablations_share_the_agent_itself() -> None:
    both = jobs("ablation=mask_ratio,momentum", "tag=study")
    assert both.count(["tag='study'"]) == 1
    assert ["tag='study-momentum-null'", "agent.target_ema_tau=null"] in both
    assert len(both) == len(jobs("ablation=mask_ratio")) + len(jobs("ablation=momentum")) - 1


def test_values_on_the_command_line_take_the_files_place() -> None:
    found = jobs("ablation=mask_ratio", "agent.mask_ratio=0.25,0.4")
    assert found == [
        [],
        ["tag='mask_ratio-0.25'", "agent.mask_ratio=0.25"],
        ["tag='mask_ratio-0.4'", "agent.mask_ratio=0.4"],
    ]


@pytest.mark.parametrize(
    "words, start, fragment",
    [
        (["ablation=mask_rato"], "ablation=mask_rato: ", "did you mean mask_ratio?"),
        (["ablation=momentum", "ablation=mask_ratio"], "ablation=mask_ratio: ", "momentum,mask"),
        (["ablation=loss_positions", "agent.loss_positions=all"], "agent.loss_positions", "leave"),
    ],
)
def test_what_is_refused(words: list[str], start: str, fragment: str) -> None:
    with pytest.raises(cases.ConfigError) as caught:
        jobs(*words)
    assert str(caught.value).startswith(start)
    assert fragment in str(caught.value)


def test_an_ablation_belongs_to_a_sweep() -> None:
    with pytest.raises(cases.ConfigError, match=r"^ablation=momentum: .*add -m"):
        cases.config.load(["ablation=momentum"])


@pytest.mark.parametrize("name", ABLATIONS)
def test_each_run_composes_into_a_folder_of_its_own(name: str) -> None:
    path = LAYOUT.directory / "ablation" / f"{name}.yaml"
    question = path.read_text(encoding="utf-8").splitlines()[0]
    assert question.startswith("# ") and "?" in question
    seen, values = set(), []
    for words in jobs(f"ablation={name}"):
        cfg = cases.config.compose(words)
        seen.add((cfg.tag, str(train.protocol.run_path(cfg))))
        values.append({key: value for key, value in cfg.items() if key != "tag"})
    assert len(seen) == len(values) > 1
    assert all(each != values[0] for each in values[1:] if name != "cube_depth")


def test_every_part_of_the_method_has_its_ablation() -> None:
    asked = {
        *("mask_ratio", "patch_size", "cube_depth", "mask_mode", "mask_per", "mask_level"),
        *("reconstruction", "decoder_depth", "decoder_width", "decoder_actions"),
        *("sequence_length", "momentum", "projection", "loss_positions", "augmentation"),
    }
    assert asked <= set(ABLATIONS)
