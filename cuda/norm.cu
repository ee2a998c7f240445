// LayerNorm with the residual before it, and what else is done with a layer's float32 sums: each kernel adds the
// shares of the columns (linear.cuh) in their order, so that the same numbers always give the same bits.
#include "simt.cuh"

constexpr int NORM_THREADS = 512;

struct Four { float at[4]; };

SIMT_FN Four load_halves(const u16* p) {
  uint2 pairs = load((const uint2*)p);
  return {{to_float((u16)pairs.x), to_float((u16)(pairs.x >> 16)), to_float((u16)pairs.y), to_float((u16)(pairs.y >> 16))}};
}

SIMT_FN void store_halves(u16* p, const Four& v) {
  store((uint2*)p, uint2{to_half(v.at[0]) | (u32)to_half(v.at[1]) << 16, to_half(v.at[2]) | (u32)to_half(v.at[3]) << 16});
}

// Four sums and their biases; `between` numbers lie between two shares.
SIMT_FN Four load_sums(const float* sums, int shares, size_t between, const u16* bias) {
  Four total = load_halves(bias);
  for (int share = 0; share < shares; share++) {
    uint4 bits = load((const uint4*)(sums + share * between));
    total.at[0] += as_float(bits.x);
    total.at[1] += as_float(bits.y);
    total.at[2] += as_float(bits.z);
    total.at[3] += as_float(bits.w);
  }
  return total;
}

// The sum over a block, the same in every thread; `warps` is shared memory for one float each.
SIMT_FN float block_sum(float value, float* warps) {
  value = warp_sum(value);
  sync_block();  // all have read the sum before
  if (threadIdx.x % WARP == 0) warps[threadIdx.x / WARP] = value;
  sync_block();
  float sum = 0;
  for (int warp = 0; warp < (int)blockDim.x / WARP; warp++) sum += warps[warp];
  return sum;
}

// out = LayerNorm(h): h is x, or alpha x + y, or alpha x + sums + bias, for rows of `width` (a multiple of 4).
// A block for each row; sums are [shares, rows, width]. Shared memory: width + NORM_THREADS / WARP floats.
SIMT_KERNEL(NORM_THREADS, 1) layer_norm(const u16* __restrict__ x, const u16* __restrict__ y, const float* __restrict__ sums, int shares,
                                        const u16* __restrict__ bias, const u16* __restrict__ weight, const u16* __restrict__ shift,
                                        u16* __restrict__ out, int width, float alpha, float epsilon) {
  SIMT_SHARED(memory);
  float *h = (float*)memory, *warps = h + width;
  size_t row = (size_t)blockIdx.x * width, between = (size_t)gridDim.x * width;
  float sum = 0, squares = 0;
  for (int i = threadIdx.x * 4; i < width; i += NORM_THREADS * 4) {
    Four v = load_halves(x + row + i);
    if (y || sums) {
      Four added = sums ? load_sums(sums + row + i, shares, between, bias + i) : load_halves(y + row + i);
      SIMT_UNROLL for (int j = 0; j < 4; j++) v.at[j] = fused(alpha, v.at[j], added.at[j]);
    }
    SIMT_UNROLL for (int j = 0; j < 4; j++) sum += h[i + j] = v.at[j];
  }
  float mean = block_sum(sum, warps) / width;
  for (int i = threadIdx.x * 4; i < width; i += NORM_THREADS * 4) SIMT_UNROLL for (int j = 0; j < 4; j++) {
    float distance = h[i + j] - mean;
    squares = fused(distance, distance, squares);
  }
  float factor = 1.0f / sqrtf(block_sum(squares, warps) / width + epsilon);
  for (int i = threadIdx.x * 4; i < width; i += NORM_THREADS * 4) {
    Four scaled = load_halves(weight + i), moved = load_halves(shift + i);
    SIMT_UNROLL for (int j = 0; j < 4; j++) scaled.at[j] = fused((h[i + j] - mean) * factor, scaled.at[j], moved.at[j]);
    store_halves(out + row + i, scaled);
  }
}

// out = sums + bias, or gelu of it, as halves [rows, width]; grid (width / 1024, rows).
template <bool with_gelu>
SIMT_KERNEL(256, 1) add_bias(const float* __restrict__ sums, int shares, const u16* __restrict__ bias, u16* __restrict__ out, int width) {
  int i = (blockIdx.x * 256 + threadIdx.x) * 4;
  if (i >= width) return;
  size_t at = (size_t)blockIdx.y * width + i;
  Four v = load_sums(sums + at, shares, (size_t)gridDim.y * width, bias + i);
  if constexpr (with_gelu) SIMT_UNROLL for (int j = 0; j < 4; j++) v.at[j] = gelu(v.at[j]);
  store_halves(out + at, v);
}
