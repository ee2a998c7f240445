// Linear layers: rows of x in chunks, tiles of the matrix shared out between threads.
//
// Up to 16 rows, a tile is read once from its first column to its last. With more, the columns are cut so that
// 16 rows of x stay in the first cache for all tiles of a unit, the unit's weights and its float sums in the
// second one for all rows of the chunk.
#include <algorithm>
#include <cstring>
#include <limits>

#include "glm_cpu.h"
#include "half.hpp"
#include "kernels.hpp"
#include "pool.hpp"

namespace glm {
namespace {

constexpr int64_t CHUNK = 256;     // rows of x at a time
constexpr int COLUMNS = 1024;      // of a cut
constexpr int64_t UNIT = 8;        // tiles that a thread takes at most
constexpr int64_t LARGE = 1 << 18; // numbers of a result that the second cache would not hold
constexpr int64_t WORTH = 8192;    // numbers to quantise that are worth another thread

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Pieces of scratch memory, each on a cache line of its own.
class Carver {
public:
    template <class T>
    int64_t take(int64_t count) {
        const int64_t at = bytes_;
        bytes_ += ceil_div(count * static_cast<int64_t>(sizeof(T)), 64) * 64;
        return at;
    }
    int64_t bytes() const { return bytes_; }

private:
    int64_t bytes_ = 0;
};

struct Call {
    glm_pool& pool;
    const Kernels& kernels;
    const glm_matrix& w;
    bool gelu;

    int64_t tiles() const { return ceil_div(w.out_features, TILE); }
    int64_t unit() const { return std::clamp<int64_t>(tiles() / (pool.threads() * 4), 1, UNIT); }

    // The sums [last - first, rows, 16] of tiles, finished, to y.
    void put(const float* sums, int64_t rows, int64_t first, int64_t last, float* y) const {
        // what goes past the caches is seen by other threads because the pool ends a task with a locked instruction
        const bool past = rows * w.out_features >= LARGE;
        const int64_t whole = std::min<int64_t>(last, w.out_features / TILE);
        for (int64_t row = 0; row < rows; row++) {
            float* to = y + row * w.out_features;
            for (int64_t tile = first; tile < whole; tile++)
                kernels.finish(sums + ((tile - first) * rows + row) * TILE, w.bias ? w.bias + tile * TILE : nullptr, gelu,
                               past, to + tile * TILE);
            if (whole == last) continue;
            const std::size_t bytes = sizeof(float) * (w.out_features - whole * TILE);  // of the last tile, in part
            float bias[TILE] = {}, part[TILE];
            if (w.bias) std::memcpy(bias, w.bias + whole * TILE, bytes);
            kernels.finish(sums + ((whole - first) * rows + row) * TILE, w.bias ? bias : nullptr, gelu, false, part);
            std::memcpy(to + whole * TILE, part, bytes);
        }
    }
};

// Rows of x as int8, in groups of at most `most` as even as can be.
struct Groups {
    int64_t rows, count;
    Quantized x;

    Groups(int64_t rows, int most) : rows(rows), count(ceil_div(rows, most)), x() {}
    int64_t begin(int64_t group) const { return rows * group / count; }
    int size(int64_t group) const { return static_cast<int>(begin(group + 1) - begin(group)); }

