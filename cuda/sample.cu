// The next token of each row of logits, as model/sampling.py draws it: repetition penalty, rule for broken logits,
// temperature, top-k, top-p, draw. Nothing is sorted, and the order in which threads run changes no bit.
//
// Weights of tokens are integers, 1 for top-k and probabilities times 2^40 for top-p and the draw, so that their
// sums are exact. A threshold is found by 8 bits at a time of integers in the order of what they stand for: the bin
// in which the sum from the largest down reaches what may stay holds the next bits.
//
// Each warp owns a piece of the ids and walks it in their order. Once its candidates are few it keeps them in shared
// memory and reads the row no more: with top-k, rows are read twice. What makes them few is that the k-th largest of
// all threads' own maxima is a lower bound for top-k, and for top-p that what is far below the likeliest mostly goes.
#include "simt.cuh"

constexpr int SAMPLE_THREADS = 1024;          // at most; a multiple of 32
constexpr int SAMPLE_WARPS = SAMPLE_THREADS / WARP;
constexpr int LIST = 116;                     // candidates that a warp can keep: at most 4 a lane
constexpr int BINS = 256;
constexpr int COPIES = 8;                     // of the bins, by lane: atomics on one address wait for each other
constexpr int COPY = BINS + 2;                // the same bin of another copy is in other banks
constexpr u32 LOWEST_KEY = 0x007fffffu;       // of a score: minus infinity
constexpr u32 LEAST_CHANCE = 0x2b800000u * 4; // 2^-40: what weighs less than 1 is never drawn
constexpr u32 RARE_CHANCE = 0x3a800000u * 4;  // 2^-10
constexpr u64 BROKEN = ~0ull;
constexpr float BLANK_SCORE = 5e4f;
constexpr float LARGEST_FLOAT = 3.4028235e38f;

// What the host says of a row (model/kernels/sample.py).
struct Parameters {
  float temperature;  // 0 or below: greedy
  int top_k;          // 0 or below: off
  float dropped;      // 1 - top_p; 0 or below: off
  float penalty;      // 1: off
  u64 drawn;          // 2^64 times a number from [0, 1)
  int active;         // 0: the row only pads a graph
  int slot;           // of `seen`; below 0: none
};

struct Candidate {
  int id;
  float score;
};

struct Memory {
  u64 histogram[COPIES * COPY];
  u64 bins[BINS];          // sums of the copies, in the order in which lanes read them
  u64 warps[SAMPLE_WARPS];
  Candidate lists[SAMPLE_WARPS][LIST];
  int found;
};
static_assert(sizeof(Memory) <= 48 << 10, "what a block has without asking, and SHARED of model/kernels/sample.py");

// What a thread knows of its row; ids, candidates and listed are those of its warp.
struct Row {
  const float* logits;
  const u32* seen;
  float penalty;         // 1: off
  int blank;             // the token that takes the place of broken logits; below 0: they are not broken
  int begin, end;        // ids
  Candidate* list;
  int listed;            // more than LIST: the row must be read
  u32 low;               // scores with a lesser key are no candidates
  u32 likely;            // nor are lesser chances; 0: they do not matter yet
  float top, scale;      // of chances
};

// -- numbers -----------------------------------------------------------------------------------------------

