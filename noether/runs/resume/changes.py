"""Changes of a spec between two attempts: those that a resume accepts and those that it refuses."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from noether.checkpoint.saved import SavedCheckpoint
from noether.errors import UsageError
from noether.runs.folder.run_folder import RunFolder, environment_changes
from noether.runs.resume.facts import VALUE, changed_facts, code_changes
from noether.runs.saved_spec import has_saved_spec, read_saved_spec
from noether.spec.model import RunSpec, resolved_tables
from noether.spec.overlay import ABSENT, Difference, differences

_LIMITS = ("trainer.max_epochs", "trainer.max_updates", "trainer.max_samples")
FREE = (
    "name",
    "output",
    "expect*",
    "checkpoints*",
    "plugins*",
    "loader*",
    "trackers*",
    "initializer*",  # a run that continues has its own state
    "datasets.*",  # data other than `train` only alters what is logged; see `_FROZEN`
    "trainer.callbacks*",
    "trainer.add_*_callbacks",
    "trainer.log_every_n_*",
    "trainer.track_every_n_*",
    "trainer.monitor_*",
    "trainer.track_outputs",
    "trainer.hook_timeout_s",
    "trainer.save_on_sigint",
    "trainer.stop_signals",
    "trainer.skip_nan_loss*",
    "trainer.dataloader_prefetch_factor",
    "trainer.initializer*",
    "trainer.max_results*",
    *_LIMITS,
)
"""Keys that may change: they observe, store, or limit."""

_EXCHANGE = ("trainer.parallel", "trainer.shard", "trainer.reduce")
EXACT_ONLY_IF_EQUAL = ("device", "threads", "deterministic", "matmul_precision", *_EXCHANGE)
"""Keys that may change and then alter the last bits: the run warns that the resume is not exact."""

ADDED = {
    "trainer.update": "eager",
    "trainer.parallel": "replicated",
    "trainer.reduce": "exact",
    "loader.overfit_one_batch": False,
}
"""Keys that earlier versions did not have, with the value that says what those did: a run of theirs goes on."""

RECOMPUTED = ("model.checkpoint", "model.*.checkpoint")
"""Keys that may change, except with `use_torch_compile`: recomputed modules are then compiled one by one, and draw
other random numbers. Earlier versions did not have them."""

_FROZEN = ("datasets.train*", "loader.limit_batches", "loader.overfit_one_batch")


def refused_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Return the differences between two resolved specs that alter training.

    A schedule stretches over the whole run, so the limit may change only if there is none.
    """
    is_decisive = _decisive(before, now)
    return [
        change
        for change in differences(dict(before), dict(now))
        if is_decisive(change.key, change.left, change.right)
        and not (change.left is ABSENT and _is_added(change.key, change.right))
    ]


def mathematics(tables: Mapping[str, Any]) -> str:
    """Return a digest of the settings of a resolved spec that decide about the values that training computes."""
    is_decisive = _decisive(tables)
    decisive = [
        (key, repr(value)) for key, value in _leaves(tables) if is_decisive(key, value) and not _is_added(key, value)
    ]
    return hashlib.sha256(repr(sorted(decisive)).encode()).hexdigest()[:16]


def _leaves(tables: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tables.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def is_free(key: str) -> bool:
    """Return True if a key may have another value when a run is continued."""
    if any(fnmatchcase(key, pattern) for pattern in _FROZEN):
        return False
    if key.partition(".")[0] not in RunSpec.model_fields:  # a table of a plugin is as free as the use of the plugin
        return True
    return any(fnmatchcase(key, pattern) for pattern in (*FREE, *EXACT_ONLY_IF_EQUAL, *RECOMPUTED))


def _is_added(key: str, value: Any) -> bool:
    """Return True if a value says what versions without the key did."""
    return bool(value == ([] if _is_recomputed(key) else ADDED.get(key, ABSENT)))


def _is_recomputed(key: str) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in RECOMPUTED)


def _decisive(*specs: Mapping[str, Any]) -> Callable[..., bool]:
    """Return a function that is True for keys that alter training, by key and values, in specs with these tables."""
    scheduled = any(_has_schedule(tables.get("model")) for tables in specs)
    compiled = any(tables.get("trainer", {}).get("use_torch_compile") for tables in specs)

    def is_decisive(key: str, *values: Any) -> bool:
        if _is_recomputed(key):  # a model may have an option of this name that is no list of patterns
            return compiled or not all(isinstance(value, list) or value is ABSENT for value in values)
        return not is_free(key) or (scheduled and key in _LIMITS)

    return is_decisive


