"""Measurements as lines that a person reads: names in words, numbers with units."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

PART = "part "
_OWN = ("sweep", "value")
_SPREAD = ("seconds_per_update", "seconds_low", "seconds_high")
_BRIEF = (  # what is said of each of several rows; --json and --save keep everything
    *_OWN,
    *_SPREAD,
    "processes",
    "updates_per_second",
    "slowest_updates_per_second",
    "cpu_seconds_per_update",
    "peak_memory",
)
_WORDS = {
    "host_waits_per_update": "host waits per update",
    "product_flops_per_second": "large matrix product",
    "copy_bytes_per_second": "copy of a large block",
    "flops_per_update": "arithmetic per update",
    "limit_seconds": "least time of an update here",
    "share_of_limit": "that is, of the machine's limit",
    "peak_memory": "peak memory, all",
    "peak_memory_of_updates": "peak memory, updates alone",
    "replay_bytes_per_transition": "replay per transition",
    "act_seconds": "choosing an action",
    "environment_steps_per_second": "environment alone, steps",
    "steps_per_second": "whole training, steps",
    "reference_seconds_per_update": "plain update",
    "reference_cpu_seconds_per_update": "plain update, CPU time",
    "reference_peak_memory": "plain update, peak memory",
    "speedup": "faster than plain by",
    "cpu_speedup": "faster than plain by, CPU time",
    "full_update_seconds": "update with all parts",
    "reference_full_update_seconds": "plain update with all parts",
    "full_update_speedup": "faster than plain by, with all parts",
    "cpu_seconds_per_update": "CPU time per update",
    "updates_per_second": "updates",
    "slowest_updates_per_second": "updates, slowest process",
    "processes": "runs at once",
    "updates": "timed updates",
}


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """All of a single row; of several, what they share once and then a short line for each."""
    if len(rows) == 1:
        yield from _all(rows[0])
        return
    first = rows[0]
    shared = {
        name: value
        for name, value in first.items()
        if name not in (*_SPREAD, *_OWN) and all(row.get(name, first) == value for row in rows)
    }
    yield from _all(shared)
    yield ""
    for row in rows:
        own = {name: row[name] for name in _BRIEF if name in row and name not in shared}
        head = f"{own.pop('sweep')} {own.pop('value'):g}: " if "sweep" in own else ""
        yield head + ", ".join(f"{name} {text}".strip() for name, text in _facts(own))


def duration(seconds: float) -> str:
    """In s, ms or µs, three digits."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if abs(seconds) * factor >= 1:
            return f"{_digits(seconds * factor)} {unit}"
    return f"{_digits(seconds * 1e6)} µs"


def size(count: float) -> str:
    """Bytes in GiB, MiB, KiB or B, three digits."""
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if abs(count) >= 1024**power:
            return f"{_digits(count / 1024**power)} {unit}"
    return f"{_digits(count)} B"


def value(name: str, number: Any) -> str:
    """A number of the row with its unit, which its name says."""
    if number is None:
        return "not on a CPU" if name == "host_waits_per_update" else "none"
    if isinstance(number, str) or name == "torch":
        return str(number)
    if name.endswith("speedup"):
        return f"{_digits(number)} times"
    for ending, factor, unit in _RATES:
        if name.endswith(ending):
            return f"{_digits(number / factor)} {unit}"
    if name.startswith("share_of_"):
        return f"{_digits(100 * number)} %"
    if "seconds" in name:
        return duration(number)
    if "bytes" in name or "memory" in name:
        return size(number)
    return f"{number:,}" if isinstance(number, int) else _digits(number)


_RATES = (
    ("flops_per_second", 1e9, "GFLOP/s"),
    ("bytes_per_second", 1e9, "GB/s"),
    ("flops_per_update", 1e9, "GFLOP"),
    ("_per_second", 1.0, "/s"),
)


def _all(row: Row) -> list[str]:
    facts = list(_facts({key: row[key] for key in row if not key.startswith(PART)}))
    parts = sorted(
        ((row[key], key.removeprefix(PART)) for key in row if key.startswith(PART)), reverse=True
    )
    whole = sum(seconds for seconds, _ in parts)
    if parts:
        facts.append(("parts of an update, costliest first", ""))
    facts += [
        (f"  {name}", f"{duration(seconds):>9}  {100 * seconds / whole:5.1f} %")
        for seconds, name in parts
    ]
    width = max((len(name) for name, text in facts if text), default=0)
    return [f"{name:<{width}}  {text}".rstrip() for name, text in facts]


def _facts(row: Row) -> Iterable[tuple[str, str]]:
    for name, number in row.items():
        if name in _SPREAD and all(each in row for each in _SPREAD):
            if name == _SPREAD[0]:
                low, high = (duration(row[each]) for each in _SPREAD[1:])
                yield "median time", f"{duration(number)} (quartiles {low} to {high})"
            continue
        yield _WORDS.get(name, name.replace("_", " ")), value(name, number)


def _digits(number: float) -> str:
    """Three digits, or all in front of the point."""
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.3g}"
