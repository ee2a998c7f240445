// The tied embedding in INT8: logits of up to 64 rows, and the rows of some tokens.
#include "linear.cuh"

// Float32 logits [rows, out].
template <int tiles, int stages>
SIMT_KERNEL(LINEAR_THREADS, linear_blocks(tiles)) head_logits(const u16* __restrict__ x, const uint4* __restrict__ w, const u16* __restrict__ scale,
                                           float* __restrict__ logits, int rows, int out, int in) {
  linear<8, false, false, tiles, stages>({x, w, scale, nullptr, rows, out, in, 31}, [&](int row, int output, float sum) {
    store(logits + (size_t)row * out + output, sum);
  });
}

// y[token] = row ids[token] of the matrix, as halves [tokens, in]; a block for each token.
SIMT_KERNEL(256, 1) embed(const long long* __restrict__ ids, const u8* __restrict__ w, const u16* __restrict__ scale, u16* __restrict__ y, int in) {
  int id = (int)load(ids + blockIdx.x), row = id % 16;
  float factor = to_float(load(scale + id));
  for (int column = threadIdx.x * 2; column < in; column += blockDim.x * 2) {
    int lane = row % 8 * 4 + column % 8 / 2, word = column % 32 / 16 * 2 + column % 16 / 8;
    size_t at = ((size_t)(id / 16) * (in / 64) + column / 64) * 1024 + column % 64 / 32 * 512 + lane * 16 + word * 4 + row / 8 * 2;
    u32 codes = load((const u16*)(w + at));
    u32 first = to_half(((int)(codes & 255) - 128) * factor), second = to_half(((int)(codes >> 8) - 128) * factor);
    store((u32*)(y + (size_t)blockIdx.x * in + column), first | second << 16);
  }
}
