// Plain C++, for any processor and as the meaning of every other instruction set.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "compiler.hpp"
#include "half.hpp"
#include "kernels.hpp"

#define GLM_TARGET

namespace glm {
namespace {
namespace scalar {

#include "lanes_scalar.inl"

#include "rows.inl"

#include "exact.inl"

struct Block {
    const uint8_t* packed;
    Floats scale, zero;
};

Block at(const glm_matrix& w, int64_t tile, int block) {
    const int64_t group = (tile * w.groups + block / w.group_blocks) * TILE;
    const Floats zero = w.zero ? load_halves(w.zero + group) : fill(0.0f);
    return {static_cast<const uint8_t*>(w.packed) + (tile * w.blocks + block) * (w.block * TILE * w.bits / 8),
            load_halves(w.scale + group), mul(zero, fill(w.bits == 4 ? 1.0f / 8 : 1.0f / 128))};
}

// The unsigned code (value + 8 or + 128) of a row and column in a packed block.
int code(const uint8_t* packed, int bits, int block, int row, int column) {
    if (bits == 8) return packed[column / 4 * 64 + row * 4 + column % 4] ^ 0x80;
    const int half = block / 2, low = column % half;
    return packed[low / 4 * 64 + row * 4 + low % 4] >> (column < half ? 0 : 4) & 15;
}

// One block of unsigned codes [columns, 16] with one row of x.
Floats accumulate(const uint8_t* codes, int block, Floats scale, Floats zero, const Quantized& x, int rows, int row,
                  Floats acc) {
    Ints total = fill(x.start[row]);
    for (int column = 0; column < block; column++) {
        const int32_t value = x.codes[(column / 4 * rows + row) * 4 + column % 4];
        for (int i = 0; i < TILE; i++) total.v[i] += codes[column * TILE + i] * value;
    }
    const Floats value = fma(zero, fill(static_cast<float>(x.start[row])), to_floats(total));
    return fma(mul(value, scale), fill(x.scale[row]), acc);
}

void unpack_block(const glm_matrix& w, const uint8_t* packed, uint8_t* codes) {
    for (int column = 0; column < w.block; column++)
        for (int row = 0; row < TILE; row++)
            codes[column * TILE + row] = static_cast<uint8_t>(code(packed, w.bits, w.block, row, column));
}

void stream(const glm_matrix& w, int64_t tile, const Quantized& x, int rows, float* out) {
    uint8_t codes[64 * TILE];
    std::memset(out, 0, sizeof(float) * rows * TILE);
    for (int b = 0; b < w.blocks; b++) {
        const Block block = at(w, tile, b);
        unpack_block(w, block.packed, codes);
        for (int r = 0; r < rows; r++)
            store(out + r * TILE, accumulate(codes, w.block, block.scale, block.zero, x.from(b, w.block, rows), rows, r,
                                             load(out + r * TILE)));
    }
}

void unpack(const glm_matrix& w, int64_t tile, int begin, int end, uint8_t* codes, float* scale, float* zero) {
    for (int b = begin; b < end; b++, codes += w.block * TILE, scale += TILE) {
        const Block block = at(w, tile, b);
        unpack_block(w, block.packed, codes);
        store(scale, block.scale);
        if (w.zero) store(zero + (b - begin) * TILE, block.zero);
    }
}

void panel(const Panel& p, const Quantized& x, int rows, float* acc) {
    for (int b = 0; b < p.blocks; b++)
        for (int r = 0; r < rows; r++)
            for (int t = 0; t < PANEL_TILES; t++) {
                const Floats zero = p.zero[t] ? load(p.zero[t] + b * TILE) : fill(0.0f);
                float* sum = acc + (r * PANEL_TILES + t) * TILE;
                store(sum, accumulate(p.codes[t] + b * p.block * TILE, p.block, load(p.scale[t] + b * TILE), zero,
                                      x.from(b, p.block, rows), rows, r, load(sum)));
            }
}

int32_t dot_rounds(int64_t rounds) {
    int32_t acc[TILE] = {};
    for (int64_t n = 0; n < rounds; n++)
        for (int i = 0; i < TILE; i++) acc[i] += static_cast<int32_t>(n & 15) * (i - 5);
    return acc[0] + acc[TILE - 1];
}

uint64_t read(const void* p, int64_t bytes) {
    uint64_t total = 0, word;
    for (int64_t i = 0; i + 8 <= bytes; i += 8) {
        std::memcpy(&word, static_cast<const char*>(p) + i, 8);
        total += word;
    }
    return total;
}

}  // namespace scalar
}  // namespace

const Kernels& scalar_kernels() {
    using namespace scalar;
    static const Kernels set = {"scalar", quantize, stream, unpack, panel,      decode, exact,
                                norm,     finish,   dot_rounds, TILE, read};
    return set;
}

}  // namespace glm
