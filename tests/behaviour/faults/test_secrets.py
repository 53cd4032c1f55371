"""Secrets from every source appear in no file of a run, on no output, and at no tracker.

H9: canaries are planted in the environment, in the spec, in overrides, in addresses, in what callbacks raise and log,
and in what a server answers; then all that the runs have left is searched for each of them, as it is and encoded.
What the framework cannot know it cannot hide: a callback that prints a secret, or puts it into its state.
"""

import base64
import gzip
import http.server
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
import tomli_w

import noether
from noether.config import secrets

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

SECRETS = {
    "CANARY_TOKEN": "canary-tok/en+1 ü'\"\\x",  # in the spec of a callback
    "CANARY_OVERRIDE": "canary-override?&=2",
    "CANARY_UNUSED": "canary-unused-3",  # in the environment, for nobody
    "CANARY_ADDRESS": "https://me:canary-address%2F4@example.invalid/",
    "MLFLOW_TRACKING_PASSWORD": "canary-password-5",
    "MLFLOW_TRACKING_USERNAME": "canary-user",
}
CANARIES = [*(value for name, value in SECRETS.items() if name.startswith("CANARY") and "ADDRESS" not in name)]
CANARIES += ["canary-address%2F4", "canary-address/4", "canary-password-5", "canary-uri-6", "canary-stated-7"]

PROJECT = '''
"""A callback that is careless with what it is told."""
import logging, os, signal
from pydantic import Field
from noether.core.callbacks.periodic import PeriodicCallback
from noether.config.components import CallBackBaseConfig


class CarelessConfig(CallBackBaseConfig):
    token: str = Field("", description="A secret.")
    other: str = Field("", description="Another.")
    address: str = Field("", description="An address.")
    end: str = Field("finish", description="How the run ends.")


class Careless(PeriodicCallback):
    def __init__(self, callback_config: CarelessConfig, **kwargs):
        super().__init__(callback_config, **kwargs)
        self.config = callback_config

    def before_training(self, *, update_counter):
        config = self.config
        self.logger.info("using %s and %r at %s", config.token, config.other, config.address)
        logging.getLogger("noether.plugin").warning(f"config {config!r}")
        try:
            raise ValueError(config.token)
        except ValueError:
            self.logger.exception("it raised")

    def periodic_callback(self, *, interval_type, update_counter):
        if update_counter.update != 4:
            return
        if self.config.end == "raise":
            error = ConnectionError(f"401 for {self.config.token} and {self.config.address}")
            error.add_note(f"tried {self.config.other}")
            raise error from KeyError(self.config.token)
        if self.config.end == "kill" and not os.path.exists("killed"):
            open("killed", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
'''


def spellings(secret: str) -> set[bytes]:
    """Return how a secret may stand somewhere, found out in another way than the framework does."""
    raw = secret.encode()
    found = {raw, quote(secret).encode(), quote(secret, safe="").encode(), quote_plus(secret).encode()}
    for before in (b"", b"canary-user:", b"me:"):
        text = base64.b64encode(before + raw).rstrip(b"=")
        kept = text[len(base64.b64encode(before).rstrip(b"=")) + 1 : -3]
        found |= {kept, kept.replace(b"+", b"-").replace(b"/", b"_")}
    return {spelling for spelling in found if len(spelling) > 7} | {raw.hex().encode()}


NEEDLES = {spelling: secret for secret in CANARIES for spelling in spellings(secret)}


def leaks(data: bytes) -> set[str]:
    return {f"{secret!r} as {spelling!r}" for spelling, secret in NEEDLES.items() if spelling in data}


def leaks_below(folder: Path, *, but: tuple[str, ...] = ()) -> dict[str, set[str]]:
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in but:
            data = path.read_bytes()
            if path.suffix == ".gz":
                data += gzip.decompress(data)
            if leaked := leaks(data) | leaks(str(path).encode()):
                found[str(path)] = leaked
    return found


class Echo(http.server.BaseHTTPRequestHandler):
    """A server that stores its requests, and repeats the credentials in its errors."""

    received: list[bytes]

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.received.append(self.path.encode() + b"\n" + body)  # type: ignore[attr-defined]
        sent = str(self.headers.get("Authorization"))
        answer = f'{{"error_code": "PERMISSION_DENIED", "message": "no entry with {sent}"}}'.encode()
        self.send_response(403)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_GET  # noqa: N815  # the library's name

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    serving.received = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    yield serving
    serving.shutdown()
    serving.server_close()
    thread.join()


@pytest.fixture
def planted(tiny_spec, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict]:
    """A spec with a careless callback and references to secrets; its project is the working folder."""
    Path("pyproject.toml").touch()
    Path("careless.py").write_text(PROJECT)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(secrets, "_secrets", set())
    path = list(sys.path)
    tiny_spec["trainer"]["callbacks"] = [
        {
            "kind": "careless.Careless",
            "id": "careless",
            "every_n_updates": 1,
            "token": {"env": "CANARY_TOKEN", "secret": True},
            "address": {"env": "CANARY_ADDRESS"},
        },
        {"kind": "checkpoint", "every_n_updates": 2},
    ]
    yield tiny_spec
    sys.path[:] = path
    sys.modules.pop("careless", None)


OVERRIDE = 'trainer.callbacks[careless].other={ env = "CANARY_OVERRIDE", secret = true }'


def write(spec: dict, **tables) -> Path:
    Path("tiny.toml").write_text(tomli_w.dumps(spec | tables))
    return Path("tiny.toml")


