"""Learn five stripe patterns from one image each, and name five others: onnxruntime alone.

python learn.py learns.onnx
"""

import sys

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
_, channels, height, width = session.get_inputs()[0].shape
ways = session.get_outputs()[0].shape[1]


def stripes(k: int, shift: int) -> np.ndarray:
    """An image of class k, its stripes moved by so many pixels; numbers in 0..1."""
    i, j = np.mgrid[:height, :width]
    pattern = (i * (k + 1) + (j + shift) * (ways - k)) // 8 % 2
    return np.broadcast_to(pattern, (channels, height, width)).astype(np.float32)


logits = session.run(
    ["logits"],
    {
        "support_x": np.stack([stripes(k, 0) for k in range(ways)]),
        "support_y": np.arange(ways, dtype=np.int64),
        "query_x": np.stack([stripes(k, 1) for k in range(ways)]),
    },
)[0]
for row in logits:
    print(row.argmax(), *(f"{value:.3f}" for value in row))
