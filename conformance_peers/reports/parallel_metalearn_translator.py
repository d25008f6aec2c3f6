"""parallel-metalearn 0.5.6: the translator of networks fails on batch norm."""

import torch
from metalearn.nn_models import ModelTranslator

try:
    ModelTranslator.convert_to_functional(torch.nn.Sequential(torch.nn.BatchNorm2d(3)))
    print("right")
except Exception as error:
    print(f"wrong: {type(error).__name__}: {error}")
