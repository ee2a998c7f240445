"""A linear layer over a quantised matrix, for networks whose classes are not this project's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.kernels import linear
from model.quantize import QuantizedWeight


class QuantizedLinear(nn.Module):
    """Stands where an `nn.Linear` stood: y = x W^T + b for x [..., in], in x's dtype."""

    packed: Tensor
    scale: Tensor
    zero: Tensor | None
    bias: Tensor | None

    def __init__(self, weight: QuantizedWeight, bias: Tensor | None) -> None:
        super().__init__()
        self.bits = weight.bits
        self.group_size = weight.group_size
        self.in_features = weight.in_features
        self.out_features = weight.out_features
        for name, tensor in (
            ("packed", weight.packed),
            ("scale", weight.scale),
            ("zero", weight.zero),
            ("bias", bias),
        ):
            self.register_buffer(name, tensor)  # a buffer moves with the network to its device

    @property
    def matrix(self) -> QuantizedWeight:
        """The matrix, sharing memory."""
        return QuantizedWeight(
            self.bits, self.group_size, self.in_features, self.packed, self.scale, self.zero
        )

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out]."""
        y = linear(x.flatten(0, -2), self.matrix, self.bias)
        return y.view(*x.shape[:-1], self.out_features)


def quantize_layers(
    network: nn.Module, quantize: Callable[..., QuantizedWeight], device: torch.device
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
        quantized = QuantizedLinear(quantize(layer.weight.detach().to(device), name=f"{name}.weight"), bias)
        setattr(parents[-1], path[-1], quantized)
        del layer
