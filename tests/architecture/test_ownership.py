"""Progress, ranks and the update have one owner each."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "noether"
MODULES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
WRITERS_OF_STATE = {f"training/{name}.py" for name in ("loop", "stop", "resume", "state")}
RANK_NAMES = {"RANK", "WORLD_SIZE", "LOCAL_RANK"}
RANKS = {"training/parallel/one.py", "testing/ranks.py"}  # the last one starts them
KEPT_FROM_UPDATE = ("trainers.base", "writers", "checkpoint", "callbacks", "training.loop", "training.rounds")


def assigned(tree: ast.AST) -> Iterator[ast.Attribute]:
    """Yield each attribute that is assigned to, by a statement or by setattr."""
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = list(node.targets)
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setattr":
            targets = [ast.Attribute(node.args[0], "any", ast.Store())]
        for target in targets:
            parts = target.elts if isinstance(target, ast.Tuple | ast.List) else [target]
            yield from (part for part in parts if isinstance(part, ast.Attribute))


def written_through_vars(tree: ast.AST) -> Iterator[str]:
    """Yield the owner of each attribute that is assigned to by `vars(owner)[name] = value`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Call):
            call = node.value
            if isinstance(call.func, ast.Name) and call.func.id == "vars":
                yield ast.unparse(call.args[0])


def chain(node: ast.expr) -> list[str]:
    """Return the names of an expression such as `run.trainer.state`, the last one first."""
    names = []
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        if isinstance(node, ast.Attribute):
            names.append(node.attr)
        node = node.func if isinstance(node, ast.Call) else node.value
    return [*names, node.id] if isinstance(node, ast.Name) else names


def imported(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def test_attributes_of_a_trainer_cannot_be_assigned() -> None:
    found = {
        name: [target for target in assigned(tree) if "trainer" in chain(target.value)]
        for name, tree in MODULES.items()
    }
    assert {name: list(map(ast.unparse, targets)) for name, targets in found.items() if targets} == {}


def test_a_trainer_alone_writes_its_attributes_through_vars() -> None:
    owners = {
        name: [owner for owner in written_through_vars(tree) if "trainer" in owner] for name, tree in MODULES.items()
    }
    assert {name: found for name, found in owners.items() if found} == {}


def test_only_loop_stop_and_resume_write_the_state_of_a_run() -> None:
    others = MODULES.keys() - WRITERS_OF_STATE
    found = {
        name: [target for target in assigned(MODULES[name]) if chain(target.value)[:1] == ["state"]] for name in others
    }
    assert {name: list(map(ast.unparse, targets)) for name, targets in found.items() if targets} == {}


def test_ranks_are_known_in_one_place() -> None:
    strings = {
        name: {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        for name, tree in MODULES.items()
    }
    assert {name for name, values in strings.items() if RANK_NAMES & {v for v in values if isinstance(v, str)}} == RANKS
    users = {name for name, tree in MODULES.items() if any(x.startswith("torch.distributed") for x in imported(tree))}
    shards = {"checkpoint/shards.py"}
    assert {name for name in users if not name.startswith("training/parallel/")} == {"runs/ranks.py"} | shards
    used = {name for name in imported(MODULES["checkpoint/shards.py"]) if name.startswith("torch.distributed")}
    assert all(name.startswith("torch.distributed.checkpoint.") for name in used)


def test_an_update_knows_no_trainer_writer_or_callback() -> None:
    found = imported(MODULES["training/update.py"])
    assert [name for name in sorted(found) if any(part in name for part in KEPT_FROM_UPDATE)] == []
