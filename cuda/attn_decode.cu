// Attention of single tokens to the pages of their sequences, while answers are made; the largest reader beside
// the weights once there are many answers.
//
// A sequence is cut into parts of 256 tokens wherever it stands in a batch, so its bits do not hang on who else is
// in it. A block takes one part of one head; its 8 warps take chunks of it in turn, all of a chunk's keys and values
// on their way at once, each lane 16 bytes of a token. Pages are found through tables, so sequences that share a
// prefix share its pages. Integers become floats in registers and are never written anywhere.
#include "pages.cuh"

constexpr int WARPS = 8;
constexpr int PART = 256;           // tokens
constexpr int PARTIAL = HEAD + 2;   // floats of a part: sums, the largest score, the sum of weights
constexpr float NOTHING = -1e30f;   // a score that weighs 0

template <int storage> constexpr int LANES = HEAD_BYTES<storage> / 16;   // of a token
template <int storage> constexpr int DIMS = HEAD / LANES<storage>;       // of a lane
template <int storage> constexpr int TOKENS = WARP / LANES<storage>;     // of a load
template <int storage> constexpr int LOADS = storage == INT4 ? 2 : 4;    // of a chunk
template <int storage> constexpr int CHUNK = TOKENS<storage> * LOADS<storage>;

// 16 bytes of a lane as floats: numbers, or codes that a scale (and a zero) belongs to.
template <int storage> SIMT_FN void unpack(const uint4& bytes, float (&f)[DIMS<storage>]) {
  const u32 words[4] = {bytes.x, bytes.y, bytes.z, bytes.w};
  SIMT_UNROLL for (int i = 0; i < 4; i++) {
    u32 word = words[i];
    if constexpr (storage == HALF) {
      f[2 * i] = to_float((u16)word);
      f[2 * i + 1] = to_float((u16)(word >> 16));
    } else if constexpr (storage == INT8) {
      word ^= 0x80808080u;  // code + 128
      SIMT_UNROLL for (int j = 0; j < 2; j++) {
        u32 pair = half2_sub(permute(word, 0x64646464u, j ? 0x4342u : 0x4140u), 0x64806480u);
        f[4 * i + 2 * j] = to_float((u16)pair);
        f[4 * i + 2 * j + 1] = to_float((u16)(pair >> 16));
      }
    } else {
      SIMT_UNROLL for (int j = 0; j < 4; j++) {
        u32 pair = half2_sub(and_or(word >> (4 * j), 0x000f000fu, 0x64006400u), 0x64006400u);
        f[8 * i + j] = to_float((u16)pair);
        f[8 * i + j + 4] = to_float((u16)(pair >> 16));
      }
    }
  }
}

// What a lane knows of its part so far: its dimensions' sums of the tokens it saw.
template <int storage> struct Partial {
  float query[DIMS<storage>], query_sum, sums[DIMS<storage>], zeros, largest, weights;
};

// Goes on with a chunk that begins at `token` (of `seen`) in a page.
template <int storage>
SIMT_FN void attend(Partial<storage>& p, const uint4* keys, const uint4* values, const u16* scales, const u16* zeros, int heads, int token, int seen, int lane) {
  constexpr int loads = LOADS<storage>, lanes = LANES<storage>;
  uint4 k[loads], v[loads];
  SIMT_UNROLL for (int i = 0; i < loads; i++) {
    k[i] = load_stream(keys + i * WARP);
    v[i] = load_stream(values + i * WARP);
  }
  float score[loads], f[DIMS<storage>], largest = p.largest;
  SIMT_UNROLL for (int i = 0; i < loads; i++) {
    int place = token % PAGE + i * TOKENS<storage> + lane / lanes;
    unpack<storage>(k[i], f);
    float dot = 0;
    SIMT_UNROLL for (int d = 0; d < DIMS<storage>; d++) dot = fused(f[d], p.query[d], dot);
    if constexpr (storage != HALF) dot *= to_float(load(scales + place));
    if constexpr (storage == INT4) dot = fused(to_float(load(zeros + place)), p.query_sum, dot);
    SIMT_UNROLL for (int mask = 1; mask < lanes; mask *= 2) dot += shuffle_xor(dot, mask);
    score[i] = token - token % PAGE + place < seen ? dot : NOTHING;
    largest = score[i] > largest ? score[i] : largest;
  }
  SIMT_UNROLL for (int mask = lanes; mask < WARP; mask *= 2) {
    float other = shuffle_xor(largest, mask);
    largest = other > largest ? other : largest;
  }
  float before = exp2_fast(p.largest - largest);
  p.largest = largest;
  p.weights *= before;
  p.zeros *= before;
  SIMT_UNROLL for (int d = 0; d < DIMS<storage>; d++) p.sums[d] *= before;
  SIMT_UNROLL for (int i = 0; i < loads; i++) {
    if (score[i] == NOTHING) continue;  // what lies there may be anything
    int place = token % PAGE + i * TOKENS<storage> + lane / lanes;
    float weight = exp2_fast(score[i] - largest), scaled = weight;
    p.weights += weight;
    if constexpr (storage != HALF) scaled *= to_float(load(scales + heads * PAGE + place));
    if constexpr (storage == INT4) p.zeros = fused(weight, to_float(load(zeros + heads * PAGE + place)), p.zeros);
    unpack<storage>(v[i], f);
    SIMT_UNROLL for (int d = 0; d < DIMS<storage>; d++) p.sums[d] = fused(scaled, f[d], p.sums[d]);
  }
}

