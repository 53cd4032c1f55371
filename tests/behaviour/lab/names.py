"""Models whose states have names and values of their own."""

import torch
from torch import nn


class Base(nn.Module):
    """A line, by whatever name."""

    def line(self, x):
        return self.lin(x)

    def forward(self, x):
        return {"y": self.line(x)}


class ModuleChild(Base):
    def __init__(self):
        super().__init__()
        self.module = nn.Linear(3, 2)
        self.bias = nn.Parameter(torch.full((2,), 0.5))

    def line(self, x):
        return self.module(x) + self.bias


class Meeting(Base):
    """Its names are equal without the first part."""

    def __init__(self):
        super().__init__()
        for name in ("module", "_orig_mod", "model"):
            self.add_module(name, nn.ModuleDict({"head": nn.Linear(3, 2)}))
        self.head = nn.Linear(3, 2)

    def line(self, x):
        return self.head(x) + sum(self._modules[name]["head"](x) for name in ("module", "_orig_mod", "model"))


class Strange(Base):
    """Slashes, spaces, other alphabets, a parametrisation, tied weights."""

    def __init__(self):
        super().__init__()
        self.add_module("a/b", nn.Linear(3, 2))
        self.add_module("größe 大 \n", nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
        self.add_module("a", nn.Module())
        self.a.register_parameter("b/weight", nn.Parameter(torch.zeros(2, 3)))
        self.a.tied = self._modules["a/b"]
        self.register_buffer("x" * 300, torch.zeros((), dtype=torch.bool))

    def line(self, x):
        return self._modules["a/b"](x) + self._modules["größe 大 \n"](x) + x @ self.a._parameters["b/weight"].T


class Extra(Base):
    """Counts its calls in everything that an extra state may hold."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 2)
        self.calls = 0
        self.mean = None

    def get_extra_state(self):
        plain = {"calls": self.calls, "raw": bytes([self.calls]), "none": None, 3: (1.5, float("inf"), 2j, True)}
        return {**plain, "nested": [{"mean": self.mean, "dtype": torch.float64, "act": nn.functional.gelu}]}

    def set_extra_state(self, state):
        assert state["raw"] == bytes([state["calls"]])
        assert state[3] == (1.5, float("inf"), 2j, True)
        assert state["nested"][0]["act"] is nn.functional.gelu
        assert state["nested"][0]["dtype"] is torch.float64
        self.calls, self.mean = state["calls"], state["nested"][0]["mean"]

    def line(self, x):
        if self.training:
            self.calls += 1
            self.mean = x.mean(0, dtype=torch.float64)
        return self.lin(x) * (1 + 0.1 * self.calls)


class NeverGivenBack(Extra):
    set_extra_state = nn.Module.set_extra_state


class HoldsASet(Extra):
    def get_extra_state(self):
        return {"seen": {1, 2}}


class Complex(Base):
    """Weights in the complex numbers that safetensors lacks, and in those that it has."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Parameter(torch.ones(2, 3, dtype=torch.complex128) * (1 + 2j))
        self.narrow = nn.Parameter(torch.ones(2, dtype=torch.complex64) * (1 - 2j))
        self.register_buffer("conjugated", torch.tensor([1 + 2j]).conj())
        self.register_buffer("temporary", torch.zeros(1).to_sparse(), persistent=False)

    def line(self, x):
        return (x.to(torch.complex128) @ self.wide.T).real.float() + self.narrow.imag


class Annotated(Base):
    """Overrides both methods, as models of neuraloperator do."""

    def __init__(self, act=None):
        super().__init__()
        self.lin = nn.Linear(3, 2)
        self.options = {"act": act or nn.functional.gelu, "modes": (4, 4), "kind": nn.Linear, "args": ()}

    def state_dict(self, destination=None, prefix="", keep_vars=False):
        state = super().state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)
        state["_metadata"] = self.options
        return state

    def load_state_dict(self, state_dict, strict=True, assign=False):
        assert state_dict.pop("_metadata") == self.options
        return super().load_state_dict(state_dict, strict=strict, assign=assign)


class Renames(Base):
    """Saves under other names, and knows them when it loads."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 2)

    def state_dict(self, **options):
        return {name.replace("lin.", "old."): value for name, value in super().state_dict(**options).items()}

    def load_state_dict(self, state_dict):
        return super().load_state_dict({name.replace("old.", "lin."): value for name, value in state_dict.items()})


class RenamesOneWay(Renames):
    load_state_dict = nn.Module.load_state_dict


class Copies(Base):
    """Saves copies, as a model does that moves its state to the CPU."""

    def __init__(self, copies: bool = True):
        super().__init__()
        self.lin = nn.Linear(3, 2)
        self.copies = copies

    def state_dict(self, **options):
        state = super().state_dict(**options)
        return {name: value.detach().clone() for name, value in state.items()} if self.copies else state


class Forgets(Base):
    """Leaves a parameter that trains out of its state."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 2)

    def state_dict(self, **options):
        state = super().state_dict(**options)
        del state["lin.bias"]
        return state


class Reserved(Base):
    """Has a parameter whose name stands for something else in a safetensors file."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 2)
        self.register_parameter("__metadata__", nn.Parameter(torch.zeros(2)))

    def line(self, x):
        return self.lin(x) + self._parameters["__metadata__"]
