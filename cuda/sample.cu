// The next token of each row of logits, with the meaning of model/sampling.py: repetition penalty, rule for broken
// logits, temperature, top-k, top-p, draw. Nothing is sorted.
//
// A threshold is found digit by digit: numbers fall into 256 bins by 8 bits of an integer that has their order, and
// the bin in which a sum passes its target is looked into by the next 8 bits. The weight of a token is 1 for top-k
// and for top-p its probability as an integer, so sums are exact in whatever order threads add them, and the same
// seed gives the same token. The k largest of the threads' own largest scores bound the k-th largest of all: what
// reaches it is copied into shared memory, mostly a few hundred tokens, and the row is not read again.
#include "simt.cuh"

constexpr int SAMPLE_THREADS = 1024;
constexpr int SAMPLE_WARPS = SAMPLE_THREADS / WARP;
constexpr int LIST = 2048;        // tokens that may be copied
constexpr int BINS = 256;
constexpr int COPIES = 4;         // of the bins: lanes of a warp meet less often
constexpr float ONE = 1099511627776.0f;  // 2^40: the weight of the likeliest token
constexpr float BLANK_SCORE = 5e4f;

// What the host says of a row.
struct Parameters {
  float temperature;  // 0 or below: the largest, of equal ones the first
  int top_k;          // 0: off
  float top_p;        // 1 or above: off
  float penalty;      // 1: off
  u32 drawn_low, drawn_high;  // a number in [0, 1) times 2^64
  int active;         // 0: a row that is none
  int slot;           // of `seen`; below 0: none
};

struct Memory {
  u64 bins[COPIES][BINS];
  u64 warps[SAMPLE_WARPS];
  float scores[LIST];
  int ids[LIST];
  u64 below;
  int digit, token;
};
static_assert(sizeof(Memory) == 24848, "what the host gives it");

