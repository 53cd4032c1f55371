"""CheckpointWriter: collects the save requests of callbacks and commits one checkpoint at the boundary."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from noether.checkpoint.commit import CheckpointFolder, SharedSave
from noether.checkpoint.manifest import SPEC, WEIGHTS, Manifest, NamedCheckpoint
from noether.checkpoint.paths import PathProvider, checkpoint_name
from noether.checkpoint.retention import Retention
from noether.checkpoint.save import LAST, BackgroundSave, PreparedSave, SavePolicy, SaveQueue, SaveRequest
from noether.checkpoint.shards import Ranked, local
from noether.checkpoint.snapshot import Snapshot
from noether.checkpoint.state import CheckpointState, callback_file, divided, encode_checkpoint, passing_files
from noether.errors import SpecError, StorageError, TrainingError

_LOG = logging.getLogger("noether.checkpoints")


class FileOwner(Protocol):
    """A callback that keeps state in files."""

    id: str


class CheckpointWriter:
    """Write the checkpoints of one run.

    Callbacks call `save`; nothing is written until the boundary of the update, where the whole state is captured once,
    after all hooks. So the content of a checkpoint does not depend on the order of callbacks.

    Args:
        path_provider: Paths of the run.
        keep_last: Number of newest checkpoints to keep.
        spec_sha256: Hash of the resolved spec, recorded in each manifest.
        ranks: The ranks of the run, which save sharded tensors together; None for one.

    Attributes:
        keep_every: Keep checkpoints whose update is a multiple of it; None for no such checkpoints.
        policy: Policy after a failed save.
        asynchronous: Train on while a save, except the last one, is written. At most one is in flight.
        facts: As in `Manifest`.
        queue: The request since the last boundary, and the save in flight.
        names: Names given to checkpoints of this run, with their targets.
        last_committed: The checkpoint that was written last.
        on_committed: Called in the training thread after each commit.
    """

    def __init__(
        self, path_provider: PathProvider, *, keep_last: int = 3, spec_sha256: str = "", ranks: Ranked | None = None
    ) -> None:
        self.path_provider, self._ranks = path_provider, ranks
        self.keep_last = keep_last
        self.keep_every: int | None = None
        self.policy = SavePolicy()
        self.asynchronous = False
        self.folder = CheckpointFolder(path_provider.checkpoint_path)
        self.spec, self.spec_sha256 = b"", spec_sha256
        self.facts: dict[str, str] = {}
        self.queue = SaveQueue()
        self.names: dict[str, NamedCheckpoint] = {}
        self.last_committed: Path | None = None
        self.on_committed: Callable[[], object] = bool
        self._reserved: dict[str, str] = {}
        self._saved: tuple[int, SaveRequest] | None = None
        self._newest: dict[str, int] = {}  # update of the newest checkpoint of a callback
        self._passing: dict[int, frozenset[str]] = {}
        self._parent: str | None = None
        self._snapshot = Snapshot()

    def configure(
        self, *, keep_last: int, keep_every: int | None, asynchronous: bool, policy: SavePolicy, spec: bytes
    ) -> None:
        """Set the options of a spec's `[checkpoints]`, and the text of the resolved spec, before the first save.

        Every whole checkpoint holds the text, so that a run can continue without its own copy.
        """
        self.keep_last, self.keep_every = keep_last, keep_every
        self.asynchronous, self.policy = asynchronous, policy
        self.spec, self.spec_sha256 = spec, hashlib.sha256(spec).hexdigest()

    def require_own(self, check: Callable[[], object]) -> None:
        """Call `check` before each save; it raises an error if the run has another owner."""
        self.folder.require_own = check

    def record(self, facts: dict[str, str]) -> None:
        """Record facts of the run in each manifest from now on."""
        self.facts = facts

    @property
    def pending(self) -> SaveRequest | None:
        """The request since the last boundary; None if there is none."""
        return self.queue.pending

    def save(
        self,
        tag: str | None = None,
        *,
        save_weights: bool = True,
        save_optim: bool = True,
        model_names: Iterable[str] | None = None,
        save_frozen_weights: bool = True,
        newest_of: str | None = None,
    ) -> None:
        """Ask for a checkpoint of the current update; it is committed at the update's boundary.

        Args:
            tag: A name for the checkpoint beside `E…_U…_S…`, until another checkpoint gets it.
            save_weights: Save the weights.
            save_optim: Save the optimizer's state; without it the checkpoint cannot be resumed from.
            model_names: Parts of a composite to save; None for all.
            save_frozen_weights: Save parameters that do not train as well.
            newest_of: Id of a callback whose newest checkpoint alone has these parts: they are removed from the
                checkpoint that it asked for before.

        Raises:
            TrainingError: if the model's weights are exchanged for others at this moment.
        """
        if self.queue.refusal is not None:
            raise TrainingError(
                f"a checkpoint cannot be saved while {self.queue.refusal}",
                hint="save it outside of evaluation on averaged weights, or through `self.checkpoint_writer`",
            )
        request = self.queue.request()
        request.add_parts(
            weights=save_weights,
            optimizer=save_optim,
            model_names=model_names,
            frozen_weights=save_frozen_weights,
            newest_of=newest_of,
        )
        if tag is not None:
            request.add_name(tag)

    def save_files(self, owner: str, tag: str | None = None, *, weights: str = WEIGHTS, stays: bool = True) -> None:
        """Ask for a checkpoint with the `state_files` of one callback.

        Args:
            owner: The callback's id.
            tag: A name for the checkpoint, as in `save`.
            weights: The file with the named weights.
            stays: False for files that are removed when the callback's next ones are saved.
        """
        request = self.queue.request()
        request.owners.add(owner)
        (request.kept if stays else request.newest_of).add(owner)
        if tag is not None:
            request.add_name(tag, weights)

    def standing_for(self, owner: FileOwner, name: str, *, is_whole: bool = True) -> CheckpointWriter:
        """Return a view whose `save` saves a callback's own weights; the children of an `ema` callback use it.

        Args:
            owner: The callback.
            name: Its state file with the weights, one of `state_files`.
            is_whole: True if they are those of the whole model; otherwise the live weights are saved as well.
        """
        return _View(self, owner, name, is_whole)

    @contextmanager
    def refusing(self, reason: str) -> Iterator[None]:
        """Refuse requests inside, where the model does not hold its own weights.

        Args:
            reason: The reason, after "while": `"the weights are averages of 'ema'"`.
        """
        outer, self.queue.refusal = self.queue.refusal, reason
        try:
            yield
        finally:
            self.queue.refusal = outer

    def reserve(self, tag: str, owner: str) -> None:
        """Reserve a name for one callback: two that move it would remove each other's checkpoints.

        Args:
            tag: The name.
            owner: The callback's id.

        Raises:
            SpecError: if another callback has reserved it.
        """
        other = self._reserved.setdefault(tag, owner)
        if other != owner:
            raise SpecError(
                f"the callbacks '{other}' and '{owner}' both name their checkpoints {tag}",
                hint="keep one of them: it takes several tolerances, model_names and eval_callbacks; below "
                "two `ema` with the same factor, keep one `ema` with both model_paths",
            )

    def name(self, tag: str, *, of: str) -> None:
        """Give the checkpoint that is named `of` now another name, which stays when `of` moves on.

        A run that began with the state of another run may have a best value whose checkpoint is in the other run.
        """
        pending, in_flight = self.queue.pending, self.queue.in_flight
        stored = in_flight.prepared.manifest.names if in_flight is not None and in_flight.is_stored() else {}
        if pending is not None and of in pending.names:
            pending.add_name(tag, pending.names[of])
        elif (named := stored.get(of) or self.names.get(of)) is not None:
            self.names[tag] = named
        else:
            _LOG.warning("cannot name a checkpoint %s: no checkpoint of this run is named %s", tag, of)

    def commit(self, state: CheckpointState) -> Path | None:
        """Write `state` as one checkpoint, as the pending request asks, and prune old checkpoints.

        An asynchronous save is only begun, and `settle` returns its checkpoint; the save before it has to be settled.

        Returns:
            The checkpoint; None if another rank or thread writes it, or if the disk refused and the run may go on.

        Raises:
            StorageError: if the disk refuses; older checkpoints are untouched.
        """
        assert self.queue.pending is not None, "commit needs a request"
        assert self.queue.in_flight is None, "one save after the other"
        request, self.queue.pending = self.queue.pending, None
        self._include_earlier(state.update, request)
        parts = divided(state, request, self._ranks)
        shared = None if parts is None or self._ranks is None else SharedSave(parts, self._ranks)
        if not self.path_provider.writes:  # another rank does
            return self._follow(state, request, shared)
        prepared = self._prepare_save(state, request)
        if parts is not None:
            prepared = prepared.with_parts(parts)
            return self._record(prepared, partial(prepared.write, self.folder, self.retention, shared))
        if not self.asynchronous or request.is_last:
            return self._record(prepared, partial(prepared.write, self.folder, self.retention))
        captured = prepared.captured(self._snapshot.take)
        self.queue.in_flight = BackgroundSave(captured, partial(captured.write, self.folder, self.retention))
        return None

    def _follow(self, state: CheckpointState, request: SaveRequest, shared: SharedSave | None) -> Path | None:
        """Take note of a save that rank 0 writes, with the parts of this rank; return None."""
        try:
            if shared is not None:
                shared.follow()
        except StorageError as error:
            self.policy.failed(error, request)
        else:
            self.policy.succeeded()
            self.names.update(request.named(state.update))
        return None

    def settle(self) -> Path | None:
        """Wait for the save in flight, if there is one, and record its result.

        Returns:
            The checkpoint; None if nothing was in flight, or if the disk refused and the policy lets the run go on.

        Raises:
            StorageError: if the disk refuses; older checkpoints are untouched.
        """
        in_flight, self.queue.in_flight = self.queue.in_flight, None
        return None if in_flight is None else self._record(in_flight.prepared, in_flight.checkpoint)

    def _prepare_save(self, state: CheckpointState, request: SaveRequest) -> PreparedSave:
        """Return the files and the manifest of a checkpoint of `state`."""
        files, aliases = encode_checkpoint(state, request, self._snapshot.lay_out)
        if self.spec and request.is_whole:
            files[SPEC] = self.spec
        manifest = Manifest(
            epoch=state.epoch,
            update=state.update,
            sample=state.sample,
            world_size=len(state.ranks),
            files={},
            aliases=aliases,
            names=self.names | request.named(state.update),
            spec_sha256=self.spec_sha256,
            parent=self._parent,
            resumable=request.is_whole,
            written_by=_version(),
            facts=self.facts,
            logs=dict(state.logs),
        )
        weights = [value for value in state.model.values() if isinstance(value, Tensor)] if request.weights else ()
        weights = weights if self._ranks is None else list(map(local, weights))
        passing = passing_files(state, request, files) if request.newest_of else frozenset()
        return PreparedSave(request, files, manifest, weights, passing, self._outdated(state.update, request))

    def _outdated(self, update: int, request: SaveRequest) -> dict[int, frozenset[str]]:
        """Return the files that a checkpoint makes outdated, by update of the checkpoints that have them."""
        newest = {**self._newest, **dict.fromkeys(request.newest_of, update)}.values()
        return {before: files for before, files in self._passing.items() if before not in newest}

    def _record(self, prepared: PreparedSave, outcome: Callable[[], Path]) -> Path | None:
        try:
            checkpoint = outcome()
        except StorageError as error:
            self.policy.failed(error, prepared.request)
            return None
        self.policy.succeeded()
        # Only the requested names: others may have got a new target since the save was begun.
        self.names.update(prepared.request.named(prepared.manifest.update))
        self._newest |= dict.fromkeys(prepared.request.newest_of, prepared.manifest.update)
        self._passing = {at: files for at, files in self._passing.items() if at not in prepared.outdated}
        if prepared.passing:
            self._passing[prepared.manifest.update] = prepared.passing
        self.last_committed = checkpoint
        self.on_committed()
        return checkpoint

    @property
    def retention(self) -> Retention:
        """The checkpoints to keep."""
        return Retention(self.keep_last, self.keep_every)

    def _include_earlier(self, update: int, request: SaveRequest) -> None:
        """Widen a request for an update that was saved before, so that the new save has all files of the old one."""
        if self._saved is not None and self._saved[0] == update:
            request.include(self._saved[1])
        else:
            self._parent = self.last_committed.name if self.last_committed else None
        self._saved = (update, request)

    def continue_from(self, checkpoint: Path, manifest: Manifest) -> None:
        """Continue after a checkpoint of this run: take its names over, and make it the parent of the next one.

        Names of checkpoints that were removed since are dropped. If the checkpoint's round is repeated, the new
        requests are joined with it.
        """
        checkpoints = checkpoint.parent
        there = {tag: of for tag, of in manifest.names.items() if (checkpoints / checkpoint_name(of.update)).is_dir()}
        for name in sorted(manifest.names.keys() - there.keys()):
            _LOG.warning("the checkpoint %s was removed; the name is free until another checkpoint gets it", name)
        self.names.clear()
        self.names.update(there)
        self.last_committed, self._parent = checkpoint, manifest.parent
        self._saved = (manifest.update, SaveRequest.whole())

    def prepare(self) -> None:
        """Check before training that saves can work, and remove leftovers of interrupted ones.

        Raises:
            StorageError: if nothing can be written to the folder of the checkpoints.
        """
        self.folder.prepare()

    def rehearse(self, state: CheckpointState) -> None:
        """Do all of a save except writing, so that a state that cannot be saved is reported in the first second.

        Warns if the disk has no room for the checkpoints to keep.

        Raises:
            TrainingError: if something in the state has a type that a checkpoint cannot hold.
        """
        files, _ = encode_checkpoint(state, SaveRequest.whole())
        divided(state, SaveRequest.whole(), self._ranks)
        self.folder.warn_if_short_of_room(sum(map(len, files.values())), self.retention)

    @property
    def checkpoints(self) -> list[Path]:
        """The committed checkpoints, oldest first."""
        return self.folder.checkpoints


class _View(CheckpointWriter):
    """A checkpoint writer whose `save` saves a callback's own weights; all else is that of the run's writer."""

    def __init__(self, writer: CheckpointWriter, owner: FileOwner, name: str, is_whole: bool) -> None:
        self._writer = writer
        self._owner = owner
        self._name = name
        self._is_whole = is_whole

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def save(self, tag: str | None = None, **parts: Any) -> None:
        """Save the callback's weights under a name; `parts` are ignored.

        Raises:
            TrainingError: if there is no name, or it is `last`, which is that of the run.
        """
        owner = self._owner.id
        if tag is None or tag == LAST:
            raise TrainingError(
                f"a child of callback '{owner}' saved its weights without a name: found {tag!r}, expected a name of "
                "its own",
                hint=f"'{owner}' saves them itself: see its save_* settings",
            )
        self.save_files(owner, tag, weights=callback_file(owner, self._name))
        if not self._is_whole:
            self.queue.request().add_parts(weights=True, optimizer=False, model_names=None, frozen_weights=True)


@cache
def _version() -> str:
    return version("noether-train")
