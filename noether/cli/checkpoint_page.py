"""What `noether checkpoint show` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from noether.cli.quantities import size_in_words
from noether.cli.table import print_table


def print_contents(contents: Mapping[str, Any]) -> None:
    """Print what is in a checkpoint: facts first, then files, then tensors."""
    facts = {
        "folder": contents["folder"],
        "names": ", ".join([contents["name"], *contents["names"]]),
        "counters": f"epoch {contents['epoch']}, update {contents['update']}, {contents['samples']} samples",
        "resumable": "yes" if contents["resumable"] else "no: a part of the state only",
        "pinned": "yes" if contents["pinned"] else "no",
        "parent": contents["parent"] or "none",
        "spec": f"sha256 {contents['spec_sha256'] or 'unknown'}",
        "ranks": contents["world_size"],
        "callbacks": ", ".join(contents["callbacks"]) or "none has a state",
    }
    width = max(map(len, facts))
    for title, value in facts.items():
        print(f"{title.ljust(width)}  {value}")
    print()
    print_table([{"file": file["file"], "size": size_in_words(file["size"])} for file in contents["files"]])
    rows = [
        {"file": file["file"], "tensor": name, "shape": _shape(tensor["shape"]), "dtype": tensor["dtype"]}
        for file in contents["files"]
        for name, tensor in file.get("tensors", {}).items()
    ]
    if rows:
        print()
        print_table(rows)


def _shape(shape: list[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"
