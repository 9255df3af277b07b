"""The command line and the configuration: what ships composes, what is wrong is one line."""

import dataclasses
import itertools
import math
import os
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import config_cases as cases
import pytest
import torch
import yaml

import doctor
import train
from mlr_dmcontrol import errors
from mlr_dmcontrol.errors import ConfigError
from mlr_dmcontrol.run import config
from mlr_dmcontrol.run.folder import MAY_CHANGE, MAY_GROW, flatten
from mlr_dmcontrol.settings import LAYOUT, compose, from_values, load, of_run

SUBJECT = LAYOUT.subject
AGENTS, PRESETS = LAYOUT.options("agent"), LAYOUT.options("preset")
SUBJECTS = [*LAYOUT.options(SUBJECT), cases.WITHOUT_FILE]


def values(*words: str) -> dict[str, Any]:
    """The configuration of a command line, by dotted keys."""
    return flatten(dataclasses.asdict(load(words)))


@pytest.mark.parametrize("agent, preset", itertools.product(AGENTS, PRESETS))
def test_every_pair_of_agent_and_preset_composes(agent: str, preset: str) -> None:
    subject = SUBJECTS[(AGENTS.index(agent) + PRESETS.index(preset)) % len(SUBJECTS)]
    cfg = load([f"{SUBJECT}={subject}", f"agent={agent}", f"preset={preset}"])
    assert (cfg.agent.name, cfg.preset, cfg.subject) == (agent, preset, subject)


def test_the_defaults_are_the_published_setting() -> None:
    assert cases.PUBLISHED.items() <= values().items()
    for subject, own in cases.FOR_ONE.items():
        assert own.items() <= values(f"{SUBJECT}={subject}").items()


def test_the_command_line_beats_the_preset_which_beats_the_agent() -> None:
    size = "agent.batch_size"
    assert values("preset=smoke")[size] < values()[size]
    for word in (f"{size}=7", "scale.batch_size=7", "scale={batch_size: 7}"):
        assert values(word, "preset=smoke")[size] == 7


def test_a_configuration_is_whole_and_comes_back_from_a_runs_folder(tmp_path: Path) -> None:
    cfg = load(["preset=smoke", "tag=x"])
    whole, path = dataclasses.asdict(cfg), tmp_path / "config.yaml"
    assert "${" not in str(cfg) and "scale" not in whole
    assert {key.partition(".")[0] for key in (*MAY_CHANGE, *MAY_GROW)} <= set(whole)
    path.write_text(yaml.safe_dump(whole | {"device": "cuda:7", "cuda_graph": True}))
    assert of_run(tmp_path, device="cpu") == dataclasses.replace(cfg, device="cpu")
    path.write_text(yaml.safe_dump(whole | {"unheard_of": 3}))
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError, match=f"RUN={folder}: "):
            of_run(folder)


def test_spellings_of_a_budget() -> None:
    for text in ("100k", "100_000", "1e5", "0.1M"):
        assert load([f"budget={text}"]).budget == 100_000


@pytest.mark.parametrize("text", ["a=b,c", "it's", "back\\slash", "'quoted'", "~/x"])
def test_paths_and_tags_are_one_text_whatever_they_look_like(text: str) -> None:
    words = [f"runs_dir={text}", "tag=1e5"]
    assert config.expand(words, LAYOUT) == [words]
    cfg = load(words)
    assert (cfg.runs_dir, cfg.tag) == (
        os.path.expanduser(text.removeprefix("'").removesuffix("'")),
        "1e5",
    )


def test_the_folder_of_a_run() -> None:
    cfg = load([f"{SUBJECT}=a.b:C/d-v0", "agent=mlr", "seed=3", "tag=x"])
    assert cfg.path == Path("runs/a.b-C-d-v0/mlr-x/seed_3")
    assert dataclasses.replace(cfg, tag="", runs_dir="/r").path == Path("/r/a.b-C-d-v0/mlr/seed_3")


@pytest.mark.parametrize(
    "word, values",
    {
        f"{SUBJECT}=all,dev": LAYOUT.sets["all"],
        f"{SUBJECT}=choice({','.join(LAYOUT.sets['dev'])})": LAYOUT.sets["dev"],
        f"{SUBJECT}=a.b:C-v0,d/e": ("a.b:C-v0", "d/e"),
        f"{SUBJECT}=glob(*)": sorted({*LAYOUT.sets["all"], *LAYOUT.options(SUBJECT)}),
        "agent=glob(mlr*)": ("mlr", "mlr_official"),
        "seed=range(1,4)": ("1", "2", "3"),
        "agent.num_filters=[4],[8]": ("[4]", "[8]"),
    }.items(),
    ids=str,
)
def test_several_values_are_written_as_in_hydra(word: str, values: Any) -> None:
    key, others = word.partition("=")[0], ["budget=100k", "budget=500k"]
    jobs = config.expand([word, "runs_dir=x", "budget=100k,500k"], LAYOUT)
    expected = itertools.product([f"{key}={text}" for text in values], ["runs_dir=x"], others)
    assert sorted(jobs) == sorted(map(list, expected))


