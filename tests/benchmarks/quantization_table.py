"""How much each way of quantising loses: signal to noise of weights, and divergence of a network's logits.

The weights are drawn, not trained: Student-t with 5 degrees of freedom (trained matrices have heavy tails,
too), rows of different size, once as they are and once with a few large columns. The network is a small
ChatGLM of such weights; its divergence compares the formats with each other and says nothing about answers.
Every figure follows from the seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import report
import torch
from torch import Tensor

from model.chatglm import ChatGLM
from model.checkpoint import EMBEDDINGS
from model.config import ChatGLMConfig
from model.kernels.reference import Reference
from model.quantize import (
    QuantizedWeight,
    dequantize,
    from_thudm,
    quantize_int4,
    quantize_int4_hqq,
    quantize_int8,
    quantize_thudm,
)
from model.random_model import RandomWeights
from model.weights import Block, Linear, Norm, Weights

PAGE = Path(__file__).parents[2] / "docs" / "quantization.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->"
SEED = 0
FREEDOM = 5
ROW_SPREAD = 0.3
"""Standard deviation of the logarithm of a row's size."""
OUTLIERS, OUTLIER_SIZE = 8, 8.0
"""How many columns of 4096 are how many times as large."""
GAIN_DB = 8.0
LOGITS = 0.25
"""Factor of the embedding: logits then have a variance of about 1, the divergence of unrelated networks."""

Quantize = Callable[[Tensor], QuantizedWeight]

FORMATS: dict[str, Quantize] = {
    "INT4 per row (the original)": lambda weight: from_thudm(*quantize_thudm(weight, 4), 4),
    "INT4 per row, search": lambda weight: quantize_int4(weight, weight.shape[1]),
    "INT4 g128": lambda weight: quantize_int4(weight, 128, search=False),
    "INT4 g128, search": lambda weight: quantize_int4(weight, 128),
    "INT4 g64": lambda weight: quantize_int4(weight, 64, search=False),
    "INT4 g64, search (default)": lambda weight: quantize_int4(weight, 64),
    "INT4 g64, HQQ": lambda weight: quantize_int4_hqq(weight, 64),
    "INT4 g32": lambda weight: quantize_int4(weight, 32, search=False),
    "INT4 g32, search": lambda weight: quantize_int4(weight, 32),
    "INT8 per row": quantize_int8,
}
ORIGINAL, DEFAULT = "INT4 per row (the original)", "INT4 g64, search (default)"


def heavy_tailed(normal: Tensor, generator: torch.Generator) -> Tensor:
    """Student-t numbers of the same variance from normal ones, with rows of different size; as float16."""
    chi_square = sum(torch.randn(normal.shape, generator=generator) ** 2 for _ in range(FREEDOM))
    rows = torch.exp(ROW_SPREAD * torch.randn(normal.shape[0], 1, generator=generator))
    return (normal.float() * ((FREEDOM - 2) / chi_square) ** 0.5 * rows).half()


def signal_to_noise(weight: Tensor, quantized: QuantizedWeight) -> float:
    """Decibels."""
    noise = (dequantize(quantized).double() - weight.double()).square().sum()
    return 10 * math.log10((weight.double().square().sum() / noise).item())


def network(config: ChatGLMConfig) -> Weights:
    """A ChatGLM whose matrices have heavy tails."""
    draw = RandomWeights(config, SEED)
    generator = torch.Generator().manual_seed(SEED)

    def norm(name: str) -> Norm:
        return Norm(draw(f"{name}.weight"), draw(f"{name}.bias"))

    def linear(name: str) -> Linear:
        return Linear(heavy_tailed(draw(f"{name}.weight"), generator), draw(f"{name}.bias"))

    def block(layer: str) -> Block:
        return Block(
            input_layernorm=norm(f"{layer}.input_layernorm"),
            query_key_value=linear(f"{layer}.attention.query_key_value"),
            dense=linear(f"{layer}.attention.dense"),
            post_attention_layernorm=norm(f"{layer}.post_attention_layernorm"),
            dense_h_to_4h=linear(f"{layer}.mlp.dense_h_to_4h"),
            dense_4h_to_h=linear(f"{layer}.mlp.dense_4h_to_h"),
        )

    blocks = tuple(block(f"transformer.layers.{number}") for number in range(config.num_layers))
    return Weights(draw(EMBEDDINGS) * LOGITS, blocks, norm("transformer.final_layernorm"))


