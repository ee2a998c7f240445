"""Folders of other architectures: which are served, what is refused by name, and opening them.

Nothing of a folder's own code runs: transformers' classes only, `trust_remote_code` is always False, weights
are safetensors or pickles that hold tensors only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from model.config import CONFIG_NAME
from model.lfs import refuse_pointer
from model.tensor_file import TensorFile, weight_files
from model.types import ModelError

T = TypeVar("T")

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "sentencepiece.bpe.model")
QWEN = "Qwen/Qwen2.5-7B-Instruct"
OWN_CODE = {
    "chatglm": "THUDM/chatglm-6b, or THUDM/glm-4-9b-chat-hf",
    "baichuan": QWEN,
    "internlm": QWEN,
    "internlm2": QWEN,
    "qwen": QWEN,
    "yi": "01-ai/Yi-1.5-6B-Chat",
    "minicpm": QWEN,
    "xverse": QWEN,
    "aquila": QWEN,
    "telechat": QWEN,
    "deepseek": "deepseek-ai/deepseek-llm-7b-chat",
}
"""model_type of families that come with code of their own, and what to use instead."""
_WRITERS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


def check_family(config: Mapping[str, Any], folder: Path) -> None:
    """Raise ModelError, naming the model, unless transformers has a class for this config.json.

    A folder that brings code along is served where transformers' own class can do without that code.
    """
    from transformers import __version__
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    file = folder / CONFIG_NAME
    kind = config.get("model_type")
    name = Path(str(config.get("_name_or_path") or folder)).name or folder.name
    if not isinstance(kind, str):
        raise ModelError("names no model_type", file=file, remedy="use the config.json of the weights")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        if kind.lower() in OWN_CODE or "auto_map" in config:
            raise ModelError(
                f"{name} ({kind}) needs code of its own, which is never run",
                file=file,
                remedy=f"use {OWN_CODE.get(kind.lower(), QWEN)}, or any folder transformers has a class for",
            )
        raise ModelError(
            f"transformers {__version__} has no class that lets {kind!r} write text",
            file=file,
            remedy=f"use a newer transformers, or another model such as {QWEN}",
        )
    classes = config.get("architectures") or []
    if classes and not any(str(architecture).endswith(_WRITERS) for architecture in classes):
        raise ModelError(f"{classes[0]} does not write text", file=file, remedy="use a chat model")
    if quantised := config.get("quantization_config"):
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        raise ModelError(
            f"{name} is quantised with {method}, which is not supported",
            file=file,
            remedy="use the unquantised weights; they are made int4 or int8 while loading",
        )


def open_config(folder: Path) -> Any:
    """The configuration as transformers has it. Raises ModelError for values that its class cannot take."""
    from transformers import AutoConfig

    return _opened(
        folder / CONFIG_NAME,
        lambda: AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True),
    )


def weight_bytes(folder: Path, itemsize: int | None = None) -> int:
    """Bytes of all weights in a folder, as stored or with numbers of `itemsize` bytes.

    Looks into every file; raises ModelError for one that is missing, damaged or holds code.
    """
    infos = [info for file in weight_files(folder) for info in TensorFile(file).tensors.values()]
    return sum(math.prod(info.shape) * (itemsize or info.dtype.itemsize) for info in infos)


def open_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder, with its chat template. Raises ModelError."""
    from transformers import AutoTokenizer

    present = [folder / name for name in TOKENIZERS if (folder / name).is_file()]
    if not present:
        raise ModelError(
            "there is no tokenizer",
            file=folder,
            remedy="put tokenizer.json (or tokenizer.model) and tokenizer_config.json of the model beside it",
        )
    for file in present:
        refuse_pointer(file)
    tokenizer = _opened(
        present[0],
        lambda: AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True),
    )
    if not tokenizer.chat_template:
        raise ModelError(
            "the tokenizer has no chat template",
            file=folder / "tokenizer_config.json",
            remedy="use the chat (instruct) version of the model, or add its chat_template.jinja",
        )
    return tokenizer


def open_network(folder: Path, dtype: torch.dtype | str) -> Any:
    """The network with its weights on the CPU; dtype "auto" is that of the weights. Raises ModelError."""
    from transformers import AutoModelForCausalLM

    network, report = _opened(
        folder,
        lambda: AutoModelForCausalLM.from_pretrained(
            folder,
            trust_remote_code=False,
            local_files_only=True,
            weights_only=True,
            dtype=dtype,
            ignore_mismatched_sizes=True,  # they are reported instead, with their names
            output_loading_info=True,
        ),
    )
    for name, found, wanted in sorted(report["mismatched_keys"], key=str):
        raise ModelError(
            f"has the shape {list(found)}, config.json asks for {list(wanted)}",
            file=folder,
            tensor=name,
            remedy="use the config.json that came with the weights",
        )
    for name in sorted(report["missing_keys"]):
        raise ModelError(
            "is missing from the weights",
            file=folder,
            tensor=name,
            remedy="use the config.json that came with the weights, or download them again",
        )
    return network.eval().requires_grad_(False)


def _opened(file: Path, load: Callable[[], T]) -> T:
    """What `load` gives; whatever it raises on a broken folder becomes a ModelError."""
    try:
        with _quiet():
            return load()
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"cannot be opened: {type(error).__name__}: {reason}",
            file=file,
            remedy="check that the folder is complete, or download it again",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and reports on the console."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
