"""benchmark.py: what it counts, keeps, prints and refuses. The same file in both trees."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import benchmark
from mlr_dmcontrol import markdown
from mlr_dmcontrol.benchmark import page, printed, table
from mlr_dmcontrol.benchmark.counters import PeakMemory, count_flops, count_host_waits
from mlr_dmcontrol.benchmark.timing import Part, PartTimer, Spread, time_calls
from mlr_dmcontrol.errors import ConfigError

TREE = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
BEGIN, END = markdown.markers(page.BLOCK)


def measured(*words: str) -> list[dict[str, Any]]:
    """What `python benchmark.py preset=smoke <words> --json` prints."""
    command = [sys.executable, "benchmark.py", "preset=smoke", "device=cpu", *words, "--json"]
    result = subprocess.run(
        command,
        cwd=TREE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows


# ---- counting ------------------------------------------------------------------------------


def test_operations_of_known_products() -> None:
    left, right = torch.ones(3, 5), torch.ones(5, 7)
    assert count_flops(lambda: left @ right) == 2 * 3 * 5 * 7
    weight, images = nn.Parameter(torch.ones(4, 2, 3, 3)), torch.ones(6, 2, 10, 10)

    def forward() -> torch.Tensor:
        return nn.functional.conv2d(images, weight)

    once = 2 * 6 * 4 * 8 * 8 * 2 * 9
    assert count_flops(forward) == once
    assert count_flops(lambda: forward().sum().backward()) == 2 * once  # no gradient of images


def test_a_cpu_has_nothing_to_wait_for() -> None:
    assert count_host_waits(lambda: pytest.fail("called for nothing"), CPU) is None


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux keeps this count")
def test_peak_memory_sees_what_is_gone() -> None:
    size = 2**26
    memory = PeakMemory(CPU)
    with mmap.mmap(-1, size) as block:  # a tensor may get pages that the process already held
        for page in range(0, size, mmap.PAGESIZE):
            block[page] = 1
    assert memory.added >= 0.9 * size
    memory.reset()
    assert memory.added < 2**25


# ---- timing --------------------------------------------------------------------------------


def test_spread_is_median_and_quartiles() -> None:
    assert Spread.of([5.0, 1.0, 4.0, 2.0, 3.0]) == Spread(3.0, 2.0, 4.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)
    calls = []
    spread = time_calls(lambda: calls.append(time.sleep(0.002)), 5, CPU)
    assert len(calls) == 5
    assert 0.002 <= spread.low <= spread.median <= spread.high


class Work:
    def outer(self) -> str:
        self.inner()
        return "done"

    def inner(self) -> None:
        time.sleep(0.01)


def test_a_part_in_a_part_counts_once() -> None:
    work, untouched = Work(), Work.inner
    parts = [Part(work, "outer", "all"), Part(Work, "inner", "within")]
    start = time.perf_counter()
    with PartTimer(parts, CPU) as timer:
        assert work.outer() == "done"
        work.inner()
    whole = time.perf_counter() - start
    seconds = timer.seconds()
    assert set(seconds) == {"all", "within", "other"}
    assert seconds["within"] >= 0.02
    assert 0 <= seconds["all"] + seconds["other"] <= whole - seconds["within"] + 1e-6
    assert Work.inner is untouched
    assert "outer" not in vars(work)


def test_a_part_that_fails_is_put_back() -> None:
    untouched = Work.inner
    with pytest.raises(ZeroDivisionError), PartTimer([Part(Work, "inner", "x")], CPU):
        raise ZeroDivisionError
    assert Work.inner is untouched


# ---- files ---------------------------------------------------------------------------------


def test_rows_are_kept_and_new_columns_widen_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "updates.csv"
    assert table.read(path) == []
    table.append(path, [{"commit": "123", "seconds": 0.25, "waits": None}])
    table.append(path, [{"seconds": 3.0, "hardware": "a, b", "part x": 1e-9}, {"commit": "c"}])
    assert path.read_text().splitlines()[0] == "commit,seconds,hardware,part x"
    assert table.read(path) == [
        {"commit": "123", "seconds": 0.25},
        {"seconds": 3.0, "hardware": "a, b", "part x": 1e-9},
        {"commit": "c"},
    ]


def row(**changes: Any) -> dict[str, Any]:
    """A row as `--save` keeps it."""
    return {
        "commit": "0123456789abcdef",
        "hardware": "Some CPU, 2 threads",
        "device": "cpu",
        "threads": 2,
        "preset": "laptop",
        "agent": "mlr",
        "precision": "fp32",
        "mode": "eager",
        "updates_per_second": 20.0,
        "seconds_per_update": 0.05,
        "seconds_low": 0.04,
        "seconds_high": 0.06,
        "cpu_seconds_per_update": 0.1,
        "host_waits_per_update": None,
        "peak_memory": 3 * 2**30,
        "share_of_limit": 0.5,
        **changes,
    }


def filled(folder: Path) -> Path:
    """A tree's folder with measurements in it, and README.md with the markers."""
    results = folder / table.RESULTS
    old = row(seconds_per_update=9.0)
    parts = {"part small": 1.0, "part large": 3.0}
    plain = {"reference_seconds_per_update": 0.2, "speedup": 4.0, "full_update_speedup": 5.0}
    table.append(results / "updates.csv", [old, row(**parts, **plain)])
    table.append(results / "updates.csv", [row(precision="bf16", seconds_per_update=0.025)])
    table.append(results / "updates.csv", [row(preset="paper", steps_per_second=1.5)])
    sweep = [row(sweep="batch", value=size, seconds_per_update=size / 100) for size in (8, 4)]
    table.append(results / "scaling.csv", sweep)
    together = row(processes=2, slowest_updates_per_second=9.0)
    table.append(results / "processes.csv", [together])
    (folder / "README.md").write_text(f"above\n{BEGIN}\nstale\n{END}\nbelow\n")
    return folder


