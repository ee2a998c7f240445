// Between rows, as matrices are quantised and published, and the tiles that this library reads.
#include <algorithm>
#include <cstring>

#include "glm_cpu.h"
#include "kernels.hpp"
#include "pool.hpp"

namespace glm {
namespace {

constexpr int64_t STEP = 8;  // tiles that a thread takes at a time

constexpr uint64_t LOW = 0x0F0F0F0F0F0F0F0F, HIGH = ~LOW, PAIRS = 0x00FF00FF00FF00FF, FOURS = 0x0000FFFF0000FFFF;

// Eight bytes at a time, in the byte order of all processors that this library is built for.
uint64_t read(const uint8_t* p) {
    uint64_t word;
    std::memcpy(&word, p, sizeof word);
    return word;
}

void write(uint8_t* p, uint64_t word) { std::memcpy(p, &word, sizeof word); }

// Four bytes to every second of eight, and back.
uint64_t spread(uint64_t four) {
    four &= 0xFFFFFFFF;
    four = (four | four << 16) & FOURS;
    return (four | four << 8) & PAIRS;
}

uint64_t gather(uint64_t eight) {
    eight &= PAIRS;
    eight = (eight | eight >> 8) & FOURS;
    return (eight | eight >> 16) & 0xFFFFFFFF;
}

// A block of BITS x BLOCK of one row: its bytes stand in a tile 4 by 4, 64 apart. With INT4 the columns c and
// c + BLOCK / 2 share a byte of the tile.
template <int BITS, int BLOCK>
struct Row {
    static constexpr int BYTES = BLOCK * BITS / 8, HALF = BYTES / 2;

    static void pack(const uint8_t* row, uint8_t* tile) {
        uint8_t out[BYTES];
        for (int i = 0; BITS == 4 && i < HALF; i += 8) {
            const uint64_t first = read(row + i), second = read(row + HALF + i);
            const uint64_t even = (first & LOW) | (second & LOW) << 4, odd = (first & HIGH) >> 4 | (second & HIGH);
            write(out + 2 * i, spread(even) | spread(odd) << 8);
            write(out + 2 * i + 8, spread(even >> 32) | spread(odd >> 32) << 8);
        }
        for (int i = 0; i < BYTES; i += 4) std::memcpy(tile + 16 * i, (BITS == 4 ? out : row) + i, 4);
    }

