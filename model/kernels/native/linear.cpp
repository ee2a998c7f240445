// Linear layers: rows of x in chunks, tiles of the matrix shared out between threads.
//
// A chunk of few rows streams through the packed weights (decode). A larger one is a product of panels:
// two tiles are unpacked for a range of columns into the first cache and meet all rows of the chunk, twelve at
// a time, before the next ones; float sums stay in the second cache meanwhile.
#include <algorithm>
#include <cstring>
#include <limits>

#include "glm_cpu.h"
#include "half.hpp"
#include "kernels.hpp"
#include "pool.hpp"

namespace glm {
namespace {

constexpr int64_t CHUNK = 264;    // rows of x at a time: a multiple of PANEL_ROWS
constexpr int COLUMNS = 512;     // that a panel is unpacked for
constexpr int64_t WORTH = 8192;   // numbers to quantise that are worth another thread
constexpr int64_t UNIT = 4;       // pairs of tiles that a thread takes at most
constexpr int64_t EXACT_UNIT = 4;  // tiles

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

    // 16 finished sums of one row to y, of which the last tile has fewer.
    void put(float* sums, int64_t tile, float* y) const {
        const int64_t column = tile * TILE, count = std::min<int64_t>(TILE, w.out_features - column);
        float bias[TILE] = {};
        if (w.bias) std::memcpy(bias, w.bias + column, sizeof(float) * count);
        kernels.finish(sums, w.bias ? bias : nullptr, gelu);
        std::memcpy(y + column, sums, sizeof(float) * count);
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

void stream(const Call& call, const Groups& groups, float* y) {
    const int64_t step = std::max<int64_t>(1, call.tiles() / (call.pool.threads() * 8));
    call.pool.split(call.tiles(), step, [&](int, int64_t begin, int64_t end) {
        alignas(64) float sums[STREAM_ROWS * TILE];
        for (int64_t tile = begin; tile < end; tile++) {
            call.kernels.stream(call.w, tile, groups.x, static_cast<int>(groups.rows), sums);
            for (int64_t r = 0; r < groups.rows; r++) call.put(sums + r * TILE, tile, y + r * call.w.out_features);
        }
    });
}

// Where a thread's unpacked tiles and sums lie.
struct Workspace {
    uint8_t* codes;  // [2, COLUMNS, 16]
    float* scale;    // [2, COLUMNS / block, 16]
    float* zero;
    float* sums;     // [pairs, rows, 2, 16]
};

void panels(const Call& call, const Groups& groups, int64_t first, int64_t last, const Workspace& space, float* y) {
    const glm_matrix& w = call.w;
    const int step = COLUMNS / w.block;
    const int64_t per_pair = groups.rows * PANEL_TILES * TILE;
    std::memset(space.sums, 0, sizeof(float) * per_pair * (last - first));
    for (int begin = 0; begin < w.blocks; begin += step) {
        const int end = std::min(begin + step, w.blocks);
        for (int64_t pair = first; pair < last; pair++) {
            Panel p = {{}, {}, {}, w.bits, w.block, end - begin};
            for (int t = 0; t < PANEL_TILES; t++) {
                const int64_t tile = std::min(pair * PANEL_TILES + t, call.tiles() - 1);  // a lonely one twice
                uint8_t* codes = space.codes + t * COLUMNS * TILE;
                float *scale = space.scale + t * step * TILE, *zero = space.zero + t * step * TILE;
                call.kernels.unpack(w, tile, begin, end, codes, scale, zero);
                p.codes[t] = codes, p.scale[t] = scale, p.zero[t] = w.zero ? zero : nullptr;
            }
            float* sums = space.sums + (pair - first) * per_pair;
            for (int64_t g = 0; g < groups.count; g++)
                call.kernels.panel(p, groups.at(g, w, begin), groups.size(g),
                                   sums + groups.begin(g) * PANEL_TILES * TILE);
        }
    }
    for (int64_t row = 0; row < groups.rows; row++)
        for (int64_t pair = first; pair < last; pair++)
            for (int t = 0; t < PANEL_TILES && pair * PANEL_TILES + t < call.tiles(); t++)
                call.put(space.sums + (pair - first) * per_pair + (row * PANEL_TILES + t) * TILE, pair * PANEL_TILES + t,
                         y + row * w.out_features);
}

void quantized_chunk(const Call& call, const float* x, int64_t rows, float* y) {
    const glm_matrix& w = call.w;
    const bool streams = rows <= STREAM_ROWS;
    Groups groups(rows, streams ? STREAM_ROWS : PANEL_ROWS);
    const int64_t pairs = ceil_div(call.tiles(), PANEL_TILES), threads = call.pool.threads();
    const int64_t unit = std::clamp<int64_t>(pairs / (threads * 4), 1, UNIT);

    Carver carver;
    const int64_t codes = carver.take<int8_t>(rows * w.blocks * w.block);
    const int64_t scale = carver.take<float>(rows * w.blocks), start = carver.take<int32_t>(rows * w.blocks);
    const int64_t spaces = carver.bytes();
    Carver space;
    const int64_t floats = PANEL_TILES * (COLUMNS / w.block) * TILE;
    const int64_t unpacked = space.take<uint8_t>(PANEL_TILES * COLUMNS * TILE);
    const int64_t scales = space.take<float>(floats), zeros = space.take<float>(floats);
    const int64_t sums = space.take<float>(unit * rows * PANEL_TILES * TILE);
    auto* memory = static_cast<char*>(call.pool.scratch(spaces + (streams ? 0 : threads * space.bytes())));

    groups.x = {reinterpret_cast<int8_t*>(memory + codes), reinterpret_cast<float*>(memory + scale),
                reinterpret_cast<int32_t*>(memory + start)};
    quantize(call, x, groups);
    if (streams) return stream(call, groups, y);
    call.pool.split(pairs, unit, [&](int thread, int64_t begin, int64_t end) {
        char* own = memory + spaces + thread * space.bytes();
        const Workspace workspace = {reinterpret_cast<uint8_t*>(own + unpacked), reinterpret_cast<float*>(own + scales),
                                     reinterpret_cast<float*>(own + zeros), reinterpret_cast<float*>(own + sums)};
        for (; begin < end; begin += unit) panels(call, groups, begin, std::min(begin + unit, end), workspace, y);
    });
}

void exact_chunk(const Call& call, const float* x, int64_t rows, float* y) {
    const glm_matrix& w = call.w;
    const int64_t threads = call.pool.threads(), unit = std::clamp<int64_t>(call.tiles() / (threads * 4), 1, EXACT_UNIT);
    const int64_t per_tile = rows * TILE, weights = w.block * TILE;
    auto* memory = static_cast<float*>(call.pool.scratch(sizeof(float) * threads * (unit * per_tile + weights)));
    call.pool.split(call.tiles(), unit, [&](int thread, int64_t first, int64_t last) {
        float *decoded = memory + thread * (unit * per_tile + weights), *sums = decoded + weights;
        for (; first < last; first += unit) {
            const int64_t end = std::min(first + unit, last);
            std::memset(sums, 0, sizeof(float) * per_tile * (end - first));
            for (int block = 0; block < w.blocks; block++)
                for (int64_t tile = first; tile < end; tile++) {
                    const int column = block * w.block;
                    call.kernels.decode(w, tile, block, decoded);
                    call.kernels.exact(decoded, x + column, w.in_features, std::min(w.block, w.in_features - column), rows,
                                       sums + (tile - first) * per_tile);
                }
            for (int64_t row = 0; row < rows; row++)
                for (int64_t tile = first; tile < end; tile++)
                    call.put(sums + (tile - first) * per_tile + row * TILE, tile, y + row * w.out_features);
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
