"""`train.py -m`: many runs, on this machine or a cluster, and what became of each.

`plan=true` only says what they would take, and `plan=<file>` takes them from a plan (run/plan.py).
Every job is checked before the first one starts. It is the command, and has the folder, of a run
typed by hand: a repeated sweep does only what is missing, and a crash is one outcome among others.
"""

import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO

import yaml

from ..errors import ConfigError, Preempted, RunError, suggestion
from . import plan
from .config import Layout, expand, spelt
from .disk import fields, own_folder, patiently, unusable
from .folder import MAY_CHANGE, look
from .process import StopRequest, typed_path
from .schema import LAUNCHER_KEYS, RunSettings, bounded, choice, construct

GIGA = 1e9
_MANY = {"-m", "--multirun"}
_POLL_SECONDS = 0.2
_ASK_SECONDS = 1.0
# A run hears these while it trains; before and after, when they would kill it, it is deaf to them.
_DEAF = ("sh", "-c", 'trap "" HUP INT TERM USR1; exec "$0" "$@"')

# What a launcher gives: futures of its packs, in order, and the error of one whose job was lost.
_Futures = Iterator[tuple[Sequence[Any], type[Exception]]]


@dataclass(frozen=True)
class Estimate:
    """Cost of one run: hours, bytes of memory (of the GPU, if one trains) and of disk."""

    hours: float
    memory: float
    disk: float
    basis: str  # what the hours were worked out from


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """Where the jobs run. `settings`: its file in configs/launcher with the user's words in it."""

    launcher: str = choice("local", "slurm", "ray")
    runs_per_gpu: int = bounded(1, 1024)
    jobs_at_once: int = bounded(0, 1024)
    settings: dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A run as planned. `state` and `detail` are what `folder.look` says."""

    name: str
    command: tuple[str, ...]
    log: Path  # its output
    values: dict[str, Any]  # its configuration
    state: str = "waiting"
    detail: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the exit code of `train.py`, negative for a signal that killed it."""

    name: str
    code: int
    error: str = ""


def wanted(argv: Sequence[str]) -> bool:
    """Whether a command line asks for a sweep or a plan, and not for one run."""
    asks = any(word in _MANY or word.startswith("plan=") for word in argv)
    return asks and not {"-h", "--help", "--print-config"} & set(argv)


def main(
    argv: Sequence[str],
    layout: Layout,
    *,
    compose: Callable[[Sequence[str]], RunSettings],
    estimate: Callable[[Any], Estimate],
    last: bool = False,
) -> int:
    """Run what `argv` asks for, or say what it would take; returns the exit code.

    Args: `last`: as for `StopRequest`.

    Raises: ConfigError: a job is wrong, or two of them would share a folder; nothing was started.
    """
    wishes, launcher = read(argv, layout)
    settings = list(map(compose, wishes))
    jobs = _jobs(zip(wishes, settings, strict=True), layout)
    refused = [job for job in jobs if job.state == "refused"]
    if "plan=true" in argv or not _MANY & {*argv}:
        print(_survey(jobs, list(map(estimate, settings))))
        return ConfigError.exit_code if refused else 0
    # What seems to run elsewhere may have died there: its lock decides.
    todo = [job for job in jobs if job.state in ("waiting", "resumes", "running")]
    outcomes = [Outcome(job.name, 0) for job in jobs if job.state == "finished"]
    print(f"{len(jobs)} runs: {len(outcomes)} finished already, {len(todo)} to do")
    outcomes += [Outcome(job.name, ConfigError.exit_code, job.detail) for job in refused]
    if todo:
        outcomes += launch(todo, launcher, last)
    print(summary(outcomes, jobs[0].log.parent))
    return exit_code(outcomes)


