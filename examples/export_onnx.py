"""Write the network of one task as an ONNX file, and run it without PyTorch."""

import onnxruntime

from metalearn_tut import pretrained, tasks
from metalearn_tut.deployment import export_network

task = tasks.glyphs("test").sampler(ways=5, shots=1, queries=15)[0]
learner = pretrained.load("glyphs_5way_1shot")
network = learner.adapt(task.support_x, task.support_y).deploy()
print(export_network(network, "five.onnx", (1, 28, 28)))

session = onnxruntime.InferenceSession("five.onnx")
(logits,) = session.run(None, {"x": task.query_x.numpy().astype("float32") / 255})
print((logits.argmax(-1) == task.query_y.numpy()).mean())
