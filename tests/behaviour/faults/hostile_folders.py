"""Run folders of a stranger, and a process that forks one child for each of them and each verb.

`python hostile_folders.py` trains one sound run in the working folder. Then it reads a line of JSON for each case, the
names of a folder and a verb, makes that folder from the sound run, and lets a child carry out the verb under an audit
hook. For each line it prints a line of JSON: how the child ended, what it printed, and which effects it had that a run
folder must not have.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import stat
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SECONDS = 30.0  # a verb takes less than a second; the machine may be busy
HUGE = 1 << 42
ESCAPES = "\x1b[2J\x1b]0;owned\x07\r\nerror: fine\x9b31m"
STEP = "checkpoints/step-000000000012"
FILES = (
    "LOCK",
    "log.txt",
    "metrics.jsonl",
    "nonscalars.jsonl",
    "results.jsonl",
    "results/plot/U000000000012.png",
    "run.json",
    "spec.toml",
    "spec.resolved.toml",
    "attempts/0001.json",
    "attempts/0002.json",
    "evaluations/E2_U12_S96/metrics.jsonl",
    f"{STEP}/manifest.json",
    f"{STEP}/model.safetensors",
    f"{STEP}/trainer.json",
    "checkpoints/pins/step-000000000012",
)
FOLDERS = (
    "attempts",
    "abandoned",
    "evaluations",
    "evaluations/E2_U12_S96",
    "checkpoints",
    "checkpoints/pins",
    STEP,
    f"{STEP}/callbacks",
    "checkpoints/step-000000000018",
    "checkpoints/.old-step-000000000006",
    "spool",
    "outputs",
    "results",
    "results/plot",
)
TABLE = dict[str, Any]


# The sound run


def spec_in(folder: Path) -> TABLE:
    """Return the spec of the sound run, and write its data into a folder."""
    import numpy as np

    rng = np.random.default_rng(0)
    slope = rng.normal(size=(3, 2))
    for name, samples in (("train", 48), ("test", 13), ("new", 2)):
        x = rng.normal(size=(samples, 3))
        labels = {} if name == "new" else {"y_target": (x @ slope).astype("float32")}
        np.savez(folder / f"{name}.npz", x=x.astype("float32"), **labels)
    return {
        "name": "tiny",
        "device": "cpu",
        "threads": 1,
        "datasets": {key: {"kind": "file", "path": str(folder / f"{key}.npz")} for key in ("train", "test")},
        "model": {"kind": "mlp", "hidden": [8], "optimizer": {"kind": "AdamW", "lr": 0.01}},
        "trainer": {
            "kind": "weighted-loss",
            "max_epochs": 2,
            "effective_batch_size": 8,
            "forward_properties": ["x"],
            "target_properties": ["y_target"],
            "field_weights": {"y": 1.0},
            "callbacks": [
                {"kind": "checkpoint", "id": "checkpoint", "every_n_epochs": 1},
                {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"},
                {"kind": "ema", "every_n_epochs": 1, "target_factors": [0.5]},
            ],
        },
        "trackers": [{"kind": "noop"}],
    }


# Folders


def emptied(path: Path) -> Path:
    """Make room for something of this name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)
    return path


def device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # endless zeros
    except PermissionError:  # only root may
        os.mkfifo(path)


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(path.parent)  # the path of a socket is short
        made.bind(path.name)
        os.chdir(here)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"{")
        file.truncate(HUGE)


def linked(path: Path, outside: Path) -> None:
    path.symlink_to(outside)


def of_other_run(path: Path, run: Path, outside: Path) -> Path:
    """Return the same file of another run, which is nobody's to change; another file if that has none."""
    other = outside / "other" / path.relative_to(run)
    return other if other.exists() else outside / "precious"


FILE_KINDS: dict[str, Callable[[Path, Path, Path], object]] = {
    "link": lambda path, run, outside: linked(path, of_other_run(path, run, outside)),
    "link to a start-up file": lambda path, run, outside: linked(path, outside / "precious"),
    "link to nothing yet": lambda path, run, outside: linked(path, outside / "not-there-yet"),
    "link in a circle": lambda path, run, outside: linked(path, path),
    "hard link": lambda path, run, outside: os.link(of_other_run(path, run, outside), path),
    "pipe": lambda path, run, outside: os.mkfifo(path),
    "device": lambda path, run, outside: device(path),
    "socket": lambda path, run, outside: bound(path),
    "huge": lambda path, run, outside: sparse(path),
    "folder": lambda path, run, outside: path.mkdir(),
}
FOLDER_KINDS: dict[str, Callable[[Path, Path, Path], object]] = {
    "link": lambda path, run, outside: linked(
        path, outside / "other" / path.relative_to(run) if "18" not in path.name else outside / "other" / STEP
    ),
    "link to nothing yet": lambda path, run, outside: linked(path, outside / "not-there-yet"),
    "pipe": lambda path, run, outside: os.mkfifo(path),
    "file": lambda path, run, outside: path.write_bytes(b"?"),
}