def read(argv: Sequence[str], layout: Layout) -> tuple[list[list[str]], Launcher]:
    """The words of each job, and the launcher. Raises: ConfigError: a word is not understood."""
    words, several = [word for word in spelt(argv) if word != "plan=true"], _MANY & {*argv}
    # Without -m the launcher's are refused where the others are composed.
    own = [word for word in words if several and word.startswith(LAUNCHER_KEYS)]
    plans = [word for word in words if word.startswith("plan=")]
    others = [word for word in words if word not in (*own, *plans)]
    inner = [word for word in own if word.startswith("launcher.")]
    common = _settings(layout.directory / "sweep.yaml", [w for w in own if w not in inner])
    launcher = construct(Launcher, common | {"settings": {}})
    path = layout.directory / "launcher" / f"{launcher.launcher}.yaml"
    launcher = replace(launcher, settings=_settings(path, inner))
    if not plans:
        return _expanded(others, layout) if several else [others], launcher
    for word in others:
        if word.startswith("preset=") or not word.startswith(MAY_CHANGE):
            raise ConfigError(f"{word}: a plan says what is run; beside it say only where and how")
    paths = [typed_path(word.removeprefix("plan=")) for word in plans]
    runs = [plan.read(path, layout.subject, layout.canonical).runs.values() for path in paths]
    return [[*run, *others] for run in itertools.chain(*runs)], launcher


def _settings(path: Path, words: Sequence[str]) -> dict[str, Any]:
    """A YAML file with `words` in it; a key that holds a mapping takes any key within."""
    settings = dict(fields(path).content)
    for word in words:
        name, _, text = word.partition("=")
        key, _, within = name.removeprefix("launcher.").partition(".")
        if key not in settings or (within and not isinstance(settings[key], dict)):
            hint = suggestion(key, list(settings), "see configs/launcher; launcher= chooses a file")
            raise ConfigError(f"{word}: not a key of {path.name}; {hint}")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{word}: cannot be read; quote the value") from error
        settings[key] = settings[key] | {within: value} if within else value
    return settings


def _expanded(words: Sequence[str], layout: Layout) -> list[list[str]]:
    """The jobs of a sweep: all combinations of several values, times the runs of its ablations.

    `ablation=<name>,...` stands for the runs in configs/ablation/<name>.yaml: below `sweep:` a list
    of values for each of one or more keys, whose i-th values make the i-th run; values typed for
    the only key take their place. The agent as it is runs beside them, once for all ablations.
    """
    others = [word for word in words if not word.startswith("ablation=")]
    named = [word.partition("=")[2] for word in words if word not in others]
    if not named:
        return expand(others, layout)
    jobs = []
    for name in ",".join(named).split(","):
        sweep = _ablation(name, layout)
        given = [word for word in others if word.partition("=")[0] in sweep]
        if given and len(sweep) > 1:
            raise ConfigError(f"{given[0]}: ablation={name} sets it, with other keys; leave it out")
        as_it_is = expand([word for word in others if word not in given], layout)
        runs = expand(given, layout) if given else map(list, zip(*sweep.values(), strict=True))
        jobs += as_it_is
        jobs += [[*_tagged(job, name, run), *run] for run in runs for job in as_it_is]
    return [job for i, job in enumerate(jobs) if job not in jobs[:i]]


def _ablation(name: str, layout: Layout) -> dict[str, list[str]]:
    """What an ablation's file sweeps: by key, the overrides of each run."""
    known = layout.options("ablation")
    if name not in known:
        raise ConfigError(f"ablation={name}: no such ablation; {suggestion(name, known)}")
    path = layout.directory / "ablation" / f"{name}.yaml"
    sweep: Any = fields(path).content.get("sweep")
    lists = list(sweep.values()) if isinstance(sweep, dict) else []
    if not lists or any(type(x) is not list or len(x) != len(lists[0]) for x in lists):
        raise ConfigError(f"{path}: must hold `sweep:`, with lists of one length; see run/sweep.py")
    return {key: [f"{key}={json.dumps(value)}" for value in sweep[key]] for key in sweep}


def _tagged(job: Sequence[str], ablation: str, run: Sequence[str]) -> list[str]:
    """`job` with the ablation and its run's first value added to the tag."""
    label = run[0].partition("=")[2].translate(str.maketrans(",", "+", '[]" ')) or "none"
    tags = [word.partition("=")[2].strip("'\"") for word in job if word.startswith("tag=")]
    tag = "-".join(filter(None, (*tags, ablation, label)))
    return [*(word for word in job if not word.startswith("tag=")), f"tag={tag}"]


