"""How fast an update and a step of training are, and what share of the machine's limit that is.

    python benchmark.py preset=laptop
    python benchmark.py preset=paper precision=bf16 --updates 2
    python benchmark.py preset=paper device=cuda cuda_graph=true --profile

What is timed is a run as `train.py` trains it, in a folder of its own that is thrown away: the
learner's updates by themselves, then whole steps. All keys of train.py; --json for JSON.
"""

import argparse
import itertools
import json
import resource
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mlr_atari.cost import update_cost  # first: it says how the threads of PyTorch wait

# isort: split
import torch
from torch.autograd import DeviceType

from mlr_atari.device import copy_rate, hardware, matmul_rate, seconds_of_call
from mlr_atari.errors import ConfigError
from mlr_atari.run.folder import revision
from mlr_atari.run.process import script
from mlr_atari.settings import load
from train import Trainer, train

Row = dict[str, Any]
Update = Callable[[], None]

_ROUNDS = 3  # that are timed; their median is given, and the fastest and the slowest
_ROUND = {"cpu": 10, "cuda": 500}  # updates, and then steps, unless asked for otherwise
_WARM_UP = {"cpu": 2, "cuda": 50}  # updates: kernels are chosen, graphs captured, clocks settle
_WATCHED = 10  # updates whose waits are counted
_ADAM_BYTES = 28.0  # a parameter: reads it, its gradient and moments, writes it and the moments
_PROFILE_LINES = 20


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line. Raises: ConfigError: a number below 1."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=layout, allow_abbrev=False
    )
    parser.add_argument("words", nargs="*", metavar="key=value", help="see train.py --help")
    text = "of a round, of which three are timed; then as many steps (10; on a GPU 500)"
    parser.add_argument("--updates", type=int, metavar="N", help=text)
    parser.add_argument("--profile", action="store_true", help="where the time of an update goes")
    parser.add_argument("--json", action="store_true", help="print plain SI units as JSON")
    options = parser.parse_intermixed_args(argv)
    if options.updates is not None and options.updates < 1:
        raise ConfigError(f"--updates={options.updates}: must be at least 1")
    return options


@script
def main(argv: Sequence[str]) -> int:
    """Measure and print; exit code 0, or train.py's where something is wrong."""
    rows: list[Row] = []
    options = parse(argv)
    with tempfile.TemporaryDirectory() as folder:
        cfg = load([*options.words, f"runs_dir={folder}"])
        train(cfg, lambda trainer: rows.append(measure(trainer, options)))
    print(json.dumps(rows[0], indent=1) if options.json else "\n".join(lines(rows[0])))
    return 0


def measure(trainer: Trainer, options: argparse.Namespace) -> Row:
    """Everything about a run's updates and steps; rates, seconds and bytes in SI units."""
    cfg, agent, progress = trainer.cfg, trainer.learner.agent, trainer.progress
    device = agent.device
    size = options.updates or _ROUND[device.type]
    while not progress.update_step:  # until then steps fill the replay
        trainer.step()
    agent_steps = itertools.count(progress.agent_step)

    def update() -> None:
        trainer.learner.update(next(agent_steps))

    for _ in range(_WARM_UP[device.type]):
        update()
    rounds = [seconds_of_call(update, device, size) for _ in range(_ROUNDS)]
    seconds, waits = statistics.median(rounds), host_waits(update, device)
    operations = {"profile": profile(update, device, size)} if options.profile else {}
    env_step = progress.env_step
    step_seconds = seconds_of_call(trainer.step, device, size)
    memory = peak_memory(device)  # before the limits are measured, which takes memory, too
    modes = {"compiled": cfg.compile, "graph": cfg.cuda_graph, "fused": cfg.fused_kernels}
    return {
        "commit": revision() or "unknown",
        "hardware": hardware(device),
        "device": device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "preset": cfg.preset,
        "agent": cfg.agent.name,
        "precision": cfg.precision,
        "mode": " ".join(name for name, on in modes.items() if on) or "eager",
        "updates": _ROUNDS * size,
        "seconds_per_update": seconds,
        "seconds_low": min(rounds),
        "seconds_high": max(rounds),
        "host_waits_per_update": waits,
        "agent_steps_per_second": 1.0 / step_seconds,
        "env_steps_per_second": (progress.env_step - env_step) / size / step_seconds,
        "peak_memory": memory,
        **limits(agent, cfg.precision, seconds),
        **operations,
    }


def limits(agent: Any, precision: str, seconds: float) -> Row:
    """Seconds below which no update can be, and their share of those that it takes.

    Its products and convolutions at the rate of a large product, then Adam's traffic at a copy's.
    """
    flops = update_cost(agent)[0]
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    products, copies = matmul_rate(agent.device, kind), copy_rate(agent.device)
    limit = flops / products + _ADAM_BYTES * agent.num_parameters / copies
    return {
        "flops_per_update": flops,
        "product_flops_per_second": products,
        "copy_bytes_per_second": copies,
        "limit_seconds": limit,
        "share_of_limit": limit / seconds,
    }


def host_waits(update: Update, device: torch.device) -> float | None:
    """How often an update makes the host wait for the GPU; None on a CPU."""
    if device.type != "cuda":
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")  # which warns once, too: of being a prototype
        try:
            for _ in range(_WATCHED):
                update()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = sum("called a synchronizing" in str(warning.message) for warning in caught)
    return waits / _WATCHED


def peak_memory(device: torch.device) -> int:
    """Most bytes that PyTorch reserved on the GPU, graphs included, or that the process held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def profile(update: Update, device: torch.device, calls: int) -> dict[str, float]:
    """Seconds of an update in each operation of the CPU or kernel of the GPU, costliest first."""
    with torch.profiler.profile() as profiler:
        seconds_of_call(update, device, calls)
    kind, clock = DeviceType.CPU, "self_cpu_time_total"
    if device.type == "cuda":
        kind, clock = DeviceType.CUDA, "self_device_time_total"
    events = [event for event in profiler.key_averages() if event.device_type == kind]
    seconds = {event.key: getattr(event, clock) / 1e6 / calls for event in events}
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def lines(row: Row) -> Iterator[str]:
    """For a person: names in words, numbers with units, the profile's first lines as shares."""
    operations: dict[str, float] = row.get("profile", {})
    for name, value in row.items():
        if name != "profile":
            yield f"{name.replace('_', ' '):<24}  {shown(name, value)}"
    for name, seconds in itertools.islice(operations.items(), _PROFILE_LINES):
        share = seconds / sum(operations.values())
        yield f"  {share:6.1%}  {shown('seconds', seconds):>9}  {name[:80]}"


def shown(name: str, value: Any) -> str:
    """A number with the unit that its name says, such as 12.3 ms."""
    if value is None:
        return "not on a CPU"
    if name.startswith("share_of"):
        return f"{value:.1%}"
    units = {"flops_per_second": "FLOP/s", "bytes_per_second": "B/s", "steps_per_second": "/s"}
    units |= {"flops": "FLOP", "memory": "B", "seconds": "s"}
    unit = next((unit for part, unit in units.items() if part in name), None)
    if unit is None:
        return str(value)
    scales = ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1), ("m", 1e-3)
    scale, factor = next((pair for pair in scales if value >= pair[1]), ("µ", 1e-6))
    return f"{value / factor:.3g} {scale}{unit}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
