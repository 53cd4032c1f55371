"""Names in a spec that the data or the model do not have are one error."""

import pytest
import torch
from noether_plugin_neuralop.callbacks import prediction_of, require

from noether.errors import TrainingError

U = torch.zeros(1)


def test_a_property_that_a_batch_lacks_is_named():
    require({"u": U, "u_next_target": U}, "u", "u_next_target", callback="rollout")
    with pytest.raises(TrainingError, match=r"missing property v and v_target: found u in a batch"):
        require({"u": U}, "v", "u", "v_target", callback="rollout")


def test_a_bare_tensor_is_the_only_field():
    assert prediction_of(U, "u", "rollout") is prediction_of({"u": U}, "u", "rollout") is U


@pytest.mark.parametrize(("output", "found"), [({"v": U}, "found v"), ((U, U), "found tuple")])
def test_an_output_without_the_field_is_refused(output: object, found: str):
    with pytest.raises(TrainingError, match=found):
        prediction_of(output, "u", "rollout")
