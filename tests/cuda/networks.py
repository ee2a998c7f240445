"""Small networks in shapes that kernels take, for tests: two heads of 128, two layers, random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from model.chatglm import ChatGLM
from model.checkpoint import EMBEDDINGS, is_matrix, tensor_shapes
from model.config import ChatGLMConfig
from model.kernels.fused import Fused
from model.kernels.launcher import Launcher
from model.kernels.reference import Reference
from model.quantize import quantize_int4, quantize_int4_hqq, quantize_int8
from model.weights import Block, Linear, Matrix, Norm, Weights

CONFIG = replace(
    ChatGLMConfig(),
    num_layers=2,
    hidden_size=256,
    num_attention_heads=2,
    inner_hidden_size=512,
    vocab_size=320,
    max_sequence_length=600,
    bos_token_id=316,
    eos_token_id=317,
    mask_token_id=314,
    gmask_token_id=315,
    pad_token_id=3,
)
QUANTIZERS: dict[str, Callable[[Tensor], Matrix]] = {
    "int4": quantize_int4,
    "int4 with zeros": quantize_int4_hqq,
    "int4 of 32": lambda weight: quantize_int4(weight, 32),
    "int8": quantize_int8,
    "none": Tensor.half,
}


def weights_of(scheme: str, prepare: Callable[[Matrix], Matrix], config: ChatGLMConfig = CONFIG) -> Weights:
    """The same numbers for the same scheme."""
    generator = torch.Generator().manual_seed(0)
    values = dict[str, Tensor]()
    for name, shape in tensor_shapes(config).items():
        noise = torch.randn(shape, generator=generator)
        if is_matrix(name):
            values[name] = noise * (1.0 if name == EMBEDDINGS else shape[1] ** -0.5)
        else:
            values[name] = ((1.0 if "norm.weight" in name else 0.0) + 0.1 * noise).half()
    quantize = QUANTIZERS[scheme]
    head = Tensor.half if scheme == "none" else quantize_int8

    def linear(name: str) -> Linear:
        return Linear(prepare(quantize(values[f"{name}.weight"])), values[f"{name}.bias"])

    def norm(name: str) -> Norm:
        return Norm(values[f"{name}.weight"], values[f"{name}.bias"])

    def block(name: str) -> Block:
        return Block(
            norm(f"{name}.input_layernorm"),
            linear(f"{name}.attention.query_key_value"),
            linear(f"{name}.attention.dense"),
            norm(f"{name}.post_attention_layernorm"),
            linear(f"{name}.mlp.dense_h_to_4h"),
            linear(f"{name}.mlp.dense_4h_to_h"),
        )

    blocks = tuple(block(f"transformer.layers.{layer}") for layer in range(config.num_layers))
    last = norm("transformer.final_layernorm")
    last.weight.neg_()  # or the output, which is the embedding too, would repeat the last token for ever
    return Weights(prepare(head(values[EMBEDDINGS])), blocks, last)


def fused_network(launcher: Launcher, scheme: str = "int4", config: ChatGLMConfig = CONFIG) -> ChatGLM:
    """By the kernels."""
    operations = Fused(launcher, torch.device("cpu"))
    return ChatGLM(config, weights_of(scheme, operations.prepare, config), operations)


def reference_network(scheme: str = "int4", config: ChatGLMConfig = CONFIG) -> ChatGLM:
    """By the reference, over the very same weights, in float32."""
    operations = Reference(torch.float32)
    return ChatGLM(config, weights_of(scheme, operations.prepare, config), operations)
