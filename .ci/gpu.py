"""Minutes on a GPU: the tests that need one, speed, and runs of the whole protocol.

    python .ci/gpu.py                            tests, speed, runs, then publish
    python .ci/gpu.py --seconds 300 speed runs   stops then; runs are saved
    python .ci/gpu.py --device cpu --out DIR     tiny, publishes nothing: to try this script
    python .ci/gpu.py pack DIR --python 3.12     what PyTorch's images lack, for a machine without
                                                 network; there: --packages DIR

What is done lies in --out (default: gpu_out) and is not done again, so the same command goes on.
`publish` writes finished runs and speed into the trees' results/ and READMEs.
"""

import argparse
import csv
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TREES = ("Atari", "DMControl")
PHASES = ("tests", "speed", "runs", "publish")
ENDING = 20.0  # seconds that a run has to save itself
PATIENCE = 600.0  # seconds that a tree's tests or a row of speed may take
EAGER, GRAPH, COMPILED = "", "cuda_graph=true", "compile=true"
FUSED = "fused_kernels=true"

# What tells most first. Compiling takes a minute or two, so it comes late.
SPEED = [
    *[(precision, GRAPH) for precision in ("bf16", "tf32")],
    *[(precision, f"{GRAPH} {FUSED}") for precision in ("bf16", "tf32")],
    *[(precision, EAGER) for precision in ("bf16", "tf32")],
    *[("fp32", mode) for mode in (GRAPH, EAGER)],
    *[(precision, COMPILED) for precision in ("bf16", "tf32", "fp32")],
    *[(precision, f"{COMPILED} {GRAPH}") for precision in ("bf16", "tf32")],
]
UPDATES = {"DMControl": 60, "Atari": 200}  # of a timed round, about two seconds
# All with one precision, as the seeds and methods of one table must.
RUNS = [
    (tree, subject, agent, seed)
    for seed in (1, 2, 3)
    for tree, subject, agent in (
        ("DMControl", "cartpole_swingup", "mlr"),
        ("DMControl", "cartpole_swingup", "sac"),
        ("Atari", "amidar", "rainbow"),
        ("DMControl", "ball_in_cup_catch", "mlr"),
        ("Atari", "amidar", "mlr"),
        ("DMControl", "ball_in_cup_catch", "sac"),
    )
]
KEY = ("commit", "hardware", "preset", "agent", "precision", "mode")  # a row of speed

# Beyond PyTorch, NumPy, SciPy, OpenCV, TensorBoard, pandas, Matplotlib, pytest and what these need.
PACKED = "ale-py dm_control dm-env dm-tree farama-notifications glfw gymnasium hydra-core"
PACKED += " mujoco omegaconf pyopengl"
PURE = "antlr4-python3-runtime"  # published as source
LEFT_OUT = ("locomotion", "composer", "entities", "suite/dog_assets")  # of dm_control: 60 MB


