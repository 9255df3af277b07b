"""A policy by itself: as the agent that was trained, in a folder that travels, and refused."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_probe import RUN
from torch import Tensor

import evaluate
import train
from mlr_atari import load_policy, protocol
from mlr_atari.errors import ConfigError
from mlr_atari.policy import CARD, SUMS, WEIGHTS, claim

TREE = Path(__file__).resolve().parents[2]
SHIPPED = sorted((TREE / "results" / "policies").glob("*"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    runs = tmp_path_factory.mktemp("policy")
    assert train.main([*RUN, "agent=mlr", f"runs_dir={runs}"]) == 0
    (path,) = runs.glob("*/*/seed_1")
    return path


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its policy."""
    folder = tmp_path_factory.mktemp("exported") / "new"
    claim(folder)
    load_policy(run, "cpu").export(folder, [1.0, 2.0, 4.5], seed=7)
    return folder


def observations(run: Path, count: int) -> np.ndarray:
    shape = load_policy(run, "cpu").obs_shape
    return np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)


# --- what it does ---------------------------------------------------------------------------------


def test_one_observation_or_several(run: Path, exported: Path) -> None:
    obs, policy = observations(run, 3), load_policy(exported, "cpu")
    one, several = policy(obs[1]), policy(obs)
    assert several[1] == pytest.approx(one, abs=1e-6)
    assert np.shape(one) == several.shape[1:]
    assert policy(obs[:, ::-1, ::-1]) == pytest.approx(policy(obs[:, ::-1, ::-1].copy()))
    for wrong in (obs / 255, obs[0][0], obs[None], obs[:, :-1], obs.astype(np.int64)):
        with pytest.raises(ValueError, match="must be uint8"):
            policy(wrong)


def test_neither_simulator_nor_what_training_needs_is_loaded(run: Path) -> None:
    program = f"import sys, mlr_atari as m; m.load_policy({str(run)!r}); print(*sys.modules)"
    command = [sys.executable, "-c", program]
    output = subprocess.run(command, cwd=TREE, capture_output=True, text=True, check=True).stdout
    modules = set(output.split())
    unwanted = {"gymnasium", "dm_control", "mujoco", "ale_py", "cv2", "hydra", "pandas"}
    ours = {f"mlr_atari.{name}" for name in ("environment", "replay", "optimization", "build")}
    assert not modules & (unwanted | ours)
    assert "mlr_atari.policy" in modules


def test_where_it_was_trained_does_not_matter(run: Path, tmp_path: Path) -> None:
    there, obs = shutil.copytree(run, tmp_path / "elsewhere"), observations(run, 2)
    config = (there / "config.yaml").read_text()
    (there / "config.yaml").write_text(config.replace("device: cpu", "device: cuda:7"))
    assert load_policy(there, "cpu")(obs).tolist() == load_policy(run, "cpu")(obs).tolist()
    with pytest.raises(ConfigError, match="device=tpu: "):
        load_policy(run, "tpu")


@pytest.mark.cuda
def test_on_a_gpu(run: Path) -> None:
    obs = observations(run, 4)
    assert load_policy(run, "cuda")(obs) == pytest.approx(load_policy(run, "cpu")(obs), abs=1e-3)


# --- a folder that travels ------------------------------------------------------------------------


def test_what_an_exported_folder_holds(exported: Path) -> None:
    assert sorted(os.listdir(exported)) == sorted((WEIGHTS, CARD, SUMS))
    assert f"| {protocol.METRIC} | 2.5 [" in (exported / CARD).read_text()
    sums = (exported / SUMS).read_text()
    seal(exported)
    assert (exported / SUMS).read_text() == sums
    assert str(exported.parent) not in (exported / WEIGHTS).read_bytes().decode(errors="replace")


def test_nothing_is_written_over(exported: Path) -> None:
    before = {path: path.read_bytes() for path in exported.iterdir()}
    for folder in (exported, exported / CARD):
        with pytest.raises(ConfigError, match="--export="):
            claim(folder)
    assert {path: path.read_bytes() for path in exported.iterdir()} == before


