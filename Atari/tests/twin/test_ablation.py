"""`ablation=<name>` in a sweep: which runs it stands for, and that all of them can be composed."""

from __future__ import annotations

from dataclasses import replace

import pytest

import train
from mlr_atari.run import sweep
from mlr_atari.settings import LAYOUT, compose

ABLATIONS = LAYOUT.options("ablation")


def jobs(*words: str) -> list[list[str]]:
    return sweep.read(["-m", *words], LAYOUT)[0]


def test_an_ablation_is_the_agent_itself_and_a_run_for_each_value() -> None:
    assert jobs("ablation=mask_ratio", "seed=1,2") == [
        ["seed=1"],
        ["seed=2"],
        *(
            [f"seed={seed}", f"tag=mask_ratio-{ratio}", f"agent.mask_ratio={ratio}"]
            for ratio in (0.1, 0.3, 0.7, 0.9)
            for seed in (1, 2)
        ),
    ]


def test_keys_of_one_file_change_together() -> None:
    itself, *others = jobs("ablation=loss_positions")
    assert itself == []
    assert [words[0] for words in others] == [
        "tag=loss_positions-all",
        "tag=loss_positions-masked",
    ]
    assert [len(words) for words in others] == [3, 3]


def test_several_ablations_share_the_agent_itself() -> None:
    both = jobs("ablation=mask_ratio,momentum", "tag=study")
    assert both.count(["tag=study"]) == 1
    assert ["tag=study-momentum-null", "agent.target_ema_tau=null"] in both
    assert len(both) == len(jobs("ablation=mask_ratio")) + len(jobs("ablation=momentum")) - 1


def test_values_on_the_command_line_take_the_files_place() -> None:
    assert jobs("ablation=mask_ratio", "agent.mask_ratio=0.25,0.4") == [
        [],
        ["tag=mask_ratio-0.25", "agent.mask_ratio=0.25"],
        ["tag=mask_ratio-0.4", "agent.mask_ratio=0.4"],
    ]


@pytest.mark.parametrize(
    "words, fragment",
    [
        (["-m", "ablation=mask_rato"], "mask_ratio"),
        (["-m", "ablation=loss_positions", "agent.loss_positions=all"], "loss_positions sets it"),
    ],
)
def test_what_is_refused(
    words: list[str], fragment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {words[-1]}: ")
    assert fragment in error


@pytest.mark.parametrize("name", ABLATIONS)
def test_each_run_composes_into_a_folder_of_its_own(name: str) -> None:
    path = LAYOUT.directory / "ablation" / f"{name}.yaml"
    question = path.read_text(encoding="utf-8").splitlines()[0]
    assert question.startswith("# ") and "?" in question
    folders, values = set(), []
    for words in jobs(f"ablation={name}"):
        cfg = compose(words)
        folders.add(train.protocol.run_path(cfg))
        values.append(replace(cfg, tag=""))
    assert len(folders) == len(values) > 1
    assert name == "cube_depth" or all(other != values[0] for other in values[1:])
