"""Write the handwritten digits that come with scikit-learn as a data set of `datasets`, beside this script."""

from pathlib import Path

import numpy as np
from datasets import Array3D, ClassLabel, Dataset, Features
from sklearn.datasets import load_digits


def write_digits(folder: Path) -> None:
    """Write the splits `train`, 1,437 digits, and `test`, 360 others."""
    images, labels = load_digits(return_X_y=True)
    features = Features({"pixels": Array3D((1, 8, 8), "float32"), "label": ClassLabel(num_classes=10)})
    columns = {"pixels": (images / 16).astype(np.float32).reshape(-1, 1, 8, 8), "label": labels}
    Dataset.from_dict(columns, features).train_test_split(0.2, seed=0).save_to_disk(folder)


if __name__ == "__main__":
    write_digits(Path(__file__).parent / "data" / "digits")
