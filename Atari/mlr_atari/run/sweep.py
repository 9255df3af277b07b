"""`train.py -m`: many runs through one of Hydra's launchers, and what became of each.

Every job is composed and checked before the first one starts. A job is the same command and the
same folder as a run typed by hand, so a repeated sweep does only what is missing.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import TaskFunction
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ..errors import ConfigError, Preempted, RunError
from .ablation import expand_jobs
from .command import Layout, as_plain, read_command
from .folder import look
from .pack import Outcome, Pack, Run, run_pack
from .plan_text import Estimate, plan_text
from .schema import suggestion
from .slots import visible_gpus

_SWEEP_FOLDER = ".sweep"  # in runs_dir: logs of the jobs, files of the launcher
_OWN_KEYS = ("launcher", "runs_per_gpu", "jobs_at_once")


@dataclass(frozen=True)
class Benchmark:
    """What a sweep has to know of the benchmark."""

    layout: Layout
    compose: Callable[[Sequence[str]], DictConfig]  # overrides -> a checked configuration
    run_path: Callable[[DictConfig], Path]
    estimate: Callable[[DictConfig], Estimate]


@dataclass(frozen=True)
class Job:
    """One run of a sweep. `state` and `detail` are what `folder.look` says."""

    name: str
    cfg: DictConfig
    words: tuple[str, ...]
    path: Path
    state: str
    detail: str = ""


@dataclass(frozen=True)
class Request:
    """A command line, sorted: words of every job, words of the launcher, and what is wanted."""

    jobs: list[list[str]]
    launcher: list[str]
    plan: bool


def wanted(argv: Sequence[str]) -> bool:
    """Whether a command line asks for a sweep or a plan, and not for one run."""
    asks = {"-m", "--multirun"} & set(argv) or any(word.startswith("plan=") for word in argv)
    return bool(asks) and not {"-h", "--help", "--print-config"} & set(argv)


def main(argv: Sequence[str], benchmark: Benchmark) -> int:
    """Run or plan what `argv` asks for; returns the exit code.

    0 all runs are finished, 75 all others were preempted and saved, else the failures' common
    exit code, or 1.

    Raises:
        ConfigError: a job is wrong, or two of them would share a folder; nothing was started.
    """
    request = read(argv, benchmark.layout)
    jobs = compose_jobs(request.jobs, benchmark)
    if request.plan:
        rows = [(job.name, job.state, benchmark.estimate(job.cfg)) for job in jobs]
        refused = [f"{job.name}: {job.detail}" for job in jobs if job.state == "refused"]
        print(plan_text(rows, Path(jobs[0].cfg.runs_dir), refused))
        return ConfigError.exit_code if refused else 0
    # What seems to run elsewhere may have died there: its lock decides.
    waiting = [job for job in jobs if job.state in ("waiting", "resumes", "running")]
    finished = sum(job.state == "finished" for job in jobs)
    print(f"{len(jobs)} runs: {finished} finished already, {len(waiting)} to do", flush=True)
    outcomes = [
        Outcome(job.name, ConfigError.exit_code, job.detail)
        for job in jobs
        if job.state == "refused"
    ]
    if waiting:
        outcomes += launch(waiting, request.launcher, benchmark.layout)
    print(summary(outcomes, finished, _sweep_folder(jobs[0])))
    return exit_code(outcomes)


def read(argv: Sequence[str], layout: Layout) -> Request:
    """Sort a command line.

    Raises:
        ConfigError: a word that is not understood.
    """
    plans = [word for word in argv if word.startswith("plan=")]
    if any(word not in ("plan=true", "plan=false") for word in plans):
        raise ConfigError(f"{plans[0]}: must be true or false")
    command = read_command([word for word in argv if word not in plans], layout)
    own = [word for word in command.overrides if _is_own(word)]
    rest = [word for word in command.overrides if word not in own]
    jobs = expand_jobs(rest, layout) if command.multirun else [rest]
    _check_launcher(own, layout)
    return Request(jobs, own, "plan=true" in plans)


def compose_jobs(jobs: Sequence[Sequence[str]], benchmark: Benchmark) -> list[Job]:
    """Compose and check every job, and look what is in its folder.

    Raises:
        ConfigError: the first job that is wrong; or two with the same folder.
    """
    found: dict[Path, Job] = {}
    subject = benchmark.layout.subject
    for words in jobs:
        cfg = benchmark.compose(words)
        path = benchmark.run_path(cfg)
        if path in found:
            different = sorted(set(words) ^ set(found[path].words))
            raise ConfigError(
                f"{' '.join(different) or path}: two jobs would share {path}; sweep only "
                f"{subject}, agent, seed and tag, or one command with its own tag= for each value"
            )
        name = path.relative_to(cfg.runs_dir).as_posix()
        state, detail = look(path, as_plain(cfg), cfg.resume)
        found[path] = Job(name, cfg, tuple(words), path, state, detail)
    return list(found.values())


def launch(jobs: Sequence[Job], words: Sequence[str], layout: Layout) -> list[Outcome]:
    """Hand the jobs to the launcher that `words` choose, and wait for all of them.

    Raises:
        ConfigError: the launcher's settings are wrong, or it is not installed.
    """
    values = _own_values(words)
    folder = _sweep_folder(jobs[0])
    folder.mkdir(parents=True, exist_ok=True)
    stop = folder / f"stop-{os.getpid()}"
    packs = _packs(jobs, values, layout, stop)
    overrides = [
        *(word for word in words if word.partition("=")[0] != "jobs_at_once"),
        f"jobs_at_once={_at_once(jobs, values)}",
        f"gpu_share={_gpu_share(jobs, values)}",
        f"sweep_dir={_as_text(folder)}",
        f"pack={','.join(map(str, range(len(packs))))}",
    ]
    _prepare_environment(layout)

    def task(cfg: DictConfig) -> list[Outcome]:
        return run_pack(packs[cfg.pack])

    with _stopping(stop):
        outcomes, error = _multirun(task, overrides, layout)
    return [outcomes.get(job.name) or _without_outcome(job, error) for job in jobs]


def summary(outcomes: Sequence[Outcome], finished: int, logs: Path) -> str:
    """A line for each run that did not end well, and the counts."""
    lines = []
    for outcome in outcomes:
        if outcome.code == Preempted.exit_code:
            lines.append(f"preempted  {outcome.name}  {outcome.error}")
        elif outcome.code:
            lines.append(f"FAILED     {outcome.name}  exit {outcome.code}: {outcome.error}")
    if lines:
        lines.append(f"output of each run: {logs / 'logs'}; the same command does what is missing")
    counts = Counter(_word(outcome.code) for outcome in outcomes)
    counts["finished"] += finished
    total = ", ".join(f"{counts[each]} {each}" for each in ("finished", "preempted", "failed"))
    return "\n".join([*lines, f"{sum(counts.values())} runs: {total}"])


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """0, or 75 if runs were only preempted, or what the failures have in common, or 1."""
    failures = {each.code for each in outcomes if each.code not in (0, Preempted.exit_code)}
    if not failures:
        return max((each.code for each in outcomes), default=0)
    code = failures.pop()
    return code if not failures and code > 0 else RunError.exit_code


def _word(code: int) -> str:
    return {0: "finished", Preempted.exit_code: "preempted"}.get(code, "failed")


def _without_outcome(job: Job, error: str) -> Outcome:
    """Of a run whose launcher ended before it could say; others of its jobs may go on."""
    state, detail = look(job.path, as_plain(job.cfg), job.cfg.resume)
    if state == "finished":
        return Outcome(job.name, 0)
    return Outcome(job.name, 1, "; ".join(filter(None, (f"the launcher lost it: {error}", detail))))


def _is_own(word: str) -> bool:
    key = word.partition("=")[0]
    return key in _OWN_KEYS or key.startswith("hydra.")


def _own_values(words: Sequence[str]) -> Mapping[str, str]:
    given = dict(word.split("=", 1) for word in words)
    return {"launcher": "local", "runs_per_gpu": "1", "jobs_at_once": "0"} | given


def _check_launcher(words: Sequence[str], layout: Layout) -> None:
    values = _own_values(words)
    known = layout.options("launcher")
    if values["launcher"] not in known:
        name = values["launcher"]
        raise ConfigError(f"launcher={name}: no such launcher; {suggestion(name, known)}")
    for key, least in (("runs_per_gpu", 1), ("jobs_at_once", 0)):
        if not values[key].isdecimal() or int(values[key]) < least:
            raise ConfigError(f"{key}={values[key]}: must be a whole number, at least {least}")


def _sweep_folder(job: Job) -> Path:
    return Path(job.cfg.runs_dir).resolve() / _SWEEP_FOLDER


def _packs(
    jobs: Sequence[Job], values: Mapping[str, str], layout: Layout, stop: Path
) -> list[Pack]:
    """SLURM gives whole GPUs, so there a job holds several runs; elsewhere each holds one."""
    per_gpu = int(values["runs_per_gpu"])
    size = per_gpu if values["launcher"] == "slurm" else 1
    local = values["launcher"] == "local"
    gpus = visible_gpus() if local and _on_gpu(jobs) else ()
    script = layout.directory.parent / "train.py"
    runs = [_run(job, script, layout.subject) for job in jobs]
    return [
        Pack(tuple(runs[i : i + size]), os.getcwd(), str(stop), gpus, per_gpu)
        for i in range(0, len(runs), size)
    ]


def _run(job: Job, script: Path, subject: str) -> Run:
    # An own game's option in Hydra's store is known to this process only; its name is to all.
    words = [word for word in job.words if word.partition("=")[0] != subject]
    command = (sys.executable, str(script), f"{subject}={job.cfg[subject].name}", *words)
    log = _sweep_folder(job) / "logs" / f"{job.name.replace('/', '-')}.txt"
    return Run(job.name, command, str(log))


def _on_gpu(jobs: Sequence[Job]) -> bool:
    """Whether the GPUs are to be shared out: nobody names one, or the CPU."""
    return all(job.cfg.device in ("auto", "cuda") for job in jobs)


def _at_once(jobs: Sequence[Job], values: Mapping[str, str]) -> int:
    """Runs at a time on one machine: as many as its GPUs hold, or its cores without one."""
    wanted = int(values["jobs_at_once"])
    if not wanted and _on_gpu(jobs):
        wanted = len(visible_gpus()) * int(values["runs_per_gpu"])
    cores = len(os.sched_getaffinity(0))
    threads = max(job.cfg.threads for job in jobs) or cores
    return min(wanted or max(1, cores // threads), len(jobs))


def _gpu_share(jobs: Sequence[Job], values: Mapping[str, str]) -> float:
    on_gpu = _on_gpu(jobs) and visible_gpus()
    return round(1 / int(values["runs_per_gpu"]), 4) if on_gpu else 0.0


def _prepare_environment(layout: Layout) -> None:
    """What the jobs' processes inherit."""
    tree = str(layout.directory.parent)
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if tree not in paths:  # a job unpickles functions of this package, whatever its folder
        os.environ["PYTHONPATH"] = os.pathsep.join([tree, *filter(None, paths)])
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"  # the one that runs save and end on
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is sent anywhere


def _multirun(
    task: TaskFunction, overrides: Sequence[str], layout: Layout
) -> tuple[dict[str, Outcome], str]:
    """What the launcher brought back, by name, and why it brought back nothing."""
    try:
        with initialize_config_dir(str(layout.directory), job_name="mlr", version_base="1.3"):
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            sweeps = hydra.multirun("sweep", task, list(overrides))
        packs = [job.return_value for sweep in sweeps for job in sweep]
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"launcher: {_first_line(error)}") from error
    except Exception as error:  # a launcher's own, for a job that was killed, cancelled, ...  # noqa: BLE001
        return {}, _first_line(error)
    return {outcome.name: outcome for pack in packs for outcome in pack}, "no reason given"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def _stopping(path: Path) -> Iterator[None]:
    """While it lasts, SIGINT and SIGTERM create `path`, on which all jobs save and end."""

    def handle(number: int, frame: FrameType | None) -> None:
        path.touch()
        print(f"{time.strftime('%H:%M')} stopping: every run saves and ends", file=sys.stderr)

    former = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        path.unlink(missing_ok=True)


def _as_text(path: Path) -> str:
    escaped = str(path).replace("'", "\\'")
    return f"'{escaped}'"
