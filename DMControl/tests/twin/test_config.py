"""The command line and the configuration: what ships composes, what is wrong is one line."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import re
import subprocess
import sys
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import config_cases as cases
import pytest
import torch
import yaml

import train
from mlr_dmcontrol import errors
from mlr_dmcontrol.errors import ConfigError
from mlr_dmcontrol.run import config
from mlr_dmcontrol.run.folder import MAY_CHANGE, MAY_GROW, flatten
from mlr_dmcontrol.run.schema import plain
from mlr_dmcontrol.settings import LAYOUT, compose, from_values, load, of_run

TREE, SUBJECT = LAYOUT.directory.parent, LAYOUT.subject
AGENTS, PRESETS = LAYOUT.options("agent"), LAYOUT.options("preset")
SUBJECTS = [*LAYOUT.options(SUBJECT), cases.WITHOUT_FILE]


def values(*words: str) -> dict[str, Any]:
    """The configuration of a command line, by dotted keys."""
    return flatten(plain(load(words)))


def refusal(*words: str) -> str:
    """The one line that refuses a command line."""
    with pytest.raises(ConfigError) as caught:
        load(words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what ships ---------------------------------------------------------------------------------


@pytest.mark.parametrize("agent, preset", itertools.product(AGENTS, PRESETS))
def test_every_pair_of_agent_and_preset_composes(agent: str, preset: str) -> None:
    subject = SUBJECTS[(AGENTS.index(agent) + PRESETS.index(preset)) % len(SUBJECTS)]
    cfg = load([f"{SUBJECT}={subject}", f"agent={agent}", f"preset={preset}"])
    assert (cfg.agent.name, cfg.preset, cfg.subject) == (agent, preset, subject)


def test_the_defaults_are_the_published_setting() -> None:
    assert cases.PUBLISHED.items() <= values().items()
    for subject, own in cases.FOR_ONE.items():
        assert own.items() <= values(f"{SUBJECT}={subject}").items()


def test_every_default_has_a_comment() -> None:
    files = ["train.yaml", "sweep.yaml", "agent/*.yaml", "*/base.yaml"]
    bare = []
    for path in (path for pattern in files for path in LAYOUT.directory.glob(pattern)):
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = re.match(r" *(\w+): *([^#]*)", line)
            needs_none = entry and entry[1] in ("defaults", "objective")
            if entry and entry[2] and "${" not in entry[2] and not needs_none and "#" not in line:
                bare.append(f"{path.name}: {line}")
    assert not bare


def test_the_command_line_beats_the_preset_which_beats_the_agent() -> None:
    size = "agent.batch_size"
    assert values("preset=smoke")[size] < values()[size]
    assert values(f"{size}=7", "preset=smoke")[size] == 7
    assert values("preset=smoke", "scale.batch_size=7")[size] == 7
    assert values("preset=smoke", "scale={batch_size: 7}")[size] == 7


def test_a_configuration_is_whole_and_fixed_and_comes_back_from_a_runs_folder(
    tmp_path: Path,
) -> None:
    cfg = load(["preset=smoke", "tag=x"])
    assert "${" not in str(cfg) and "scale" not in plain(cfg)
    with pytest.raises(dataclasses.FrozenInstanceError):
        cfg.seed = 3  # type: ignore[misc]
    assert {key.partition(".")[0] for key in (*MAY_CHANGE, *MAY_GROW)} <= set(plain(cfg))
    text = yaml.safe_dump(plain(cfg) | {"device": "cuda:7", "cuda_graph": True})
    (tmp_path / "config.yaml").write_text(text)
    again = of_run(tmp_path, device="cpu")
    assert again == dataclasses.replace(cfg, device="cpu")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain(cfg) | {"unheard_of": 3}))
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError, match=f"RUN={folder}: "):
            of_run(folder)


# --- words --------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling, name", cases.SPELLINGS.items())
def test_every_spelling_is_one_name(spelling: str, name: str) -> None:
    assert load([f"{SUBJECT}={spelling}"]).subject == name


@pytest.mark.parametrize("text", ["100k", "100_000", "1e5", "0.1M", "100000"])
def test_spellings_of_a_budget(text: str) -> None:
    assert load([f"budget={text}"]).budget == 100_000


@pytest.mark.parametrize("text", ["/tmp/a b", "a=b,c", "it's", "back\\slash", "'quoted'", "~/x"])
def test_paths_and_tags_are_one_text_whatever_they_look_like(text: str) -> None:
    words = [f"runs_dir={text}", "tag=1e5"]
    meant = os.path.expanduser(text.strip("'") if text[0] == "'" else text)
    assert config.expand(words, LAYOUT) == [words]
    cfg = load(words)
    assert (cfg.runs_dir, cfg.tag) == (meant, "1e5")
    assert load(["tag=null"]).tag == "null"


def test_a_sweep_is_split_into_jobs_that_compose() -> None:
    subjects = (cases.TYPO[1], cases.WITHOUT_FILE)
    words = ["seed=1,2", f"{SUBJECT}={','.join(subjects)}", "budget=100k,500k"]
    jobs = config.expand([*words, "runs_dir=x", "agent.mask_ratio=0.1"], LAYOUT)
    assert len(jobs) == 8
    assert {compose(job).subject for job in jobs[::3]} == set(subjects)


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
    key = word.partition("=")[0]
    assert sorted(config.expand([word], LAYOUT)) == sorted([f"{key}={text}"] for text in values)


# --- what is refused ----------------------------------------------------------------------------

# A command line, and what its refusal names besides the first word.
REFUSED = {
    "agent=mrl": "mlr?",
    "preset=laptp": "laptop?",
    "agent=null": "mlr_official",
    f"{SUBJECT}={cases.TYPO[0]}": f"{cases.TYPO[1]}?",
    f"{SUBJECT}=dev": "-m",
    "agent=mlr,mlr_official": "-m",
    "seed=1,2": "-m",
    "seed=1,2,": "comma",
    "seed=1,,2": "comma",
    "seed=1,1": "twice",
    "seed=range(3,1)": "no value",
    "seed=interval(1,2)": "seed=<one>,<another>",
    "agent=glob(zz*)": "no value",
    "ablation=mask_ratio": "-m",
    "launcher.partition=gpu": "-m",
    "agent.mask_rato=0.3": "mask_ratio?",
    "mask_ratio=0.3": "agent.mask_ratio?",
    "environment.mask_ratio=0.3": "agent.mask_ratio?",  # a key that has moved
    "scale.patch_sise=8": "patch_size?",
    "agent.mask_ratio.x=1": "unknown key",
    "agnet=mlr": "agent?",
    "unheard.of=3": "--help",
    "hydra.unheard_of=3": "leave it out",
    "hydra.run.dir=x": "runs_dir=x",
    "hydra/launcher=submitit_slurm": "launcher=slurm",
    "hydra.launcher.partition=gpu": "launcher.partition=gpu",
    "hydra.launcher.n_jobs=2": "jobs_at_once=2",
    "hydra.launcher.ray.init.address=auto": "launcher.init.address=auto",
    "evaluation=3": "evaluation.every",
    "agent.mask_ratio=[0.3": "quote it",
    "agent.mask_ratio=": "a number",
    "agent.name=other": "agent=",
    "agent.objective=mlrr": "mlr?",
    "seed=${nothing}": "nothing",
    "budget=many": "100k",
    "budget=-5": "100k",
    "budget=1.5": "100k",
    "resume=mst": "must?",
    "device=gpu": "cuda",
    "device=cuda:x": "cuda",
    f"device=cuda:{torch.cuda.device_count()}": f"finds {torch.cuda.device_count()}",
    "tag=a/b": "folder",
    "runs_dir=": "name a folder",
    "+agent.new=1": "agent.new=1",
    "++seed=1": "seed=1",
    "~seed": "seed=<value>",
    "--seed 3": "seed=3",
    "--seed=3": "seed=3",
    "-seed": "seed=<value>",
    "seed 3": "seed=3",
    "--multi-run": "--multirun?",
    "agent.augmentation=[shfit]": "",
    "agent.augmentation=shift": "[shift]",
    "agent.objective=[1]": "mlr",
    "budget=1e400": "100k",
    "evaluation.every=1 budget=100m": "1000",
    "evaluation.every=null": "a whole number",
    "compile=true deterministic=true": "deterministic",
    "cuda_graph=true device=cpu": "false",
    "fused_kernels=true device=cpu": "false",
    f"agent.rl=false agent={cases.PLAIN_AGENT}": "agent=mlr",
    "agent.rl=false agent.mlr_weight=0": "agent=mlr",
    f"agent.mask_ratio=0.3 agent={cases.PLAIN_AGENT}": "agent",
    **cases.TOGETHER,
}


@pytest.mark.parametrize("line, named", REFUSED.items(), ids=list(REFUSED))
def test_wrong_words_are_refused_in_one_line(line: str, named: str) -> None:
    words = line.split(" ")
    message = refusal(*words)
    assert re.match(rf"{re.escape(words[0])}: |{re.escape(words[0].partition('=')[0])}\[", message)
    assert named in message.partition(": ")[2]


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
        values += [True, 10**30, math.nan, math.inf]
        beyond = {"at least": -1, "above": 0, "at most": 1, "below": 0}
        values += [end + beyond[word] for word, end in rule.get("ends", {}).items()]
    return [*values, "no such choice"] if "choices" in rule else values


def refused(values: Mapping[str, Any], key: str) -> bool:
    """Whether values are refused with a line that begins with `key`."""
    with pytest.raises(ConfigError) as caught:
        from_values(values)
    return re.match(rf"{re.escape(key)}(=|\[|: missing)", str(caught.value)) is not None


def test_every_key_is_checked() -> None:
    cfg = compose([])
    sections = [("", cfg), *((name, getattr(cfg, name)) for name in plain(cfg))]
    for name, settings in sections:
        if not dataclasses.is_dataclass(settings):
            continue
        hints, known = typing.get_type_hints(type(settings)), plain(settings)

        def refuses(key: str, values: Mapping[str, Any], section: str = name) -> bool:
            everything = plain(cfg) | {section: values} if section else values
            return refused(everything, f"{section}.{key}".removeprefix("."))

        assert refuses("unheard_of", known | {"unheard_of": 3})
        for field in dataclasses.fields(settings):
            if field.default is dataclasses.MISSING and field.name != "objective":
                assert refuses(field.name, {k: v for k, v in known.items() if k != field.name})
            if dataclasses.is_dataclass(hints[field.name]):
                continue
            for value in wrong(hints[field.name], field.metadata):
                assert refuses(field.name, known | {field.name: value}), (field.name, value)


# --- the program --------------------------------------------------------------------------------


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TREE / "train.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd)


def test_help_says_how_to_start_what_can_be_chosen_and_every_key(tmp_path: Path) -> None:
    done = run("--help", cwd=tmp_path)
    first, *rest = done.stdout.splitlines()
    assert done.returncode == 0 and first.startswith("python train.py ")
    load(first.split()[2:])
    assert {f"agent={', '.join(AGENTS)}", f"preset={', '.join(PRESETS)}"} <= {
        " ".join(entry.split()) for entry in re.split(r"\n(?! )", done.stdout)
    }
    assert set((LAYOUT.directory / "train.yaml").read_text().splitlines()) <= set(rest)


@pytest.mark.parametrize("words", ["--help", "plan=true preset=smoke"])
def test_a_reader_may_stop_reading(words: str, tmp_path: Path) -> None:
    command, pipe = f"{sys.executable} {TREE / 'train.py'} {words}", subprocess.PIPE
    with subprocess.Popen(command, shell=True, stdout=pipe, stderr=pipe, cwd=tmp_path) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize("words", [[], ["-m"]])
def test_no_words_begin_nothing_but_say_how_to(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train.main(words) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert len(lines) <= 10 and not list(tmp_path.iterdir())
    first = next(line for line in lines if line[:2] == ["python", "train.py"])
    load([word for word in first if "=" in word])


def test_print_config_shows_what_would_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load(["--print-config", "preset=smoke", "seed=5"])
    assert caught.value.code in (0, None)
    assert yaml.safe_load(capsys.readouterr().out) == plain(load(["preset=smoke", "seed=5"]))


def test_the_program_refuses_with_code_2_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = run("agent.patch_size=13", cwd=tmp_path)
    assert done.returncode == ConfigError.exit_code
    assert re.fullmatch(r"error: agent\.patch_size=13: .*\n", done.stdout + done.stderr)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("word", cases.SEEN_LATE)
def test_what_only_the_builders_see_is_refused_before_there_is_a_folder(
    word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A camera or game that is not there, and more memory than there is."""
    assert train.main([word, "preset=smoke", "device=cpu", f"runs_dir={tmp_path}/runs"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not list(tmp_path.iterdir())