// An integer in the order of floats; zeros are the same.
SIMT_FN u32 key_of(float score) {
  u32 bits = as_bits(score + 0.0f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
SIMT_FN float score_of(u32 key) { return as_float(key >> 31 ? key & 0x7fffffffu : ~key); }

// Probability relative to the likeliest token's: the bits of a float up to 1, moved over the two that are always 0.
SIMT_FN u32 chance_of(const Row& row, float score) { return as_bits(exp2_fast((score - row.top) * row.scale)) << 2; }
// 2^40 chance, cut off.
SIMT_FN u64 weight_of(u32 chance) { return (u64)((chance & 0x1ffffffu) | 0x2000000u) << 15 >> least(127 - (int)(chance >> 25), 63); }

// 2^64 share for a share below 1 and, as float32 tells no more, up to half way to the next one.
SIMT_FN u64 fixed_point(float share) {
  u32 bits = as_bits(share);
  int shift = (int)(bits >> 23) - 87;
  u64 digits = 2 * ((bits & 0x7fffffu) | 0x800000u) + 1;
  return shift >= 0 ? digits << shift : digits >> least(-shift, 63);
}

// -- threads together --------------------------------------------------------------------------------------

SIMT_FN u64 warp_prefix(u64 value) {
  SIMT_UNROLL for (int delta = 1; delta < WARP; delta *= 2) {
    u64 lower = shuffle_up(value, delta);
    if ((int)threadIdx.x % WARP >= delta) value += lower;
  }
  return value;
}

// In lane i the sum of what the threads of warps 0 to i hold, so in the last lane that of the block.
SIMT_FN u64 sums_of_warps(Memory& memory, u64 value) {
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  SIMT_UNROLL for (int mask = WARP / 2; mask; mask /= 2) value += shuffle_xor(value, mask);
  sync_block();
  if (lane == 0) memory.warps[warp] = value;
  sync_block();
  return warp_prefix(lane < (int)blockDim.x / WARP ? memory.warps[lane] : 0);
}
SIMT_FN u64 block_sum(Memory& memory, u64 value) { return shuffle(sums_of_warps(memory, value), WARP - 1); }

SIMT_FN u64 warp_largest(u64 value) {
  SIMT_UNROLL for (int mask = WARP / 2; mask; mask /= 2) {
    u64 other = shuffle_xor(value, mask);
    value = other > value ? other : value;
  }
  return value;
}
SIMT_FN u64 block_largest(Memory& memory, u64 value) {
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  value = warp_largest(value);
  sync_block();
  if (lane == 0) memory.warps[warp] = value;
  sync_block();
  return warp_largest(lane < (int)blockDim.x / WARP ? memory.warps[lane] : 0);
}

// -- walking over candidates -------------------------------------------------------------------------------

// Four places of a lane; ids ascend from lane to lane.
struct Quad {
  int id[4];
  float score[4];
  u32 candidates;  // bits: which of them are there
};

SIMT_FN uint4 read(const Row& row, int first) {
  return first < row.end && row.listed > LIST ? load((const uint4*)(row.logits + first)) : uint4{0, 0, 0, 0};
}

SIMT_FN Quad from_row(const Row& row, int first, uint4 logits) {
  Quad quad = {{first, first + 1, first + 2, first + 3},
               {as_float(logits.x), as_float(logits.y), as_float(logits.z), as_float(logits.w)}, 0};
  u32 seen = row.penalty != 1 && first < row.end ? load(row.seen + first / 32) >> (first % 32) : 0;
  SIMT_UNROLL for (int i = 0; i < 4; i++) {
    float& score = quad.score[i];
    if (seen >> i & 1) score = score > 0 ? score / row.penalty : score * row.penalty;
    if (row.blank >= 0) score = quad.id[i] == row.blank ? BLANK_SCORE : 0;
    quad.candidates |= (u32)(quad.id[i] < row.end) << i;
  }
  return quad;
}

SIMT_FN Quad from_list(const Row& row) {
  Quad quad = {};
  SIMT_UNROLL for (int i = 0; i < 4; i++) {
    int place = threadIdx.x % WARP * 4 + i;
    if (place >= row.listed) break;
    quad.id[i] = row.list[place].id;
    quad.score[i] = row.list[place].score;
    quad.candidates |= 1u << i;
  }
  return quad;
}

// Adds a warp's candidates to its list, which has `listed`, as far as there is room; how many there are now.
SIMT_FN int append(Row& row, const Quad& quad, int listed) {
  if (!ballot(quad.candidates != 0)) return listed;
  u32 lower_lanes = (1u << threadIdx.x % WARP) - 1;
  int place = listed;
  SIMT_UNROLL for (int i = 0; i < 4; i++) {
    u32 lanes = ballot(quad.candidates >> i & 1);
    place += bits_set(lanes & lower_lanes);
    listed += bits_set(lanes);
  }
  SIMT_UNROLL for (int i = 0; i < 4; i++) if (quad.candidates >> i & 1) {
    if (place < LIST) row.list[place] = {quad.id[i], quad.score[i]};
    place++;
  }
  return listed;
}

// Calls visit(quad) for all candidates of the warp until it returns false; all lanes must return the same.
template <class Visit> SIMT_FN void walk(Row& row, Visit visit) {
  bool from_memory = row.listed <= LIST;
  int lane = threadIdx.x % WARP, found = 0, end = from_memory ? row.begin + 1 : row.end;  // a list is one step
  float low = score_of(row.low);  // keys without a float are below all: nothing is less than NaN
  uint4 ahead = read(row, row.begin + lane * 4);
  SIMT_ROLLED for (int first = row.begin; first < end; first += 4 * WARP) {
    Quad quad = from_memory ? from_list(row) : from_row(row, first + lane * 4, ahead);
    ahead = read(row, first + (lane + WARP) * 4);
    SIMT_UNROLL for (int i = 0; i < 4; i++)
      if (quad.score[i] < low || (row.likely && chance_of(row, quad.score[i]) < row.likely)) quad.candidates &= ~(1u << i);
    if (!visit(quad)) return;
    if (!from_memory && found <= LIST) found = append(row, quad, found);
  }
  sync_warp();
  if (!from_memory) row.listed = found;
}

// Calls visit(id, score) for each candidate.
template <class Visit> SIMT_FN void each(Row& row, Visit visit) {
  walk(row, [&](const Quad& quad) {
    SIMT_UNROLL for (int i = 0; i < 4; i++) if (quad.candidates >> i & 1) visit(quad.id[i], quad.score[i]);
    return true;
  });
}

// The largest score's key and, below it, the complement of the least id that has it; `own` is the thread's own.
SIMT_FN u64 largest(Row& row, Memory& memory, u64& own) {
  float best = score_of(LOWEST_KEY);
  u32 best_id = ~0u, size = 0;
  each(row, [&](int id, float score) {
    u32 magnitude = as_bits(score) & 0x7fffffffu;
    if (magnitude > size) size = magnitude;
    if (score > best) { best = score; best_id = (u32)id; }
  });
  own = (u64)key_of(best) << 32 | (u32)~best_id;
  return block_largest(memory, size < 0x7f800000u ? own : BROKEN);
}

// -- thresholds --------------------------------------------------------------------------------------------

struct Threshold {
  u32 key;
  u64 above;  // weight of all that is larger
};

// Appends the 8 bits of the bin in which the sum from the top reaches `wanted`; every warp finds the same.
SIMT_FN void append_digit(const Memory& memory, Threshold& threshold, int shift, u64 wanted) {
  int lane = threadIdx.x % WARP, digit = BINS - 1 - lane * (BINS / WARP);
  u64 own = 0;
  SIMT_UNROLL for (int i = 0; i < BINS / WARP; i++) own += memory.bins[i * WARP + lane];
  u64 upto = threshold.above + warp_prefix(own), above = upto - own;
  int holder = WARP - bits_set(ballot(upto >= wanted));
  SIMT_ROLLED for (int i = 0; lane == holder && above + memory.bins[i * WARP + lane] < wanted; i++, digit--)
    above += memory.bins[i * WARP + lane];
  threshold.key |= (u32)shuffle(digit, holder) << shift;
  threshold.above = shuffle(above, holder);
}

// Adds up the copies of the histogram, and leaves it empty.
SIMT_FN void sum_copies(Memory& memory) {
  SIMT_ROLLED for (int bin = threadIdx.x; bin < BINS; bin += blockDim.x) {
    u64 sum = 0;
    SIMT_UNROLL for (int copy = 0; copy < COPIES; copy++) {
      sum += memory.histogram[copy * COPY + bin];
      memory.histogram[copy * COPY + bin] = 0;
    }
    int rank = BINS - 1 - bin;
    memory.bins[rank % (BINS / WARP) * WARP + rank / (BINS / WARP)] = sum;
  }
}

// The largest key such that it and all larger ones weigh `wanted` or more. offer(add) calls add(key, weight) for
// all of them but those below `low`, which rises with each digit found.
template <class Offer> SIMT_FN Threshold find_threshold(Memory& memory, u64 wanted, u32& low, Offer offer) {
  Threshold threshold = {0, 0};
  u64* bins = memory.histogram + threadIdx.x % COPIES * COPY;
  SIMT_ROLLED for (int shift = 24; shift >= 0; shift -= 8) {
    offer([&](u32 key, u64 weight) {
      if ((key ^ threshold.key) >> shift >> 8 == 0) atomic_add(bins + (key >> shift & (BINS - 1)), weight);
    });
    sync_block();
    sum_copies(memory);
    sync_block();
    append_digit(memory, threshold, shift, wanted);
    if (threshold.key > low) low = threshold.key;
  }
  return threshold;
}

// Only the k largest scores stay candidates, and what equals the last of them.
SIMT_FN void keep_top_k(Row& row, Memory& memory, int k, u32 own_largest) {
  if (k <= (int)blockDim.x) find_threshold(memory, k, row.low, [&](auto add) { add(own_largest, 1); });
  find_threshold(memory, k, row.low, [&](auto add) {
    each(row, [&](int, float score) { add(key_of(score), 1); });
  });
}

// -- drawing -----------------------------------------------------------------------------------------------

// By one warp: leaves the id at which the sum of weights, by ascending ids, exceeds `target`.
template <class Weigh> SIMT_FN void scan(Row& row, Memory& memory, u64 target, Weigh weigh) {
  walk(row, [&](const Quad& quad) {
    auto weight = [&](int i) { return quad.candidates >> i & 1 ? weigh(quad.id[i], quad.score[i]) : 0; };
    u64 own = 0;
    SIMT_UNROLL for (int i = 0; i < 4; i++) own += weight(i);
    u64 upto = warp_prefix(own), sum = upto - own;
    if (sum <= target && target < upto) SIMT_UNROLL for (int i = 0; i < 4; i++) {
      u64 before = sum;
      sum += weight(i);  // once more: there are no registers to keep four
      if (before <= target && target < sum) memory.found = quad.id[i];
    }
    u64 total = shuffle(upto, WARP - 1);
    bool more = target >= total;
    target -= total;
    return more;
  });
}

// The id at which the sum of weights, by ascending ids, exceeds aim(sum of all).
template <class Weigh, class Aim> SIMT_FN int locate(Row& row, Memory& memory, Weigh weigh, Aim aim) {
  u64 own = 0;
  each(row, [&](int id, float score) { own += weigh(id, score); });
  u64 upto = sums_of_warps(memory, own), target = aim(shuffle(upto, WARP - 1));
  int holder = WARP - bits_set(ballot(upto > target));
  u64 before = holder ? shuffle(upto, holder - 1) : 0;
  if ((int)threadIdx.x / WARP == holder) scan(row, memory, target - before, weigh);
  sync_block();
  return memory.found;
}

// The least likely go while they weigh `dropped` of all or less, of equal ones the first, but never all: what is less
// likely than the last that stays is no candidate any more, and of what equals it the result is the weight that stays.
SIMT_FN u64 keep_top_p(Row& row, Memory& memory, float dropped) {
  u64 all = 0, rare = 0;
  row.likely = LEAST_CHANCE;
  each(row, [&](int, float score) {
    u32 chance = chance_of(row, score);
    all += weight_of(chance);
    if (chance < RARE_CHANCE) rare += weight_of(chance);
  });
  all = block_sum(memory, all);
  u64 cut = dropped < 1 ? multiply_high(all, fixed_point(dropped)) : all - 1, wanted = all - cut;
  if (block_sum(memory, rare) <= cut) row.likely = RARE_CHANCE;
  Threshold threshold = find_threshold(memory, wanted, row.likely, [&](auto add) {
    each(row, [&](int, float score) {
      u32 chance = chance_of(row, score);
      add(chance, weight_of(chance));
    });
  });
  return wanted - threshold.above;
}

// A token of the candidates. `stays`: what may stay of those that equal the last, by weight; 0: all of them. If it is not
// 0, the search first finds the first that stays; in a loop, for each search is much code that a card has to fetch.
SIMT_FN int draw(Row& row, Memory& memory, u64 stays, const u64* drawn) {
  int token = 0;
  SIMT_ROLLED for (int search = stays ? 0 : 1; search < 2; search++) {
    int first = token;
    auto weigh = [&](int id, float score) {
      u32 chance = chance_of(row, score);
      bool gone = chance == row.likely ? id < first : search == 0;
      return gone ? 0 : weight_of(chance);
    };
    token = locate(row, memory, weigh, [&](u64 all) { return search == 0 ? all - stays : multiply_high(all, load(drawn)); });
  }
  return token;
}

// The row's token, in all threads.
SIMT_FN int next_token(Row& row, Memory& memory, const Parameters* p, int limit, int fallback) {
  u64 own, best;
  SIMT_ROLLED while ((best = largest(row, memory, own)) == BROKEN) {
    row.blank = fallback;
    row.listed = LIST + 1;
  }
  float temperature = load(&p->temperature), dropped = load(&p->dropped);
  int top_k = load(&p->top_k);
  if (temperature <= 0) return (int)~(u32)best;
  row.top = score_of((u32)(best >> 32));
  row.scale = 1.4426950409f / temperature;
  if (row.scale > LARGEST_FLOAT) row.scale = LARGEST_FLOAT;
  if (top_k > 0 && top_k < limit) keep_top_k(row, memory, top_k, (u32)(own >> 32));
  u64 stays = dropped > 0 ? keep_top_p(row, memory, dropped) : 0;
  return draw(row, memory, stays, &p->drawn);
}

// A block for each row of logits, float32 [rows, vocabulary], of which ids from `limit` on are not drawn; vocabulary
// is a multiple of 4. seen: bits of tokens [slots, divide_up(vocabulary, 32)], each row's slot its own; the new token's
// is set. tokens: [rows], the complement where logits were broken. Shared memory: SHARED of model/kernels/sample.py.
SIMT_KERNEL(SAMPLE_THREADS, 1) sample(const float* __restrict__ logits, const Parameters* __restrict__ parameters,
                                      u32* __restrict__ seen, int* __restrict__ tokens, int vocabulary, int limit, int fallback) {
  SIMT_SHARED(shared);
  Memory& memory = *(Memory*)shared;
  const Parameters* p = parameters + blockIdx.x;
  bool active = load(&p->active);
  int slot = load(&p->slot), warp = threadIdx.x / WARP, token = 0;
  bool broken = false;
  u32* bits = active && slot >= 0 ? seen + (size_t)slot * divide_up(vocabulary, 32) : nullptr;
  if (active) {
    SIMT_ROLLED for (int i = threadIdx.x; i < COPIES * COPY; i += blockDim.x) memory.histogram[i] = 0;
    int piece = divide_up(limit, (int)blockDim.x / WARP * 8) * 8;  // whole sectors of memory
    int begin = least(warp * piece, limit), end = least(begin + piece, limit);
    float penalty = bits ? load(&p->penalty) : 1;
    Row row = {logits + (size_t)blockIdx.x * vocabulary, bits, penalty, -1, begin, end,
               memory.lists[warp], LIST + 1, LOWEST_KEY, 0, 0, 0};
    token = next_token(row, memory, p, limit, fallback);
    broken = row.blank >= 0;
  }
  if (threadIdx.x) return;
  store(tokens + blockIdx.x, broken ? ~token : token);
  if (bits) store(bits + token / 32, load(bits + token / 32) | 1u << (token % 32));
}