def inexact_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the differences that keep the mathematics and alter the last bits."""
    changes = differences(dict(before), dict(now))
    kept = [change for change in changes if not (change.left is ABSENT and _is_added(change.key, change.right))]
    return shown(change for change in kept if change.key in EXACT_ONLY_IF_EQUAL)


def require_same_mathematics(before: Mapping[str, Any], now: Mapping[str, Any], values: Iterable[str] = ()) -> None:
    """Refuse to continue a run with a spec that alters training.

    Args:
        before: Tables of the resolved spec of the run.
        now: Those of the next attempt.
        values: Keys that have another value of the environment.

    Raises:
        UsageError: if it does; the message shows every such difference.
    """
    lines = shown(refused_changes(before, now))
    lines += [another_value(key) for key in sorted(values) if _decisive(now)(key, None)]
    if lines:
        raise UsageError(
            "\n  ".join(["resume refused: these changes alter training:", *lines]),
            hint="undo them, begin a new run, or add --allow-spec-change to continue with the new values",
        )


def shown(changes: Iterable[Difference]) -> list[str]:
    """Return differences as lines: `model.optimizer.lr: 0.001 → 0.01`."""
    return [f"{change.key}: {_value(change.left)} → {_value(change.right)}" for change in changes]


def another_value(key: str) -> str:
    """Return the line of a key whose value of the environment changed; the value is never shown."""
    return f"{key}: another value of the environment"


def _value(value: Any) -> str:
    return "absent" if value is ABSENT else repr(value)


def _has_schedule(table: Any) -> bool:
    """Return True if any optimizer below a table has a schedule."""
    if not isinstance(table, Mapping):
        return False
    return any(
        (key in ("schedule", "weight_decay_schedule") and value is not None) or _has_schedule(value)
        for key, value in table.items()
    )


_DECIDES_STATE = ("trainer", "plugins", "model", "transforms", "datasets.train", "seed")
_NO_REASON_TO_CONTINUE = ("name", "output", "expect", "checkpoints", "trackers", "loader", "threads", "device")


class FormerRun:
    """A run as its last attempt left it, compared with the spec of the next attempt.

    Args:
        folder: The run folder, before the next attempt writes to it.
        spec: Spec of the next attempt, with the sizes that the data decide.
        sha256: Hash of its text.
        facts: Facts of the next attempt, see `facts_of`.
        checkpoint: The checkpoint to continue from; None if there is none.

    Attributes:
        saved: The resolved spec of the last attempt; None if its process died before it wrote one.
        before: Tables of that spec; empty without one.
        now: Tables of `spec`.
        code_changes: A line for each change of code, plugins and data since the checkpoint was saved.
    """

    def __init__(
        self,
        folder: RunFolder,
        spec: RunSpec,
        sha256: str,
        facts: Mapping[str, str],
        checkpoint: SavedCheckpoint | None,
    ) -> None:
        self.folder = folder
        self.sha256, self.checkpoint = sha256, checkpoint
        self.former_facts = checkpoint.manifest.facts if checkpoint is not None else {}
        self.saved = read_saved_spec(folder.paths) if has_saved_spec(folder.paths) else None
        self.before = self.saved.tables if self.saved is not None else {}
        self.now = resolved_tables(spec)
        self.code_changes = code_changes(self.former_facts, facts)
        self._values = changed_facts(self.former_facts, facts, VALUE)
        self._changed = [*(change.key for change in differences(self.before, self.now)), *self._values]

    def require_same_code(self) -> None:
        """Refuse changed code, plugins and data.

        Raises:
            UsageError: if something has changed, or the checkpoint does not record it.
        """
        if self.checkpoint is None:
            return
        changes = self.code_changes
        if not self.former_facts:
            changes = [f"{self.checkpoint.folder.name} does not record the code that it was saved with"]
        if changes:
            refusal = "resume refused: --strict-code was given, and the code is not that of the checkpoint:"
            raise UsageError(
                "\n  ".join([refusal, *changes]),
                hint="use the code, plugins and data of the run, or leave --strict-code out",
            )

    def require_same_mathematics(self) -> None:
        """Refuse a spec that alters training; if the spec of the run is lost, its hash is compared.

        Raises:
            UsageError: if it does; the message shows every such difference.
        """
        checkpoint = self.checkpoint
        require_same_mathematics(self.before or self.now, self.now, self._values)
        if not self.before and checkpoint is not None and checkpoint.manifest.spec_sha256 not in ("", self.sha256):
            raise UsageError(
                "resume refused: the resolved spec of the run is lost, and this spec is not the one that "
                f"{checkpoint.folder.name} was saved with",
                hint="give the spec of the run, or add --allow-spec-change if you know that training is the same",
            )

    def inexact_changes(self) -> list[str]:
        """Return the changes of machine and spec that alter the last bits only."""
        changes = environment_changes(self.folder.recorded_environment())
        changes += [another_value(key) for key in self._values if key in EXACT_ONLY_IF_EQUAL]
        return changes + inexact_changes(self.before or self.now, self.now)

    @property
    def asks_for_more(self) -> bool:
        """True if changes of the spec are a reason to train on after the run has ended."""
        return not all(key.startswith(_NO_REASON_TO_CONTINUE) for key in self._changed)

    def is_same_training(self, checkpoint: SavedCheckpoint) -> bool:
        """Return True if a checkpoint was saved with the same spec, as far as the saved state depends on it.

        An attempt with another spec may have died before it saved anything: then the spec in the folder is not that of
        the checkpoint.
        """
        if self.saved is None or self.saved.sha256 != checkpoint.manifest.spec_sha256:
            return False
        return not any(key.startswith(_DECIDES_STATE) for key in self._changed)
