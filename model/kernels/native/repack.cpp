// Between rows, as matrices are quantised and published, and the tiles that this library reads.
#include <algorithm>
#include <cstring>

#include "glm_cpu.h"
#include "kernels.hpp"
#include "pool.hpp"

namespace glm {
namespace {

constexpr int64_t STEP = 8;  // tiles that a thread takes at a time

// What a row and a block of it are, in bytes.
struct Shape {
    const glm_matrix& w;

    int64_t tiles() const { return (w.out_features + TILE - 1) / TILE; }
    int rows(int64_t tile) const { return static_cast<int>(std::min<int64_t>(TILE, w.out_features - tile * TILE)); }
    int64_t row_bytes() const { return w.bits == 8 ? w.in_features : (w.in_features + 1) / 2; }
    int block_bytes() const { return w.block * w.bits / 8; }  // of one row
    int64_t bytes_left(int block) const { return std::min<int64_t>(block_bytes(), row_bytes() - block * block_bytes()); }
};

// 2 * count codes of neighbouring columns in `pairs` and in `others`, half a block further: column c of the
// first half to the low nibble c, the same of the other half to the high one.
template <int COUNT>
void interleave(const uint8_t* pairs, const uint8_t* others, uint8_t* out) {
    for (int i = 0; i < COUNT; i++) {
        out[2 * i] = static_cast<uint8_t>((pairs[i] & 0x0F) | others[i] << 4);
        out[2 * i + 1] = static_cast<uint8_t>(pairs[i] >> 4 | (others[i] & 0xF0));
    }
}

template <int COUNT>
void separate(const uint8_t* in, uint8_t* pairs, uint8_t* others) {
    for (int i = 0; i < COUNT; i++) {
        pairs[i] = static_cast<uint8_t>((in[2 * i] & 0x0F) | in[2 * i + 1] << 4);
        others[i] = static_cast<uint8_t>(in[2 * i] >> 4 | (in[2 * i + 1] & 0xF0));
    }
}

// One row of a block, `bytes` of it there, to every 64th four bytes of the tile.
void pack(const Shape& shape, const uint8_t* row, int64_t bytes, uint8_t* tile) {
    const glm_matrix& w = shape.w;
    uint8_t padded[64], ordered[64];
    if (bytes < shape.block_bytes()) {
        std::memset(padded, w.bits == 4 ? 0x88 : 0, sizeof padded);
        if (bytes > 0) std::memcpy(padded, row, bytes);
        row = padded;
    }
    if (w.bits == 4) {
        w.block == 64 ? interleave<16>(row, row + 16, ordered) : interleave<8>(row, row + 8, ordered);
        row = ordered;
    }
    for (int i = 0; i < shape.block_bytes(); i += 4) std::memcpy(tile + 16 * i, row + i, 4);
}

void unpack(const Shape& shape, const uint8_t* tile, int64_t bytes, uint8_t* row) {
    const glm_matrix& w = shape.w;
    uint8_t ordered[64], pairs[32];
    for (int i = 0; i < shape.block_bytes(); i += 4) std::memcpy(ordered + i, tile + 16 * i, 4);
    const uint8_t* whole = ordered;
    if (w.bits == 4) {
        w.block == 64 ? separate<16>(ordered, pairs, pairs + 16) : separate<8>(ordered, pairs, pairs + 8);
        whole = pairs;
    }
    std::memcpy(row, whole, bytes);
}

// scale or zero of a tile's rows, [rows, groups] to [groups, 16] and back.
void transpose(const uint16_t* rows, int count, int groups, uint16_t* tile) {
    for (int g = 0; g < groups; g++)
        for (int r = 0; r < TILE; r++) tile[g * TILE + r] = r < count ? rows[r * groups + g] : uint16_t{0};
}

void transpose_back(const uint16_t* tile, int count, int groups, uint16_t* rows) {
    for (int r = 0; r < count; r++)
        for (int g = 0; g < groups; g++) rows[r * groups + g] = tile[g * TILE + r];
}

}  // namespace
}  // namespace glm

void glm_to_tiles(glm_pool* pool, const glm_matrix* w, const void* packed, const uint16_t* scale, const uint16_t* zero,
                  void* to_packed, uint16_t* to_scale, uint16_t* to_zero) {
    using namespace glm;
    const auto guard = pool->lock();
    const Shape shape{*w};
    pool->split(shape.tiles(), STEP, [&](int, int64_t begin, int64_t end) {
        static const uint8_t nothing[64] = {};
        for (int64_t tile = begin; tile < end; tile++) {
            const int rows = shape.rows(tile);
            const int64_t from = tile * TILE * w->groups;
            transpose(scale + from, rows, w->groups, to_scale + from);
            if (zero) transpose(zero + from, rows, w->groups, to_zero + from);
            const auto* row = static_cast<const uint8_t*>(packed) + tile * TILE * shape.row_bytes();
            auto* out = static_cast<uint8_t*>(to_packed) + tile * w->blocks * shape.block_bytes() * TILE;
            for (int block = 0; block < w->blocks; block++, row += shape.block_bytes(), out += shape.block_bytes() * TILE)
                for (int r = 0; r < TILE; r++)
                    r < rows ? pack(shape, row + r * shape.row_bytes(), shape.bytes_left(block), out + 4 * r)
                             : pack(shape, nothing, 0, out + 4 * r);
        }
    });
}

void glm_to_rows(glm_pool* pool, const glm_matrix* w, void* packed, uint16_t* scale, uint16_t* zero) {
    using namespace glm;
    const auto guard = pool->lock();
    const Shape shape{*w};
    pool->split(shape.tiles(), STEP, [&](int, int64_t begin, int64_t end) {
        for (int64_t tile = begin; tile < end; tile++) {
            const int rows = shape.rows(tile);
            const int64_t from = tile * TILE * w->groups;
            transpose_back(w->scale + from, rows, w->groups, scale + from);
            if (w->zero) transpose_back(w->zero + from, rows, w->groups, zero + from);
            auto* row = static_cast<uint8_t*>(packed) + tile * TILE * shape.row_bytes();
            const auto* in = static_cast<const uint8_t*>(w->packed) + tile * w->blocks * shape.block_bytes() * TILE;
            for (int block = 0; block < w->blocks; block++, row += shape.block_bytes(), in += shape.block_bytes() * TILE)
                for (int r = 0; r < rows; r++)
                    unpack(shape, in + 4 * r, shape.bytes_left(block), row + r * shape.row_bytes());
        }
    });
}
