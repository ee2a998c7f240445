// How keys and values lie in pages (model/kv_cache.py): [pages, 2 (key, value), heads, 16 tokens, 128], for int8
// and int4 with halves of scales (int4: and zeros) [pages, 2, heads, 16].
#pragma once
#include "simt.cuh"

constexpr int HEAD = 128;
constexpr int PAGE = 16;
enum Storage { HALF, INT8, INT4 };
template <int storage> constexpr int HEAD_BYTES = storage == HALF ? 256 : storage == INT8 ? 128 : 64;

// The number of a token's head in a page: times HEAD_BYTES where its numbers are, itself where its scale is.
SIMT_FN size_t head_index(size_t page, int which, int heads, int head, int place) {
  return ((page * 2 + which) * heads + head) * PAGE + place;
}
