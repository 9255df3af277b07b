"""TensorBoard and the report in a real browser: figs/tensorboard.png and figs/report.png.

    .venv/bin/python .ci/screenshots.py DMControl/runs
    make screenshots RUNS=DMControl/runs

Needs Chromium or Chrome on the PATH, and runs to show; the report is that of DMControl/results.
"""

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

FIGS = Path(__file__).resolve().parents[1] / "figs"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
)
PAGE_SECONDS = 20  # of the page's own clock: time for charts to load
START_SECONDS = 60


def browser() -> str:
    """Path of the first browser that is there.

    Raises:
        SystemExit: none is.
    """
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    raise SystemExit(f"error: no {', '.join(BROWSERS)} on the PATH; apt-get install chromium")


def photograph(url: str, out: Path, size: tuple[int, int]) -> None:
    """Save what the browser shows at `url`; `size` is (width, height) in pixels."""
    with tempfile.TemporaryDirectory() as profile:
        options = [
            f"--user-data-dir={profile}",
            f"--window-size={size[0]},{size[1]}",
            f"--virtual-time-budget={1000 * PAGE_SECONDS}",
            f"--screenshot={out}",
        ]
        subprocess.run([browser(), *QUIET, *options, url], check=True, stderr=subprocess.DEVNULL)
    print(out)


@contextmanager
def tensorboard(runs: Path) -> Iterator[str]:
    """TensorBoard on `runs`; gives its address."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(runs), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://localhost:{port}/"
        wait_for(f"{address}data/runs")
        yield address
    finally:
        server.terminate()
        server.wait()


def wait_for(url: str) -> None:
    """Until `url` answers with something that is not empty.

    Raises:
        SystemExit: it does not.
    """
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url) as answer:
                if answer.read().strip() not in (b"", b"[]"):
                    return
        except urllib.error.URLError:
            pass  # it has not started yet
        time.sleep(1.0)
    raise SystemExit(f"error: {url} shows nothing after {START_SECONDS} s")


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="folder with runs, for TensorBoard")
    runs = parser.parse_args(argv).runs.resolve()
    with tensorboard(runs) as address:
        photograph(f"{address}#custom_scalars", FIGS / "tensorboard.png", (1500, 1250))
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "report.py", "--out", out]
        subprocess.run(command, cwd=FIGS.parent / "DMControl", check=True)
        photograph(f"{(Path(out) / 'index.html').as_uri()}", FIGS / "report.png", (1200, 1600))


if __name__ == "__main__":
    main(sys.argv[1:])