class Session:
    """Options, the clock, and how the trees' programs are called."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.out, self.device = options.out.resolve(), options.device
        self.at_once, self.end = options.at_once, time.monotonic() + options.seconds
        self.out.mkdir(parents=True, exist_ok=True)
        places = {"TORCHINDUCTOR_CACHE_DIR": str(self.out / "inductor")}
        if options.packages:
            places["PYTHONPATH"] = str(options.packages.resolve())
            copied = options.packages.resolve() / "repository.git"
            if copied.exists() and not (ROOT / ".git").exists():  # so that rows name their commit
                places |= {"GIT_DIR": str(copied), "GIT_WORK_TREE": str(ROOT)}
                subprocess.run(["git", "read-tree", "HEAD"], env=os.environ | places, check=False)
        self.environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | places
        self.common = [f"device={self.device}"]
        self.common += ["preset=smoke"] if self.device == "cpu" else ["preset=paper"]

    @property
    def left(self) -> float:
        """Seconds until nothing new may begin."""
        return self.end - time.monotonic()

    def start(self, tree: str, words: Iterable[str], log: Path) -> subprocess.Popen[bytes]:
        """A Python program of a tree; what it prints goes to `log`."""
        with log.open("ab") as file:
            command = [sys.executable, *words]
            return subprocess.Popen(
                command, cwd=ROOT / tree, env=self.environment, stdout=file, stderr=file
            )

    def finish(self, process: subprocess.Popen[bytes]) -> int:
        """Its exit code; near the end, or if it hangs, it is told to save itself, then killed."""
        try:
            return process.wait(min(PATIENCE, max(0.0, self.left - ENDING)))
        except subprocess.TimeoutExpired:
            process.terminate()
        try:
            return process.wait(ENDING)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def tests(session: Session) -> bool:
    """The tests marked cuda, of both trees at the same time; true if they pass."""
    words = ["-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", "--tb=short"]
    words += ["-n", "4" if session.device == "cuda" else "0"]
    passed, running = [], {}
    for tree in TREES:
        if (session.out / f"tests_{tree}.passed").exists():
            print(f"tests {tree}: passed before")
        elif session.left > 2 * ENDING:
            log = session.out / f"tests_{tree}.txt"
            log.unlink(missing_ok=True)
            running[tree] = session.start(tree, words, log)
    for tree, process in running.items():
        code = session.finish(process)
        text = (session.out / f"tests_{tree}.txt").read_text(errors="replace")
        last = text.rstrip().rpartition("\n")[2]
        passed.append(code == 0 and (" passed" in last or session.device == "cpu"))  # not skipped
        if passed[-1]:
            (session.out / f"tests_{tree}.passed").touch()
        print(f"tests {tree}: exit {code}: {last}", flush=True)
    return all(passed)


def speed(session: Session) -> bool:
    """One `benchmark.py` for each row of both trees; true if all there was time for were made."""
    good = True
    for precision, mode in SPEED:
        if session.device == "cpu" and {GRAPH, FUSED} & set(mode.split()):
            continue
        for tree in TREES:
            name = "-".join([tree, precision, *mode.replace("=true", "").split()])
            row, log = session.out / f"speed_{name}.json", session.out / f"speed_{name}.txt"
            if row.exists() or session.left <= 2 * ENDING:
                continue
            updates = 2 if session.device == "cpu" else UPDATES[tree]
            small = [f"--updates={updates}", "--json", f"precision={precision}", *mode.split()]
            log.unlink(missing_ok=True)
            process = session.start(tree, ["benchmark.py", *small, *session.common], log)
            code, text = session.finish(process), log.read_text(errors="replace")
            if code == 0:  # libraries may have warned before and behind it
                made, _ = json.JSONDecoder().raw_decode(text, text.index('{\n "commit"'))
                row.write_text(json.dumps(made, indent=1))
                print(f"speed {name}: {shown(made)}", flush=True)
            elif session.left <= ENDING:
                print(f"speed {name}: no time left", flush=True)
            else:
                good = False
                print(f"speed {name}: exit {code}, see {log.name}", flush=True)
    return good


def shown(row: dict[str, Any]) -> str:
    """Of a row what the goals are about."""
    waits = row["host_waits_per_update"]
    return (
        f"{1e3 * row['seconds_per_update']:.2f} ms an update, {row['share_of_limit']:.0%} of the "
        f"limit, {row['peak_memory'] / 2**30:.1f} GiB, "
        f"{'no GPU' if waits is None else f'{waits:g} host waits'}"
    )


def runs(session: Session) -> bool:
    """Train what is not finished, a few at once; when time is up they save themselves and end."""
    waiting = list(RUNS if session.device == "cuda" else RUNS[:3])
    active: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}
    good = True
    while (waiting and session.left > 2 * ENDING) or active:
        if waiting and len(active) < session.at_once and session.left > 2 * ENDING:
            tree, subject, agent, seed = waiting.pop(0)
            name = f"{tree}-{subject}-{agent}-{seed}"
            folder = session.out / "runs" / tree
            score = folder / subject / agent / f"seed_{seed}" / "final.json"
            if not score.exists():
                key = "task" if tree == "DMControl" else "game"
                words = ["train.py", f"{key}={subject}", f"agent={agent}", f"seed={seed}"]
                words += [f"runs_dir={folder}", "precision=tf32", *session.common]
                words += [GRAPH] if session.device == "cuda" else []
                log = session.out / f"run_{name}.txt"
                active[name] = session.start(tree, words, log), score
                print(f"runs {name}: begun, {session.left:.0f} s left", flush=True)
            continue
        time.sleep(1.0)
        if session.left <= ENDING:
            for process, _ in active.values():
                process.terminate()  # all of them, before the first is waited for
        for name, (process, score) in list(active.items()):
            if process.poll() is None and session.left > ENDING:
                continue
            code = session.finish(process)
            good = good and (score.exists() or code == 75)
            state = "finished" if score.exists() else "saved" if code == 75 else f"exit {code}"
            print(f"runs {name}: {state}", flush=True)
            del active[name]
    return good


def publish(session: Session) -> bool:
    """Finished runs to results/ and the READMEs, rows of speed to results/benchmark/gpu.csv."""
    if session.device == "cpu":
        print("publish: nothing of a CPU")
        return True
    good = True
    for tree in TREES:
        rows = [json.loads(path.read_text()) for path in session.out.glob(f"speed_{tree}-*.json")]
        write_rows(ROOT / tree / "results" / "benchmark" / "gpu.csv", rows)
        folder = session.out / "runs" / tree
        if any(folder.glob("*/*/*/final.json")):
            command = [sys.executable, str(ROOT / ".ci" / "readme.py"), "--append", tree, folder]
            good = subprocess.run(command, env=session.environment).returncode == 0 and good
    return good


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Add rows to a CSV file; one with the same `KEY` as a row that is there takes its place."""
    kept: dict[tuple[str, ...], dict[str, Any]] = {}
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            kept = {tuple(row[name] for name in KEY): row for row in csv.DictReader(file)}
    kept |= {tuple(str(row[name]) for name in KEY): row for row in rows}
    if not kept:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for row in kept.values() for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept[key] for key in sorted(kept))


