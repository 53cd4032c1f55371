"""The cost of `noether check` above what importing the components of the spec costs by itself.

One unit of work is one whole process; the quickest of some counts, in processor time, so that others on the machine
are not measured. Both sides start Python and import the same modules.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

SPEC = Path(__file__).parents[2] / "specs" / "experiment.toml"
NAMED = (
    "import torch.optim, noether.data.sources.terrain, noether.data.transforms.normalize, noether.core.models.mlp, "
    "noether.core.optim.schedules.linear_warmup_cosine_decay, noether.training.trainers.weighted_loss, "
    "noether.training.callbacks, noether.core.callbacks, noether.core.trackers.mlflow"
)
PROCESSES, SECONDS_ABOVE = 5, 0.5


def quickest(*arguments: str) -> float:
    seconds = []
    for _ in range(PROCESSES):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(seconds)


def test_check_beside_importing_what_the_spec_names(benchmark: BenchmarkFixture) -> None:
    """Seconds above the imports: at most 0.5."""
    imports = quickest("-c", NAMED)
    check = benchmark.pedantic(quickest, ("-m", "noether", "check", str(SPEC)), rounds=1)
    benchmark.extra_info |= {"imports_s": imports, "check_s": check, "above_s": check - imports}
    print(f"\nimports {imports:.2f} s, check {check:.2f} s: {check - imports:+.2f} s")
    assert check - imports <= SECONDS_ABOVE