def test_it_scores_as_the_run_did(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "new", tmp_path / "out"
    words = ("--episodes=1", "--device=cpu", f"--out={out}")
    for arguments in ([str(run), f"--export={folder}"], [str(folder)]):
        assert evaluate.main([*arguments, *words]) == 0
    values = [json.loads(path.read_text())["values"] for path in out.iterdir()]
    final = json.loads((run / "final.json").read_text())
    assert values == [final["values"]] * 2
    policy = load_policy(folder, "cpu")
    assert policy.facts.content["scores"] == final["values"]
    assert policy.agent_step == final["agent_step"]
    flip(folder)
    for arguments, key in (
        ([str(run), f"--export={folder}"], f"--export={folder}: "),
        ([str(folder)], f"RUN={folder}: {folder}: {SUMS} "),
    ):
        capsys.readouterr()
        assert evaluate.main([*arguments, *words]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {key}")
        assert error.count("\n") == 1
    assert len(list(out.iterdir())) == 2


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
    with pytest.raises(SystemExit, match="imported"):
        evaluate.main([str(folder), f"--own={name}"])


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda path: path.name)
def test_what_is_shipped_meets_its_card(folder: Path, tmp_path: Path) -> None:
    """An episode; on another machine it is another one, of the same kind."""
    scores = load_policy(folder, "cpu").facts.content["scores"]
    assert evaluate.main([str(folder), "--episodes=1", "--device=cpu", f"--out={tmp_path}"]) == 0
    (path,) = tmp_path.iterdir()
    (value,) = json.loads(path.read_text())["values"]
    spread = 3 * np.std(scores)
    assert min(scores) - spread <= value <= max(scores) + spread


def seal(folder: Path) -> None:
    """Make the sums right again."""
    digests = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (WEIGHTS, CARD)
    }
    (folder / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in digests.items()))


def flip(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(content)


def rewrite(
    change: Callable[[Tensor], Tensor | None] = lambda part: part, **agent: object
) -> Callable[[Path], None]:
    """Change the first tensor, or keys of the section `agent`, so that the sums are right."""

    def edit(folder: Path) -> None:
        content, parts = (folder / WEIGHTS).read_bytes(), load_file(folder / WEIGHTS)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        facts = json.loads(header["__metadata__"]["facts"])
        facts["config"]["agent"] |= agent
        first = next(iter(parts))
        changed = {**parts, first: change(parts[first])}
        kept = {name: part for name, part in changed.items() if part is not None}
        save_file(kept, folder / WEIGHTS, {"facts": json.dumps(facts)})
        seal(folder)

    return edit


def content(of: bytes) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(of)
        seal(folder)

    return edit


class Bomb:
    """What must never be unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return pytest.fail, ("run",)


HUGE = (2**40).to_bytes(8, "little")
DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit": flip,
    "sums": lambda folder: (folder / SUMS).write_text(""),
    "more sums": lambda folder: (folder / SUMS).write_text((folder / SUMS).read_text() * 2),
    "a card that is no text": lambda folder: (folder / CARD).write_bytes(b"\xff\xfe"),
    "no card": lambda folder: (folder / CARD).unlink(),
    "a folder for a card": lambda folder: ((folder / CARD).unlink(), (folder / CARD).mkdir()),
    "too large a card": lambda folder: (folder / CARD).write_text("x" * 10**6),
    "more files": lambda folder: (folder / "policy.py").write_text("raise SystemExit(9)"),
    "a hidden file": lambda folder: (folder / ".git").mkdir(),
    "a pickle": content(pickle.dumps(Bomb())),
    "nothing": content(b""),
    "a huge header": content(HUGE + b"{}"),
    "deep nesting": content((200_000).to_bytes(8, "little") + b"[" * 200_000),
    "no facts": content((2).to_bytes(8, "little") + b"{}"),
    "huge sizes": rewrite(hidden_dim=2**31 - 1),
    "a word for a number": rewrite(hidden_dim="print()"),
    "a number is missing": rewrite(hidden_dim=None),
    "weights are missing": rewrite(lambda part: None),
    "another shape": rewrite(lambda part: part[:1].clone()),
    "another type": rewrite(lambda part: part.to(torch.int8)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_refused(damage: str, exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "copy")
    DAMAGE[damage](folder)
    before = sorted(folder.rglob("*"))
    with pytest.raises(ConfigError) as raised:
        load_policy(folder, "cpu")
    assert str(raised.value).startswith(str(folder))
    assert "\n" not in str(raised.value)
    assert sorted(folder.rglob("*")) == before


def test_folders_of_other_things_are_refused(run: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    other = shutil.copytree(run, tmp_path / "other")
    config = (run / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace(f"\n{protocol.TASK_KEY}:", "\nlevel:"))
    untrained = shutil.copytree(run, tmp_path / "untrained")
    shutil.rmtree(untrained / "checkpoints")
    for folder in (tmp_path / "nowhere", empty, other, untrained):
        with pytest.raises(ConfigError, match=f"^{folder}: "):
            load_policy(folder, "cpu")