# A command line, and what its refusal names besides the first word.
REFUSED = {
    "agent=mrl": "mlr?",
    f"{SUBJECT}={cases.TYPO[0]}": f"{cases.TYPO[1]}?",
    f"{SUBJECT}=dev": "-m",
    "seed=1,2,": "comma",
    "seed=1,1": "twice",
    "seed=range(1,4,0)": "write each",
    "seed=range(0,1e12)": "too many",
    "seed={}": "whole number",
    "agent.objective={}": "mlr",
    "agent=glob(zz*)": "no value",
    "launcher.partition=gpu": "-m",
    "agent.mask_rato=0.3": "mask_ratio?",
    "environment.mask_ratio=0.3": "agent.mask_ratio?",  # a key that has moved
    "scale.patch_sise=8": "patch_size?",
    "agnet=mlr": "agent?",
    "unheard.of=3": "--help",
    "hydra/launcher=submitit_slurm": "launcher=",
    "++hydra.run.dir=x": "runs_dir=",
    "evaluation=3": "evaluation.",
    "agent.mask_ratio=[0.3": "quote it",
    "agent.name=other": "agent=",
    "agent.objective=mlrr": "mlr?",
    "seed=${nothing}": "nothing",
    "budget=1.5": "whole number",
    "device=gpu": "cuda",
    f"device=cuda:{torch.cuda.device_count()}": f"finds {torch.cuda.device_count()}",
    "tag=a/b": "folder",
    f"tag={'x' * 101}": "up to 100",
    "runs_dir=": "name a folder",
    f"runs_dir=a/{'é' * 128}/b": "too long",
    "++seed=1": "seed=1",
    "--seed=3": "seed=3",
    "seed 3": "seed=<value>",
    "--multi-run": "--multirun?",
    "compile=true deterministic=true": "deterministic",
    "cuda_graph=true device=cpu": "false",
    "agent.rl=false agent.mlr_weight=0": "agent=mlr",
    **cases.TOGETHER,
}


@pytest.mark.parametrize("line, named", REFUSED.items(), ids=list(REFUSED))
def test_wrong_words_are_refused_in_one_line(line: str, named: str) -> None:
    """By the doctor too."""
    first, *others = line.split(" ")
    with pytest.raises(ConfigError) as caught:
        load([first, *others])
    beginning = rf"{re.escape(first)}: |{re.escape(first.partition('=')[0])}\["
    assert re.match(beginning, str(caught.value)) and "\n" not in str(caught.value)
    assert named in str(caught.value).partition(": ")[2]
    assert doctor.main([first, *others]) == 1


def test_exit_codes_are_what_scripts_rely_on() -> None:
    kinds = [errors.ConfigError, errors.CheckpointError, errors.SimulatorError]
    kinds += [errors.StorageError, errors.NonFiniteError, errors.Preempted]
    assert kinds == errors.RunError.__subclasses__()
    assert [kind.exit_code for kind in kinds] == [2, 2, 2, 3, 4, 75]


def wrong(kind: Any, rule: Mapping[str, Any]) -> list[Any]:
    """Values that a field of such a type must refuse."""
    kinds = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        return [3, "word", *([value] for value in wrong(kinds[0], rule))]
    if type(None) in kinds:
        return wrong(kinds[0], rule)
    values: list[Any] = [3] if kind is str else ["word"]
    if kind in (int, float):
        beyond = {"at least": -1, "above": 0, "at most": 1, "below": 0}
        values += [True, math.nan, math.inf]
        values += [end + beyond[word] for word, end in rule.get("ends", {}).items()]
    return [*values, "no such choice"] if "choices" in rule else values


def test_every_key_is_checked() -> None:
    cfg = compose([])
    whole = dataclasses.asdict(cfg)
    for name, section in whole.items():
        settings = getattr(cfg, name)
        if not dataclasses.is_dataclass(settings):
            continue
        hints = typing.get_type_hints(type(settings))
        cases = [("unheard_of", 3)]
        for field in dataclasses.fields(settings):
            cases += [(field.name, value) for value in wrong(hints[field.name], field.metadata)]
        for key, value in cases:
            with pytest.raises(ConfigError, match=rf"{name}\.{key}[=\[]"):
                from_values(whole | {name: section | {key: value}})
    with pytest.raises(ConfigError, match="seed: missing"):
        from_values({key: value for key, value in whole.items() if key != "seed"})


def test_help_says_how_to_start_what_can_be_chosen_and_every_key() -> None:
    text = config.help_text(LAYOUT)
    load(text.splitlines()[0].split()[2:])
    choices = {" ".join(entry.split()) for entry in re.split(r"\n(?! )", text)}
    assert {f"agent={', '.join(AGENTS)}", f"preset={', '.join(PRESETS)}"} <= choices
    assert (LAYOUT.directory / "train.yaml").read_text().rstrip() in text


def test_no_words_begin_nothing_but_say_how_to(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train.main([]) == train.main(["-m"]) == 0
    assert not list(tmp_path.iterdir())
    words = re.findall(r"python train\.py(?: \S+=\S+)+", capsys.readouterr().out)
    load(words[0].split()[2:])


@pytest.mark.parametrize("word", cases.SEEN_LATE)
def test_what_only_the_builders_see_is_refused_before_there_is_a_folder(
    word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A camera or game that is not there, and more memory than there is; by the doctor too."""
    words = [*word.split(), "preset=smoke", "device=cpu", f"runs_dir={tmp_path}/runs"]
    assert doctor.main(words) == 1
    assert train.main(words) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not list(tmp_path.iterdir())