def changed_json(name: str, change: Callable[[TABLE], object]) -> Callable[[Path, Path], None]:
    """Return a builder that changes a JSON file; a manifest gets its right hash."""

    def build(run: Path, outside: Path) -> None:
        path = run / name
        body = json.loads(path.read_bytes())
        change(body)
        if path.name == "manifest.json":
            body.pop("sha256")
            body["sha256"] = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        path.write_text(json.dumps(body))

    return build


def with_forged(name: str, data: bytes) -> Callable[[Path, Path], None]:
    """Return a builder that replaces a file of the checkpoint, with a manifest that fits it."""

    def build(run: Path, outside: Path) -> None:
        (run / STEP / name).write_bytes(data)
        record = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        changed_json(f"{STEP}/manifest.json", lambda body: body["files"].__setitem__(name, record))(run, outside)

    return build


def written(name: str, text: str | bytes) -> Callable[[Path, Path], None]:
    def build(run: Path, outside: Path) -> None:
        path = emptied(run / name)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())

    return build


def replaced(name: str, before: str, after: str) -> Callable[[Path, Path], None]:
    def build(run: Path, outside: Path) -> None:
        path = run / name
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after.replace("OUTSIDE", str(outside))))

    return build


def names_code(spec: str, kind: str) -> Callable[[Path, Path], None]:
    """Return a builder of a spec that names code in the folder, which leaves a mark if it is imported."""

    def build(run: Path, outside: Path) -> None:
        if not (run / spec).exists():
            shutil.copy(run / "spec.resolved.toml", emptied(run / spec))
        replaced(spec, 'kind = "mlp"', f'kind = "{kind}"')(run, outside)

    return build


def other_names(run: Path, outside: Path) -> None:
    """Put files and folders with the names of code, of terminals and of other systems everywhere."""
    for folder in (run, run / "attempts", run / "checkpoints"):
        for name in ("typer.py", "sitecustomize.py", "step-\u0663", "\u0663.json", "a\nb.json", "\x1b[2J", "-rf"):
            (folder / name).write_text(canary(outside))