// Adds up the lanes that have the same dimensions, and leaves a warp's part in shared memory.
template <int storage> SIMT_FN void leave(Partial<storage>& p, float* part, int lane) {
  SIMT_UNROLL for (int mask = LANES<storage>; mask < WARP; mask *= 2) {
    p.weights += shuffle_xor(p.weights, mask);
    p.zeros += shuffle_xor(p.zeros, mask);
    SIMT_UNROLL for (int d = 0; d < DIMS<storage>; d++) p.sums[d] += shuffle_xor(p.sums[d], mask);
  }
  if (lane < LANES<storage>) SIMT_UNROLL for (int d = 0; d < DIMS<storage>; d++) part[lane * DIMS<storage> + d] = p.sums[d] + p.zeros;
  if (lane == 0) {
    part[HEAD] = p.largest;
    part[HEAD + 1] = p.weights;
  }
}

// Of `count` parts the sum of one dimension (HEAD + 1: of the weights), all as seen from the largest score of all.
template <class Read> SIMT_FN float merged(int count, float largest, int dimension, Read read) {
  float sum = 0;
  for (int i = 0; i < count; i++) sum = fused(exp2_fast(read(i, HEAD) - largest), read(i, dimension), sum);
  return sum;
}

template <class Read> SIMT_FN float largest_of(int count, Read read) {
  float largest = NOTHING;
  for (int i = 0; i < count; i++) {
    float score = read(i, HEAD);
    largest = score > largest ? score : largest;
  }
  return largest;
}

// rows: int32 [rows, 2], where in `tables` the pages of its sequence begin and how many tokens it sees; 0 for a row
// that is none. scale: 1 / sqrt(128) * log2(e). grid (heads, rows, parts); with one part `out` is halves
// [rows, heads, 128], else `partials` float32 [rows, heads, parts, 130] are for attn_combine.
// Shared memory: WARPS * PARTIAL floats.
template <int storage>
SIMT_KERNEL(WARPS * WARP, 2) attn_decode(const u16* __restrict__ query, const u8* __restrict__ pages, const u16* __restrict__ scales,
                                         const u16* __restrict__ zeros, const int* __restrict__ tables, const int* __restrict__ rows,
                                         float* __restrict__ partials, u16* __restrict__ out, float scale) {
  SIMT_SHARED(memory);
  int head = blockIdx.x, row = blockIdx.y, part = blockIdx.z, heads = gridDim.x, parts = gridDim.z;
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  int begin = load(rows + 2 * row), seen = load(rows + 2 * row + 1), last = least(seen, (part + 1) * PART);
  size_t at = (size_t)row * heads + head;
  if (part * PART >= seen) {
    if (seen == 0 && parts == 1 && threadIdx.x < HEAD) store(out + at * HEAD + threadIdx.x, 0);
    return;
  }
  Partial<storage> p;
  p.query_sum = p.zeros = p.weights = 0;
  p.largest = NOTHING;
  SIMT_UNROLL for (int d = 0; d < DIMS<storage>; d++) {
    p.query[d] = to_float(load(query + at * HEAD + lane % LANES<storage> * DIMS<storage> + d)) * scale;
    p.query_sum += p.query[d];
    p.sums[d] = 0;
  }
  for (int token = part * PART + warp * CHUNK<storage>; token < last; token += WARPS * CHUNK<storage>) {
    size_t page = (size_t)load(tables + begin + token / PAGE), index = head_index(page, 0, heads, head, 0);
    const uint4* keys = (const uint4*)(pages + (index + token % PAGE) * HEAD_BYTES<storage>) + lane;
    attend<storage>(p, keys, keys + heads * PAGE * LANES<storage>, scales + index, zeros + index, heads, token, seen, lane);
  }
  float* warps = (float*)memory;
  leave<storage>(p, warps + warp * PARTIAL, lane);
  sync_block();
  if (threadIdx.x >= HEAD) return;
  auto read = [&](int i, int dimension) { return warps[i * PARTIAL + dimension]; };
  int dimension = threadIdx.x;
  float largest = largest_of(WARPS, read), sum = merged(WARPS, largest, dimension, read), weights = merged(WARPS, largest, HEAD + 1, read);
  if (parts == 1) {
    store(out + at * HEAD + dimension, to_half(sum / weights));
    return;
  }
  float* partial = partials + (at * parts + part) * PARTIAL;
  store(partial + dimension, sum);
  if (dimension == 0) {
    store(partial + HEAD, largest);
    store(partial + HEAD + 1, weights);
  }
}

// The parts of a row and head as one; grid (heads, rows), a thread for each dimension.
SIMT_KERNEL(HEAD, 1) attn_combine(const float* __restrict__ partials, const int* __restrict__ rows, u16* __restrict__ out, int parts) {
  size_t at = (size_t)blockIdx.y * gridDim.x + blockIdx.x;
  int count = divide_up(load(rows + 2 * blockIdx.y + 1), PART);
  auto read = [&](int i, int dimension) { return load(partials + (at * parts + i) * PARTIAL + dimension); };
  float largest = largest_of(count, read), weights = merged(count, largest, HEAD + 1, read);
  float sum = merged(count, largest, threadIdx.x, read);
  store(out + at * HEAD + threadIdx.x, count ? to_half(sum / weights) : (u16)0);
}