def pack(folder: Path, python: str) -> None:
    """Put the packages into `folder`, for Linux on x86-64, and a small copy of the repository."""
    platforms = [f"--platform=manylinux_2_{n}_x86_64" for n in (17, 24, 27, 28)]
    platforms += ["--platform=manylinux2014_x86_64", "--platform=manylinux1_x86_64"]
    constraints = ROOT / "DMControl" / "constraints.txt"
    text = "".join((ROOT / tree / "requirements.txt").read_text() for tree in TREES)
    pinned = dict(re.findall(r"^([\w-]+)==([\w.]+)", text, re.MULTILINE))
    names = [f"{name}=={pinned[name]}" if name in pinned else name for name in PACKED.split()]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", f"--target={folder}"]
    pip += ["--upgrade", f"--constraint={constraints}"]
    wheels = ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp"]
    subprocess.run([*pip, *wheels, *platforms, *names], check=True)
    subprocess.run([*pip, PURE], check=True)
    for name in LEFT_OUT:
        subprocess.run(["rm", "-rf", str(folder / "dm_control" / name)], check=True)
    copy = ["git", "clone", "--quiet", "--bare", "--depth=1", ROOT.as_uri()]
    subprocess.run([*copy, str(folder / "repository.git")], check=True)


def main() -> int:
    """Exit code: 1 if a test, a row or a run failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("phases", nargs="*", metavar="PHASE", help=", ".join(PHASES))
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--at-once", type=int, default=2, help="runs that share the GPU (2)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, default=ROOT / "gpu_out")
    parser.add_argument("--packages", type=Path, help="folder that pack made")
    parser.add_argument("--python", default="3.12", help="version to pack for (3.12)")
    options = parser.parse_args()
    phases = options.phases or list(PHASES)
    if phases[0] == "pack" and len(phases) == 2:
        pack(Path(phases[1]).resolve(), options.python)
        return 0
    if unknown := [name for name in phases if name not in PHASES]:
        parser.error(f"{unknown[0]}: no phase; choose of {', '.join(PHASES)}, or pack DIR")
    work = {"tests": tests, "speed": speed, "runs": runs, "publish": publish}
    session = Session(options)
    good = [work[name](session) for name in phases]
    return int(not all(good))


if __name__ == "__main__":
    sys.exit(main())