// An integer with the order of finite floats; never 0 for them.
SIMT_FN u32 key_of(float x) {
  u32 bits = as_bits(x);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

SIMT_FN float score_of(u32 key) { return as_float(key >> 31 ? key & 0x7fffffffu : ~key); }

// -- where scores come from --------------------------------------------------------------------------------

struct Row {
  const float* logits;
  const u32* seen;  // a bit for each token; or null
  float penalty;
  int count, fallback;
  bool broken;

  SIMT_FN float score(int i, float logit) const {
    if (broken) return i == fallback ? BLANK_SCORE : 0;
    if (seen && load(seen + i / 32) >> (i % 32) & 1) return logit > 0 ? logit / penalty : logit * penalty;
    return logit;
  }
  SIMT_FN void read(int i, float (&scores)[4]) const {
    uint4 four = load((const uint4*)(logits + i));
    scores[0] = score(i, as_float(four.x));
    scores[1] = score(i + 1, as_float(four.y));
    scores[2] = score(i + 2, as_float(four.z));
    scores[3] = score(i + 3, as_float(four.w));
  }
  SIMT_FN int id(int i) const { return i; }
};

struct List {
  const Memory* memory;
  int count;

  SIMT_FN void read(int i, float (&scores)[4]) const {
    SIMT_UNROLL for (int j = 0; j < 4; j++) scores[j] = memory->scores[i + j];
  }
  SIMT_FN int id(int i) const { return memory->ids[i]; }
};

// use(i, score) for four neighbours at a time from `begin`, a multiple of four, to `end`, `stride` apart.
template <class Items, class Use> SIMT_FN void visit(const Items& items, int begin, int end, int stride, Use use) {
  SIMT_ROLLED for (int i = begin; i < end; i += stride) {
    float scores[4];
    items.read(i, scores);
    SIMT_UNROLL for (int j = 0; j < 4; j++) if (i + j < end) use(i + j, scores[j]);
  }
}

// A thread's own run of neighbours.
struct Run { int begin, end; };
SIMT_FN Run run_of(int count) {
  int share = divide_up(divide_up(count, 4), SAMPLE_THREADS) * 4;
  return {least(threadIdx.x * share, count), least((threadIdx.x + 1) * share, count)};
}

// -- sums over a block -------------------------------------------------------------------------------------

SIMT_FN u64 warp_prefix(u64 value) {  // of this lane and those before it
  int lane = threadIdx.x % WARP;
  SIMT_UNROLL for (int delta = 1; delta < WARP; delta *= 2) {
    u64 other = shuffle_up(value, delta);
    if (lane >= delta) value += other;
  }
  return value;
}

// The sum of all threads before this one, and of all.
SIMT_FN u64 block_prefix(u64 value, Memory& memory, u64& total) {
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  u64 upto = warp_prefix(value);
  sync_block();
  if (lane == WARP - 1) memory.warps[warp] = upto;
  sync_block();
  u64 before = 0;
  total = 0;
  SIMT_ROLLED for (int i = 0; i < SAMPLE_WARPS; i++) {
    if (i == warp) before = total;
    total += memory.warps[i];
  }
  return before + upto - value;
}

// The largest score of a block and, of those that have it, the first token.
SIMT_FN void block_largest(float& score, int& id, Memory& memory) {
  SIMT_UNROLL for (int mask = WARP / 2; mask; mask /= 2) {
    float other = shuffle_xor(score, mask);
    int other_id = shuffle_xor(id, mask);
    if (other > score || (other == score && other_id < id)) score = other, id = other_id;
  }
  sync_block();
  if (threadIdx.x % WARP == 0) memory.warps[threadIdx.x / WARP] = (u64)key_of(score) << 32 | (u32)~id;
  sync_block();
  u64 best = 0;
  SIMT_ROLLED for (int i = 0; i < SAMPLE_WARPS; i++) best = memory.warps[i] > best ? memory.warps[i] : best;
  score = score_of((u32)(best >> 32));
  id = (int)~(u32)best;
}

// -- thresholds --------------------------------------------------------------------------------------------

struct Threshold {
  u32 key;
  u64 below;  // the weight of all that is less
};

// By one warp: the first bin whose sum with all before it exceeds `target`, given what lies before the first.
SIMT_FN void find_bin(Memory& memory, u64 target) {
  int lane = threadIdx.x % WARP;
  u64 mine = 0, below = memory.below;
  SIMT_UNROLL for (int i = 0; i < BINS / WARP; i++) mine += memory.bins[0][lane * (BINS / WARP) + i];
  u64 upto = below + warp_prefix(mine);
  int owner = lowest_bit(ballot(upto > target));
  below = shuffle(upto - mine, owner);
  int digit = owner * (BINS / WARP);
  while (below + memory.bins[0][digit] <= target) below += memory.bins[0][digit++];
  sync_warp();
  if (lane == 0) memory.digit = digit, memory.below = below;
}

// The least key whose weight with all less exceeds target(weight of all), which is less than that.
template <class Items, class Weight, class Target>
SIMT_FN Threshold threshold(const Items& items, Memory& memory, Weight weight, Target target) {
  Threshold result{0, 0};
  u64 wanted = 0;
  SIMT_ROLLED for (int shift = 24; shift >= 0; shift -= 8) {
    sync_block();
    SIMT_ROLLED for (int i = threadIdx.x; i < COPIES * BINS; i += SAMPLE_THREADS) memory.bins[i / BINS][i % BINS] = 0;
    if (threadIdx.x == 0) memory.below = result.below;
    sync_block();
    u64* bins = memory.bins[threadIdx.x % COPIES];
    visit(items, threadIdx.x * 4, items.count, SAMPLE_THREADS * 4, [&](int, float score) {
      u32 key = key_of(score);
      if (shift < 24 && key >> (shift + 8) != result.key >> (shift + 8)) return;
      u64 added = weight(score);
      if (added) atomic_add(bins + (key >> shift & (BINS - 1)), added);
    });
    sync_block();
    if (threadIdx.x < BINS) for (int copy = 1; copy < COPIES; copy++) memory.bins[0][threadIdx.x] += memory.bins[copy][threadIdx.x];
    if (shift == 24) {
      sync_block();
      u64 total;
      block_prefix(threadIdx.x < BINS ? memory.bins[0][threadIdx.x] : 0, memory, total);
      wanted = target(total);
    }
    sync_block();
    if (threadIdx.x < WARP) find_bin(memory, wanted);
    sync_block();
    result.key |= (u32)memory.digit << shift;
    result.below = memory.below;
  }
  return result;
}

// -- drawing -----------------------------------------------------------------------------------------------

struct Draw {
  float largest, temperature, top_p;
  u64 drawn;

  SIMT_FN u64 weight(float score) const { return (u64)(exp2_fast((score - largest) / temperature * 1.4426950409f) * ONE + 0.5f); }
};

// The token at which the weights of those that stay pass their share of all, by ascending ids; left in memory.
// Stay: what is above the threshold, and of what is at it all but the first `dropped`.
template <class Items> SIMT_FN void draw_from(const Items& items, Memory& memory, const Draw& draw, u32 bound, u64 dropped) {
  Run run = run_of(items.count);
  u64 ties = 0, tie_weight = 0, weight = 0, total;
  visit(items, run.begin, run.end, 4, [&](int, float score) {
    u32 key = key_of(score);
    if (key > bound) weight += draw.weight(score);
    if (key == bound) ties++, tie_weight = draw.weight(score);
  });
  u64 before = block_prefix(ties, memory, total);
  u64 gone = before >= dropped ? 0 : dropped - before < ties ? dropped - before : ties;  // of this thread's own
  weight += (ties - gone) * tie_weight;
  u64 passed = block_prefix(weight, memory, total), wanted = multiply_high(draw.drawn, total);
  if (wanted < passed || wanted >= passed + weight) return;
  bool found = false;
  visit(items, run.begin, run.end, 4, [&](int i, float score) {
    u32 key = key_of(score);
    if (key < bound || found) return;
    if (key == bound && gone) {
      gone--;
      return;
    }
    passed += draw.weight(score);
    if (passed > wanted) memory.token = items.id(i), found = true;
  });
}

// top-p among what reaches `bound`, and the draw.
template <class Items> SIMT_FN void finish(const Items& items, Memory& memory, const Draw& draw, u32 bound) {
  u64 dropped = 0;
  if (draw.top_p < 1) {
    u64 gone = 0;
    auto weight = [&](float score) { return key_of(score) >= bound ? draw.weight(score) : 0; };
    Threshold found = threshold(items, memory, weight, [&](u64 total) {
      gone = (u64)((1.0 - (double)draw.top_p) * (double)total);
      return gone = gone < total ? gone : total - 1;  // one stays always
    });
    bound = found.key;
    dropped = (gone - found.below) / draw.weight(score_of(bound));
  }
  draw_from(items, memory, draw, bound, dropped);
}

// Copies what reaches `bound` into the list, in order; how many there are, which may be more than fit. A warp
// reads 128 neighbours at a time of a run of its own.
SIMT_FN int copy_to_list(const Row& row, Memory& memory, u32 bound) {
  int lane = threadIdx.x % WARP, share = divide_up(divide_up(row.count, 4 * WARP), SAMPLE_WARPS) * 4 * WARP;
  int begin = least(threadIdx.x / WARP * share, row.count), end = least(begin + share, row.count);
  u64 mine = 0, total;
  visit(row, begin + lane * 4, end, 4 * WARP, [&](int, float score) { mine += key_of(score) >= bound; });
  u64 before = block_prefix(mine, memory, total);
  if (total > LIST) return (int)total;
  int at = (int)shuffle(before, 0);
  if (ballot(mine > 0)) SIMT_ROLLED for (int i = begin + lane * 4; i - lane * 4 < end; i += 4 * WARP) {
    float scores[4] = {0, 0, 0, 0};
    if (i < end) row.read(i, scores);
    u32 reach = 0;
    SIMT_UNROLL for (int j = 0; j < 4; j++) reach |= (u32)(i + j < end && key_of(scores[j]) >= bound) << j;
    if (!ballot(reach > 0)) continue;
    u64 own = bits_set(reach), upto = warp_prefix(own);
    int to = at + (int)(upto - own);
    SIMT_UNROLL for (int j = 0; j < 4; j++) if (reach >> j & 1) {
      memory.scores[to] = scores[j];
      memory.ids[to++] = i + j;
    }
    at += (int)shuffle(upto, WARP - 1);
  }
  sync_block();
  return (int)total;
}

SIMT_FN void draw_top_k(const Row& row, Memory& memory, const Draw& draw, int top_k, float own_largest) {
  auto one = [](float) { return (u64)1; };
  u32 bound = 0;
  if (top_k <= SAMPLE_THREADS) {
    memory.scores[threadIdx.x] = own_largest;
    sync_block();
    List largest{&memory, SAMPLE_THREADS};
    bound = threshold(largest, memory, one, [&](u64 total) { return total - top_k; }).key;
  }
  auto kth = [&](u64 total) { return total - top_k; };
  int count = copy_to_list(row, memory, bound);
  if (count <= LIST) {
    List list{&memory, count};
    finish(list, memory, draw, threshold(list, memory, one, kth).key);
  } else {
    finish(row, memory, draw, threshold(row, memory, one, kth).key);
  }
}

// logits: float32 [rows, vocabulary], of which the first `limit` tokens may be drawn; seen: bits [slots,
// divide_up(vocabulary, 32)], to which the drawn token is added; tokens: [rows]. A block for each row.
// Shared memory: Memory.
SIMT_KERNEL(SAMPLE_THREADS, 1) sample(const float* __restrict__ logits, const u32* __restrict__ parameters, u32* __restrict__ seen,
                                      int* __restrict__ tokens, int vocabulary, int limit, int fallback) {
  SIMT_SHARED(shared);
  Memory& memory = *(Memory*)shared;
  const u32* words = parameters + blockIdx.x * 8;
  Parameters p{as_float(load(words)), (int)load(words + 1), as_float(load(words + 2)), as_float(load(words + 3)),
               load(words + 4), load(words + 5), (int)load(words + 6), (int)load(words + 7)};
  if (!p.active) {
    if (threadIdx.x == 0) store(tokens + blockIdx.x, 0);
    return;
  }
  u32* bits = p.slot < 0 ? nullptr : seen + (size_t)p.slot * divide_up(vocabulary, 32);
  Row row{logits + (size_t)blockIdx.x * vocabulary, p.penalty == 1 ? nullptr : bits, p.penalty, limit, fallback, false};
  float largest = as_float(0xff800000u), size = 0;
  int id = 0x7fffffff;
  visit(row, threadIdx.x * 4, limit, SAMPLE_THREADS * 4, [&](int i, float score) {
    size = fused(score, 0, size);  // NaN from then on, unless all are finite
    if (score > largest) largest = score, id = i;
  });
  u64 broken;
  block_prefix(size != size, memory, broken);
  row.broken = broken > 0;
  if (row.broken) {
    bool owner = (int)threadIdx.x == fallback / 4 % SAMPLE_THREADS;
    largest = owner ? BLANK_SCORE : 0;
    id = owner ? fallback : 0x7fffffff;
  }
  float own_largest = largest;
  block_largest(largest, id, memory);
  if (threadIdx.x == 0) memory.token = id;
  if (p.temperature > 0) {
    sync_block();
    Draw draw{largest, p.temperature, p.top_p, (u64)p.drawn_high << 32 | p.drawn_low};
    if (p.top_k > 0 && p.top_k < limit) draw_top_k(row, memory, draw, p.top_k, own_largest);
    else finish(row, memory, draw, 0);
  }
  sync_block();
  if (threadIdx.x) return;
  store(tokens + blockIdx.x, memory.token);
  if (bits) store(bits + memory.token / 32, load(bits + memory.token / 32) | 1u << (memory.token % 32));
}