NO_MARK = "no run.json, and a spec that names code beside it"
DEEP = "[" * 100_000 + "]" * 100_000
A_RESULT = {"update": 6, "epoch": 1, "sample": 48, "time": 1.0, "key": "plot", "kind": "figure", "size": 3, "types": {}}
A_RESULT |= {"file": "results/plot/U000000000006.png", "sha256": "0" * 64}
CONTENT: dict[str, Callable[[Path, Path], object]] = {
    "deep run.json": written("run.json", DEEP),
    "run.json of a list": written("run.json", "[1]"),
    "run.json of wrong types": written("run.json", '{"environment": [1], "project": 3, "samples": {"x": 3}}'),
    "run.json that escapes": changed_json(
        "run.json",
        lambda body: body.update(project=ESCAPES, environment=dict.fromkeys(body["environment"], ESCAPES)),
    ),
    "run.json of enormous samples": changed_json(
        "run.json", lambda body: body["samples"]["x"].update(shape=[1 << 40, 1 << 40])
    ),
    "run.json with a project elsewhere": changed_json("run.json", lambda body: body.update(project="/tmp; true")),
    "deep attempt": written("attempts/0002.json", DEEP),
    "attempt of wrong types": written("attempts/0002.json", '{"status": 3, "started": "x", "ended": []}'),
    "attempt that escapes": written(
        "attempts/0002.json", json.dumps({"status": ESCAPES, "reason": ESCAPES, "host": ESCAPES, "started": 1})
    ),
    "attempt of a large number": written("attempts/999999999.json", "{}"),
    "attempt of a larger number": written(f"attempts/{'9' * 200}.json", "{}"),
    "holder that escapes": written("LOCK", json.dumps({"pid": 1, "host": ESCAPES, "started": 1})),
    "deep metrics": written("metrics.jsonl", DEEP + "\n"),
    "metrics of wrong types": written(
        "metrics.jsonl", '{"update": [], "epoch": {}, "sample": 1, "time": 1, "metrics": 3}\n'
    ),
    "metrics that escape": written(
        "metrics.jsonl",
        json.dumps({"update": 99, "epoch": 1, "sample": 1, "time": 1.0, "metrics": {ESCAPES: 1.0}}) + "\n",
    ),
    "metrics of updates that are text": written(
        "metrics.jsonl", json.dumps({"update": ESCAPES, "epoch": 1, "sample": 1, "time": 1.0, "metrics": {}}) + "\n"
    ),
    "metrics without a line end": written("metrics.jsonl", b"\0" * (1 << 20)),
    "nonscalars of anything": written("nonscalars.jsonl", ESCAPES),
    "results that lie elsewhere": written(
        "results.jsonl",
        "".join(json.dumps({**A_RESULT, "file": file}) + "\n" for file in ("../../id_rsa", "/etc/passwd", "run.json")),
    ),
    "results that escape": written("results.jsonl", json.dumps({**A_RESULT, "key": ESCAPES}) + "\n"),
    "deep results": written("results.jsonl", DEEP + "\n"),
    "deep trainer.json that fits": with_forged("trainer.json", DEEP.encode()),
    "trainer.json of a list that fits": with_forged("trainer.json", b"[]"),
    "trainer.json with ids of paths that fits": with_forged(
        "trainer.json", b'{"trainer": {}, "optimizer": {}, "callbacks": {"../../escaped": {}}}'
    ),
    "trainer.json with ids that escape and fit": with_forged(
        "trainer.json", json.dumps({"trainer": {}, "optimizer": {}, "callbacks": {ESCAPES: {}}}).encode()
    ),
    "tensors that are a pickle and fit": with_forged("model.safetensors", b"\x80\x04cposix\nsystem\n(S'true'\ntR."),
    "manifest with a file above": changed_json(
        f"{STEP}/manifest.json",
        lambda body: body["files"].update({"../../../../outside/precious": {"size": 9, "sha256": "0" * 64}}),
    ),
    "manifest with an absolute file": changed_json(
        f"{STEP}/manifest.json", lambda body: body["files"].update({"/etc/passwd": {"size": 9, "sha256": "0" * 64}})
    ),
    "manifest with weights above": changed_json(
        f"{STEP}/manifest.json",
        lambda body: body["names"].update(last={"update": 12, "weights": "../../../../outside/precious"}),
    ),
    "manifest with names that escape": changed_json(
        f"{STEP}/manifest.json", lambda body: body["names"].update({ESCAPES: {"update": 12, "weights": "x"}})
    ),
    "manifest with a version that escapes": changed_json(
        f"{STEP}/manifest.json", lambda body: body.update(written_by=ESCAPES, format=99)
    ),
    "manifest with a hash that escapes": changed_json(
        f"{STEP}/manifest.json", lambda body: body.update(spec_sha256=ESCAPES)
    ),
    "manifest of an enormous update": changed_json(
        f"{STEP}/manifest.json", lambda body: body.update(update=1 << 62, epoch=1 << 62)
    ),
    "deep manifest": written(f"{STEP}/manifest.json", DEEP),
    "spec that names code beside it": names_code("spec.resolved.toml", "evil.Mine"),
    "given spec that names code beside it": names_code("spec.toml", "evil.Mine"),
    "former spec that names code beside it": names_code("attempts/0001.resolved.toml", "evil.Mine"),
    "former spec that names code of attempts": names_code("attempts/0001.resolved.toml", "inner.Mine"),
    "spec that names code by the folders": names_code("spec.resolved.toml", "runs.a.evil.Mine"),
    "spec that names a part of Python": names_code("spec.resolved.toml", "os.system"),
    "spec that loads pickles": names_code("spec.resolved.toml", "torch.hub.load"),
    "spec that extends a file elsewhere": replaced(
        "spec.resolved.toml", "[trainer]", 'extends = "OUTSIDE/precious"\n[trainer]'
    ),
    "spec with an output elsewhere": replaced(
        "spec.resolved.toml", 'name = "tiny"', 'name = "tiny"\noutput = "OUTSIDE"'
    ),
    "spec with a name that escapes": replaced("spec.resolved.toml", 'name = "tiny"', f"name = {json.dumps(ESCAPES)}"),
    "spec with an id that escapes": replaced(
        "spec.resolved.toml", 'id = "checkpoint"', f"id = {json.dumps('../../' + ESCAPES)}"
    ),
    "spec with a key that escapes": replaced(
        "spec.resolved.toml", "[trainer]", f"[trainer]\n{json.dumps(ESCAPES)} = 1"
    ),
    "spec with a comment that escapes": replaced("spec.resolved.toml", "[trainer]", f"# {ESCAPES!s}\n[trainer]"),
    "spec with origins that escape": replaced("spec.resolved.toml", '"mlp from', f'"{json.dumps(ESCAPES)[1:-1]} from'),
    "spec that is not text": written("spec.resolved.toml", os.urandom(1000)),
    "deep spec": written("spec.resolved.toml", "a = " + DEEP),
    NO_MARK: lambda run, outside: (
        names_code("spec.resolved.toml", "evil.Mine")(run, outside),
        emptied(run / "run.json"),
    ),
    "names of code and of terminals": other_names,
    "no spec": lambda run, outside: emptied(run / "spec.resolved.toml"),
    "no checkpoints": lambda run, outside: emptied(run / "checkpoints"),
}


