"""Make the pictures of the documentation in docs/screenshots/: real runs, in Debian's Chromium and in a terminal.

python docs/screenshots.py            make all of them
python docs/screenshots.py report     make those with these names

A shot is a function with the decorator `shot`: it gets a `Studio`, which runs commands in an empty folder, opens pages
and saves what they show. Those of the terminal are in docs/terminal_pictures.py.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import terminal_pictures
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, FloatRect, Page

DOCS = Path(__file__).resolve().parent
PICTURES = DOCS / "screenshots"
_CHROMIUM = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Studio:
    """A working folder and a browser for shots.

    Args:
        folder: The working folder of commands, empty at first; shots share it, and the runs in it.
        stack: Closes the browser at the end.

    Attributes:
        specs: The specs of this repository.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.specs = DOCS.parent / "specs"

    @cached_property
    def browser(self) -> Browser:
        """Chromium, driven by Playwright."""
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        if chromium is None:
            sys.exit("Chromium is missing: apt-get install chromium")
        from playwright.sync_api import sync_playwright

        playwright = self._stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=chromium, args=list(_CHROMIUM))
        self._stack.callback(browser.close)
        return browser

    def noether(self, *arguments: str | Path) -> str:
        """Run the command in the working folder, and return its output."""
        command = [sys.executable, "-m", "noether", *map(str, arguments)]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=True)
        return done.stdout

    def train(self, run_id: str, *changes: str) -> str:
        """Train specs/experiment.toml without its expectations, unless another shot did; return the id.

        Args:
            run_id: Id of the run.
            *changes: Values of `-s`.
        """
        if not (self.folder / "runs" / run_id).exists():
            options = [word for change in ("trackers=[]", *changes) for word in ("-s", change)]
            self.noether(
                "run", self.specs / "experiment.toml", "--quiet", "--run-id", run_id, "--unset", "expect", *options
            )
        return run_id

    def page(self, address: str | Path, *, width: int = 1200, height: int = 800, dark: bool = False) -> Page:
        """Return a page that shows a file of the working folder, or an address."""
        size, scheme = {"width": width, "height": height}, "dark" if dark else "light"
        page = self.browser.new_context(viewport=size, color_scheme=scheme, device_scale_factor=1.5).new_page()
        page.goto((self.folder / address).as_uri() if isinstance(address, Path) else address)
        return page

    def save(self, page: Page, name: str, clip: FloatRect | None = None) -> None:
        """Save what a page shows as docs/screenshots/<name>.png, in 256 colours."""
        image = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
        image.quantize(256, Image.Quantize.MAXCOVERAGE, 2, dither=Image.Dither.NONE).save(
            PICTURES / f"{name}.png", optimize=True
        )
        print(f"wrote docs/screenshots/{name}.png")


SHOTS: dict[str, Callable[[Studio], None]] = {}


def shot(name: str) -> Callable[[Callable[[Studio], None]], Callable[[Studio], None]]:
    """Register a function that makes docs/screenshots/<name>.png, and others that begin with this name."""

    def register(function: Callable[[Studio], None]) -> Callable[[Studio], None]:
        SHOTS[name] = function
        return function

    return register


@shot("report")
def report(studio: Studio) -> None:
    """The report of one run: results and curves; and that of three, in the dark."""
    wide = studio.train("wide", "trainer.max_epochs=6")
    fast = studio.train("narrow-fast", "trainer.max_epochs=6", "model.hidden=[64,64]", "model.optimizer.lr=2e-2")
    slow = studio.train("narrow-slow", "trainer.max_epochs=6", "model.hidden=[64,64]", "model.optimizer.lr=1e-3")
    studio.noether("runs", "report", wide, "--out", "one.html")
    page = studio.page(Path("one.html"), height=1120)
    page.locator(".chart svg").first.hover(position={"x": 500, "y": 90})
    page.evaluate("scrollTo(0, 0)")
    studio.save(page, "report")
    studio.noether("runs", "report", wide, fast, slow, "--out", "three.html")
    page = studio.page(Path("three.html"), height=900, dark=True)
    page.locator("#smoothing").fill("0.9")
    page.evaluate("document.activeElement.blur(); scrollTo(0, document.querySelector('#curves').offsetTop - 20)")
    page.wait_for_function(
        "[...document.querySelectorAll('.chart')].slice(0, 3).every(one => one.querySelector('path'))"
    )
    page.locator(".chart svg").first.hover(position={"x": 620, "y": 60})
    studio.save(page, "report-compared")


