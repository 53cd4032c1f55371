"""The Python file of a logged model: MLflow runs it to load the model, and then calls `predict`.

Noether copies this file beside the weights, so it may import nothing that only a repository has.
"""

from __future__ import annotations

import pandas as pd  # MLflow reads the annotations of `predict`
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class NoetherModel(PythonModel):  # type: ignore[misc]  # mlflow has no types for it
    """A trained model with its transforms: inputs and predictions are in the units of the data."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load spec, weights and transforms."""
        import noether

        self.run = noether.load_run(context.artifacts["run"])
        self.checkpoint = context.model_config["checkpoint"]

    # MLflow gives a dict of arrays, also for a data frame; with other annotations it warns in every process.
    def predict(self, context: PythonModelContext, model_input: pd.DataFrame, params=None):  # type: ignore[no-untyped-def]
        """Return the prediction of each field.

        Args:
            context: Files of the model.
            model_input: Arrays by property, with samples along the first dimension; MLflow makes them of a data frame
                with a column for each property. For a run on a table, a data frame with its columns.
            params: Not used.
        """
        from noether.runs.predict.pack import is_table, predict_table

        predictor = self.run.predictor(self.checkpoint)
        if is_table(predictor.inputs.config):
            return predict_table(predictor, pd.DataFrame(model_input))
        return dict(self.run.predict(dict(model_input), checkpoint=self.checkpoint))


set_model(NoetherModel())
