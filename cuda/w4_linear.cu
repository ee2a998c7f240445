// The linear layers of a block while answers are made: INT4 or INT8 weights, up to 64 rows of x.
#include "linear.cuh"

// Float32 sums [gridDim.y, rows, out]: those of each share of the columns.
template <int bits, bool narrow, bool zeros, int tiles, int stages>
SIMT_KERNEL(LINEAR_THREADS, linear_blocks(tiles, zeros)) linear_sums(const u16* __restrict__ x, const uint4* __restrict__ w, const u16* __restrict__ scale,
                                           const u16* __restrict__ zero, float* __restrict__ sums, int rows, int out, int in, int group_shift) {
  linear<bits, narrow, zeros, tiles, stages>({x, w, scale, zero, rows, out, in, group_shift}, [&](int row, int output, float sum) {
    store(sums + ((size_t)blockIdx.y * rows + row) * out + output, sum);
  });
}

// gelu(x W^T + b) as halves [rows, out]; gridDim.y is 1.
template <int bits, bool narrow, bool zeros, int tiles, int stages>
SIMT_KERNEL(LINEAR_THREADS, linear_blocks(tiles, zeros)) linear_gelu(const u16* __restrict__ x, const uint4* __restrict__ w, const u16* __restrict__ scale,
                                           const u16* __restrict__ zero, const u16* __restrict__ bias, u16* __restrict__ y, int rows,
                                           int out, int in, int group_shift) {
  linear<bits, narrow, zeros, tiles, stages>({x, w, scale, zero, rows, out, in, group_shift}, [&](int row, int output, float sum) {
    store(y + (size_t)row * out + output, to_half(gelu(sum + to_float(load(bias + output)))));
  });
}
