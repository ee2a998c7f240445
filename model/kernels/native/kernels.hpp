// The inner functions of one instruction set. Everything above them (threads, blocking, bias) is common code.
//
// A linear_<isa>.cpp defines GLM_TARGET, the attribute of each of its functions, and includes in a namespace
// of its own: lanes_<isa>.inl (16 floats or int32 at a time, the height of a tile), then the other *.inl written
// on those lanes, which are the same for every instruction set; integer dot products it has itself.
//
// All of them do the same floating-point operations in the same order, so that their results are the same bits.
#pragma once

#include <cstdint>

#include "attention.hpp"
#include "glm_cpu.h"

namespace glm {

constexpr int TILE = 16;
constexpr int ROWS = 16;  // of x that `multiply` takes at most

// R rows of x as int8, x = code * scale with a scale for each block of columns. Four codes of a row stand
// together, then the same columns of the next row: the products of a line of weights read x in one stream.
struct Quantized {
    const int8_t* codes;   // [blocks * block / 4, R, 4], the last block padded with 0
    const float* scale;    // [blocks, R]; NaN where the block of x is not finite
    const int32_t* start;  // [blocks, R]: -8 (INT4) or -128 (INT8) times the sum of the block's codes

    Quantized from(int64_t begin, int block, int rows) const {
        return {codes + begin * block * rows, scale + begin * rows, start + begin * rows};
    }
};

// Integer products are exact inside a block; at its end, with s its integer sum without zero-points:
// acc = fma(fma(zero / 8, start, s) * weight_scale, activation_scale, acc), blocks in ascending order; INT8: / 128.
struct Kernels {
    const char* name;

    // Rows of x, `stride` apart, from some block on; rounds half to even, to -127..127. offset: 8 or 128.
    void (*quantize)(const float* x, int64_t stride, int64_t columns, int block, int offset, int rows, int8_t* codes,
                     float* scale, int32_t* start);

    // sums [rows, 16] += the blocks [begin, end) of a tile times rows of x, which begin at that block too;
    // rows <= ROWS.
    void (*multiply)(const glm_matrix&, int64_t tile, int begin, int end, const Quantized& x, int rows, float* sums);

    // A block of a tile as floats [block, 16].
    void (*decode)(const glm_matrix&, int64_t tile, int block, float* weights);

    // acc [rows, 16] += a decoded block times float rows of x, `columns` numbers each, `stride` apart.
    void (*exact)(const float* weights, const float* x, int64_t stride, int columns, int64_t rows, float* acc);

    // out = LayerNorm(alpha * x + y) of one row; y may be NULL, out may be x or y.
    void (*norm)(const float* x, const float* y, float alpha, const float* weight, const float* bias,
                 float epsilon, int64_t width, float* out);

    // y = 16 finished sums + bias (or NULL), then tanh-GELU if asked for. past: written past the caches where y is
    // on a line of its own, for results that are more than they hold.
    void (*finish)(const float* sums, const float* bias, bool gelu, bool past, float* y);

    // Rounds of DOT_MACS integer multiply-accumulates in registers; returns something of the result.
    int32_t (*dot_rounds)(int64_t rounds);
    int64_t dot_macs;  // multiply-accumulates a round

    // What reading memory takes: the sum of 64-byte lines.
    uint64_t (*read)(const void* p, int64_t bytes);

    AttentionKernels attention;
};

// NULL where this CPU lacks it or the build does not have it.
const Kernels* avx512_kernels();
const Kernels* avx2_kernels();
const Kernels* neon_kernels();
const Kernels& scalar_kernels();

// Those in use.
const Kernels& kernels();

}  // namespace glm