def quantized_blocks(weights: Weights, quantize: Quantize) -> Weights:
    """The same network with the four matrices of every block quantised."""

    def linear(part: Linear) -> Linear:
        assert isinstance(part.weight, Tensor)
        return Linear(quantize(part.weight), part.bias)

    blocks = tuple(
        replace(
            block,
            query_key_value=linear(block.query_key_value),
            dense=linear(block.dense),
            dense_h_to_4h=linear(block.dense_h_to_4h),
            dense_4h_to_h=linear(block.dense_4h_to_h),
        )
        for block in weights.blocks
    )
    return replace(weights, blocks=blocks)


def log_probabilities(config: ChatGLMConfig, weights: Weights, prompts: list[list[int]]) -> Tensor:
    """Of every token of the prompts, float64 [tokens, vocab]."""
    model = ChatGLM(config, weights, Reference(torch.float32))
    return torch.cat([model.logits(ids) for ids in prompts]).double().log_softmax(dim=-1)


def divergence(reference: Tensor, other: Tensor) -> float:
    """Mean Kullback-Leibler divergence from the reference, in nats."""
    return (reference.exp() * (reference - other)).sum(dim=-1).mean().item()


def write_table(rows: list[report.Row]) -> None:
    """Replace the table of the page."""
    columns = list(rows[0])
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)]]
    lines += [
        [row[name] if isinstance(row[name], str) else f"{row[name]:.3g}" for name in columns] for row in rows
    ]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + table + END + rest.partition(END)[2], encoding="utf-8")


def main() -> None:
    options = report.parser(__doc__ or "")
    options.add_argument("--write", action="store_true", help="put the table into docs/quantization.md")
    options.add_argument("--quick", action="store_true", help="everything tiny; the figures mean nothing")
    asked = options.parse_args()

    torch.set_grad_enabled(False)
    rows, columns, hidden, layers = (8, 256, 64, 1) if asked.quick else (1024, 4096, 1024, 4)
    generator = torch.Generator().manual_seed(SEED)
    plain = heavy_tailed(torch.randn(rows, columns, generator=generator) * 0.02, generator)
    outliers = plain.clone()
    outliers[:, torch.randperm(columns, generator=generator)[:OUTLIERS]] *= OUTLIER_SIZE

    config = ChatGLMConfig(
        vocab_size=2048,
        hidden_size=hidden,
        num_layers=layers,
        num_attention_heads=hidden // 32,
        inner_hidden_size=4 * hidden,
        mask_token_id=2000,
        gmask_token_id=2001,
        bos_token_id=2004,
        eos_token_id=2005,
    )
    text = torch.randint(4, 2000, (4, 48), generator=generator).tolist()
    prompts = [[*ids[:32], config.gmask_token_id, config.bos_token_id, *ids[32:]] for ids in text]
    weights = network(config)
    assert isinstance(weights.word_embeddings, Tensor)
    head = quantize_int8(weights.word_embeddings)
    reference = log_probabilities(config, weights, prompts)

    def diverges(other: Weights) -> float:
        return divergence(reference, log_probabilities(config, other, prompts))

    result = report.Report("quantization_table")
    noise: dict[str, float] = {}
    for name, quantize in FORMATS.items():
        quantized = quantize(plain)
        noise[name] = signal_to_noise(plain, quantized)
        other = quantized_blocks(weights, quantize)
        result.row(
            **{
                "format of the blocks": name,
                "bits a weight": 8 * quantized.nbytes / plain.numel(),
                "SNR, dB": noise[name],
                "SNR with outliers, dB": signal_to_noise(outliers, quantize(outliers)),
                "KL, nats": diverges(other),
                "KL with INT8 head": diverges(replace(other, word_embeddings=head)),
            }
        )
    result.at_least("SNR of g64 with search above per row", noise[DEFAULT] - noise[ORIGINAL], GAIN_DB, "dB")
    result.note("random weights: the figures compare formats and say nothing about answers")
    result.close(asked.json)
    if asked.write:
        write_table(result.rows)


if __name__ == "__main__":
    main()
