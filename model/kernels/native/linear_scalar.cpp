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

constexpr int BLOCK_ROWS = 4, BLOCK_VECTORS = 1, SCORE_ROWS = 4, MIX_SUMS = 4;

#include "attention.inl"

#include "context.inl"

#include "rope.inl"

// The code of a row and column in a packed block: value + 8 or + 128.
int code(const uint8_t* packed, int bits, int block, int row, int column) {
    if (bits == 8) return packed[column / 4 * 64 + row * 4 + column % 4] ^ 0x80;
    const int half = block / 2, low = column % half;
    return packed[low / 4 * 64 + row * 4 + low % 4] >> (column < half ? 0 : 4) & 15;
}

void multiply(const glm_matrix& w, int64_t tile, int begin, int end, const Quantized& x, int rows, float* sums) {
    const int bytes = w.block * TILE * w.bits / 8;
    for (int b = begin; b < end; b++) {
        const auto* packed = static_cast<const uint8_t*>(w.packed) + (tile * w.blocks + b) * bytes;
        const int64_t group = (tile * w.groups + b / w.group_blocks) * TILE;
        const Quantized here = x.from(b - begin, w.block, rows);
        for (int i = 0; i < TILE; i++) {
            const float scale = from_half(w.scale[group + i]);
            const float zero = w.zero ? from_half(w.zero[group + i]) * (w.bits == 4 ? 1.0f / 8 : 1.0f / 128) : 0.0f;
            int32_t codes[64];
            for (int c = 0; c < w.block; c++) codes[c] = code(packed, w.bits, w.block, i, c);
            for (int r = 0; r < rows; r++) {
                int32_t total = here.start[r];
                for (int c = 0; c < w.block; c++) total += codes[c] * here.codes[(c / 4 * rows + r) * 4 + c % 4];
                const float value = std::fma(zero, static_cast<float>(here.start[r]), static_cast<float>(total));
                sums[r * TILE + i] = std::fma(value * scale, here.scale[r], sums[r * TILE + i]);
            }
        }
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
    static const Kernels set = {"scalar", quantize, multiply, decode, exact,
                                norm,     finish,   dot_rounds, TILE, read, {attend, merge, context, rotate, keep}};
    return set;
}

}  // namespace glm
