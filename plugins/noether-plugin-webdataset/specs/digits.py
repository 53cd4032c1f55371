"""Write the handwritten digits that come with scikit-learn as shards of webdataset, beside this script."""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from webdataset import ShardWriter


def write_digits(folder: Path) -> None:
    """Write shards of 256 digits: 1,437 to train on in `train-*.tar`, 360 others in `test-*.tar`."""
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = load_digits(return_X_y=True)
    pixels = (images * 15.9375).astype(np.uint8).reshape(-1, 8, 8)  # 16 shades as those of a png
    order = np.random.default_rng(0).permutation(len(labels))
    for name, part in (("train", order[360:]), ("test", order[:360])):
        with ShardWriter(str(folder / f"{name}-%06d.tar"), maxcount=256, mtime=0, verbose=0) as writer:
            for digit in part.tolist():
                writer.write({"__key__": f"{digit:06d}", "png": pixels[digit], "cls": int(labels[digit])})


if __name__ == "__main__":
    write_digits(Path(__file__).parent / "data" / "digits")