_SWEEP = """
[sweep]
"model.optimizer.lr" = { log_uniform = [1e-4, 3e-2] }
"model.octaves" = { int_uniform = [2, 6] }
"model.hidden" = { choice = [[32], [64, 64]] }

[sweep.settings]
method = "optuna"
trials = 14
seed = 3
metric = "rmse/test/elevation"
sampler = { kind = "TPE", n_startup_trials = 5 }
pruner = { kind = "Median", n_startup_trials = 4 }
"""


@shot("sweep-report")
def sweep_report(studio: Studio) -> None:
    """The report of a sweep: its table and Optuna's plots."""
    (studio.folder / "terrain.toml").write_text((studio.specs / "experiment.toml").read_text() + _SWEEP)
    changes = ("trackers=[]", "trainer.max_epochs=4", "trainer.effective_batch_size=2048")
    options = [word for change in changes for word in ("-s", change)]
    studio.noether("sweep", "terrain.toml", "--quiet", "--unset", "expect", *options)
    studio.noether("runs", "report", "runs/terrain.sweep", "--out", "sweep.html")
    page = studio.page(Path("sweep.html"), height=1600)
    plot = page.locator("figure").first.bounding_box()
    assert plot is not None
    studio.save(page, "sweep-report", {"x": 0, "y": 0, "width": 1200, "height": plot["y"] + plot["height"] + 12})


@shot("mlflow")
def mlflow(studio: Studio) -> None:
    """MLflow's pages: a run with its description, its charts, and two runs compared."""
    with _mlflow_server(studio.folder / "mlflow") as address:
        tracker = (
            '{kind = "mlflow", log_model = true, log_system_metrics = true, note = "How many units does it need?", '
        )
        tracker += f'experiment = "terrain", tracking_uri = "{address}"}}'
        studio.train("terrain-wide", "trainer.max_epochs=6", f"trackers=[{tracker}]")
        studio.train("terrain-narrow", "trainer.max_epochs=6", "model.hidden=[64,64]", f"trackers=[{tracker}]")
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=address)
        experiment = client.get_experiment_by_name("terrain").experiment_id
        ids = [run.info.run_id for run in client.search_runs([experiment])]
        run = f"{address}/#/experiments/{experiment}/runs/{ids[0]}"
        asked = f"runs={quote(json.dumps(ids))}&experiments={quote(json.dumps([experiment]))}"
        pages = {
            "mlflow-run": (f"{run}?workflowType=machine_learning", 1000),
            "mlflow-charts": (f"{run}/model-metrics?workflowType=machine_learning", 1000),
            "mlflow-compared": (f"{address}/#/compare-runs?{asked}", 1300),
        }
        for name, (place, height) in pages.items():
            page = studio.page("about:blank", width=1400, height=height)
            page.add_init_script(
                "localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');"
                "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');"
            )
            page.goto(place)
            page.wait_for_timeout(8000)  # the charts of MLflow draw themselves one after another
            if name == "mlflow-run":
                page.get_by_text("Show more").first.click()
            if name == "mlflow-compared":
                page.get_by_role("switch").first.click()  # show differences only
                page.wait_for_timeout(1000)
            studio.save(page, name)


def _terminal(studio: Studio, name: str) -> None:
    (PICTURES / f"{name}.svg").write_text(terminal_pictures.taken(name, studio.folder / "terminal"))
    print(f"wrote docs/screenshots/{name}.svg")


SHOTS |= {name: partial(_terminal, name=name) for name in terminal_pictures.SHOTS}


@shot("editor")
def editor(studio: Studio) -> None:
    """A spec in Neovim: keys and kinds completed, and mistakes."""
    import editor_pictures

    if what := editor_pictures.missing():
        sys.exit(f"missing for the pictures of the editor: {what}")
    (folder := studio.folder / "editor").mkdir()
    editor_pictures.draw(folder, PICTURES)


@contextmanager
def _mlflow_server(folder: Path) -> Iterator[str]:
    """Start `mlflow server` on the loopback; yield its address, and end it with all of its processes."""
    folder.mkdir()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True, env=environment)
    try:
        for _ in range(300):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
            except OSError:
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def main(names: list[str]) -> int:
    """Make the shots with these names, all of them by default; return the exit code."""
    if unknown := set(names) - set(SHOTS):
        print(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(SHOTS)}", file=sys.stderr)
        return 2
    PICTURES.mkdir(exist_ok=True)
    folder = Path(tempfile.gettempdir()) / "terrain"  # pages of MLflow show it
    try:
        folder.mkdir()
    except FileExistsError:
        print(f"{folder} exists, and the pictures need it: remove it first", file=sys.stderr)
        return 1
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        studio = Studio(folder, stack)
        for name in names or SHOTS:
            SHOTS[name](studio)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