def _jobs(composed: Iterable[tuple[Sequence[str], RunSettings]], layout: Layout) -> list[Job]:
    jobs: dict[Path, Job] = {}
    for words, cfg in composed:
        path = cfg.path
        command = (sys.executable, str(layout.directory.parent / "train.py"), *words)
        if path in jobs:
            different = sorted(set(command) ^ set(jobs[path].command))
            raise ConfigError(
                f"{' '.join(different) or path}: two jobs would share {path}; sweep "
                f"only {layout.subject}, agent, seed and tag, or give each value a tag= of its own"
            )
        name = path.relative_to(cfg.runs_dir).as_posix()
        log = Path(cfg.runs_dir).resolve() / ".sweep" / "logs" / f"{name.replace('/', '-')}.txt"
        jobs[path] = Job(name, command, log, asdict(cfg), *look(path, asdict(cfg), cfg.resume))
    return list(jobs.values())


def _survey(jobs: Sequence[Job], costs: Sequence[Estimate]) -> str:
    """One line for each run, then the sums of what is left to do."""
    rows = [(job.state, job.name, cost, job.detail) for job, cost in zip(jobs, costs, strict=True)]
    todo = [cost for state, _, cost, _ in rows if state in ("waiting", "resumes")]
    if todo:
        disk, free = sum(cost.disk for cost in todo), shutil.disk_usage(existing(jobs[0].log)).free
        hours, memory = sum(cost.hours for cost in todo), max(cost.memory for cost in todo)
        note = f"of {free / GIGA:.1f} GB free{'' if disk < free else ': NOT ENOUGH'}; within a"
        note = f"{note} factor of two, from {todo[0].basis}"
        rows.append(("to do", "one after another", Estimate(hours, memory, disk, ""), note))
    width = max(len(name) for _, name, _, _ in rows)
    lines = [
        f"{state:<9} {name:<{width}}  {hours_text(cost.hours):>16}  "
        f"{cost.memory / GIGA:5.1f} GB memory  {cost.disk / GIGA:5.1f} GB disk  {detail}"
        for state, name, cost, detail in rows
    ]
    counts = Counter(job.state for job in jobs)
    lines.append(f"{len(jobs)} runs: {', '.join(f'{n} {state}' for state, n in counts.items())}")
    return "\n".join(lines)


def hours_text(hours: float) -> str:
    """Such as `0:35:00` or `3 days, 4:00:00`, to the minute."""
    return str(timedelta(minutes=max(1, round(hours * 60))))


def existing(path: Path) -> Path:
    """`path`, or what there is of it already."""
    return next(place for place in (path.resolve(), *path.resolve().parents) if place.exists())


@dataclass(frozen=True)
class Pack:
    """Runs that share one job of a launcher, and so one GPU; called, it is a cluster's job."""

    jobs: tuple[Job, ...]
    folder: Path  # the working directory, which relative paths in the commands mean
    stop: Path  # once it exists, the runs are asked to save and end

    def __call__(self) -> list[Outcome]:
        """Watch the runs, and pass the cluster's signals on to them.

        After USR1, not SIGTERM (`scancel`), a SLURM job queues again once every run has saved.
        """
        with StopRequest() as request:
            outcomes = watch(self, lambda: request.requested or self.stopped())
        saved = any(outcome.code == Preempted.exit_code for outcome in outcomes)
        in_slurm = os.environ.get("SUBMITIT_EXECUTOR") == "slurm"
        if request.reason == "SIGUSR1" and saved and in_slurm:
            # submitit's own handler, active again, asks SLURM for a requeue and ends this process.
            os.kill(os.getpid(), signal.SIGUSR1)
        return outcomes

    def stopped(self) -> bool:
        """Whether the runs are asked to save and end; not by storage that does not answer."""
        return os.path.exists(self.stop)

    def checkpoint(self) -> Any:
        """What submitit puts back into the queue: the same, for each run knows how far it came."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def watch(pack: Pack, stopping: Callable[[], bool], gpu: str = "") -> list[Outcome]:
    """Start the runs of a pack at once and wait for all; never raises for what a run does.

    Args: `gpu`: for CUDA_VISIBLE_DEVICES; empty if the launcher, or nobody, chooses one.
    """
    if stopping():
        return [Outcome(job.name, Preempted.exit_code, "not started") for job in pack.jobs]
    env, processes = dict(os.environ), []
    if gpu:
        env["CUDA_VISIBLE_DEVICES"] = gpu
    for job in pack.jobs:
        with _output(job.log) as log:
            streams: Any = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            command = (*_DEAF, *job.command)
            processes.append(subprocess.Popen(command, cwd=pack.folder, env=env, **streams))
    while running := [process for process in processes if process.poll() is None]:
        asking = stopping()
        if asking:
            for process in running:  # again and again: it may not listen yet
                process.send_signal(signal.SIGUSR1)
        time.sleep(_ASK_SECONDS if asking else _POLL_SECONDS)
    ends = [(job, process.returncode) for job, process in zip(pack.jobs, processes, strict=True)]
    return [Outcome(job.name, code, _last_error(job.log, code)) for job, code in ends]


def _output(log: Path) -> BinaryIO:
    """What a run prints to: its log; nothing where that cannot be, which ends no run."""
    try:
        patiently(log.unlink, missing_ok=True)  # not through a link
        return patiently(log.open, "xb")
    except OSError as error:
        print(f"warning: {log} cannot be written ({error})", file=sys.stderr)
        return open(os.devnull, "wb")


def _last_error(log: Path, code: int) -> str:
    """What a run's output says about its failure; empty for a run that ended well."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    lines: list[str] = []
    with suppress(OSError):
        lines = patiently(log.read_text, encoding="utf-8", errors="replace").strip().splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or ["no message"])[-1] if code else ""