    // Group `group` from a block on.
    Quantized at(int64_t group, const glm_matrix& w, int64_t block) const {
        const int64_t done = begin(group) * w.blocks;
        const Quantized all{x.codes + done * w.block, x.scale + done, x.start + done};
        return all.from(block, w.block, size(group));
    }
};

void quantize(const Call& call, const float* x, const Groups& groups) {
    const glm_matrix& w = call.w;
    const int64_t step = ceil_div(WORTH, groups.size(0) * w.block), parts = ceil_div(w.blocks, step);
    call.pool.split(groups.count * parts, 1, [&](int, int64_t begin, int64_t end) {
        for (; begin < end; begin++) {
            const int64_t group = begin / parts, block = begin % parts * step, column = block * w.block;
            const Quantized to = groups.at(group, w, block);
            call.kernels.quantize(x + groups.begin(group) * w.in_features + column, w.in_features,
                                  std::min(step * w.block, w.in_features - column), w.block, w.bits == 4 ? 8 : 128,
                                  groups.size(group), const_cast<int8_t*>(to.codes), const_cast<float*>(to.scale),
                                  const_cast<int32_t*>(to.start));
        }
    });
}

// The tiles [first, last) for all rows; sums [last - first, rows, 16].
void multiply(const Call& call, const Groups& groups, int64_t first, int64_t last, float* sums, float* y) {
    const glm_matrix& w = call.w;
    const int step = groups.count == 1 ? w.blocks : COLUMNS / w.block;
    std::memset(sums, 0, sizeof(float) * (last - first) * groups.rows * TILE);
    for (int begin = 0; begin < w.blocks; begin += step)
        for (int64_t g = 0; g < groups.count; g++) {
            const Quantized x = groups.at(g, w, begin);
            for (int64_t tile = first; tile < last; tile++)
                call.kernels.multiply(w, tile, begin, std::min(begin + step, w.blocks), x, groups.size(g),
                                      sums + ((tile - first) * groups.rows + groups.begin(g)) * TILE);
        }
    call.put(sums, groups.rows, first, last, y);
}

void quantized_chunk(const Call& call, const float* x, int64_t rows, float* y) {
    const glm_matrix& w = call.w;
    Carver carver;
    Groups groups(rows, ROWS);
    const int64_t codes = carver.take<int8_t>(rows * w.blocks * w.block);
    const int64_t scale = carver.take<float>(rows * w.blocks), start = carver.take<int32_t>(rows * w.blocks);
    const int64_t unit = call.unit(), own = unit * rows * TILE, sums = carver.take<float>(call.pool.threads() * own);
    auto* memory = static_cast<char*>(call.pool.scratch(carver.bytes()));
    groups.x = {reinterpret_cast<int8_t*>(memory + codes), reinterpret_cast<float*>(memory + scale),
                reinterpret_cast<int32_t*>(memory + start)};
    quantize(call, x, groups);
    call.pool.split(call.tiles(), unit, [&](int thread, int64_t begin, int64_t end) {
        for (; begin < end; begin += unit)
            multiply(call, groups, begin, std::min(begin + unit, end),
                     reinterpret_cast<float*>(memory + sums) + thread * own, y);
    });
}

void exact_chunk(const Call& call, const float* x, int64_t rows, float* y) {
    const glm_matrix& w = call.w;
    const int64_t unit = call.unit(), weights = w.block * TILE, own = weights + unit * rows * TILE;
    auto* memory = static_cast<float*>(call.pool.scratch(sizeof(float) * call.pool.threads() * own));
    call.pool.split(call.tiles(), unit, [&](int thread, int64_t first, int64_t last) {
        float *decoded = memory + thread * own, *sums = decoded + weights;
        for (; first < last; first += unit) {
            const int64_t end = std::min(first + unit, last);
            std::memset(sums, 0, sizeof(float) * (end - first) * rows * TILE);
            for (int block = 0, column = 0; block < w.blocks; block++, column += w.block)
                for (int64_t tile = first; tile < end; tile++) {
                    call.kernels.decode(w, tile, block, decoded);
                    call.kernels.exact(decoded, x + column, w.in_features, std::min(w.block, w.in_features - column), rows,
                                       sums + (tile - first) * rows * TILE);
                }
            call.put(sums, rows, first, end, y);
        }
    });
}

}  // namespace
}  // namespace glm

void glm_linear(glm_pool* pool, const glm_matrix* w, const float* x, int64_t rows, float* y, int32_t flags) {
    using namespace glm;
    const auto guard = pool->lock();
    const Call call{*pool, kernels(), *w, (flags & GLM_GELU) != 0};
    const int64_t chunks = ceil_div(rows, CHUNK);
    for (int64_t i = 0; i < chunks; i++) {
        const int64_t begin = rows * i / chunks, count = rows * (i + 1) / chunks - begin;
        ((flags & GLM_EXACT) ? exact_chunk : quantized_chunk)(call, x + begin * w->in_features, count,
                                                              y + begin * w->out_features);
    }
}

void glm_embed(const glm_matrix* w, const int64_t* ids, int64_t rows, float* y) {
    using namespace glm;
    for (int64_t i = 0; i < rows; i++, y += w->in_features) {
        if (ids[i] < 0 || ids[i] >= w->out_features) {
            std::fill_n(y, w->in_features, std::numeric_limits<float>::quiet_NaN());
            continue;
        }
        const int64_t tile = ids[i] / TILE, lane = ids[i] % TILE;
        for (int block = 0; block < w->blocks; block++) {
            const int64_t group = (tile * w->groups + block / w->group_blocks) * TILE + lane;
            const float scale = from_half(w->scale[group]), zero = w->zero ? from_half(w->zero[group]) : 0.0f;
            const int bytes = w->block * TILE * w->bits / 8, half = w->block / 2;
            const auto* p = static_cast<const uint8_t*>(w->packed) + (tile * w->blocks + block) * bytes + 4 * lane;
            const int count = std::min(w->block, w->in_features - block * w->block);
            for (int c = 0; c < count; c++) {
                const int column = w->bits == 8 ? c : c % half, byte = p[column / 4 * 64 + column % 4];
                const int value = w->bits == 8 ? static_cast<int8_t>(byte) : (byte >> (c < half ? 0 : 4) & 15) - 8;
                y[block * w->block + c] = (static_cast<float>(value) - zero) * scale;
            }
        }
    }
}
