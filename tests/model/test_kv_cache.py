"""The keys and values of one sequence."""

from __future__ import annotations

import torch

from model.kv_cache import KVCache


def cache(room: int) -> KVCache:
    return KVCache(2, room, 3, 4, torch.float32, torch.device("cpu"))


def test_what_is_put_in_comes_back_however_often_it_grows() -> None:
    small, put = cache(2), [torch.randn(2, count, 3, 4) for count in (1, 2, 7, 1, 30)]
    for new in put:
        for layer in range(2):
            keys, values = small.append(layer, new[0] + layer, new[1] - layer)
    whole = torch.cat(put, dim=1)
    assert keys.equal(whole[0] + 1)
    assert values.equal(whole[1] - 1)
    assert small.length == 41


def test_room_that_was_asked_for_is_not_exceeded() -> None:
    enough = cache(10)
    before = enough.nbytes
    assert before == 2 * 2 * 10 * 3 * 4 * 4
    for _ in range(10):
        for layer in range(2):
            enough.append(layer, torch.zeros(1, 3, 4), torch.zeros(1, 3, 4))
    assert enough.nbytes == before
