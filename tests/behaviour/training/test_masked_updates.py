"""Updates that are not applied, in every precision and on every part of a model."""

from __future__ import annotations

import pytest
import torch

from noether.core.models.composite import CompositeModel
from noether.errors import NonFiniteError, SpecError, TrainingError
from noether.testing import make_data, make_model, make_trainer
from noether.training.trainers.base import BaseTrainer
from noether.training.trainers.types import TrainerResult


class Parts(CompositeModel):
    """Adds two models; a gradient hook may spoil one of them."""

    def forward(self, x):
        return {"y": self.a(x=x)["y"] + self.b(x=x)["y"]}


def composite(**optimizer):
    settings = {"optimizer": {"kind": "SGD", "lr": 0.1, **optimizer}}
    return Parts(parts={"a": make_model(seed=1, **settings), "b": make_model(seed=2, **settings)})


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def unchanged(model, before):
    return all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def spoil(model):
    """Make every gradient of a model infinite."""
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: gradient * float("inf"))


def test_half_precision_gives_up_when_no_scale_makes_gradients_finite(tmp_path):
    trainer = make_trainer(tmp_path, max_epochs=None, max_updates=100, precision="fp16")
    model = make_model()
    spoil(model)
    before = weights(model)
    with pytest.raises(NonFiniteError):
        trainer.train(model)
    assert unchanged(model, before)
    trainer.log_writer.close()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_update_that_is_not_finite_in_one_part_is_applied_to_none(tmp_path, precision):
    trainer = make_trainer(tmp_path, max_epochs=None, max_updates=2, precision=precision, skip_nan_loss=True)
    model = composite()
    spoil(model.a)
    before = weights(model)
    trainer.train(model)
    assert trainer.finite_guard.skipped_updates == 2
    assert unchanged(model, before)
    trainer.log_writer.close()


def test_half_precision_trains_when_a_part_gets_no_gradients(tmp_path):
    class OnlyOne(Parts):
        def forward(self, x):
            return self.a(x=x)

    parts = {name: make_model(optimizer={"kind": "Adadelta"}) for name in ("a", "b")}
    model = OnlyOne(parts=parts)
    before = weights(model)
    trainer = make_trainer(tmp_path, max_epochs=None, max_updates=3, precision="fp16")
    trainer.train(model)
    assert not unchanged(model.a, weights(make_model(optimizer={"kind": "Adadelta"})))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items() if name.startswith("b"))
    trainer.log_writer.close()


def test_update_by_hand_applies_no_infinite_gradient_and_leaves_gradients_switched_on(tmp_path):
    trainer, model = make_trainer(tmp_path), make_model()
    model.initialize_optimizer(total_updates=10, updates_per_epoch=5)
    batch = {name: tensor[:4] for name, tensor in make_data().train.properties.items()}
    spoil(model)
    before = weights(model)
    trainer.update(batch, model, model, 1, 0)
    assert unchanged(model, before)
    assert torch.is_grad_enabled()


def test_update_by_hand_takes_a_model_with_buffers(tmp_path):
    trainer, model = make_trainer(tmp_path), make_model()
    model.register_buffer("seen", torch.zeros(3))
    model.initialize_optimizer(total_updates=10, updates_per_epoch=5)
    batch = {name: tensor[:4] for name, tensor in make_data().train.properties.items()}
    before = weights(model)
    trainer.update(batch, model, model, 1, 0)
    assert not unchanged(model, before)


def test_a_model_after_one_with_a_closure_is_clipped_again(tmp_path):
    trainer = make_trainer(tmp_path, max_epochs=None, max_updates=2)
    trainer.prepare(make_model(optimizer={"kind": "LBFGS", "lr": 0.1}))
    model = make_model(optimizer={"kind": "SGD", "lr": 0.1, "clip_grad_norm": 1e-9})
    before = weights(model)
    trainer.train(model)
    torch.testing.assert_close(weights(model), before, rtol=0, atol=1e-8)
    trainer.log_writer.close()


def test_a_trainer_of_a_user_may_have_an_ignored_class(tmp_path):
    trainer = make_trainer(tmp_path)

    class Own(BaseTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.ignore_index, self.average = -100, "a mean over classes"

        def loss_compute(self, forward_output, targets):
            raise NotImplementedError

    own = Own(
        trainer.config,
        data_container=trainer.data_container,
        device="cpu",
        tracker=trainer.tracker,
        path_provider=trainer.path_provider,
    )
    assert own.ignore_index == -100


def test_a_loss_named_total_beside_others_is_refused():
    with pytest.raises(TrainingError) as caught:
        TrainerResult.of({"total": torch.tensor(0.01), "reg": torch.tensor(100.0)})
    assert "'total'" in str(caught.value)


def test_a_model_without_trainable_parameters_is_refused(tmp_path):
    with pytest.raises(SpecError):
        make_trainer(tmp_path).train(make_model(frozen=["*"]).freeze())


def test_a_start_beyond_the_end_is_reported(tmp_path):
    with pytest.raises(SpecError) as caught:
        make_trainer(tmp_path, start_at_epoch=3)
    assert "start_at_epoch" in str(caught.value)
    assert "update 18" in str(caught.value)


def test_a_trainer_trains_again_after_it_was_stopped_and_a_model_gets_the_schedule_of_each_run(tmp_path):
    model = make_model(optimizer={"kind": "SGD", "lr": 1.0, "schedule": "linear"})
    short = make_trainer(tmp_path / "short", max_epochs=None, max_updates=2)
    short.request_stop("left over")
    short.train(model)
    assert short.update_counter.update == 2
    long = make_trainer(tmp_path / "long", max_epochs=None, max_updates=4)
    long.train(model)
    assert model.optimizer.lr == pytest.approx(0.25)  # the last of four updates, not of two
    short.log_writer.close()
    long.log_writer.close()


def test_a_composite_loads_its_own_state_with_a_foreign_part():
    from noether.core.models.build import AdaptedModule

    def build(seed):
        torch.manual_seed(seed)
        return Parts(parts={"a": AdaptedModule(torch.nn.Linear(3, 2)), "b": make_model(seed=seed)})

    saved, other = build(1), build(2)
    assert "a.weight" in saved.state_dict()
    other.load_state_dict(saved.state_dict())
    assert unchanged(other, saved.state_dict())


def test_models_take_their_inputs_by_position_as_well():
    x = torch.randn(4, 3)
    model = make_model()
    assert torch.equal(model(x)["y"], model(x=x)["y"])
