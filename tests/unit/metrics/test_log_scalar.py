import pytest
import torch

from noether.metrics.log import LogWriter
from noether.metrics.values import own_scalar, read_scalars


def test_all_tensors_become_floats_whatever_their_type_and_shape():
    values = {
        "a": torch.tensor(0.25),
        "b": torch.tensor([[2]]),
        "c": torch.tensor(0.5, dtype=torch.bfloat16),
        "d": torch.tensor([0.75]),
        "e": 1.0,
    }
    read_scalars(values)
    assert values == {"a": 0.25, "b": 2.0, "c": 0.5, "d": 0.75, "e": 1.0}
    assert all(type(value) is float for value in values.values())


def test_one_copy_reads_all_tensors_of_a_type():
    reads = []

    class CountsReads(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            reads.append(function.overloadpacket)
            return function(*args, **(kwargs or {}))

    values = {str(index): torch.tensor(float(index)) for index in range(5)}
    with CountsReads():
        read_scalars(values)
    assert reads.count(torch.ops.aten.stack) == 1
    assert values["4"] == 4.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_adding_a_tensor_on_a_gpu_does_not_wait_for_it():
    writer = LogWriter(None)
    total = torch.tensor(5.0, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        writer.add_scalar("total", total)
        writer.add_nonscalar("totals", total)
        total.zero_()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert writer.current("total") == 5.0


def test_a_number_is_kept_as_it_is():
    assert own_scalar("x", 3) == 3.0
