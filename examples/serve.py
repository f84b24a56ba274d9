"""Name what pictures show, with ONNX Runtime alone: porter is not needed where this runs.

    porter convert deit-tiny-224 a.pth -o a.onnx --labels names.txt \\
        --with-preprocessing --with-softmax
    python serve.py a.onnx cat.jpg dog.jpg

The size and the crop are in the file's metadata; mean and deviation are part of the graph.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image


def prepared(path: str, size: int, crop: float) -> np.ndarray:
    """Return the middle of a picture, resized by its shorter side: uint8 (size, size, 3)."""
    picture = Image.open(path).convert("RGB")
    side = round(size / crop)
    scale = side / min(picture.size)
    width, height = (max(side, round(length * scale)) for length in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(picture.crop((left, top, left + size, top + size)))


def main(model: str, paths: list[str]) -> None:
    """Print the five best classes of each picture."""
    session = onnxruntime.InferenceSession(model)
    metadata = session.get_modelmeta().custom_metadata_map
    labels = json.loads(metadata["porter.labels"])
    crop = json.loads(metadata["porter.preprocessing"])["crop"]
    size = session.get_inputs()[0].shape[1]
    pixels = np.stack([prepared(path, size, crop) for path in paths])
    (probabilities,) = session.run(None, {session.get_inputs()[0].name: pixels})
    for path, row in zip(paths, probabilities, strict=True):
        print(path)
        for best in row.argsort()[::-1][:5]:
            print(f"  {row[best]:6.1%}  {labels[best]}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
