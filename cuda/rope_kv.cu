// Splits queries, keys and values of new tokens, rotates the first two and writes the last two into pages.
// A warp for each token and head. In the published model a head's query, key and value stand side by side.
#include "pages.cuh"

struct Rows {
  const u16* qkv;     // halves [rows, heads * 3 * 128]; or null, and then
  const float* sums;  // float32 [shares, rows, heads * 3 * 128], to which
  const u16* bias;    // this belongs
  int shares, rows, heads;
};

// A lane has the pairs `lane` and `lane + 32` of the 64 that are rotated. An axis has 64 / axes of them, and a
// pair's second number stands that far behind the first one.
struct Pairs {
  int first[2], second[2];
};

SIMT_FN Pairs pairs_of(int lane, int axes) {
  Pairs pairs;
  int distance = HEAD / 2 / axes;
  SIMT_UNROLL for (int i = 0; i < 2; i++) {
    int pair = lane + i * WARP;
    pairs.first[i] = pair / distance * 2 * distance + pair % distance;
    pairs.second[i] = pairs.first[i] + distance;
  }
  return pairs;
}

SIMT_FN float number(const Rows& p, int row, int column) {
  int width = p.heads * 3 * HEAD;
  size_t at = (size_t)row * width + column;
  if (p.qkv) return to_float(load(p.qkv + at));
  float sum = to_float(load(p.bias + column));
  for (int share = 0; share < p.shares; share++) sum += load(p.sums + (size_t)share * p.rows * width + at);
  return sum;
}

// Four numbers of a lane, in the order first[0], second[0], first[1], second[1], as halves.
struct Halves {
  u16 at[4];
};

SIMT_FN void store_head(u16* head, const Pairs& pairs, const Halves& v) {
  SIMT_UNROLL for (int i = 0; i < 2; i++) {
    store(head + pairs.first[i], v.at[2 * i]);
    store(head + pairs.second[i], v.at[2 * i + 1]);
  }
}

SIMT_FN float reciprocal(u16 half) {
  float value = to_float(half);
  return value == 0 ? 0 : 1 / value;
}

// Keys or values of a head as the pages store them; `index` is that of head_index.
template <int storage> SIMT_FN void keep(u8* pages, u16* scales, u16* zeros, size_t index, int lane, const Pairs& pairs, const Halves& v) {
  u8* head = pages + index * HEAD_BYTES<storage>;
  if constexpr (storage == HALF) {
    store_head((u16*)head, pairs, v);
    return;
  }
  float low = 1e30f, high = -1e30f;
  SIMT_UNROLL for (int i = 0; i < 4; i++) {
    float x = to_float(v.at[i]);
    low = x < low ? x : low;
    high = x > high ? x : high;
  }
  low = -warp_max(-low);
  high = warp_max(high);
  if constexpr (storage == INT8) {
    u16 scale = to_half((high > -low ? high : -low) / 127);
    float factor = reciprocal(scale);
    SIMT_UNROLL for (int i = 0; i < 4; i++) {
      int code = round_even(to_float(v.at[i]) * factor);
      code = code > 127 ? 127 : code < -127 ? -127 : code;
      store(head + (i % 2 ? pairs.second[i / 2] : pairs.first[i / 2]), (u8)code);
    }
    if (lane == 0) store(scales + index, scale);
  } else {
    u16 scale = to_half((high - low) / 15), zero = to_half(low);
    float factor = reciprocal(scale);
    SIMT_UNROLL for (int i = 0; i < 4; i++) {
      int code = round_even((to_float(v.at[i]) - to_float(zero)) * factor), place = i % 2 ? pairs.second[i / 2] : pairs.first[i / 2];
      code = code > 15 ? 15 : code < 0 ? 0 : code;
      int neighbour = shuffle_xor(code, 1);  // its place is the next one, for distances are even
      if (lane % 2 == 0) store(head + place / 2, (u8)(code | neighbour << 4));
    }
    if (lane == 0) {
      store(scales + index, scale);
      store(zeros + index, zero);
    }
  }
}

// cos, sin: float32 [rows, axes, 64 / axes]. slots: 16 * page + place in it; below 0: a row that is none. query [rows, heads, 128]; key and value the
// same or null. grid (rows, heads / 4), 4 warps.
template <int storage>
SIMT_KERNEL(128, 1) rope_kv(const u16* __restrict__ qkv, const float* __restrict__ sums, int shares, const u16* __restrict__ bias,
                            const float* __restrict__ cos, const float* __restrict__ sin, int axes,
                            const long long* __restrict__ slots, u8* __restrict__ pages, u16* __restrict__ scales, u16* __restrict__ zeros,
                            u16* __restrict__ query, u16* __restrict__ key, u16* __restrict__ value, int heads) {
  int row = blockIdx.x, lane = threadIdx.x % WARP, head = blockIdx.y * 4 + threadIdx.x / WARP;
  long long slot = load(slots + row);
  if (head >= heads || slot < 0) return;
  Rows rows{qkv, sums, bias, shares, (int)gridDim.x, heads};
  Pairs pairs = pairs_of(lane, axes);
  Halves parts[3];
  SIMT_UNROLL for (int i = 0; i < 2; i++) {
    size_t pair = (size_t)row * (HEAD / 2) + lane + i * WARP;
    float c = load(cos + pair), s = load(sin + pair);
    SIMT_UNROLL for (int part = 0; part < 3; part++) {
      int column = (head * 3 + part) * HEAD;
      float u = number(rows, row, column + pairs.first[i]), w = number(rows, row, column + pairs.second[i]);
      parts[part].at[2 * i] = to_half(part < 2 ? u * c - w * s : u);
      parts[part].at[2 * i + 1] = to_half(part < 2 ? w * c + u * s : w);
    }
  }
  size_t out = ((size_t)row * heads + head) * HEAD;
  store_head(query + out, pairs, parts[0]);
  if (key) store_head(key + out, pairs, parts[1]);
  if (value) store_head(value + out, pairs, parts[2]);
  SIMT_UNROLL for (int which = 0; which < 2; which++)
    keep<storage>(pages, scales, zeros, head_index((size_t)(slot / PAGE), which, heads, head, (int)(slot % PAGE)), lane, pairs, parts[1 + which]);
}
