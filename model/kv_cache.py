"""Keys and values of all sequences, in pages of 16 tokens that sequences take from a pool and give back.

Keys are stored after rotation. A page that is full is never written again, so sequences that begin alike
share pages: the owners of a page are counted, and it is free once all of them have given it back.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from model import huge_pages
from model.types import KVType, ModelError

PAGE = 16
"""Tokens in a page."""

Storage: TypeAlias = Literal["float32", "float16", "int8", "int4"]
"""How a number is stored; the integers have scales for each token and head (`KVPages`)."""

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8, "int4": torch.uint8}


class OutOfPages(ModelError):
    """A sequence wants `wanted` pages more where the pool has only `free`; nothing was taken."""

    def __init__(self, wanted: int, free: int, total: int) -> None:
        self.wanted = wanted
        self.free = free
        super().__init__(
            f"the KV cache is full: {wanted} pages of {PAGE} tokens are wanted, {free} of {total} are free",
            remedy="wait until another answer has ended, or shorten the prompt",
        )


def choose_storage(kv_type: KVType, *, exact: bool) -> Storage:
    """The storage of a configured type; what is to be exact keeps float32, whatever is configured."""
    if exact:
        return "float32"
    return kv_type if kv_type == "int8" or kv_type == "int4" else "float16"


def _empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | None) -> Tensor:
    if device is None or device.type == "cpu":  # 16 tokens of a head in float16 fill a usual page of memory
        return huge_pages.empty(shape, dtype)
    return torch.empty(shape, dtype=dtype, device=device)


def page_count(tokens: int) -> int:
    """Pages that so many tokens of a sequence fill or begin."""
    return -(-tokens // PAGE)


def page_bytes(layers: int, heads: int, head_size: int, storage: Storage) -> int:
    """Bytes of a page, the keys and values of all layers with their scales."""
    of_head = {"float32": 4 * head_size, "float16": 2 * head_size, "int8": head_size + 2, "int4": 4}[storage]
    if storage == "int4":
        of_head += head_size // 2
    return layers * 2 * heads * PAGE * of_head


class KVPages:
    """The pool: `count` pages of 16 tokens for every layer. Not for two threads at once.

    data: [layers, pages, 2 (key, value), heads, 16, head size] in float32, float16 or int8; for int4 uint8 of
    half the head size, an even number in the low nibble, the odd one after it in the high nibble.
    scale (int8, int4), zero (int4): float16 [layers, pages, 2, heads, 16]. A number is for int8 code * scale,
    scale = max|x| / 127; for int4 code * scale + zero, zero = min x, scale = (max - min) / 15, code in 0..15.
    Codes are rounded, half to even, from x (less zero) times the float32 reciprocal of the scale as stored,
    which is 0 for 0. The memory is not touched before it is written: other slots hold anything, also NaN.
    """

    def __init__(
        self,
        count: int,
        *,
        layers: int,
        heads: int,
        head_size: int,
        storage: Storage,
        device: torch.device | None = None,
    ) -> None:
        self.count = count
        self.heads = heads
        self.head_size = head_size
        self.storage = storage
        shape = (layers, count, 2, heads, PAGE)
        width = head_size // 2 if storage == "int4" else head_size
        self.data = _empty((*shape, width), _DTYPES[storage], device)
        self.scale: Tensor | None = None
        self.zero: Tensor | None = None
        if storage in ("int8", "int4"):
            self.scale = torch.empty(shape, dtype=torch.float16, device=device)
        if storage == "int4":
            self.zero = torch.empty(shape, dtype=torch.float16, device=device)
        self._owners = [0] * count
        self._free = list(range(count - 1, -1, -1))  # taken from the end

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self.data.device

    @property
    def free(self) -> int:
        """Pages that nobody owns."""
        return len(self._free)

    @property
    def nbytes(self) -> int:
        """Bytes of all pages, taken or not."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors())

    # -- owners -----------------------------------------------------------------------------

    def take(self, count: int) -> list[int]:
        """Pages with one owner each. Raises OutOfPages."""
        if count > self.free:
            raise OutOfPages(count, self.free, self.count)
        taken = [self._free.pop() for _ in range(count)]
        for page in taken:
            self._owners[page] = 1
        return taken

    def share(self, pages: Sequence[int]) -> None:
        """Give pages that have owners one more."""
        for page in pages:
            assert self._owners[page]
            self._owners[page] += 1

    def give(self, pages: Sequence[int]) -> None:
        """Take one owner from each page; without one it is free."""
        for page in reversed(pages):
            assert self._owners[page]
            self._owners[page] -= 1
            if not self._owners[page]:
                self._free.append(page)

    # -- contents ---------------------------------------------------------------------------

    def write(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> None:
        """Put keys and values [tokens, heads, head size] of a layer into slots [tokens] (`KVBatch.slots`)."""
        page, place = slots // PAGE, slots % PAGE
        for index, values in enumerate((key, value)):
            if self.storage == "int8":
                codes, scale = _to_int8(values.float())
            elif self.storage == "int4":
                codes, scale, zero = _to_int4(values.float())
                assert self.zero is not None
                self.zero[layer, page, index, :, place] = zero
            else:
                codes = values.to(self.data.dtype)
            self.data[layer, page, index, :, place] = codes
            if self.scale is not None:
                self.scale[layer, page, index, :, place] = scale

    def read(self, layer: int, table: Tensor, tokens: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values of the first tokens in the pages `table`, [heads, tokens, head size] each."""
        table = table[: page_count(tokens)]
        numbers = self.data[layer, table]
        if self.storage == "int4":
            numbers = torch.stack((numbers & 15, numbers >> 4), dim=-1).flatten(-2)
        if self.scale is not None:
            numbers = numbers * self.scale[layer, table].float().unsqueeze(-1)
        if self.zero is not None:
            numbers = numbers + self.zero[layer, table].float().unsqueeze(-1)
        by_head = numbers.permute(1, 2, 0, 3, 4).to(dtype).flatten(2, 3)
        key, value = by_head[:, :, :tokens].unbind(0)
        return key, value

    def copy(self, source: int, target: int) -> None:
        """Copy a page in every layer."""
        for tensor in self._tensors():
            tensor[:, target] = tensor[:, source]

    def _tensors(self) -> list[Tensor]:
        return [tensor for tensor in (self.data, self.scale, self.zero) if tensor is not None]


class KVCache:
    """The pages of one sequence, and where its answer stands.

    table: its pages in order; indices: the same as an int32 tensor; length: tokens in it, those of a prefix
    included; mask_position: the position that all tokens of the answer have; answered: how many of them are
    in. Who makes one closes it.
    """

    def __init__(self, pages: KVPages) -> None:
        self.pages = pages
        self.table: list[int] = []
        self.indices = torch.empty(0, dtype=torch.int32, device=pages.device)
        self.length = 0
        self.mask_position = 0
        self.answered = 0

    def reserve(self, tokens: int) -> None:
        """Take the pages for so many tokens more than are in it. Raises OutOfPages."""
        missing = page_count(self.length + tokens) - len(self.table)
        if missing > 0:
            self._hold(self.table + self.pages.take(missing))

    def slots(self, tokens: int) -> list[int]:
        """Where the next tokens go: 16 times the page plus the place in it."""
        places = range(self.length, self.length + tokens)
        return [self.table[place // PAGE] * PAGE + place % PAGE for place in places]

    def fork(self) -> KVCache:
        """Another sequence that begins with all of this one: full pages are shared, the last one is copied.

        Raises OutOfPages.
        """
        full = self.length // PAGE
        own = self.pages.take(page_count(self.length) - full)
        self.pages.share(self.table[:full])
        fork = KVCache(self.pages)
        fork._hold(self.table[:full] + own)
        for page in own:
            self.pages.copy(self.table[full], page)
        fork.length, fork.mask_position, fork.answered = self.length, self.mask_position, self.answered
        return fork

    def close(self) -> None:
        """Give the pages back; a closed cache is an empty one."""
        self.pages.give(self.table)
        self._hold([])
        self.length = self.answered = 0

    def _hold(self, table: list[int]) -> None:
        self.table = table
        self.indices = torch.tensor(table, dtype=torch.int32, device=self.pages.device)


class KVBatch:
    """The sequences of one pass over the network: for every layer the same, so made once.

    lengths: new tokens of each cache. slots: where they go, int64 [tokens]. For kernels there are, int32 and
    on the pages' device, tables: the pages of all sequences one after another; sequences: [sequences, 3],
    where in `tables` one begins, how many tokens it has, how many new ones (perhaps 0).
    """

    def __init__(self, caches: Sequence[KVCache], lengths: Sequence[int]) -> None:
        """Reserves what is missing. Raises OutOfPages, having changed no cache but by pages it may hold."""
        for cache, tokens in zip(caches, lengths, strict=True):
            cache.reserve(tokens)
        self.caches = tuple(caches)
        self.lengths = list(lengths)
        self.pages = self.caches[0].pages
        device = self.pages.device
        slots, rows, begin = list[int](), list[tuple[int, int, int]](), 0
        for cache, new in zip(caches, lengths, strict=True):
            slots += cache.slots(new)
            rows.append((begin, cache.length, new))
            begin += len(cache.table)
        self.slots = torch.tensor(slots, dtype=torch.int64, device=device)
        self.tables = torch.cat([cache.indices for cache in caches])
        self.sequences = torch.tensor(rows, dtype=torch.int32, device=device)
        self._rows = rows

    @functools.cached_property
    def rows(self) -> Tensor:
        """int32 [tokens, 2]: for each new token, where in `tables` its sequence begins, how many it sees."""
        seen = [(begin, length + t + 1) for begin, length, new in self._rows for t in range(new)]
        return torch.tensor(seen, dtype=torch.int32, device=self.pages.device).view(-1, 2)

    @property
    def longest(self) -> int:
        """Tokens that the last one of the longest sequence sees."""
        return max((length + new for _, length, new in self._rows), default=0)

    def commit(self) -> None:
        """All layers have run: the new tokens are in. A pass that was given up leaves no trace."""
        for cache, new in zip(self.caches, self.lengths, strict=True):
            cache.length += new


def _to_int8(values: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and float16 scales [...] of float32 [..., head size]."""
    scale = (values.abs().amax(-1) / 127).half()
    codes = (values * _reciprocal(scale)).round().clamp(-127, 127)
    return codes.to(torch.int8), scale


def _to_int4(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Packed codes, float16 scales and zeros [...] of float32 [..., head size]."""
    low, high = values.aminmax(dim=-1)
    scale, zero = ((high - low) / 15).half(), low.half()
    steps = ((values - zero.float().unsqueeze(-1)) * _reciprocal(scale)).round().clamp(0, 15)
    codes = steps.to(torch.uint8)
    return codes[..., 0::2] | (codes[..., 1::2] << 4), scale, zero


def _reciprocal(scale: Tensor) -> Tensor:
    """1 / scale in float32 [..., 1], 0 where the scale is 0."""
    scale = scale.float().unsqueeze(-1)
    return torch.where(scale == 0, 0.0, 1 / scale)