def folders() -> dict[str, Callable[[Path, Path], object]]:
    """Return the builders of all hostile folders by name."""

    def of(kind: Callable[[Path, Path, Path], object], name: str) -> Callable[[Path, Path], object]:
        return lambda run, outside: kind(emptied(run / name), run, outside)

    found = {"sound": lambda run, outside: None, **CONTENT}
    found |= {f"{kind}: {name}": of(FILE_KINDS[kind], name) for kind in FILE_KINDS for name in FILES}
    return found | {f"{kind}: {name}/": of(FOLDER_KINDS[kind], name) for kind in FOLDER_KINDS for name in FOLDERS}


# Verbs

DOWNLOAD = "down\x1b[2Jload\nerror: fine\x9b31m"
RUN = f"{DOWNLOAD}/runs/a"
VERBS: dict[str, list[str]] = {
    "eval": ["eval", RUN],
    "predict": ["predict", RUN, "--data", "new.npz", "--out", "out.npz"],
    "resume": ["resume", RUN],
    "resume further": ["resume", RUN, "-s", "trainer.max_epochs=3"],
    "resume --dry-run": ["resume", RUN, "--dry-run"],
    "run --resume auto": ["run", "tiny.toml", "--run-id", "a", "--resume", "auto"],
    "run its spec": ["run", f"{RUN}/spec.resolved.toml", "--run-id", "b"],
    "check": ["check", f"{RUN}/spec.resolved.toml"],
    "check as given": ["check", f"{RUN}/spec.toml", "--format", "github"],
    "check the former": ["check", f"{RUN}/attempts/0001.resolved.toml"],
    "check --deep": ["check", "--deep", f"{RUN}/spec.resolved.toml"],
    "plan": ["plan", f"{RUN}/spec.resolved.toml"],
    "spec resolve": ["spec", "resolve", f"{RUN}/spec.resolved.toml"],
    "spec explain": ["spec", "explain", "name", f"{RUN}/spec.resolved.toml"],
    "spec diff": ["spec", "diff", RUN, "tiny.toml"],
    "checkpoint list": ["checkpoint", "list", RUN],
    "checkpoint show": ["checkpoint", "show", RUN],
    "checkpoint verify": ["checkpoint", "verify", RUN, "--deep"],
    "checkpoint pin": ["checkpoint", "pin", RUN, "step-000000000012"],
    "checkpoint unpin": ["checkpoint", "unpin", RUN, "step-000000000012"],
    "checkpoint prune": ["checkpoint", "prune", RUN, "--keep-last", "1"],
    "checkpoint export": ["checkpoint", "export", RUN, "--out", "out.safetensors"],
    "tracker sync": ["tracker", "sync", RUN],
    "load_run": ["load_run", RUN],
    "standing in it": ["eval", "."],
    "standing in it, looking": ["plugins", "list"],
    "standing in it, explaining": ["spec", "explain", "trainer.max_epochs"],
    "verify-resume": ["verify-resume", f"{RUN}/spec.resolved.toml", "--updates", "2", "--at", "1"],
}


