"""What a run sets for the whole process, and puts back: seeds, threads, determinism, precision."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from noether.data.randomness import preserved_rng, seed_sample
from noether.errors import SpecError
from noether.spec.model import RunSpec

_CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def device_of(name: str) -> torch.device:
    """Return the device that a spec names; `auto` is the best that there is.

    Raises:
        SpecError: There is no such device.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
    if not available[name.partition(":")[0]]:
        present = ", ".join(kind for kind, there in available.items() if there)
        raise SpecError(f"device = {name!r}: there is no such device here; found {present}", hint='use device = "auto"')
    return torch.device(name)


@contextmanager
def process_state(spec: RunSpec) -> Iterator[None]:
    """Seed all generators and apply the spec's process-wide settings; leave everything as it was found."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    deterministic = torch.are_deterministic_algorithms_enabled()
    workspace = os.environ.get(_CUBLAS_WORKSPACE)
    with preserved_rng():
        try:
            seed_sample(spec.seed)
            torch.manual_seed(spec.seed)  # the accelerators too
            if spec.threads is not None:
                torch.set_num_threads(spec.threads)
            if spec.matmul_precision is not None:
                torch.set_float32_matmul_precision(spec.matmul_precision)
            if spec.deterministic:
                os.environ.setdefault(_CUBLAS_WORKSPACE, ":4096:8")  # cuBLAS is only deterministic with it
                torch.use_deterministic_algorithms(True)
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_float32_matmul_precision(precision)
            torch.use_deterministic_algorithms(deterministic)
            if workspace is None:
                os.environ.pop(_CUBLAS_WORKSPACE, None)
