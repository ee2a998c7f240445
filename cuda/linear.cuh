// x W^T for few rows of x, with W as the left operand of the matrix instruction: its 16 rows are 16 outputs and
// the 8 columns of the right operand 8 rows of x, so a batch is padded to 8 rows only.
//
// A block computes 64 outputs (4 warps of 16) for all rows of x; 2 warps share the columns. In each of its
// steps 128 columns of W and x come by copy_async, `stages - 1` of them ahead. W lies in memory in the order in
// which lanes want it (model/mma_tiles.py), so a warp reads 512 bytes in a row, and nothing is ever reordered.
// Integers become halves by about one instruction each; scales meet the float sums of a group.
// Columns are shared between gridDim.y blocks; who reads their float32 sums adds them in order (norm.cu, rope_kv.cu).
#pragma once
#include "simt.cuh"

constexpr int LINEAR_THREADS = 256;
constexpr int OUTPUTS = 64;         // of a block
constexpr int STEP = 128;           // columns
constexpr int X_STRIDE = STEP + 8;  // halves between rows of x in shared memory: ldmatrix meets no bank twice

// Blocks that a multiprocessor should hold at once: as many bytes are on their way as its share of the memory's
// bandwidth needs, and that bounds the registers.
constexpr int linear_blocks(int tiles, bool zeros = false) { return (tiles == 1 ? 4 : tiles == 2 ? 3 : 2) - zeros; }

// Shared memory of a stage, in units of 16 bytes.
template <int bits> constexpr int W_UNITS = OUTPUTS * STEP * bits / 8 / 16;
template <int tiles> constexpr int X_UNITS = tiles * 8 * X_STRIDE * 2 / 16;

struct Linear {
  const u16* x;      // [rows, in]
  const uint4* w;    // [out / 16, in / 64, 32 lanes] of 16 (INT4) or 2 x 16 bytes (INT8)
  const u16* scale;  // [groups, out]
  const u16* zero;   // the same, or null
  int rows, out, in;
  int group_shift;   // 2^group_shift columns share a scale; 31 where a whole row does
};

// Halves of the codes in a word less 8: exact, for 1024 + q is a half whose last bits are q.
SIMT_FN void int4_to_halves(u32 codes, u32 (&a)[4]) {
  SIMT_UNROLL for (int i = 0; i < 4; i += 2) {
    a[i] = half2_sub(and_or(codes, 0x000f000fu, 0x64006400u), 0x64086408u);                   // 1024 + q - 1032
    a[i + 1] = half2_fma(and_or(codes, 0x00f000f0u, 0x64006400u), 0x2c002c00u, 0xd480d480u);  // (1024 + 16 q) / 16 - 72
    codes >>= 8;
  }
}

// The same for 8 bits, less 128.
SIMT_FN void int8_to_halves(u32 first, u32 second, u32 (&a)[4]) {
  a[0] = half2_sub(permute(first, 0x64646464u, 0x4140u), 0x64806480u);
  a[1] = half2_sub(permute(first, 0x64646464u, 0x4342u), 0x64806480u);
  a[2] = half2_sub(permute(second, 0x64646464u, 0x4140u), 0x64806480u);
  a[3] = half2_sub(permute(second, 0x64646464u, 0x4342u), 0x64806480u);
}

// The 16 x 64 weights of a lane's warp as operands of four steps of 16 columns.
template <int bits> SIMT_FN void operands(const uint4 (&words)[bits / 4], u32 (&a)[4][4]) {
  if constexpr (bits == 4) {
    int4_to_halves(words[0].x, a[0]);
    int4_to_halves(words[0].y, a[1]);
    int4_to_halves(words[0].z, a[2]);
    int4_to_halves(words[0].w, a[3]);
  } else {
    SIMT_UNROLL for (int half = 0; half < 2; half++) {
      int8_to_halves(words[half].x, words[half].y, a[2 * half]);
      int8_to_halves(words[half].z, words[half].w, a[2 * half + 1]);
    }
  }
}

// Adds to `sums` what 16 outputs and 8 rows of x have in common in 64 columns. INT8 has one scale a row, which
// the end of the kernel applies. With zero-points a product by ones gives the sum of x that belongs to them.
template <int bits, bool narrow, bool zeros>
SIMT_FN void multiply(float (&sums)[4], const u32 (&a)[4][4], const u16* x, const float (&scale)[2][2], const float (&zero)[2][2]) {
  constexpr int parts = narrow ? 2 : 1;  // groups of 32 columns are two in a tile
  SIMT_UNROLL for (int part = 0; part < parts; part++) {
    float c[4] = {0, 0, 0, 0}, ones[4] = {0, 0, 0, 0};
    SIMT_UNROLL for (int half = part; half < part + 2 / parts; half++) {
      u32 b[4];
      ldmatrix(b, x + half * 32);
      SIMT_UNROLL for (int i = 0; i < 2; i++) {
        const u32 pair[2] = {b[2 * i], b[2 * i + 1]};
        if constexpr (bits == 8) mma(sums, a[2 * half + i], pair);
        else mma(c, a[2 * half + i], pair);
        if constexpr (zeros) {
          const u32 one[4] = {0x3c003c00u, 0x3c003c00u, 0x3c003c00u, 0x3c003c00u};
          mma(ones, one, pair);
        }
      }
    }
    if constexpr (bits == 4) SIMT_UNROLL for (int i = 0; i < 4; i++) {
      if constexpr (zeros) c[i] = fused(-zero[part][i / 2], ones[i], c[i]);
      sums[i] = fused(c[i], scale[part][i / 2], sums[i]);
    }
  }
}