def test_readme_is_made_from_what_was_measured_last(tmp_path: Path) -> None:
    page.refresh(filled(tmp_path))
    text = (tmp_path / "README.md").read_text()
    assert text.startswith(f"above\n{BEGIN}\n")
    assert text.endswith(f"{END}\nbelow\n")
    assert "stale" not in text
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| Some CPU")]
    paper, eager, bf16, together, sweep = lines
    assert (paper[1], paper[-1]) == ("paper", "1.5 |")  # published sizes first
    assert eager[4] == "50 ms (40 ms to 60 ms)"
    assert eager[6:10] == ["4.0", "5.0", "50 %", "3 GiB"]
    assert bf16[6] == "8.0"  # against the fp32 row's plain update
    assert together[2:4] == ["2", "20"]
    assert sweep[1:] == ["batch", "4: 40 ms, 8: 80 ms |"]
    assert "| share of an update | large | small |" in text
    assert "| laptop, mlr, fp32 | 75 % | 25 % |" in text
    assert page.NO_GPU in text
    link = (table.RESULTS / f"{page.FIGURE}.png").as_posix()
    assert f"]({link})" in text
    assert (tmp_path / link).stat().st_size > 1000
    page.refresh(tmp_path)
    assert (tmp_path / "README.md").read_text() == text


def test_readme_without_measurements_or_markers(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}")
    page.refresh(tmp_path)
    assert page.NO_GPU in readme.read_text()
    for text in ("", BEGIN, f"{END}\n{BEGIN}", readme.read_text() * 2):
        readme.write_text(text)
        with pytest.raises(ConfigError, match="needs one"):
            page.refresh(tmp_path)
        assert readme.read_text() == text


def test_a_gpu_in_the_table_ends_the_excuse(tmp_path: Path) -> None:
    table.append(tmp_path / "updates.csv", [row(device="cuda", hardware="a GPU")])
    assert page.NO_GPU not in page.block(tmp_path)


# ---- printing ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, number, text",
    [
        ("act_seconds", 2.0, "2 s"),
        ("act_seconds", 0.01234, "12.3 ms"),
        ("act_seconds", 3.4e-5, "34 µs"),
        ("peak_memory", 2.5 * 2**30, "2.5 GiB"),
        ("replay_bytes_per_transition", 30534, "29.8 KiB"),
        ("flops_per_update", 3.66e12, "3,660 GFLOP"),
        ("product_flops_per_second", 9e10, "90 GFLOP/s"),
        ("copy_bytes_per_second", 2e10, "20 GB/s"),
        ("updates_per_second", 12.34, "12.3 /s"),
        ("share_of_limit", 0.4321, "43.2 %"),
        ("cpu_speedup", 3.5, "3.5 times"),
        ("host_waits_per_update", None, "not on a CPU"),
        ("host_waits_per_update", 0.0, "0"),
        ("commit", "0123", "0123"),
        ("updates", 1200, "1,200"),
    ],
)
def test_numbers_have_units(name: str, number: Any, text: str) -> None:
    assert printed.value(name, number) == text


