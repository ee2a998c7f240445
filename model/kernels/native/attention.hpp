// What the attentions and rope.cpp share: where a layer's keys and values lie, and the inner functions on them.
#pragma once

#include <cstdint>

#include "glm_cpu.h"

namespace glm {

constexpr int PAGE = 16;        // tokens
constexpr int SPLIT_PAGES = 16; // a longer context is cut into parts of so many pages, whoever computes them
constexpr int KEYS = 64;        // that queries meet at once in `context`
constexpr int QUERIES = 32;     // a tile
constexpr int TILES = 4;        // that `context` takes at most

// A part in floats: its largest score, its sum of exponentials, from PART_HEAD on its sums in the order of
// `attend`, then the query in that order.
constexpr int PART_HEAD = 16;

inline int round_up(int value, int step) { return (value + step - 1) / step * step; }

// One layer of glm_pages.
struct Layer {
    uint8_t* data;
    uint16_t *scale, *zero;
    int storage, heads, head_size;
    int row_bytes;  // of one token and head

    Layer(const glm_pages& all, int64_t layer) : storage(all.storage), heads(all.heads), head_size(all.head_size) {
        row_bytes = storage == GLM_FLOAT32   ? 4 * head_size
                    : storage == GLM_FLOAT16 ? 2 * head_size
                    : storage == GLM_INT8    ? head_size
                                             : head_size / 2;
        const int64_t rows = layer * all.pages * 2 * heads * PAGE;
        data = static_cast<uint8_t*>(all.data) + rows * row_bytes;
        scale = all.scale ? all.scale + rows : nullptr;
        zero = all.zero ? all.zero + rows : nullptr;
    }

    // The first of the 16 rows of a head's keys (which 0) or values (1) in a page, counted in rows.
    int64_t rows(int64_t page, int which, int head) const { return ((page * 2 + which) * heads + head) * PAGE; }

    int padded() const { return round_up(head_size, 32); }
    int64_t part_floats() const { return PART_HEAD + 2 * padded(); }
};

// What the queries of a sequence see in one head: float rows, or pages.
struct Context {
    const Layer* pages;    // or NULL
    const int32_t* table;  // of the pages
    const float *key, *value;
    int64_t stride;  // floats from one token's key to the next one's
    int64_t tokens;
    int64_t hidden;  // tokens that the first query does not see, one less for each query after it: new - 1, or 0
    int head, head_size;

    int padded() const { return round_up(head_size, 16); }
    int64_t space_floats() const {
        return 2 * KEYS * padded() + (KEYS + 1) * QUERIES + TILES * (2 * padded() + 2) * QUERIES;
    }
};

struct AttentionKernels {
    // A part of decode attention: one query [head size] to `tokens` tokens from the first page of `table` on.
    void (*attend)(const Layer&, const int32_t* table, int tokens, int head, const float* query, float* part);

    // The parts of one query, part_floats() apart, to its result [head size]; the parts are lost.
    void (*merge)(const Layer&, float* parts, int count, float* out);

    // `queries` <= TILES * QUERIES of a sequence, `stride` floats apart like the results, from number `first` on.
    void (*context)(const Context&, const float* query, int64_t first, int queries, int64_t stride, float* space, float* out);

    // Rotates one head of a token by cos and sin [axes, head size / axes / 2].
    void (*rotate)(const float* x, const float* cos, const float* sin, int axes, int half, float* out);

    // Keeps numbers [head size] of a token: row `row` (Layer::rows, plus the place in the page).
    void (*keep)(const Layer&, int64_t row, const float* x);
};

}  // namespace glm
