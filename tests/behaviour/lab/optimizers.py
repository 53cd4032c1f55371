"""Optimizers of the project, with state of every shape that torch's own do not have."""

import torch
from torch.optim import Optimizer


class Look(Optimizer):
    """Every third step moves slow weights; counts the steps in the state, under a key of its own."""

    def __init__(self, params, lr: float = 0.05):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        self.state["steps"] = self.state.get("steps", 0) + 1
        for group in self.param_groups:
            for p in group["params"]:
                slow = self.state[p].setdefault("slow", p.clone())
                p.add_(p.grad, alpha=-group["lr"])
                if self.state["steps"] % 3 == 0:
                    p.copy_(slow.lerp_(p, 0.5))


class Own(Optimizer):
    """Keeps everything outside of `state`, and in its own `state_dict`; a list, a tensor, text and None among it."""

    def __init__(self, params, lr: float = 0.05):
        super().__init__(params, {"lr": lr})
        self.memory = {"count": 0, "norms": [], "mean": None, "phase": "warm"}

    @torch.no_grad()
    def step(self, closure=None):
        memory = self.memory
        memory["count"] += 1
        norm = torch.stack([p.grad.norm() for group in self.param_groups for p in group["params"]]).norm()
        memory["mean"] = norm if memory["mean"] is None else 0.9 * memory["mean"] + 0.1 * norm
        memory["norms"] = [*memory["norms"][-3:], float(norm)]
        memory["phase"] = "warm" if memory["count"] < 5 else "cold"
        scale = (1.0 if memory["phase"] == "warm" else 0.5) / (memory["mean"] + sum(memory["norms"]))
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(group["lr"] * scale * p.grad)

    def state_dict(self):
        return {**super().state_dict(), "memory": dict(self.memory)}

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self.memory = dict(state_dict["memory"])


class Counting(Optimizer):
    """Counts in an attribute, which torch's `state_dict` leaves out."""

    def __init__(self, params, lr: float = 0.05):
        super().__init__(params, {"lr": lr})
        self.count = 0

    @torch.no_grad()
    def step(self, closure=None):
        self.count += 1
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(group["lr"] / self.count * p.grad)


class Unkeepable(Look):
    """Has a set in its state after the first step."""

    def step(self, closure=None):
        super().step()
        self.state["seen"] = {"a", "b"}


class ScheduleFree(Optimizer):
    """Trains at y, between the base sequence z and its average x, and is evaluated at x: `train` and `eval` switch.

    Of the shape of the optimizers of the package schedulefree (Defazio et al., 2024); `k` counts in the groups.
    """

    def __init__(self, params, lr: float = 0.05, momentum: float = 0.9):
        super().__init__(params, {"lr": lr, "momentum": momentum, "k": 0, "train_mode": False})

    @torch.no_grad()
    def eval(self):
        for group in self.param_groups:
            if group["train_mode"]:
                for p in group["params"]:
                    if "z" in self.state[p]:
                        p.lerp_(self.state[p]["z"], 1 - 1 / group["momentum"])
                group["train_mode"] = False

    @torch.no_grad()
    def train(self):
        for group in self.param_groups:
            if not group["train_mode"]:
                for p in group["params"]:
                    if "z" in self.state[p]:
                        p.lerp_(self.state[p]["z"], 1 - group["momentum"])
                group["train_mode"] = True

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            if not group["train_mode"]:
                raise RuntimeError("call train() first")
            group["k"] += 1
            for p in group["params"]:
                z = self.state[p].setdefault("z", p.clone())
                x = p.lerp(z, 1 - 1 / group["momentum"])
                z.sub_(p.grad, alpha=group["lr"])
                x.lerp_(z, 1 / group["k"])
                p.copy_(z.lerp(x, group["momentum"]))


class Sharpness(Optimizer):
    """SAM: a first gradient leads to the worst point nearby, the gradient there is applied; needs a closure."""

    def __init__(self, params, lr: float = 0.05, rho: float = 0.05):
        super().__init__(params, {"lr": lr, "rho": rho})

    @torch.no_grad()
    def step(self, closure=None):
        assert closure is not None, "a closure is needed"
        parameters = [(group, p) for group in self.param_groups for p in group["params"]]
        norm = torch.stack([p.grad.norm() for _, p in parameters]).norm()
        moves = [p.grad * (group["rho"] / norm) for group, p in parameters]
        for (_, p), move in zip(parameters, moves, strict=True):
            p.add_(move)
        closure()
        for (group, p), move in zip(parameters, moves, strict=True):
            p.sub_(move)
            p.sub_(p.grad, alpha=group["lr"])
