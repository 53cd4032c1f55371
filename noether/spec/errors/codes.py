"""Codes of the problems of a spec: stable names for tests, scripts and the reference."""

from __future__ import annotations

from typing import NamedTuple


class Code(NamedTuple):
    """The documentation of a code.

    Attributes:
        meaning: The mistake, in one line.
        example: A part of a spec, or a command, that has the problem.
    """

    meaning: str
    example: str


CODES: dict[str, Code] = {
    # Files and arguments
    "unreadable-file": Code(
        "A spec file is missing, not a regular file, not UTF-8, or may not be read.", "noether check missing.toml"
    ),
    "invalid-toml": Code("The text is not valid TOML.", "seed = "),
    "too-large": Code(
        "A spec, or all files of a spec together, exceeds a limit of size, depth or number.",
        "model.x = [[[[…]]]]  # 33 deep",
    ),
    "unsupported-version": Code("The file is in a later format of specs.", "spec = 2"),
    "unsupported-value": Code("A Python value or an integer has no counterpart in TOML.", "seed = 9223372036854775808"),
    "invalid-extends": Code("`extends` is not a list of files, or a file extends itself.", 'extends = "base.toml"'),
    "outside-project": Code(
        "A spec, or a file that it extends, is outside of the project of the spec, perhaps by a link.",
        'extends = ["/etc/passwd"]',
    ),
    "invalid-override": Code("An argument of `-s` or `--unset` is malformed.", "-s trainer.max_epochs"),
    "unknown-path": Code(
        "An override, `--unset` or `remove = true` names something that the spec does not have.",
        "-s 'trainer.callbacks[emma].every_n_epochs=2'",
    ),
    # Keys and values
    "unknown-key": Code("A table has a key that its class does not have.", "hiden = [256]"),
    "missing-key": Code("A key without a default is missing.", "[model]  # without kind"),
    "wrong-type": Code("A value has another type than its field.", 'seed = "1"'),
    "wrong-value": Code("A value has the right type, and the field or its component refuses it.", 'precision = "fp31"'),
    "out-of-range": Code("A number, text or list is beyond a bound of its field.", "max_epochs = -1"),
    "not-a-number": Code("A value is nan.", "lr = nan"),
    "conflicting-keys": Code("Keys exclude each other.", "max_epochs = 3\nmax_updates = 100"),
    # Kinds
    "unknown-kind": Code("A kind is not registered for its role, or a dotted path does not exist.", 'kind = "mlpp"'),
    "ambiguous-kind": Code("Two plugins register the same short name.", 'kind = "grad-norm"  # in two plugins'),
    "wrong-role": Code("A kind names a component of another role.", 'kind = "torch.nn.Linear"  # of a loss'),
    "not-trusted": Code("A dotted path leads to code that a spec may not import.", 'kind = "os.system"'),
    "unusable-kind": Code(
        "A component was found and cannot be used: it fails to import, or its config is wrong.",
        'kind = "my_project.broken.Model"',
    ),
    "other-version": Code(
        "A kind or run plugin is of a distribution that needs another version of Noether.",
        'kind = "grad-norm"  # of a plugin with noether-train>=7',
    ),
    # The environment
    "invalid-reference": Code("A reference to the environment is malformed.", 'root = { env = "DATA", defualt = "." }'),
    "unset-variable": Code("An environment variable without a default is not set.", 'root = { env = "DATA" }'),
    "written-password": Code(
        "A secret option is written in the spec, or an address in it holds a password.",
        'tracking_uri = "https://me:secret@host"',
    ),
    # Between tables
    "missing-interval": Code("A periodic callback has no interval.", '[[trainer.callbacks]]\nkind = "checkpoint"'),
    "invalid-id": Code("An id has other characters than allowed, or is too long.", 'id = "Val"'),
    "duplicate-id": Code("Two callbacks of a list have the same id.", 'id = "val"  # twice'),
    "unknown-dataset": Code("A callback names a data set that the spec does not have.", 'dataset_key = "tset"'),
    "missing-training-set": Code("The spec trains and has no `[datasets.train]`.", "[datasets.test]  # alone"),
    "unknown-property": Code("A property is used that the data set does not have.", 'forward_properties = ["pointss"]'),
    # Meaning
    "never-fires": Code("An interval is longer than the run.", "every_n_epochs = 50  # max_epochs = 30"),
    "unlogged-metric": Code(
        "A metric is read or expected, and nothing logs it.", '[expect]\n"loss/tset/total" = { max = 1 }'
    ),
    "duplicate-metric": Code(
        "Two callbacks log one metric, so that its readers get the value of the last one.",
        '[[trainer.callbacks]]  # "offline-loss" of one data set, twice',
    ),
    "late-metric": Code(
        "A metric is logged after a callback reads it, or at other updates.",
        '[[trainer.callbacks]]  # "best-metric" before "offline-loss"',
    ),
    "unknown-direction": Code(
        "A metric is compared that is neither better higher nor better lower.", 'metric_key = "my/metric"'
    ),
    # noether check --deep
    "build-failed": Code("The run cannot be built.", "noether check --deep SPEC"),
    "empty-dataset": Code("A data set of a callback has no samples.", "noether check --deep SPEC"),
    "forward-failed": Code("One batch does not pass the model or the loss.", "noether check --deep SPEC"),
    "summed-loss": Code(
        "The loss is a sum over samples, and accumulation steps are put together as means.", "noether check --deep SPEC"
    ),
    "evaluation-failed": Code(
        "A callback fails on a batch of its data set, on its results, or when its interval fires.",
        "noether check --deep SPEC",
    ),
    "update-failed": Code("The first two updates fail.", "noether check --deep SPEC"),
    "save-failed": Code("The checkpoint of the trial run is not valid.", "noether check --deep SPEC"),
    # Everything else
    "failed": Code("An error that is not about a place in a spec.", "noether check SPEC -p missing-plugin"),
}
"""Every code, with its documentation. A `Problem` with another code cannot be made."""
