"""Checkpoints that were damaged or forged on the disk (R6, R20)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_checkpoints import Run, names, tree

from mlr_dmcontrol.errors import CheckpointError
from mlr_dmcontrol.run import storage
from mlr_dmcontrol.run.checkpoint import Checkpointer

# --- damage -------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def extend(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def remove(path: Path) -> None:
    path.unlink()


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = [truncate, empty, extend, flip, remove, make_folder]
FILES = ["agent.pt", "replay.pt", "streams.pt", "frames_head.npy", "manifest.json", "chunk"]


def file_of(folder: Path, name: str) -> Path:
    """A file of the newest checkpoint that the one before does not need."""
    if name == "chunk":
        return max((folder / "checkpoints" / "frames").iterdir())
    return folder / "checkpoints" / names(folder)[-1] / name


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda each: each.__name__)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_detected_and_the_previous_checkpoint_used(
    tmp_path: Path, name: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path)
    run.save(6)
    run.save(11)
    path = file_of(tmp_path, name)
    damage(path)
    before = tree(tmp_path)
    restored = Run(tmp_path)
    assert restored.load() == 6
    assert restored.part.step == 6
    assert tree(tmp_path) == before
    (message,) = (each.getMessage() for each in caplog.records if each.levelname == "WARNING")
    assert "step_000000011" in message
    assert path.name in message
    restored.save(7)  # the damaged one goes once a newer valid one is in place
    assert names(tmp_path) == ["step_000000006", "step_000000007"]


@pytest.mark.parametrize("name", [*FILES, "folder"])
def test_all_damaged_ends_the_run_and_changes_nothing(tmp_path: Path, name: str) -> None:
    run = Run(tmp_path)
    run.save(6)
    run.save(11)
    for folder in (tmp_path / "checkpoints").glob("step_*"):
        if name == "folder":
            shutil.rmtree(folder)
            folder.mkdir()
        elif name == "chunk":
            for path in (tmp_path / "checkpoints" / "frames").iterdir():
                flip(path)
            break
        else:
            flip(folder / name)
    before = tree(tmp_path)
    restored = Run(tmp_path)
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints can be used") as raised:
        restored.load()
    assert raised.value.exit_code == 2
    assert tree(tmp_path) == before
    assert restored.part.step == 0


@pytest.mark.parametrize("bits", [1, pytest.param(8, marks=pytest.mark.soak)])
def test_every_single_bit_of_the_manifest_counts(tmp_path: Path, bits: int) -> None:
    folder = Run(tmp_path).save(5)
    assert folder is not None
    path = folder / "manifest.json"
    good = path.read_bytes()
    json.loads(good)
    for position in range(len(good)):
        for bit in range(bits):
            bad = bytearray(good)
            bad[position] ^= 1 << (position + bit) % 8
            path.write_bytes(bad)
            with pytest.raises(storage.Damaged):
                storage.read_manifest(folder)


def test_another_schema_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Run(tmp_path).save(5)
    monkeypatch.setattr(storage, "SCHEMA", 99)
    with pytest.raises(CheckpointError, match="schema 1, this code reads 99"):
        Run(tmp_path).load()


def test_an_evaluation_reads_only_what_it_needs(tmp_path: Path) -> None:
    Run(tmp_path).save(9)
    shutil.rmtree(tmp_path / "checkpoints" / "frames")
    checkpoint = Checkpointer(tmp_path).newest(["agent"])
    assert checkpoint is not None
    assert checkpoint.step == 9
    assert list(checkpoint.items) == ["agent"]
    assert checkpoint.items["agent"]["step"] == 9
    flip(checkpoint.folder / "agent.pt")
    with pytest.raises(CheckpointError):
        Checkpointer(tmp_path).newest(["agent"])


# --- malice -------------------------------------------------------------------------------------


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def forge(folder: Path, name: str, entry: storage.Entry) -> None:
    """Replace a file's entry in the manifest, with a right checksum."""
    manifest = storage.read_manifest(folder)
    manifest["items"][name] = entry
    (folder / "manifest.json").unlink()
    storage.write_manifest(folder, {k: v for k, v in manifest.items() if k != "sha256"})


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_file_is_refused_and_does_not_run(tmp_path: Path, legacy: bool) -> None:
    run = Run(tmp_path)
    run.save(6)
    folder = run.save(11)
    assert folder is not None
    marker = tmp_path / "marker"
    path = folder / "agent.pt"
    torch.save({"x": Payload(marker)}, path, _use_new_zipfile_serialization=not legacy)
    torch.load(path, weights_only=False)
    marker.rmdir()  # it would have run
    with storage.HashedFile(folder / "copy.pt") as file:
        file.write(path.read_bytes())
    forge(folder, "agent", {**file.entry(), "file": "agent.pt"})
    restored = Run(tmp_path)
    assert restored.load() == 6
    assert not marker.exists()
    shutil.rmtree(tmp_path / "checkpoints" / "step_000000006")
    with pytest.raises(CheckpointError, match=r"agent\.pt is no file of tensors"):
        Run(tmp_path).load()
    assert not marker.exists()


def test_a_malicious_array_is_refused_and_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / "frames.npy"
    np.save(path, np.array([Payload(marker)], dtype=object), allow_pickle=True)
    with pytest.raises(storage.Damaged, match="no file of frames"):
        storage.open_frames(path, 1)
    assert not marker.exists()


def test_a_manifest_cannot_point_outside_its_folder(tmp_path: Path) -> None:
    folder = Run(tmp_path).save(5)
    assert folder is not None
    entry = storage.write_tree(tmp_path / "outside.pt", {})
    forge(folder, "agent", {**entry, "file": "../../outside.pt"})
    with pytest.raises(CheckpointError, match="outside"):
        Run(tmp_path).load()


def test_no_module_loads_anything_else(tmp_path: Path) -> None:
    """Also without this package `weights_only` is enough to read every file."""
    folder = Run(tmp_path).save(5)
    code = (
        "import sys, torch; from pathlib import Path;"
        "[torch.load(p, weights_only=True) for p in Path(sys.argv[1]).glob('*.pt')]"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, cwd=tmp_path)
