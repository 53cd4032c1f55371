"""CheckpointWriter: collects what callbacks ask to save and commits it as one step at the boundary."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from noether.checkpoint.commit import CheckpointFolder
from noether.checkpoint.folder import checkpoint_name
from noether.checkpoint.manifest import WEIGHTS, Manifest, NamedCheckpoint
from noether.checkpoint.paths import PathProvider
from noether.checkpoint.retention import Retention
from noether.checkpoint.save import LAST, BackgroundSave, PlannedSave, SavePolicy, SaveQueue, SaveRequest, Snapshot
from noether.checkpoint.state import CheckpointState, callback_file, encode_checkpoint
from noether.errors import SpecError, StorageError, TrainingError

_LOG = logging.getLogger("noether.checkpoints")


class FileOwner(Protocol):
    """A callback that keeps state in files."""

    id: str


class CheckpointWriter:
    """Writes the step folders of one run.

    Callbacks call `save`; nothing is written until the boundary of the update, where the whole state is captured once,
    after all hooks. So the order of callbacks cannot matter for what a checkpoint holds.

    Args:
        path_provider: Where the run keeps its checkpoints.
        keep_last: How many of the newest steps stay.
        spec_sha256: Hash of the resolved spec, recorded in each manifest.

    Attributes:
        keep_every: Steps whose update is a multiple of it stay; None for no such steps.
        policy: What happens when the disk refuses a save.
        asynchronous: Whether training goes on while a save is written, all but the last one. At most one is in flight.
        queue: What has been asked for since the last boundary, and the save in flight.
        names: All names that steps of this run go by, beside those that follow from the steps.
        last_committed: The step that was written last.
    """

    def __init__(self, path_provider: PathProvider, *, keep_last: int = 3, spec_sha256: str = "") -> None:
        self.path_provider = path_provider
        self.keep_last = keep_last
        self.keep_every: int | None = None
        self.policy = SavePolicy()
        self.asynchronous = False
        self.folder = CheckpointFolder(path_provider.checkpoint_path)
        self.spec_sha256 = spec_sha256
        self.queue = SaveQueue()
        self.names: dict[str, NamedCheckpoint] = {}
        self.last_committed: Path | None = None
        self._reserved: dict[str, str] = {}
        self._stands_for: tuple[FileOwner, str, bool] | None = None
        self._saved: tuple[int, SaveRequest] | None = None
        self._parent: str | None = None
        self._snapshot = Snapshot()

    @property
    def pending(self) -> SaveRequest | None:
        """What has been asked for since the last boundary; None where nothing was."""
        return self.queue.pending

    def save(
        self,
        tag: str | None = None,
        *,
        save_weights: bool = True,
        save_optim: bool = True,
        model_names: Iterable[str] | None = None,
        save_frozen_weights: bool = True,
    ) -> None:
        """Ask for a checkpoint of the current update; it is committed at the update's boundary.

        Args:
            tag: A name that the step gets beside its `E…_U…_S…` one, until another step gets it.
            save_weights: Whether the step holds the weights.
            save_optim: Whether the step holds the optimizer's state; without it the step cannot be resumed from.
            model_names: Parts of a composite to save; None for all.
            save_frozen_weights: Whether the weights hold parameters that do not train.

        Raises:
            TrainingError: The model's weights are exchanged for others at this moment.
        """
        if self._stands_for is not None:
            self._save_what_this_stands_for(tag, *self._stands_for)
            return
        if self.queue.refusal is not None:
            raise TrainingError(
                f"a checkpoint was asked for while {self.queue.refusal}",
                hint="ask for it outside of evaluation on averaged weights, or through `self.checkpoint_writer`",
            )
        request = self.queue.request()
        request.add_parts(
            weights=save_weights, optimizer=save_optim, model_names=model_names, frozen_weights=save_frozen_weights
        )
        if tag is not None:
            request.add_name(tag)

    def _save_what_this_stands_for(self, tag: str | None, owner: FileOwner, name: str, is_whole: bool) -> None:
        if tag is None or tag == LAST:
            raise TrainingError(
                f"a child of callback '{owner.id}' asked for a checkpoint of its weights without a name of its own",
                hint=f"'{owner.id}' saves them itself: see its save_* settings",
            )
        self.save_files(owner.id, tag, weights=callback_file(owner.id, name))
        if not is_whole:
            self.queue.request().add_parts(weights=True, optimizer=False, model_names=None, frozen_weights=True)

    def save_files(self, owner: str, tag: str | None = None, *, weights: str = WEIGHTS) -> None:
        """Ask for the files of one callback, its `state_files`.

        Args:
            owner: The callback's id.
            tag: A name for the step, as in `save`.
            weights: The file whose weights that name stands for.
        """
        request = self.queue.request()
        request.add_files(owner)
        if tag is not None:
            request.add_name(tag, weights)

    def standing_for(self, owner: FileOwner, name: str, *, is_whole: bool = True) -> CheckpointWriter:
        """Return a view whose `save` asks for a callback's own weights, as the children of an EMA need it.

        Args:
            owner: The callback whose weights they are.
            name: Which of its `state_files` holds them.
            is_whole: Whether they are those of the whole model; otherwise the live weights are saved beside them.
        """
        view = copy.copy(self)
        view._stands_for = (owner, name, is_whole)
        return view

    @contextmanager
    def refusing(self, reason: str) -> Iterator[None]:
        """Refuse requests inside: what the model holds there are not its own weights.

        Args:
            reason: What is the case: `"the weights are averages of 'ema'"`.
        """
        outer, self.queue.refusal = self.queue.refusal, reason
        try:
            yield
        finally:
            self.queue.refusal = outer

    def reserve(self, tag: str, owner: str) -> None:
        """Keep a name for one callback: two that move it would take each other's checkpoints away.

        Args:
            tag: The name.
            owner: The callback's id.

        Raises:
            SpecError: Another one has it.
        """
        other = self._reserved.setdefault(tag, owner)
        if other != owner:
            raise SpecError(
                f"the callbacks '{other}' and '{owner}' both name their checkpoints {tag}",
                hint="let one do what both are for: it takes several tolerances, model_names and eval_callbacks; below "
                "two `ema` with one factor, let one of these have both model_paths",
            )

    def name(self, tag: str, *, of: str) -> None:
        """Give the step that goes by the name `of` now another name, which stays when `of` moves on.

        A run that began with the state of another one may know of a best value whose step the other one has.
        """
        pending, in_flight = self.queue.pending, self.queue.in_flight
        stored = in_flight.planned.manifest.names if in_flight is not None and in_flight.is_stored() else {}
        if pending is not None and of in pending.names:
            pending.add_name(tag, pending.names[of])
        elif (named := stored.get(of) or self.names.get(of)) is not None:
            self.names[tag] = named
        else:
            _LOG.warning("no checkpoint of this run is named %s, so none is named %s", of, tag)

    def commit(self, state: CheckpointState) -> Path | None:
        """Write the pending request with `state` as one step and remove what retention lets go.

        Where saves are asynchronous, all but the last are begun only, and `settle` returns the step; the one before
        has to be settled.

        Returns:
            The step; None where it is being written, and where the disk refused and the policy lets the run go on.

        Raises:
            StorageError: The disk refused; older steps stay as they are.
        """
        assert self.queue.pending is not None, "commit needs a request"
        assert self.queue.in_flight is None, "one save after the other"
        request, self.queue.pending = self.queue.pending, None
        planned = self._plan(state, request)
        if not self.asynchronous or request.is_last:
            return self._take_up(planned, partial(planned.write, self.folder, self.retention))
        captured = planned.captured(self._snapshot)
        self.queue.in_flight = BackgroundSave(captured, partial(captured.write, self.folder, self.retention))
        return None

    def settle(self) -> Path | None:
        """Wait for the save in flight, if there is one, and take note of how it ended.

        Returns:
            The step; None where nothing was in flight, and where the disk refused and the policy lets the run go on.

        Raises:
            StorageError: The disk refused; older steps stay as they are.
        """
        in_flight, self.queue.in_flight = self.queue.in_flight, None
        return None if in_flight is None else self._take_up(in_flight.planned, in_flight.step)

    def _plan(self, state: CheckpointState, request: SaveRequest) -> PlannedSave:
        """Return what a step of `state` is going to be; its names hold for the run once it is written."""
        self._include_earlier(state.update, request)
        files, aliases = encode_checkpoint(state, request)
        manifest = Manifest(
            epoch=state.epoch,
            update=state.update,
            sample=state.sample,
            files={},
            aliases=aliases,
            names=self.names | request.named(state.update),
            spec_sha256=self.spec_sha256,
            parent=self._parent,
            resumable=request.is_whole,
            written_by=_version(),
        )
        return PlannedSave(request, files, manifest, list(state.model.values()) if request.weights else ())

    def _take_up(self, planned: PlannedSave, outcome: Callable[[], Path]) -> Path | None:
        try:
            step = outcome()
        except StorageError as error:
            self.policy.failed(error, planned.request)
            return None
        self.policy.succeeded()
        # In place, as views share them; and only those asked for: others may have got a new meaning since.
        self.names.update(planned.request.named(planned.manifest.update))
        self.last_committed = step
        return step

    @property
    def retention(self) -> Retention:
        """How many steps stay."""
        return Retention(self.keep_last, self.keep_every)

    def _include_earlier(self, update: int, request: SaveRequest) -> None:
        """Widen a request for an update that was saved before, so that its new save lacks nothing of the old one."""
        if self._saved is not None and self._saved[0] == update:
            request.include(self._saved[1])
        else:
            self._parent = self.last_committed.name if self.last_committed else None
        self._saved = (update, request)

    def continue_from(self, step: Path, manifest: Manifest) -> None:
        """Go on after a step of this run: its names hold, and the next step's parent is this one.

        A name of an older step may stand for one that retention has removed since; that name is given up. Where the
        step's round is repeated, what is asked for then is saved beside what it holds.
        """
        checkpoints = step.parent
        there = {tag: of for tag, of in manifest.names.items() if (checkpoints / checkpoint_name(of.update)).is_dir()}
        for name in sorted(manifest.names.keys() - there.keys()):
            _LOG.warning("the checkpoint %s was removed since; until there is another one, none is called so", name)
        self.names.clear()
        self.names.update(there)
        self.last_committed, self._parent = step, manifest.parent
        self._saved = (manifest.update, SaveRequest.whole())

    def prepare(self) -> None:
        """Make sure, before training, that saves can work, and remove leftovers of interrupted ones.

        Raises:
            StorageError: Nothing can be written where the run keeps its checkpoints.
        """
        self.folder.prepare()

    def rehearse(self, state: CheckpointState) -> None:
        """Do all of a save but the writing, so that what cannot be saved is known in the first second.

        Warns where the disk has no room for all the checkpoints that are going to be there at once.

        Raises:
            TrainingError: Something in the state is of a type that a checkpoint cannot keep.
        """
        files, _ = encode_checkpoint(state, SaveRequest.whole())
        self.folder.warn_if_short_of_room(sum(map(len, files.values())), self.retention)

    @property
    def checkpoints(self) -> list[Path]:
        """The committed steps, oldest first."""
        return self.folder.checkpoints


@cache
def _version() -> str:
    return version("noether-train")
