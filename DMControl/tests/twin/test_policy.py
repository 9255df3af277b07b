"""A policy by itself: as the agent that was trained, in a folder that travels, and refused."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from small_run import PROBED
from torch import Tensor

import evaluate
import train
from mlr_dmcontrol import load_policy, protocol
from mlr_dmcontrol.errors import ConfigError
from mlr_dmcontrol.policy import CARD, SUMS, WEIGHTS, claim

TREE = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, of a machine that has more than this one."""
    runs = tmp_path_factory.mktemp("policy")
    assert train.main([*PROBED, "agent=mlr", f"runs_dir={runs}"]) == 0
    (path,) = runs.glob("*/*/seed_1")
    config = (path / "config.yaml").read_text()
    there = {"device: cpu": "device: cuda:7", "- tensorboard": "- wandb"}
    there |= {"fused_kernels: false": "fused_kernels: true"}
    for here, other in there.items():
        assert here in config
        config = config.replace(here, other)
    (path / "config.yaml").write_text(config)
    return path


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its policy."""
    folder = tmp_path_factory.mktemp("exported") / "new"
    claim(folder)
    policy = load_policy(run, "cpu")
    policy.facts.content["run"]["hardware"] = policy.config["agent"]["name"] = "<b>|\n| a"
    policy.export(folder, [1.0, 2.0, 4.5], seed=7)
    return folder


def observations(run: Path, count: int) -> np.ndarray:
    shape = load_policy(run, "cpu").obs_shape
    return np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)


# --- what it does ---------------------------------------------------------------------------------


def test_one_observation_or_several(run: Path, exported: Path) -> None:
    obs, policy = observations(run, 3), load_policy(exported, "cpu")
    one, several = policy(obs[1]), policy(obs)
    assert several[1] == pytest.approx(one, abs=1e-6)
    assert policy(list(obs)) == pytest.approx(several)
    assert np.shape(one) == several.shape[1:]
    assert policy(obs[:, ::-1, ::-1]) == pytest.approx(policy(obs[:, ::-1, ::-1].copy()))
    for wrong in (obs / 255, obs[0][0], obs[None], obs[:, :-1], obs.astype(np.int64)):
        with pytest.raises(ValueError, match="must be uint8"):
            policy(wrong)


def test_neither_simulator_nor_what_training_needs_is_loaded(run: Path) -> None:
    program = f"import sys, mlr_dmcontrol as m; m.load_policy({str(run)!r}); print(*sys.modules)"
    command = [sys.executable, "-c", program]
    modules = set(subprocess.check_output(command, cwd=TREE, text=True).split())
    unwanted = {"gymnasium", "dm_control", "mujoco", "ale_py", "cv2", "hydra", "pandas"}
    ours = {f"mlr_dmcontrol.{name}" for name in ("environment", "replay", "optimization", "build")}
    assert not modules & (unwanted | ours)
    assert "mlr_dmcontrol.policy" in modules


@pytest.mark.cuda
def test_on_a_gpu(run: Path) -> None:
    obs = observations(run, 4)
    assert load_policy(run, "cuda")(obs) == pytest.approx(load_policy(run, "cpu")(obs), abs=1e-3)


# --- a folder that travels ------------------------------------------------------------------------


def test_what_an_exported_folder_holds(exported: Path) -> None:
    assert sorted(os.listdir(exported)) == sorted((WEIGHTS, CARD, SUMS))
    card = (exported / CARD).read_text()
    assert f"| {protocol.METRIC} | 2.5 [" in card and "<" not in card
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in card.splitlines()} == {0, 3}
    command = ["sha256sum", "--check", "--strict", SUMS]
    assert subprocess.run(command, cwd=exported, capture_output=True, check=False).returncode == 0
    assert str(exported.parent) not in (exported / WEIGHTS).read_bytes().decode(errors="replace")


def test_nothing_is_written_over(exported: Path) -> None:
    for folder in (exported, exported / CARD):
        with pytest.raises(ConfigError, match="--export="):
            claim(folder)


def test_it_scores_as_the_run_did(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "new", tmp_path / "out"
    words = ("--episodes=1", "--device=cpu", f"--out={out}")
    for arguments in ([str(run), f"--export={folder}"], [str(folder)]):
        assert evaluate.main([*arguments, *words]) == 0
    final, policy = json.loads((run / "final.json").read_text()), load_policy(folder, "cpu")
    results = [json.loads(path.read_text()) for path in out.iterdir()]
    assert [result["values"] for result in results] == [final["values"]] * 2
    assert policy.facts.content["scores"] == final["values"]
    assert policy.agent_step == final["agent_step"]
    flip(folder)
    (tmp_path / "config.yaml").symlink_to("/proc/self/mem")  # which answers EIO
    capsys.readouterr()
    for arguments in ([str(run), f"--export={folder}"], [str(folder)]):
        assert evaluate.main([*arguments, *words]) == 2
    assert evaluate.main([str(tmp_path), str(folder), *words]) == 3
    first, second, third, _ = capsys.readouterr().err.splitlines()
    assert f"{tmp_path}/config.yaml" in third
    assert first.startswith(f"error: --export={folder}: ")
    assert second.startswith(f"error: RUN={folder}: {folder}: ")
    assert len(list(out.iterdir())) == 2


@pytest.mark.parametrize(
    "word",
    [
        *("--device=gpu", "--seed=-1", "--episodes=0", "--out={}/run.json", "--out=", "--watch"),
        *("--export={}/tb", "--export={}/evaluations"),
    ],
)
def test_what_is_refused_before_anything_is_played(
    word: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate.evaluation, "evaluate", pytest.fail)
    monkeypatch.delenv("DISPLAY", raising=False)
    assert evaluate.main([str(run), "--device=cpu", word.format(run)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert word.partition("=")[0].removeprefix("--") in line or "a path is empty" in line


def test_code_that_a_folder_names_is_imported_if_it_is_typed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stranger.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    folder, name = shutil.copytree(run, tmp_path / "run"), "stranger:Game-v0"
    config = (run / "config.yaml").read_text()
    known = f"{protocol.TASK_KEY}:\n  name: "
    assert known in config
    (folder / "config.yaml").write_text(config.replace(known, f"{known}{name} #"))
    for words in ([], ["--random"], ["--own=other:Game-v0"]):
        assert evaluate.main([str(folder), *words]) == 2
        assert capsys.readouterr().err.startswith(f"error: RUN={folder}: was trained on {name}, ")
    assert evaluate.main([str(folder), f"--own={name}"]) == 2
    assert "SystemExit: imported" in capsys.readouterr().err


def seal(folder: Path, content: bytes) -> None:
    """Weights with the right sums."""
    (folder / WEIGHTS).write_bytes(content)
    command = f"sha256sum {WEIGHTS} {CARD} > {SUMS}"
    subprocess.run(command, cwd=folder, shell=True, check=True)


def flip(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def rewrite(
    folder: Path, change: Callable[[Tensor], Tensor] = torch.clone, no: str = "", **agent: object
) -> None:
    """Change all tensors, or keys of the section `agent`; leave out what a run says as `no`."""
    policy = load_policy(folder, "cpu")
    facts, weights = policy.facts.content, policy.network.state_dict()
    facts["config"]["agent"] |= agent
    facts["run"].pop(no, None)
    parts = {name: change(part).contiguous() for name, part in weights.items()}
    seal(folder, save(parts, {"facts": json.dumps(facts)}))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit": flip,
    "sums": lambda folder: (folder / SUMS).write_text(""),
    "no card": lambda folder: (folder / CARD).unlink(),
    "a folder for a card": lambda folder: ((folder / CARD).unlink(), (folder / CARD).mkdir()),
    "more files": lambda folder: (folder / ".policy.py").write_text("raise SystemExit(9)"),
    "nothing": partial(seal, content=b""),
    "a huge header": partial(seal, content=(2**40).to_bytes(8, "little") + b"{}"),
    "deep nesting": partial(seal, content=(200_000).to_bytes(8, "little") + b"[" * 200_000),
    "no facts": partial(seal, content=save({})),
    "huge sizes": partial(rewrite, hidden_dim=2**31 - 1),
    "a word for a number": partial(rewrite, hidden_dim="print()"),
    "no commit": partial(rewrite, no="revision"),
    "another shape": partial(rewrite, change=lambda part: part[:1]),
    "another type": partial(rewrite, change=Tensor.char),
    "half": partial(rewrite, change=Tensor.half),
    "no numbers": partial(rewrite, change=lambda part: part * torch.nan),
    "facts without names": partial(seal, content=save({}, {"facts": "3"})),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_refused(damage: str, exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "copy")
    DAMAGE[damage](folder)
    with pytest.raises(ConfigError) as raised:
        load_policy(folder, "cpu")
    assert str(raised.value).startswith(str(folder))
    assert "\n" not in str(raised.value)
    assert evaluate.main([str(folder), "--device=cpu"]) == 2


def test_folders_of_other_things_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    config = (run / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace(f"\n{protocol.TASK_KEY}:", "\nlevel:"))
    another = shutil.copytree(run, tmp_path / "another")  # which sees what is not shown
    record = json.loads((run / "run.json").read_text())
    record["observation"][-1] += 1
    (another / "run.json").write_text(json.dumps(record))
    assert evaluate.main([str(another), "--device=cpu"]) == 2
    untrained = shutil.copytree(run, tmp_path / "untrained")
    shutil.rmtree(untrained / "checkpoints")
    for folder in (tmp_path, other, untrained):
        with pytest.raises(ConfigError, match=f"^{folder}: "):
            load_policy(folder, "cpu")
    capsys.readouterr()
    (untrained / "config.yaml").write_text(f'{config}precision: "\\e[2J"\n')
    assert evaluate.main([str(untrained)]) == 2
    assert capsys.readouterr().err.rstrip().isprintable()