def cases() -> list[tuple[str, str]]:
    """Return each folder with each verb; a spec in a folder without `run.json` is one of a project, with its code."""
    return [
        (folder, verb)
        for folder in folders()
        for verb, arguments in VERBS.items()
        if folder != NO_MARK or not any(argument.endswith(".toml") or argument == "." for argument in arguments)
    ]


PROGRAMS = ("git", "uname", "ldconfig")
EXECUTES = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "pickle.find_class")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def canary(outside: Path) -> str:
    """Return code that leaves a mark when it is executed."""
    mine = "from noether.core.models.mlp import MLP\n\n\nclass Mine(MLP):\n    pass\n"
    return f"open({str(outside / 'executed')!r}, 'w').close()\n{mine}"


class Watch:
    """Audit hook that notes what a verb does beside reading and writing its run folder.

    Args:
        own: Folders in which a verb may write: the run folder, that for temporary files, files that the command names.
        data: Folders in which nothing is code.
    """

    def __init__(self, own: list[Path], data: list[Path]) -> None:
        self.own = [os.path.realpath(path) for path in own]
        self.data = [os.path.realpath(path) for path in data]
        self.effects: list[str] = []

    def __call__(self, event: str, arguments: Any) -> None:
        if event == "open":
            path, _, flags = arguments
            # A relative name may be one in a folder that is open, which the event does not tell; what is in the
            # project is compared afterwards.
            if not isinstance(path, int) and os.fsdecode(path).startswith("/") and flags & WRITES:
                self._written(event, path)
        elif event in ("os.rename", "os.link"):
            for path, place in zip(arguments[:2], arguments[2:4], strict=True):
                self._written(event, path, place, follow=False)
        elif event in ("os.remove", "os.rmdir", "os.symlink", "os.mkdir"):
            if event != "os.mkdir" or not os.path.isdir(arguments[0]):  # noqa: PTH112
                self._written(event, arguments[event == "os.symlink"], arguments[-1], follow=False)
        elif event in ("os.truncate", "os.chmod", "os.chown", "os.utime"):
            self._written(event, arguments[0])
        elif event == "exec":
            self._executed(arguments[0].co_filename)
        elif event in EXECUTES or (
            event == "subprocess.Popen" and str(arguments[0]).rpartition("/")[2] not in PROGRAMS
        ):
            self.effects.append(f"{event} {arguments!r:.200}")

    def _written(self, event: str, path: Any, place: int = -1, *, follow: bool = True) -> None:
        if isinstance(path, int):
            return  # a descriptor
        name = os.path.join(f"/proc/self/fd/{place}" if place >= 0 else "", os.fsdecode(path))  # noqa: PTH118
        parent = os.path.realpath(os.path.dirname(name) or ".")  # noqa: PTH120
        real = os.path.realpath(name) if follow else f"{parent}/{os.path.basename(name)}"  # noqa: PTH119
        if real != "/dev/null" and not any(real == own or real.startswith(f"{own}/") for own in self.own):
            self.effects.append(f"{event} {real}")

    def _executed(self, file: str) -> None:
        real = os.path.realpath(file)
        if not file.startswith("<") and any(real.startswith(f"{folder}/") for folder in self.data):
            self.effects.append(f"executed {real}")


def load(run: str) -> None:
    """Read a run as a script does, which shows messages and errors as the command does."""
    import noether
    from noether.cli.main import show_log_visibly
    from noether.cli.output import print_error

    show_log_visibly()
    try:
        found = noether.load_run(run)
        print(found.spec.name.isprintable(), len(found.metrics), found.final_metrics.keys() and "metrics")
        found.model_at("latest")
    except noether.errors.NoetherError as error:
        print_error(error)
        sys.exit(error.exit_code)


def carry_out(verb: str, case: Path) -> None:
    """Carry out a verb in a project beside the hostile folder; runs in the child, and ends it."""
    from noether.cli.main import main

    os.chdir(case / RUN if verb.startswith("standing in it") else case)
    sys.argv = ["noether", *VERBS[verb]]
    load(VERBS[verb][1]) if verb == "load_run" else main()


def in_child(verb: str, case: Path, said: int, told: int) -> None:
    os.setsid()
    for stream in (1, 2):
        os.dup2(said, stream)
    outputs = [case / name for out in ("out.npz", "out.safetensors") for name in (out, f".{out}.{os.getpid()}.tmp")]
    scratch = case / "tmp"
    scratch.mkdir()
    tempfile.tempdir = os.environ["TMPDIR"] = str(scratch)
    watch = Watch([case / RUN, case / "runs", scratch, *outputs], data=[case / DOWNLOAD, case / "outside"])
    sys.addaudithook(watch)
    code: Any = 70
    try:
        carry_out(verb, case)
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(told, json.dumps({"code": code, "effects": watch.effects}).encode())
        os._exit(0)