@pytest.mark.parametrize("end", ["finish", "raise"])
@pytest.mark.parametrize("option", ["--quiet", "--traceback"])
def test_a_run_that_ends_and_one_that_fails_leave_no_secret(planted, noether_command, end, option):  # M4, H9
    spec = write(planted)
    ended = noether_command("run", spec, "-s", OVERRIDE, "-s", f"trainer.callbacks[careless].end={end}", option)
    assert ended.code == (1 if end == "raise" else 0), ended
    assert "***" in ended.out + ended.err
    assert not leaks((ended.out + ended.err).encode())
    assert not leaks_below(Path())
    log = next(Path("runs").glob("*/log.txt")).read_text()
    assert "using *** and" in log


def test_an_outcome_and_its_records_of_a_failed_run_have_no_secret(planted):  # M4
    planted["trainer"]["callbacks"][0]["end"] = "raise"
    outcome = noether.run(planted, overrides=[OVERRIDE], quiet=True)
    assert outcome.status == "FAILED"
    assert not leaks_below(Path())
    assert "401 for ***" in (outcome.run_dir / "attempts/0001.json").read_text()


def test_a_run_that_is_killed_and_resumed_leaves_no_secret(planted, server):  # M4, H9
    port = server.server_address[1]
    trackers = [{"kind": "mlflow", "tracking_uri": {"env": "TRACKING"}}]
    environment = {**os.environ, "TRACKING": f"http://me:canary-uri-6@127.0.0.1:{port}"}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(Path(noether.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    )
    environment["MLFLOW_TRACKING_PASSWORD"] = "canary-password-5"
    spec = write(planted, trackers=trackers)
    command = [sys.executable, "-m", "noether"]
    run = [*command, "run", str(spec), "--run-id", "a", "-s", OVERRIDE, "-s", "trainer.callbacks[careless].end=kill"]
    killed = subprocess.run(run, env=environment, capture_output=True, timeout=100, check=False)
    assert killed.returncode == -9, killed
    resumed = subprocess.run([*command, "resume", "a"], env=environment, capture_output=True, timeout=100, check=False)
    assert resumed.returncode == 0, resumed
    assert not leaks(killed.stdout + killed.stderr + resumed.stdout + resumed.stderr)
    assert server.received
    assert not leaks(b"\n".join(server.received))
    assert not leaks_below(Path())
    assert list(Path("runs/a/checkpoints").glob("step-*"))


@pytest.fixture(scope="module")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store that MLflow has set up."""
    folder = tmp_path_factory.mktemp("migrated")
    from noether.core.trackers.mlflow.client import quiet_mlflow, set_process_defaults

    set_process_defaults()
    with quiet_mlflow():
        from mlflow import MlflowClient

        MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db").search_experiments()
    return folder / "mlflow.db"


def test_mlflow_gets_no_secret(planted, migrated_database):  # M4, H9
    shutil.copy(migrated_database, "mlflow.db")
    planted["trainer"]["callbacks"][0]["end"] = "raise"
    planted["trackers"] = [{"kind": "mlflow"}]
    outcome = noether.run(planted, overrides=[OVERRIDE], quiet=True)
    assert outcome.status == "FAILED"
    with sqlite3.connect("mlflow.db") as database:
        tags = dict(database.execute("select key, value from tags"))
        params = dict(database.execute("select key, value from params"))
    database.close()
    assert "401 for ***" in tags["noether.error"]
    assert params["trainer.callbacks.0.token.env"] == "CANARY_TOKEN"
    assert not leaks_below(Path())
    assert list(Path("mlartifacts").rglob("error.txt"))


@pytest.mark.parametrize("verb", [["run"], ["check"], ["plan"], ["spec", "resolve"], ["spec", "explain"]])
def test_a_password_in_a_spec_is_refused_and_not_shown(planted, noether_command, verb):  # M4
    spec = write(planted, trackers=[{"kind": "mlflow", "tracking_uri": "http://me:canary-stated-7@host"}])
    ended = noether_command(*verb, *(["trackers"] if verb == ["spec", "explain"] else []), spec)
    assert ended.code == 2
    assert "holds a password" in ended.err
    assert not leaks((ended.out + ended.err).encode())
    assert not Path("runs").exists()


def test_a_password_in_an_override_is_refused_and_not_shown(planted, noether_command):  # M4
    override = 'trackers=[{kind="mlflow", tracking_uri="http://me:canary-stated-7@host"}]'
    ended = noether_command("run", write(planted), "-s", override)
    assert ended.code == 2
    assert not leaks((ended.out + ended.err).encode())
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "verb", [["check"], ["plan"], ["spec", "resolve"], ["spec", "explain"], ["spec", "explain", "--json"]]
)
def test_looking_at_a_spec_shows_no_secret(planted, noether_command, verb):  # M4
    path = ["trainer.callbacks.0.token"] if "explain" in verb else []
    ended = noether_command(*verb, *path, write(planted), "-s", OVERRIDE)
    assert ended.code == 0, ended
    assert not leaks((ended.out + ended.err).encode())


@pytest.mark.parametrize("secret", CANARIES)
def test_a_secret_is_masked_in_every_spelling(secret: str, monkeypatch: pytest.MonkeyPatch):  # M4
    monkeypatch.setattr(secrets, "_secrets", set())
    secrets.remember_secret(secret)
    for before in ("", "u:", "me:", "user:", "Bearer "):
        for text in (secret, quote(secret), quote_plus(secret), repr(secret)):
            assert not leaks(secrets.mask(f"a {before}{text} b").encode())
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            assert not leaks(secrets.mask(encode(f"{before}{secret}".encode()).decode()).encode())


def test_what_only_looks_like_a_secret_is_shown(monkeypatch: pytest.MonkeyPatch):  # M4
    monkeypatch.setattr(secrets, "_secrets", set())
    secrets.remember_secret("canary-unused-3")
    text = "num_memory_tokens = 4, password_field = 'x', https://host/a@b, sha256 Y2FuYXJ5"
    assert secrets.mask(text) == text