    static void unpack(const uint8_t* tile, uint8_t* row) {
        uint8_t in[BYTES];
        for (int i = 0; i < BYTES; i += 4) std::memcpy((BITS == 4 ? in : row) + i, tile + 16 * i, 4);
        for (int i = 0; BITS == 4 && i < HALF; i += 8) {
            const uint64_t front = read(in + 2 * i), back = read(in + 2 * i + 8);
            const uint64_t even = gather(front) | gather(back) << 32, odd = gather(front >> 8) | gather(back >> 8) << 32;
            write(row + i, (even & LOW) | (odd & LOW) << 4);
            write(row + HALF + i, (even & HIGH) >> 4 | (odd & HIGH));
        }
    }
};

// scale or zero of a tile's rows, [rows, groups] to [groups, 16] and back.
void transpose(const uint16_t* rows, int count, int groups, uint16_t* tile) {
    for (int g = 0; g < groups; g++)
        for (int r = 0; r < TILE; r++) tile[g * TILE + r] = r < count ? rows[r * groups + g] : uint16_t{0};
}

void transpose_back(const uint16_t* tile, int count, int groups, uint16_t* rows) {
    for (int r = 0; r < count; r++)
        for (int g = 0; g < groups; g++) rows[r * groups + g] = tile[g * TILE + r];
}

// Rows of a tile and their bytes.
int rows_of(const glm_matrix& w, int64_t tile) {
    return static_cast<int>(std::min<int64_t>(TILE, w.out_features - tile * TILE));
}

int64_t row_bytes(const glm_matrix& w) { return (int64_t{w.in_features} * w.bits + 7) / 8; }

template <int BITS, int BLOCK>
void pack_tile(const glm_matrix& w, int64_t tile, const uint8_t* from, uint8_t* to) {
    using R = Row<BITS, BLOCK>;
    const int64_t stride = row_bytes(w), rows = rows_of(w, tile);
    from += tile * TILE * stride;
    to += tile * w.blocks * R::BYTES * TILE;
    for (int64_t at = 0; at < w.blocks * R::BYTES; at += R::BYTES, to += R::BYTES * TILE)
        for (int64_t r = 0; r < TILE; r++) {
            const int64_t there = r < rows ? std::min<int64_t>(R::BYTES, stride - at) : 0;
            if (there == R::BYTES) {
                R::pack(from + r * stride + at, to + 4 * r);
                continue;
            }
            uint8_t padded[R::BYTES];
            std::memset(padded, BITS == 4 ? 0x88 : 0, sizeof padded);
            if (there > 0) std::memcpy(padded, from + r * stride + at, there);
            R::pack(padded, to + 4 * r);
        }
}

template <int BITS, int BLOCK>
void unpack_tile(const glm_matrix& w, int64_t tile, const uint8_t* from, uint8_t* to) {
    using R = Row<BITS, BLOCK>;
    const int64_t stride = row_bytes(w), rows = rows_of(w, tile);
    from += tile * w.blocks * R::BYTES * TILE;
    to += tile * TILE * stride;
    for (int64_t at = 0; at < w.blocks * R::BYTES; at += R::BYTES, from += R::BYTES * TILE)
        for (int64_t r = 0; r < rows; r++) {
            if (stride - at >= R::BYTES) {
                R::unpack(from + 4 * r, to + r * stride + at);
                continue;
            }
            uint8_t padded[R::BYTES];
            R::unpack(from + 4 * r, padded);
            std::memcpy(to + r * stride + at, padded, stride - at);
        }
}

// work(tile) for every tile.
template <class Work>
void each_tile(glm_pool& pool, const glm_matrix& w, Work work) {
    const auto guard = pool.lock();
    pool.split((w.out_features + TILE - 1) / TILE, STEP, [&](int, int64_t begin, int64_t end) {
        for (; begin < end; begin++) work(begin);
    });
}

}  // namespace
}  // namespace glm

void glm_to_tiles(glm_pool* pool, const glm_matrix* w, const void* packed, const uint16_t* scale, const uint16_t* zero,
                  void* to_packed, uint16_t* to_scale, uint16_t* to_zero) {
    using namespace glm;
    const auto pack = w->bits == 8 ? pack_tile<8, 64> : w->block == 64 ? pack_tile<4, 64> : pack_tile<4, 32>;
    each_tile(*pool, *w, [&](int64_t tile) {
        const int64_t group = tile * TILE * w->groups;
        pack(*w, tile, static_cast<const uint8_t*>(packed), static_cast<uint8_t*>(to_packed));
        transpose(scale + group, rows_of(*w, tile), w->groups, to_scale + group);
        if (zero) transpose(zero + group, rows_of(*w, tile), w->groups, to_zero + group);
    });
}

void glm_to_rows(glm_pool* pool, const glm_matrix* w, void* packed, uint16_t* scale, uint16_t* zero) {
    using namespace glm;
    const auto unpack = w->bits == 8 ? unpack_tile<8, 64> : w->block == 64 ? unpack_tile<4, 64> : unpack_tile<4, 32>;
    each_tile(*pool, *w, [&](int64_t tile) {
        const int64_t group = tile * TILE * w->groups;
        unpack(*w, tile, static_cast<const uint8_t*>(w->packed), static_cast<uint8_t*>(packed));
        transpose_back(w->scale + group, rows_of(*w, tile), w->groups, scale + group);
        if (w->zero) transpose_back(w->zero + group, rows_of(*w, tile), w->groups, zero + group);
    });
}
