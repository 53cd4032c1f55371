"""The page of the hooks, generated from `noether.kernel.hookspecs`."""

from __future__ import annotations

import inspect

from noether.kernel import hookspecs
from reference_pages.markdown import table

ARGUMENTS = {
    "accumulation_step": "number of the accumulation step in the update, from 0",
    "accumulation_steps": "accumulation steps in one update",
    "batch": "the batch, on the device: tensors by property",
    "batch_size": "samples in one forward pass",
    "checkpoint": "`Path` of the checkpoint",
    "data_iter": "the stream of evaluation batches",
    "interval_type": '`"epoch"`, `"update"`, `"sample"` or `"eval"`',
    "losses": "`total` and the named losses, detached tensors on the device",
    "model": "the model, unwrapped",
    "outcome": "`status` (`FINISHED`, `FAILED`, `KILLED`), `run_dir`, `metrics`, `error`, `exit_code`",
    "run": "`run_id`, `run_dir`, `spec`, `resolved`, `data`, `model`, `trainer`",
    "spec": "the validated `RunSpec`",
    "times": "seconds by part: `data_time`, `forward_time`, `backward_time`, `update_time`",
    "trainer_model": "the model as training calls it: wrapped, compiled",
    "update_counter": "`epoch`, `update` and `sample` of the run so far",
    "update_outputs": "further outputs that the trainer's `loss_compute` returned, or None",
}
"""The meaning of each argument, the same in every hook."""

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
    return "\n\n".join([_INTRODUCTION.strip(), *sections, "## Arguments", arguments])


def _section(hook: str, parameters: tuple[str, ...]) -> str:
    documentation = inspect.getdoc(getattr(hookspecs, hook)) or ""
    return f"## {hook}\n\n`{hook}({', '.join(parameters)})`\n\n{documentation}"