def launch(jobs: Sequence[Job], launcher: Launcher, last: bool = False) -> list[Outcome]:
    """Hand the jobs to the launcher and wait; a signal meanwhile asks every run to save and end.

    Raises: ConfigError: the launcher is not there, or does not accept its settings; or, as
    StorageError, nothing can be written in the folder for runs.
    """
    logs = jobs[0].log.parent
    stop = logs.parent / f"stop-{os.getpid()}"
    try:
        logs.parents[1].mkdir(parents=True, exist_ok=True)
        own_folder(logs.parent)
        own_folder(logs)
        stop.unlink(missing_ok=True)
    except OSError as error:
        raise unusable(logs, error) from error
    # SLURM gives whole GPUs, so there a job holds several runs; elsewhere each holds one.
    size = launcher.runs_per_gpu if launcher.launcher == "slurm" else 1
    starts = range(0, len(jobs), size)
    packs = [Pack(tuple(jobs[i : i + size]), Path.cwd(), stop) for i in starts]
    begin = {"local": _local, "ray": _ray, "slurm": _slurm}[launcher.launcher]
    outcomes = []
    with begin(packs, launcher) as (futures, lost), StopRequest(last=last) as request:
        while not all(future.done() for future in futures):
            if request.requested and not os.path.exists(stop):
                with suppress(OSError):  # of a full disk: again
                    stop.touch()
                    print(f"{request.reason}: every run saves and ends")
            time.sleep(_POLL_SECONDS)
        for pack, future in zip(packs, futures, strict=True):
            try:
                outcomes += future.result()
            except lost as error:  # how they ended is not known, their processes may go on
                text = f"the launcher lost it: {(str(error).splitlines() or [repr(error)])[0]}"
                outcomes += [Outcome(job.name, RunError.exit_code, text) for job in pack.jobs]
    with suppress(OSError):
        stop.unlink(missing_ok=True)
    return outcomes


@contextmanager
def _local(packs: Sequence[Pack], launcher: Launcher) -> _Futures:
    """In threads, each of which takes a place for as long as its runs go on."""
    places, free = _places(packs, launcher), SimpleQueue[str]()
    for place in places:
        free.put(place)

    def run(pack: Pack) -> list[Outcome]:
        gpu = free.get()
        try:
            return watch(pack, pack.stopped, gpu)
        finally:
            free.put(gpu)

    with ThreadPoolExecutor(launcher.jobs_at_once or len(places)) as pool:
        yield [pool.submit(run, pack) for pack in packs], OSError


