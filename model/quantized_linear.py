"""A linear layer over a quantised matrix, for networks whose classes are not this project's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.kernels.operations import Operations
from model.quantize import QuantizedWeight


class QuantizedLinear(nn.Module):
    """Stands where an `nn.Linear` stood: y = x W^T + b for x [..., in], in x's dtype.

    The matrix stays where it is and as it is, wherever the network moves and whatever its dtype becomes.
    """

    bias: Tensor | None

    def __init__(self, weight: QuantizedWeight, bias: Tensor | None, operations: Operations) -> None:
        super().__init__()
        self.matrix = operations.prepare(weight)
        self.register_buffer("bias", bias)
        self._operations = operations

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out]."""
        y = self._operations.linear(x.flatten(0, -2), self.matrix, self.bias)
        return y.view(*x.shape[:-1], -1)


def quantize_layers(
    network: nn.Module,
    quantize: Callable[..., QuantizedWeight],
    operations: Operations,
    device: torch.device,
) -> None:
    """Replace each `nn.Linear` of the network's layers by its quantised form on `device`, one by one.

    The layers are what stands in a ModuleList; embedding and output matrix stay as they are. So do the
    experts of a mixture, which transformers keeps in one tensor of three dimensions. Raises ModelError for
    weights that are not finite.
    """
    names = [name for name, module in network.named_modules() if type(module) is nn.Linear]
    for name in names:
        path = name.split(".")
        parents = [network.get_submodule(".".join(path[:depth])) for depth in range(len(path))]
        if not any(isinstance(parent, nn.ModuleList) for parent in parents):
            continue
        layer = network.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        bias = None if layer.bias is None else layer.bias.detach().to(device)
        weight = quantize(layer.weight.detach().to(device), name=f"{name}.weight")
        setattr(parents[-1], path[-1], QuantizedLinear(weight, bias, operations))
        del layer
