"""Names of the reference, from the packages in which a reader looks for them."""

from importlib import import_module

import pytest

CALLBACKS = "noether.core.callbacks"
DEFAULTS = (
    "DatasetStatsCallback EtaCallback LearningRateCallback OnlineLossCallback ParameterCountCallback "
    "PeakMemoryCallback ProgressCallback TrainTimeCallback TrainingStabilityCallback"
)
STOPPERS = "FixedEarlyStopperCallback MetricEarlyStopperCallback"
NAMES = {
    CALLBACKS: f"EarlyStopIteration {STOPPERS} {DEFAULTS} CallbackBase CallBackBaseConfig PeriodicCallback "
    "PeriodicDataIteratorCallback BestCheckpointCallback CheckpointCallback EmaCallback BestMetricCallback "
    "TrackAdditionalOutputsCallback",
    f"{CALLBACKS}.default": DEFAULTS,
    f"{CALLBACKS}.early_stoppers": f"EarlyStopIteration {STOPPERS}",
    "noether.core.utils.training": "EarlyStopIteration UpdateCounter TrainingIteration",
    "noether.data": "DataContainer Dataset InMemoryDataset",
    "noether.training.callbacks": "OfflineLossCallback",
    "noether.training.trainers": "BaseTrainer BaseTrainerConfig TrainerResult WeightedLossTrainer",
}


@pytest.mark.parametrize(("package", "name"), [(one, name) for one, names in NAMES.items() for name in names.split()])
def test_a_name_is_importable_from_the_package_in_which_a_reader_looks_for_it(package, name):
    assert getattr(import_module(package), name).__name__ == name
