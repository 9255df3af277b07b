"""What both trees have in common stays the same in both (as does this file)."""

from __future__ import annotations

from pathlib import Path

import pytest
from source_files import MODULES, PACKAGE, SIBLINGS, TREE

# The same file, byte for byte, in both trees. {package} is mlr_atari or mlr_dmcontrol.
TWINS = (
    "constraints.txt",
    "pyproject.toml",
    "requirements-dev.txt",
    "requirements-ray.txt",
    "tests/completeness.py",
    "tests/conftest.py",
    "tests/driver.py",
    "tests/faults.py",
    "tests/source_files.py",
    "tests/stopped_run.py",
    "tests/test_ablation.py",
    "tests/test_acceleration.py",
    "tests/test_bookkeeping.py",
    "tests/test_completeness.py",
    "tests/test_config.py",
    "tests/test_interruptions.py",
    "tests/test_launchers.py",
    "tests/test_layers.py",
    "tests/test_methods.py",
    "tests/test_probe.py",
    "tests/test_probe_command.py",
    "tests/test_progress.py",
    "tests/test_readme.py",
    "tests/test_resources.py",
    "tests/test_resume.py",
    "tests/test_run_faults.py",
    "tests/test_schema.py",
    "tests/test_style.py",
    "tests/test_sweep.py",
    "tests/test_trace.py",
    "tests/test_twins.py",
    "configs/sweep.yaml",
    "configs/launcher/local.yaml",
    "configs/launcher/ray.yaml",
    "configs/launcher/slurm.yaml",
    "tests/whole_runs.py",
    "{package}/__init__.py",
    "{package}/acceleration.py",
    "{package}/benchmark/__init__.py",
    "{package}/benchmark/checkpoints.py",
    "{package}/benchmark/command.py",
    "{package}/benchmark/counters.py",
    "{package}/benchmark/measure.py",
    "{package}/benchmark/methods.py",
    "{package}/benchmark/page.py",
    "{package}/benchmark/printed.py",
    "{package}/benchmark/processes.py",
    "{package}/benchmark/scaling.py",
    "{package}/benchmark/table.py",
    "{package}/benchmark/timing.py",
    "{package}/errors.py",
    "{package}/frames.py",
    "{package}/machine.py",
    "{package}/markdown.py",
    "{package}/momentum.py",
    "{package}/seeds.py",
    "{package}/settings.py",
    "{package}/objectives/__init__.py",
    "{package}/objectives/decoder.py",
    "{package}/objectives/masking.py",
    "{package}/probe/__init__.py",
    "{package}/probe/alone.py",
    "{package}/probe/command.py",
    "{package}/probe/linear.py",
    "{package}/probe/measure.py",
    "{package}/probe/output.py",
    "{package}/probe/recording.py",
    "{package}/report/__init__.py",
    "{package}/report/cli.py",
    "{package}/report/fairness.py",
    "{package}/report/output.py",
    "{package}/report/page.py",
    "{package}/report/plots.py",
    "{package}/report/published.py",
    "{package}/report/readme.py",
    "{package}/report/repro.py",
    "{package}/report/results.py",
    "{package}/report/rows.py",
    "{package}/report/runs.py",
    "{package}/report/statistics.py",
    "{package}/report/status.py",
    "{package}/report/study.py",
    "{package}/report/tables.py",
    "{package}/run/__init__.py",
    "{package}/run/ablation.py",
    "{package}/run/bookkeeping.py",
    "{package}/run/checkpoint.py",
    "{package}/run/chunks.py",
    "{package}/run/command.py",
    "{package}/run/console.py",
    "{package}/run/doctor.py",
    "{package}/run/folder.py",
    "{package}/run/guard.py",
    "{package}/run/help.py",
    "{package}/run/logger.py",
    "{package}/run/pack.py",
    "{package}/run/plan_text.py",
    "{package}/run/preemption.py",
    "{package}/run/progress.py",
    "{package}/run/schema.py",
    "{package}/run/seeding.py",
    "{package}/run/slots.py",
    "{package}/run/storage.py",
    "{package}/run/sweep.py",
    "{package}/run/timing.py",
)

# The same but for the package's name, in imports.
NAMESAKES = (
    "tests/small_checkpoints.py",
    "tests/synthetic_runs.py",
    "tests/test_benchmark.py",
    "tests/test_checkpoint.py",
    "tests/test_checkpoint_damage.py",
    "tests/test_checkpoint_faults.py",
    "tests/test_console.py",
    "tests/test_decoder.py",
    "tests/test_errors.py",
    "tests/test_folder.py",
    "tests/test_frames.py",
    "tests/test_guard.py",
    "tests/test_logger.py",
    "tests/test_markdown.py",
    "tests/test_masking.py",
    "tests/test_momentum.py",
    "tests/test_preemption.py",
    "tests/test_report.py",
    "tests/test_report_numbers.py",
    "tests/test_results.py",
    "tests/test_seeding.py",
    "tests/test_settings.py",
    "tests/test_statistics.py",
    "tests/test_status.py",
)


def twin_paths(package: Path) -> dict[str, Path]:
    return {twin: package.parent / twin.format(package=package.name) for twin in TWINS}


@pytest.mark.skipif(not SIBLINGS, reason="the sibling tree is not beside this one")
def test_twins_are_the_same_file() -> None:
    ours, theirs = twin_paths(PACKAGE), twin_paths(SIBLINGS[0])
    missing = [twin for twin in TWINS if not (ours[twin].exists() and theirs[twin].exists())]
    assert not missing, f"named as twins but not in both trees: {missing}"
    differ = [twin for twin in TWINS if ours[twin].read_bytes() != theirs[twin].read_bytes()]
    assert not differ, f"twins that have drifted apart: {differ}"


def without_name(path: Path, package: Path) -> str:
    return path.read_text(encoding="utf-8").replace(package.name, "{package}")


@pytest.mark.skipif(not SIBLINGS, reason="the sibling tree is not beside this one")
def test_namesakes_differ_in_the_name_alone() -> None:
    other = SIBLINGS[0]
    differ = [
        name
        for name in NAMESAKES
        if without_name(TREE / name, PACKAGE) != without_name(other.parent / name, other)
    ]
    assert not differ, f"namesakes that have drifted apart: {differ}"


@pytest.mark.skipif(not SIBLINGS, reason="the sibling tree is not beside this one")
def test_tests_that_are_the_same_are_known_as_such() -> None:
    other = SIBLINGS[0]
    names = {path.relative_to(TREE).as_posix() for path in (TREE / "tests").glob("*.py")}
    unlisted = [
        name
        for name in names - {*TWINS, *NAMESAKES}
        if (there := other.parent / name).exists()
        and without_name(TREE / name, PACKAGE) == without_name(there, other)
    ]
    assert not unlisted, f"the same in both trees, so list them above: {sorted(unlisted)}"


@pytest.mark.skipif(not SIBLINGS, reason="the sibling tree is not beside this one")
def test_files_that_are_the_same_are_known_as_twins() -> None:
    listed = set(twin_paths(PACKAGE).values())
    unlisted = [
        path.relative_to(TREE).as_posix()
        for path in MODULES
        if path not in listed
        and (other := SIBLINGS[0] / path.relative_to(PACKAGE)).exists()
        and other.read_bytes() == path.read_bytes()
    ]
    assert not unlisted, f"the same in both trees, so list them in TWINS: {unlisted}"