def test_a_row_is_printed_with_its_parts_by_cost() -> None:
    parts = {"part small": 0.001, "part large": 0.003}
    lines = list(printed.lines([row(**parts)]))
    words = [" ".join(line.split()) for line in lines]
    assert "median time 50 ms (quartiles 40 ms to 60 ms)" in words
    assert words[-2:] == ["large 3 ms 75.0 %", "small 1 ms 25.0 %"]
    assert not any("_" in line for line in lines)


def test_rows_share_what_is_the_same() -> None:
    rows = [row(sweep="batch", value=size, seconds_per_update=size) for size in (1, 2)]
    lines = list(printed.lines(rows))
    assert sum("Some CPU" in line for line in lines) == 1
    assert lines[-2].startswith("batch 1: median time 1 s (")
    assert lines[-1].startswith("batch 2: median time 2 s (")


# ---- the command ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--updates", "0"], "--updates=0: must be 1 or more"),
        (["--updates", "many"], "invalid int value"),
        (["--steps", "-1"], "--steps=-1"),
        (["--nonsense"], "--nonsense: no such option"),
        (["--scaling", "--processes", "2"], "one at a time"),
        (["--scaling", "--reference"], "one at a time"),
        (["--processes", "2,x"], "--processes=2,x"),
        (["preset=nonsense"], "preset=nonsense"),
        (["nonsense=1"], "nonsense"),
        (["agent=curl", "preset=smoke", "device=cpu", "--reference"], "--reference: written for"),
    ],
)
def test_wrong_requests_are_one_line(
    words: Sequence[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark.main(words) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    assert expected in output.err


def test_help_says_what_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_code:
        benchmark.main(["--help"])
    assert exit_code.value.code == 0
    text = capsys.readouterr().out
    assert "how fast updates and steps" in text
    assert "--scaling" in text


def test_everything_about_an_update_is_measured() -> None:
    (found,) = measured("--updates", "2", "--steps", "2", "--reference")
    assert found["preset"] == "smoke"
    assert (found["precision"], found["mode"]) == ("fp32", "eager")
    assert found["host_waits_per_update"] is None
    positive = [
        "updates_per_second",
        "seconds_per_update",
        "cpu_seconds_per_update",
        "flops_per_update",
        "peak_memory",
        "reference_cpu_seconds_per_update",
        "cpu_speedup",
        "replay_bytes_per_transition",
        "act_seconds",
        "environment_steps_per_second",
        "steps_per_second",
    ]
    assert all(found[name] > 0 for name in positive)
    assert found["seconds_low"] <= found["seconds_per_update"] <= found["seconds_high"]
    assert found["share_of_limit"] > 0
    parts = {name for name in found if name.startswith(printed.PART)}
    for name in ("sampling", "RL forward", "RL backward", "objective forward", "optimizers"):
        assert printed.PART + name in parts


@pytest.mark.soak
def test_each_size_is_gone_through() -> None:
    rows = measured("--scaling", "--updates", "1")
    sweeps: dict[str, list[float]] = {}
    for each in rows:
        sweeps.setdefault(each["sweep"], []).append(each["value"])
        assert each["seconds_low"] <= each["seconds_per_update"] <= each["seconds_high"]
    expected = {"batch", "image size", "sequence length", "decoder width", "replay length"}
    assert set(sweeps) == expected
    assert all(values == sorted(set(values)) for values in sweeps.values())
    assert all(len(values) >= 3 for values in sweeps.values())


@pytest.mark.soak
def test_several_processes_at_once() -> None:
    alone, both = measured("--processes", "1,2", "--updates", "2")
    assert (alone["processes"], both["processes"]) == (1, 2)
    assert both["peak_memory"] > 1.5 * alone["peak_memory"]
    assert 0 < both["slowest_updates_per_second"] <= both["updates_per_second"] / 2