// Calls finish(row, output, sum) once for every sum of this block's share of the columns, by one thread each.
template <int bits, bool narrow, bool zeros, int tiles, int stages, class Finish>
SIMT_FN void linear(const Linear& p, Finish finish) {
  SIMT_SHARED(memory);
  constexpr int stage_units = W_UNITS<bits> + X_UNITS<tiles>, warp_units = bits * 8, parts = narrow ? 2 : 1;
  int thread = threadIdx.x, lane = thread % WARP, warp = thread / WARP, warp_out = warp % 4, warp_in = warp / 4;
  int steps = p.in / STEP, share = divide_up(steps, gridDim.y);
  int begin = blockIdx.y * share, end = least(begin + share, steps);
  int tile = blockIdx.x * 4 + warp_out, last_tile = p.out / 16 - 1;
  bool inside = tile <= last_tile;  // the last block of a height that is no multiple of 64 has idle warps
  int n = (inside ? tile : last_tile) * 16 + lane / 4;
  const uint4* w = p.w + ((size_t)(inside ? tile : last_tile) * (p.in / 64) + warp_in) * warp_units + lane;

  auto issue = [&](int step) {
    if (step < end) {
      uint4* stage = (uint4*)memory + step % stages * stage_units;
      SIMT_UNROLL for (int i = 0; i < warp_units; i += WARP)
        copy_async(stage + warp * warp_units + lane + i, w + (size_t)step * 2 * warp_units + i);
      SIMT_ROLLED for (int i = thread; i < tiles * 8 * (STEP / 8); i += LINEAR_THREADS) {  // unrolled, it would cost registers
        int row = i / (STEP / 8), column = i % (STEP / 8) * 8;
        copy_async((u16*)(stage + W_UNITS<bits>) + row * X_STRIDE + column,
                   p.x + (size_t)least(row, p.rows - 1) * p.in + step * STEP + column);
      }
    }
    copy_commit();
  };

  float sums[tiles][4];
  SIMT_UNROLL for (int m = 0; m < tiles; m++) SIMT_UNROLL for (int i = 0; i < 4; i++) sums[m][i] = 0;
  SIMT_UNROLL for (int i = 0; i < stages - 1; i++) issue(begin + i);
  for (int step = begin; step < end; step++) {
    float scale[2][2], zero[2][2];
    if constexpr (bits == 4) SIMT_UNROLL for (int part = 0; part < parts; part++) SIMT_UNROLL for (int i = 0; i < 2; i++) {
      size_t at = (size_t)((step * STEP + warp_in * 64 + part * 32) >> p.group_shift) * p.out + n + i * 8;
      scale[part][i] = to_float(load(p.scale + at));
      if constexpr (zeros) zero[part][i] = to_float(load(p.zero + at));
    }
    copy_wait<stages - 2>();
    sync_block();
    issue(step + stages - 1);
    const uint4* stage = (const uint4*)memory + step % stages * stage_units;
    uint4 words[bits / 4];
    SIMT_UNROLL for (int i = 0; i < bits / 4; i++) words[i] = stage[warp * warp_units + i * WARP + lane];
    u32 a[4][4];
    operands<bits>(words, a);
    const u16* x = (const u16*)(stage + W_UNITS<bits>) + lane % 8 * X_STRIDE + warp_in * 64 + lane / 8 * 8;
    SIMT_UNROLL for (int m = 0; m < tiles; m++) multiply<bits, narrow, zeros>(sums[m], a, x + m * 8 * X_STRIDE, scale, zero);
  }

  copy_wait<0>();
  sync_block();
  float* second = (float*)memory + (warp_out * tiles * 4) * WARP + lane;  // sums of the warps with the other columns
  if (warp_in) SIMT_UNROLL for (int m = 0; m < tiles; m++) SIMT_UNROLL for (int i = 0; i < 4; i++) second[(m * 4 + i) * WARP] = sums[m][i];
  sync_block();
  if (warp_in || !inside) return;
  SIMT_UNROLL for (int m = 0; m < tiles; m++) SIMT_UNROLL for (int i = 0; i < 4; i++) {
    int row = m * 8 + lane % 4 * 2 + i % 2, output = n + i / 2 * 8;
    float sum = sums[m][i] + second[(m * 4 + i) * WARP];
    if constexpr (bits == 8) sum *= to_float(load(p.scale + output));
    if (row < p.rows) finish(row, output, sum);
  }
}
