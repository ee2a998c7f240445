// Matrices as halves, for prompts so long that cuBLAS is faster than reading INT4 for every 64 rows.
#include "linear.cuh"

constexpr int DEQUANT_WARPS = 8;
constexpr int TILE_STRIDE = 64 + 8;  // halves between rows of a tile in shared memory

// Halves of the rows of W from tile `first` on; a warp for each tile of 16 x 64, grid (in / 64 / DEQUANT_WARPS, tiles
// of 16 rows). The tile goes through shared memory, so that whole rows of it are written at once.
template <int bits, bool zeros>
SIMT_KERNEL(DEQUANT_WARPS * WARP, 1) dequantize(const uint4* __restrict__ w, const u16* __restrict__ scale, const u16* __restrict__ zero,
                                                u16* __restrict__ y, int out, int in, int group_shift, int first) {
  SIMT_SHARED(memory);
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, tile = blockIdx.x * DEQUANT_WARPS + warp;
  if (tile >= in / 64) return;
  uint4 words[bits / 4];
  u32 a[4][4];
  const uint4* from = w + ((size_t)(first + blockIdx.y) * (in / 64) + tile) * bits * 8 + lane;
  SIMT_UNROLL for (int i = 0; i < bits / 4; i++) words[i] = load_stream(from + i * WARP);
  operands<bits>(words, a);
  u16* rows = (u16*)memory + warp * 16 * TILE_STRIDE;
  SIMT_UNROLL for (int i = 0; i < 4; i++) SIMT_UNROLL for (int j = 0; j < 4; j++) {
    int row = lane / 4 + j % 2 * 8, column = i * 16 + j / 2 * 8 + lane % 4 * 2;
    size_t at = (size_t)((tile * 64 + column) >> group_shift) * out + (first + blockIdx.y) * 16 + row;
    float factor = to_float(load(scale + at)), less = zeros ? to_float(load(zero + at)) : 0;
    u32 first = to_half((to_float((u16)a[i][j]) - less) * factor), second = to_half((to_float((u16)(a[i][j] >> 16)) - less) * factor);
    *(u32*)(rows + row * TILE_STRIDE + column) = first | second << 16;
  }
  sync_warp();
  SIMT_UNROLL for (int i = lane; i < 16 * 8; i += WARP) {
    int row = i / 8, column = i % 8 * 8;
    store((uint4*)(y + (size_t)(blockIdx.y * 16 + row) * in + tile * 64 + column), *(uint4*)(rows + row * TILE_STRIDE + column));
  }
}