@contextmanager
def _slurm(packs: Sequence[Pack], launcher: Launcher) -> _Futures:
    """One SLURM job for each pack, through submitit."""
    if shutil.which("sbatch") is None:
        raise ConfigError("launcher=slurm: no sbatch here; start it on a node that submits jobs")
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"  # the one that runs save and end on
    import submitit
    from submitit.core.utils import FailedSubmissionError, UncompletedJobError

    own = {key: value for key, value in launcher.settings.items() if value is not None}
    tree = shlex.quote(str(Path(__file__).parents[2]))  # jobs unpickle functions of this package
    export = f"export SUBMITIT_PREEMPT_SIGNAL=USR1 PYTHONPATH={tree}${{PYTHONPATH:+:$PYTHONPATH}}"
    setup = own.get("setup", [])
    own["setup"] = [export, *([setup] if isinstance(setup, str) else setup)]
    folder, timeouts = packs[0].stop.parent / "slurm" / "%j", own.pop("max_num_timeout", 0)
    executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=timeouts)
    executor.update_parameters(**{f"slurm_{key}": value for key, value in own.items()})
    try:
        futures = executor.submit_array(packs)
    except (FailedSubmissionError, UncompletedJobError) as error:  # by sbatch
        raise ConfigError(f"launcher=slurm: {' '.join(str(error).split())}") from error
    yield futures, UncompletedJobError


@contextmanager
def _ray(packs: Sequence[Pack], launcher: Launcher) -> _Futures:
    """One Ray task for each pack, on a cluster that runs already or one of its own."""
    try:
        import ray
    except ImportError as error:
        remedy = "pip install -r requirements-ray.txt"
        raise ConfigError(f"launcher=ray: Ray is not installed; {remedy}") from error
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is sent anywhere
    places, settings = _places(packs, launcher), launcher.settings
    init, remote = settings["init"], settings["remote"]
    if init["address"] is None:
        init = {"num_cpus": launcher.jobs_at_once or len(places)} | init
    if places[0]:
        remote = {"num_gpus": round(1 / launcher.runs_per_gpu, 4)} | remote
    ray.init(**init)
    try:
        task = ray.remote(Pack.__call__).options(**remote)
        yield [task.remote(pack).future() for pack in packs], ray.exceptions.RayError
    finally:
        ray.shutdown()


def _places(packs: Sequence[Pack], launcher: Launcher) -> list[str]:
    """Room for runs on this machine: the GPU of each, or empty text where the cores are shared.

    A GPU is called as in CUDA_VISIBLE_DEVICES. They are not ours to share if a job names its own.
    """
    runs = [job.values for pack in packs for job in pack.jobs]
    gpus: list[str] = []
    if all(values["device"] in ("auto", "cuda") for values in runs):
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        named = os.environ.get("CUDA_VISIBLE_DEVICES", "").replace(" ", "").split(",")
        gpus = list(filter(None, named))[:count] or [str(number) for number in range(count)]
    cores = len(os.sched_getaffinity(0))
    threads = max(values["threads"] for values in runs) or cores
    shares = launcher.jobs_at_once or max(1, cores // threads)
    return gpus * launcher.runs_per_gpu or [""] * shares


def summary(outcomes: Sequence[Outcome], logs: Path) -> str:
    """A line for each run that did not end well, and the counts."""
    words = {0: "finished", Preempted.exit_code: "preempted"}
    ends = [(words.get(outcome.code, "FAILED"), outcome) for outcome in outcomes]
    lines = [
        f"{end:<9}  {outcome.name}  exit {outcome.code}: {outcome.error}"
        for end, outcome in ends
        if outcome.code
    ]
    if lines:
        lines.append(f"output of each run: {logs}; the same command does what is missing")
    counts = Counter(end for end, _ in ends)
    total = ", ".join(f"{counts[end]} {end.lower()}" for end in (*words.values(), "FAILED"))
    return "\n".join([*lines, f"{len(outcomes)} runs: {total}"])


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """0, or 75 if runs were only preempted, or what the failures have in common, or 1."""
    codes = {outcome.code for outcome in outcomes} - {0}
    failures = codes - {Preempted.exit_code}
    if not failures:
        return max(codes, default=0)
    code = failures.pop()
    return RunError.exit_code if failures or code < 0 else code