def built(folder: str, sound: Path, case: Path) -> None:
    """Make a project with a hostile folder beside it, and files that are nobody's to change."""
    outside, run = case / "outside", case / RUN
    shutil.copytree(sound / "runs/a", run, symlinks=True)
    shutil.copytree(sound / "runs/a", outside / "other")
    for name in ("tiny.toml", "train.npz", "test.npz", "new.npz"):
        shutil.copy(sound / name, case / name)
    (outside / "precious").write_text("name = 'precious'\nalias precious=1\n")
    for place in (run, run / "attempts", case / DOWNLOAD):
        for name in ("evil.py", "inner.py", "typer.py"):
            (place / name).write_text(canary(outside))
    (case / DOWNLOAD / "pyproject.toml").touch()
    folders()[folder](run, outside)


def remains(case: Path) -> Iterator[tuple[str, int, Any]]:
    """Yield the names, types and contents of everything that no verb may change."""
    for top in case.iterdir():
        for path in (top, *top.rglob("*")):
            name = path.relative_to(case).as_posix()
            if name.partition("/")[0] in ("runs", "tmp", "out.npz", "out.safetensors") or name.startswith(f"{RUN}/"):
                continue
            status = path.lstat()
            is_file = stat.S_ISREG(status.st_mode)
            yield name, stat.S_IFMT(status.st_mode), (path.read_bytes(), status.st_mtime_ns) if is_file else None


def tried(folder: str, verb: str, sound: Path, case: Path) -> dict[str, Any]:
    """Carry out a verb on a folder in a child; return how it ended."""
    built(folder, sound, case)
    if verb == "run --resume auto":
        (case / "elsewhere").mkdir()
        (case / "elsewhere/a").symlink_to(case / RUN)  # a run, and the folder of runs, may be links to another disk
        (case / "runs").symlink_to("elsewhere")
    before = list(remains(case))
    told, tell = os.pipe()
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            in_child(verb, case, said.fileno(), tell)
        os.close(tell)
        has_ended = ends_in_time(child)
        with os.fdopen(told, "rb") as pipe:
            answer = pipe.read()
        said.seek(0)
        output = said.read()
    result = json.loads(answer) if answer else {"code": None, "effects": []}
    changed = sorted({path for path, *_ in set(remains(case)).symmetric_difference(before)})
    result["effects"] += [f"changed {path}" for path in changed]
    return result | {"hangs": not has_ended, "output": output.decode(errors="backslashreplace")[-4000:]}


def ends_in_time(child: int) -> bool:
    """Wait for a child; end it if it takes too long."""
    deadline = time.monotonic() + SECONDS
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.005)
    return True


def trained() -> Path:
    """Train the sound run, with everything imported that verbs need."""
    import torch

    import noether
    import noether.cli.main
    import noether.runs.deep_check
    import noether.runs.evaluate
    import noether.runs.load
    import noether.runs.plan.plan
    import noether.runs.predict.export
    import noether.runs.predict.files
    import noether.runs.resume.verify_resume
    import noether.runs.tracking.sync

    torch.set_num_threads(1)
    for epochs in (1, 2):
        outcome = noether.run("tiny.toml", set={"trainer.max_epochs": epochs}, run_id="a", resume="auto", quiet=True)
        assert outcome.status == "FINISHED", outcome.error
    run = outcome.run_dir
    noether.runs.evaluate.evaluate(run)
    (run / "checkpoints/pins").mkdir()
    (run / "checkpoints/pins/step-000000000012").touch()
    for name in ("spool", "outputs", "abandoned", "checkpoints/.old-step-000000000006"):
        (run / name).mkdir(exist_ok=True)
    return Path.cwd()


def main() -> None:
    answers = os.dup(1)
    os.dup2(2, 1)
    sound = trained()
    for number, line in enumerate(sys.stdin):
        case = sound / f"case-{number}"
        asked = json.loads(line)
        result = tried(asked["folder"], asked["verb"], sound, case)
        shutil.rmtree(case, ignore_errors=True)
        os.write(answers, (json.dumps(result) + "\n").encode())


if __name__ == "__main__":
    main()
