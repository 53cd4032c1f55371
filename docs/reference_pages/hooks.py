"""The page of the hooks, generated from `noether.kernel.hookspecs`."""

from __future__ import annotations

import inspect

from noether.kernel import hookspecs
from reference_pages.markdown import table

ARGUMENTS = {
    "accumulation_step": "number of the accumulation step in the update, from 0",
    "accumulation_steps": "accumulation steps in one update",
    "batch": "the batch, on the device: tensors of shape (samples, …) by property",
    "batch_size": "samples in one forward pass",
    "checkpoint": "`Path` of the checkpoint",
    "data_iter": "the stream of evaluation batches",
    "interval_type": '`"epoch"`, `"update"`, `"sample"` or `"eval"`',
    "losses": "`total` and the named losses, detached tensors of shape () on the device",
    "model": "the model, unwrapped",
    "outcome": "`status` (`FINISHED`, `FAILED`, `KILLED`), `run_dir`, `metrics`, `error`, `exit_code`",
    "run": "`run_id`, `run_dir`, `spec`, `resolved`, `data`, `model`, `trainer`",
    "spec": "the validated `RunSpec`",
    "times": "seconds by part: `data_time`, `forward_time`, `backward_time`, `update_time`",
    "trainer_model": "the model as training calls it: wrapped, compiled",
    "update_counter": "`epoch`, `update` and `sample` of the run so far",
    "update_outputs": "further outputs that the trainer's `loss_compute` returned, detached, by name; or None",
}
"""The meaning of each argument, the same in every hook."""

_ROUND = "in evaluation mode"
_UPDATE = "as the update left it"
MOMENTS = {
    "configure_spec": ("not built", "change `spec`"),
    "run_started": ("built", "read the run, log parameters elsewhere"),
    "before_training": (_ROUND, "prepare, check, log, call the model"),
    "before_optimizer_step": ("with its gradients", "read gradients, or change them in place"),
    "track_after_accumulation_step": (_UPDATE, "collect values, as tensors"),
    "track_after_update_step": (_UPDATE, "collect values, as tensors"),
    "after_update": (_ROUND, "log, call the model, ask for a checkpoint, end training"),
    "after_epoch": (_ROUND, "as `after_update`"),
    "periodic_callback": (_ROUND, "as `after_update`, and go through data"),
    "at_eval": (_ROUND, "log, call the model, go through data"),
    "checkpoint_committed": (_ROUND, "read or copy the checkpoint; it changes no more"),
    "after_training": (_ROUND, "log, call the model, write the last files"),
    "run_finished": ("as training left it", "report; the run folder is complete"),
}
"""State of the model in each hook, and what an implementation is there to do."""

_CALLBACK = '''
<!-- file: diary/callback.py -->
```python
"""A callback with most of the hooks."""

import torch

from noether.core.callbacks import PeriodicCallback


class DiaryCallback(PeriodicCallback):
    """Logs what it sees."""

    def before_training(self, *, update_counter):
        self.norms, self.losses, self.seconds = [], [], 0.0
        self.logger.info("before_training at update %d", update_counter.update)

    def before_optimizer_step(self, *, model):
        self.norms.append(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))

    def track_after_accumulation_step(self, *, losses, accumulation_step, accumulation_steps):
        self.losses.append(losses["total"])

    def track_after_update_step(self, *, times):
        self.seconds += sum(times.values())

    def periodic_callback(self, *, interval_type, update_counter):
        if self.losses:
            self.writer.add_scalar("diary/loss", torch.stack(self.losses).mean())
            self.writer.add_scalar("diary/gradient_norm", torch.stack(self.norms).mean())
        self.norms.clear()
        self.losses.clear()

    def after_training(self, *, update_counter):
        self.writer.add_scalar("diary/seconds", self.seconds)
```
'''
_PLUGIN = '''
<!-- file: diary/plugin.py -->
```python
"""A run plugin with the other hooks."""

import logging

import noether

log = logging.getLogger("noether.diary")


@noether.hookimpl
def configure_spec(spec):
    spec.name = f"{spec.name}-with-diary"


@noether.hookimpl
def run_started(run):
    log.info("run_started: %s", run.spec.name)


@noether.hookimpl
def after_update(update_counter, batch_size):
    log.info("after_update: %d, in batches of %d", update_counter.update, batch_size)


@noether.hookimpl
def after_epoch(update_counter):
    log.info("after_epoch: %d", update_counter.epoch)


@noether.hookimpl
def at_eval(update_counter):
    log.info("at_eval: %d", update_counter.update)


@noether.hookimpl
def checkpoint_committed(run, checkpoint):
    log.info("checkpoint_committed: %s", checkpoint.name)


@noether.hookimpl
def run_finished(run, outcome):
    print(f"run_finished: {run.run_id} {outcome.status}")
```
'''

_INTRODUCTION = """
# Hooks

The moments of a run at which callbacks and run plugins are called, in the order of their first call. A callback
implements a hook as a method of that name; a run plugin marks a function with `@noether.hookimpl`. Name the arguments
that you need and leave out the others, or take `**kwargs` for all of them. The training loop passes them by name.

All hooks from `run_started` to `after_training` run under `torch.no_grad()`. The global random generators are restored
after them, except after `before_optimizer_step` and the two `track_…` hooks: these are part of the update, so draw no
random numbers there. [The training loop](../explanation/training-loop.md) shows the place of each hook.
"""


def page() -> str:
    """Return the page."""
    arguments = table(("argument", "holds"), [(f"`{name}`", meaning) for name, meaning in sorted(ARGUMENTS.items())])
    sections = [_section(hook, parameters) for hook, parameters in hookspecs.HOOKS.items()]
    examples = ["## Every hook once", _CALLBACK.strip(), _PLUGIN.strip()]
    return "\n\n".join([_INTRODUCTION.strip(), *sections, "## Arguments", arguments, *examples])


def _section(hook: str, parameters: tuple[str, ...]) -> str:
    documentation = inspect.getdoc(getattr(hookspecs, hook)) or ""
    model, work = MOMENTS[hook]
    return (
        f"## {hook}\n\n`{hook}({', '.join(parameters)})`\n\n{documentation}\n\nThe model is {model}. Use it to {work}."
    )
