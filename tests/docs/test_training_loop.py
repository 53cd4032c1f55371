"""The page that explains the training loop names each hook once, with its arguments."""

import ast

from noether.kernel.hookspecs import HOOKS


def test_the_loop_calls_exactly_the_hooks_with_exactly_their_arguments(page):
    blocks = page["training-loop.md"].blocks("python")
    (code,) = [block.text for block in blocks if block.mark == "hooks in their places"]
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    named = [(call.func.id, call) for call in calls if isinstance(call.func, ast.Name)]
    hooks = [(name, tuple(ast.unparse(argument) for argument in call.args)) for name, call in named if name in HOOKS]
    assert sorted(hooks) == sorted(HOOKS.items())
