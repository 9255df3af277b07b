"""The configuration: everything that ships composes, everything wrong is refused in one line."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import config_cases as cases
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mlr_atari.run.folder import MAY_CHANGE, MAY_GROW

TREE = Path(__file__).resolve().parents[1]
CONFIGS = TREE / "configs"
LAYOUT = cases.config.LAYOUT
AGENTS, PRESETS = LAYOUT.options("agent"), LAYOUT.options("preset")
SUBJECTS = [*LAYOUT.options(cases.SUBJECT), cases.WITHOUT_FILE]


def load(*words: str) -> DictConfig:
    return cases.config.load(words)


def refusal(*words: str) -> str:
    """The one line that refuses a command line."""
    with pytest.raises(cases.ConfigError) as caught:
        load(*words)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- what ships ---------------------------------------------------------------------------------


def composes(agent: str, preset: str, subject: str) -> None:
    cfg = load(f"{cases.SUBJECT}={subject}", f"agent={agent}", f"preset={preset}")
    assert cfg[cases.SUBJECT].name == subject
    assert (cfg.agent.name, cfg.preset) == (agent, preset)


@pytest.mark.parametrize("agent, preset", itertools.product(AGENTS, PRESETS))
def test_every_pair_of_agent_and_preset_composes(agent: str, preset: str) -> None:
    place = AGENTS.index(agent) + PRESETS.index(preset)
    composes(agent, preset, SUBJECTS[place % len(SUBJECTS)])


@pytest.mark.soak
@pytest.mark.parametrize("agent, preset", itertools.product(AGENTS, PRESETS))
def test_every_combination_composes(agent: str, preset: str) -> None:
    for subject in SUBJECTS:
        composes(agent, preset, subject)


def test_the_defaults_are_the_published_setting() -> None:
    cfg = load()
    assert {key: OmegaConf.select(cfg, key) for key in cases.PUBLISHED} == cases.PUBLISHED
    for subject, values in cases.FOR_ONE.items():
        cfg = load(f"{cases.SUBJECT}={subject}")
        assert {key: OmegaConf.select(cfg, key) for key in values} == values


def test_every_default_has_a_comment() -> None:
    files = [CONFIGS / "train.yaml", *CONFIGS.glob("agent/*.yaml"), *CONFIGS.glob("*/base.yaml")]
    bare = []
    for path in files:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            entry = re.match(r" *(\w+): *([^#]*)", line)
            is_default = entry and entry[2] and "${" not in entry[2]
            is_default = is_default and entry[1] not in ("defaults", "objective")
            if is_default and "#" not in line:
                bare.append(f"{path.relative_to(TREE)}:{number} {line.strip()}")
    assert not bare


def test_the_command_line_beats_the_preset_which_beats_the_agent() -> None:
    assert load("preset=smoke").agent.batch_size < load().agent.batch_size
    assert load("preset=smoke", "agent.batch_size=7").agent.batch_size == 7
    assert load("agent.batch_size=7", "preset=smoke").agent.batch_size == 7
    assert load("preset=smoke", "scale.batch_size=7").agent.batch_size == 7


def test_what_comes_out_is_complete_and_cannot_be_changed() -> None:
    cfg = load()
    assert "${" not in OmegaConf.to_yaml(cfg)
    assert "scale" not in cfg and "hydra" not in cfg
    for change in ("seed", "unheard_of"):
        with pytest.raises(OmegaConfBaseException):
            cfg[change] = 3


def test_the_keys_that_may_change_exist() -> None:
    values = OmegaConf.to_container(load())
    for key in (*MAY_CHANGE, *MAY_GROW):
        assert OmegaConf.select(OmegaConf.create(values), key) is not None, key


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling, name", cases.SPELLINGS.items())
def test_every_spelling_is_one_name(spelling: str, name: str) -> None:
    assert load(f"{cases.SUBJECT}={spelling}")[cases.SUBJECT].name == name


def test_without_a_file_of_its_own_the_base_holds() -> None:
    cfg = load(f"{cases.SUBJECT}={cases.WITHOUT_FILE}")
    base = OmegaConf.load(CONFIGS / cases.SUBJECT / "base.yaml")
    weights = [key for key in base if key != "name" and key in cfg.agent]
    assert weights
    assert all(cfg.agent[key] == base[key] for key in weights)


def test_a_typo_gets_a_suggestion() -> None:
    typo, meant = cases.TYPO
    message = refusal(f"{cases.SUBJECT}={typo}")
    assert message.startswith(f"{cases.SUBJECT}={typo}: ")
    assert f"did you mean {meant}?" in message


@pytest.mark.parametrize("text", ["100k", "100_000", "1e5", "0.1M", "100000"])
def test_spellings_of_a_budget(text: str) -> None:
    assert load(f"budget={text}").budget == 100_000


@pytest.mark.parametrize("text", ["/tmp/a b", "a=b,c", "it's", "back\\slash", "'quoted'", "7"])
def test_any_path_is_taken_as_it_is(text: str) -> None:
    assert load(f"runs_dir={text}").runs_dir == text.strip("'" if text[0] == "'" else "")


@pytest.mark.parametrize("text", ["1e5", "3", "null", "mask-0.3"])
def test_a_tag_is_a_word_whatever_it_looks_like(text: str) -> None:
    assert load(f"tag={text}").tag == text


# --- sweeps -------------------------------------------------------------------------------------


def test_a_multirun_is_split_into_jobs_that_compose() -> None:
    first, second = cases.TYPO[1], cases.WITHOUT_FILE
    words = ["-m", "seed=1,2", f"{cases.SUBJECT}={first},{second}", "budget=100k,500k", "tag=a,b"]
    read = cases.command.read_command(words, LAYOUT)
    assert read.multirun
    jobs = cases.command.expand_sweep(read.overrides)
    assert len(jobs) == 16
    found = set()
    for job in jobs[::3]:
        cfg = cases.config.compose(job)
        found.add((cfg[cases.SUBJECT].name, cfg.tag))
    assert found == set(itertools.product((first, second), ("a", "b")))


def test_composing_within_a_job_of_hydra_leaves_it_alone() -> None:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        assert load("seed=3").seed == 3
        assert compose("train").seed == 1


def test_several_values_need_a_multirun() -> None:
    assert refusal("seed=1,2") == "seed=1,2: several values; add -m to run one job for each"
    assert "add -m" in refusal("agent=mlr,mlr_official")


# --- what is refused ----------------------------------------------------------------------------

REFUSED = [
    ("agent=mrl", "did you mean mlr?"),
    ("preset=laptp", "did you mean laptop?"),
    ("agent=null", "no such agent"),
    ("agent.mask_rato=0.3", "did you mean mask_ratio?"),
    ("mask_ratio=0.3", "did you mean agent.mask_ratio?"),
    ("agent.mask_ratio.x=1", "unknown key"),
    ("agnet=mlr", "did you mean agent?"),
    ("unheard.of=3", "--help"),
    ("evaluation=3", "is a section"),
    ("agent.mask_ratio=1.5", "must lie in [0, 1]"),
    ("agent.mask_ratio=much", "must be a number"),
    ("agent.mask_ratio=", "must be a number"),
    ("agent.mask_ratio=[0.3", "cannot be read"),
    ("agent.mask_ratio=nan", "must be finite"),
    ("agent.name=other", "agent="),
    ("agent.objective=mlrr", "did you mean mlr?"),
    ("seed=ten", "must be a whole number"),
    ("seed=1.5", "must be a whole number"),
    ("seed=-1", "must lie in"),
    ("seed=${nothing}", "nothing"),
    ("budget=many", "must be a whole number"),
    ("budget=-5", "must be a whole number"),
    ("budget=1.5", "must be a whole number"),
    ("budget=0", "at least 1"),
    ("resume=mst", "did you mean must?"),
    ("device=gpu", "cuda"),
    ("device=cuda:x", "cuda"),
    ("tag=a/b", "folder"),
    ("runs_dir=", "is empty"),
    ("+agent.new=1", "not understood"),
    ("~seed", "not understood"),
    ("--seed", "not understood"),
    ("seed", "not understood"),
    ("hydra.unheard_of=3", "hydra.unheard_of"),
]


@pytest.mark.parametrize("word, fragment", REFUSED, ids=[word for word, _ in REFUSED])
def test_wrong_words_are_refused_in_one_line(word: str, fragment: str) -> None:
    message = refusal(word)
    assert message.startswith(word)
    assert fragment in message


@pytest.mark.parametrize("words, start", cases.TOGETHER, ids=[s for _, s in cases.TOGETHER])
def test_keys_that_do_not_go_together(words: list[str], start: str) -> None:
    message = refusal(*words)
    assert message.startswith(f"{start}: ")
    assert "; use " in message


def test_ways_to_compute_that_do_not_go_together() -> None:
    assert refusal("compile=true", "deterministic=true").startswith("compile=true: ")
    assert refusal("cuda_graph=true", "device=cpu").startswith("cuda_graph=true: ")


def test_nothing_to_train_is_refused() -> None:
    for words in ((f"agent={cases.PLAIN_AGENT}",), ("agent=mlr", "agent.mlr_weight=0")):
        assert refusal(*words, "agent.rl=false").startswith("agent.rl=false: ")


def test_a_key_of_an_objective_is_unknown_to_an_agent_without_it() -> None:
    message = refusal(f"agent={cases.PLAIN_AGENT}", "agent.mask_ratio=0.3")
    assert message.startswith("agent.mask_ratio=0.3: unknown key in agent")


def test_a_missing_gpu_is_named() -> None:
    import torch

    if torch.cuda.is_available():
        beyond = f"device=cuda:{torch.cuda.device_count()}"
        assert torch.cuda.get_device_name(0) in refusal(beyond)
    else:
        assert "no GPU found" in refusal("device=cuda")
        assert refusal("device=cuda:1").startswith("device=cuda:1: ")


# --- the program --------------------------------------------------------------------------------


def test_help_names_what_can_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    fixed = ("budget", "seed", "device", "deterministic", "runs_dir", "resume", "tag", "precision")
    method = ("mask_ratio", "patch_size", "cube_depth", "sequence_length", "mlr_weight")
    for name in (*(f"{key}=" for key in fixed), *(f"agent.{key}=" for key in method)):
        assert re.search(rf"^  {re.escape(name)}\S* +\w", text, re.MULTILINE), name
    for name in (*AGENTS, *PRESETS):
        assert re.search(rf"^  {name}  +\w", text, re.MULTILINE), name
    assert cases.TYPO[1] in text


def test_print_config_shows_what_would_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load("--print-config", "preset=smoke", "seed=5")
    assert caught.value.code == 0
    shown = OmegaConf.create(capsys.readouterr().out)
    assert shown == load("preset=smoke", "seed=5")


@pytest.mark.parametrize("words", [["agent.mask_ratio=2"], ["agent=mrl", "seed=1"]])
def test_the_program_refuses_with_code_2(words: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(TREE / "train.py"), *words, f"runs_dir={tmp_path}/runs"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    lines = (done.stdout + done.stderr).strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {words[0]}: ")
    assert not list(tmp_path.iterdir())
