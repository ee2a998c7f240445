// The host that plays a graphics card: what simt.cuh gives kernels, for g++ and tests.
//
// Each thread of a block is a fiber; blocks run one after another. A fiber runs until it must wait for its
// warp or its block. What would be a race on a card shows here as a wrong number under one of the orders in
// which fibers run: copy_async poisons its target and lands only at copy_wait, ldmatrix reads its row before
// the warp meets, dynamic shared memory begins as NaN. Every global access must lie inside a tensor that the
// launch was given. Loads, stores, copies and the instructions of simt.cuh are counted.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#define __global__
#define SIMT_KERNEL(threads, blocks) void
#define SIMT_FN inline
#define SIMT_UNROLL
#define SIMT_ROLLED
#define SIMT_SHARED(name) u8* name = simt::shared.data

struct alignas(16) uint4 { u32 x, y, z, w; };
struct alignas(8) uint2 { u32 x, y; };
struct Index { unsigned x, y, z; };

namespace simt {

struct Counts { u64 loaded, stored, copied, mma, ldmatrix, fma, half2, logic, special, shuffle, barrier, atomic; };
struct Range { const u8 *begin, *end; };
struct Copy { void* to; const void* from; };
enum State { RUNNING, AT_BLOCK, AT_WARP, DONE };

// -- fibers ------------------------------------------------------------------------------------------------

constexpr size_t STACK = 64 << 10;

#if defined(__x86_64__)
// Saves the registers that a call keeps, and goes on where `to` was left.
struct Context { void* stack_pointer; };
asm(R"(
.text
simt_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi)
  movq (%rsi), %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");
extern "C" void simt_switch(Context* from, Context* to) asm("simt_switch");
inline void enter(Context& context, char* stack, void (*entry)()) {
  auto top = (uintptr_t)(stack + STACK) & ~(uintptr_t)15;
  auto** frame = (void**)(top - 64);  // six registers, the entry, and what would be its return address
  std::fill(frame, frame + 8, nullptr);
  frame[6] = (void*)entry;
  context.stack_pointer = frame;
}
#else
struct Context { ucontext_t context; };
inline void simt_switch(Context* from, Context* to) { swapcontext(&from->context, &to->context); }
inline void enter(Context& context, char* stack, void (*entry)()) {
  getcontext(&context.context);
  context.context.uc_stack.ss_sp = stack;
  context.context.uc_stack.ss_size = STACK;
  makecontext(&context.context, entry, 0);
}
#endif

struct Fiber {
  Context context;
  std::unique_ptr<char[]> stack{new char[STACK]};
  unsigned thread = 0;
  State state = DONE;
  int parity = 0;
  std::vector<std::vector<Copy>> groups;
};
struct Exchange { u64 words[2][32][6]; };
struct Shared { std::unique_ptr<u8[]> memory; u8* data = nullptr; };

inline std::vector<Fiber> fibers;
inline std::vector<Exchange> exchanges;
inline Fiber* current;
inline Context scheduler;
inline Index block_index, block_size, grid_size;
inline Shared shared;
inline Counts counts;
inline std::vector<Range> ranges;
inline std::string failure;
inline void (*body)(void**);
inline void** arguments;

inline void wait_for(State why) {
  current->state = why;
  simt_switch(&current->context, &scheduler);
}

// A fiber that fails is never resumed, nor is any other.
inline void fail(const std::string& what) {
  if (failure.empty())
    failure = what + " (block " + std::to_string(block_index.x) + ", " + std::to_string(block_index.y) + ", " +
              std::to_string(block_index.z) + ", thread " + std::to_string(current ? current->thread : 0) + ")";
  if (current) simt_switch(&current->context, &scheduler);
}

inline void run_fiber() {
  body(arguments);
  for (auto& group : current->groups)
    if (!group.empty()) fail("copy_async that was never waited for");
  wait_for(DONE);
}

// -- one block ---------------------------------------------------------------------------------------------

inline void start_block() {
  for (size_t i = 0; i < fibers.size(); i++) {
    auto& fiber = fibers[i];
    fiber.thread = (unsigned)i;
    fiber.state = RUNNING;
    fiber.parity = 0;
    fiber.groups.assign(1, {});
    enter(fiber.context, fiber.stack.get(), run_fiber);
  }
}

// Lets a warp or the block go on once all have come; false where nobody can.
inline bool release() {
  size_t threads = fibers.size(), at_block = 0;
  bool moved = false;
  for (size_t first = 0; first < threads; first += 32) {
    size_t last = std::min(first + 32, threads), count[4] = {};
    for (size_t i = first; i < last; i++) count[fibers[i].state]++;
    at_block += count[AT_BLOCK];
    if (!count[AT_WARP]) continue;
    current = nullptr;
    if (count[AT_WARP] != last - first) { fail("lanes of a warp wait for others that never come"); return false; }
    for (size_t i = first; i < last; i++) fibers[i].state = RUNNING;
    moved = true;
  }
  if (at_block == threads) {
    for (auto& fiber : fibers) fiber.state = RUNNING;
    moved = true;
  }
  return moved;
}

inline void run_block(const std::vector<unsigned>& order) {
  start_block();
  while (failure.empty()) {
    for (unsigned i : order) {
      if (fibers[i].state != RUNNING) continue;
      current = &fibers[i];
      simt_switch(&scheduler, &current->context);
      if (!failure.empty()) return;
    }
    if (std::all_of(fibers.begin(), fibers.end(), [](auto& fiber) { return fiber.state == DONE; })) return;
    current = nullptr;
    if (!release()) fail("not every thread reaches the barrier of the block");
  }
}

// order: 0 runs threads from first to last, 1 from last to first, others shuffle them by that seed.
inline std::vector<unsigned> threads_in_order(unsigned threads, int order) {
  std::vector<unsigned> result(threads);
  for (unsigned i = 0; i < threads; i++) result[i] = order == 1 ? threads - 1 - i : i;
  if (order > 1) std::shuffle(result.begin(), result.end(), std::mt19937(order));
  return result;
}

inline void run_grid(unsigned threads, size_t shared_bytes, int order) {
  if (fibers.size() != threads) { fibers.clear(); fibers.resize(threads); }
  exchanges.resize((threads + 31) / 32);
  auto orders = threads_in_order(threads, order);
  for (unsigned z = 0; z < grid_size.z; z++)
    for (unsigned y = 0; y < grid_size.y; y++)
      for (unsigned x = 0; x < grid_size.x; x++) {
        if (!failure.empty()) return;
        std::memset(shared.data, 0xff, shared_bytes);
        block_index = {x, y, z};
        run_block(orders);
      }
}

// -- global memory -----------------------------------------------------------------------------------------

inline bool check(const void* p, size_t bytes, const char* what) {
  auto begin = (const u8*)p;
  for (auto& range : ranges)
    if (begin >= range.begin && begin + bytes <= range.end) {
      if ((uintptr_t)p % bytes) fail(std::string(what) + " at an address that is not a multiple of its size");
      return true;
    }
  fail(std::string(what) + " outside of all tensors");
  return false;
}

// Each lane shows up to six words, and once all lanes of its warp have, sees those of any other.
struct Gathered {
  Exchange* exchange;
  int parity;
  template <class T> T get(int lane, int index = 0) const {
    T value;
    std::memcpy(&value, &exchange->words[parity][lane][index], sizeof value);
    return value;
  }
};
template <class... T> Gathered gather(T... values) {
  auto& exchange = exchanges[current->thread / 32];
  int parity = current->parity ^= 1, lane = current->thread % 32, i = 0;
  ((std::memcpy(&exchange.words[parity][lane][i++], &values, sizeof values)), ...);
  wait_for(AT_WARP);
  return {&exchange, parity};
}
inline int lane() { return (int)(current->thread % 32); }

inline float low(u32 pair) { _Float16 half; std::memcpy(&half, &pair, 2); return half; }
inline float high(u32 pair) { return low(pair >> 16); }
inline u32 pair(_Float16 a, _Float16 b) { u16 x, y; std::memcpy(&x, &a, 2); std::memcpy(&y, &b, 2); return x | (u32)y << 16; }

// -- launching ---------------------------------------------------------------------------------------------

template <class A> constexpr bool is_argument = std::is_pointer_v<A> || std::is_same_v<A, int> || std::is_same_v<A, float>;
template <class... A> constexpr int arity(void (*)(A...)) {
  static_assert((is_argument<A> && ...), "kernels take pointers, int and float");
  return sizeof...(A);
}
template <class... A, size_t... i> void call(void (*kernel)(A...), void** values, std::index_sequence<i...>) {
  kernel(*(A*)values[i]...);
}
template <class... A> void call(void (*kernel)(A...), void** values) { call(kernel, values, std::index_sequence_for<A...>{}); }
template <auto kernel> void erased(void** values) { call(kernel, values); }
struct Kernel { const char* name; void (*body)(void**); int arguments; };
#define SIMT_ENTRY(...) simt::Kernel{#__VA_ARGS__, simt::erased<__VA_ARGS__>, simt::arity(__VA_ARGS__)}

struct Launch {
  const unsigned* grid;
  unsigned block;
  unsigned shared;
  void** arguments;
  int argument_count;
  const Range* ranges;
  int range_count;
  int order;
};

// Runs a kernel and adds to `total`; returns what went wrong, or an empty text.
inline const char* launch(const Kernel& kernel, const Launch& launch, Counts* total) {
  failure.clear();
  current = nullptr;
  if (kernel.arguments != launch.argument_count)
    return (failure = std::string(kernel.name) + " takes " + std::to_string(kernel.arguments) + " arguments").c_str();
  grid_size = {launch.grid[0], launch.grid[1], launch.grid[2]};
  block_size = {launch.block, 1, 1};
  body = kernel.body;
  arguments = launch.arguments;
  ranges.assign(launch.ranges, launch.ranges + launch.range_count);
  shared.memory.reset(new u8[launch.shared + 127]);
  shared.data = (u8*)(((uintptr_t)shared.memory.get() + 127) & ~(uintptr_t)127);
  counts = {};
  run_grid(launch.block, launch.shared, launch.order);
  for (size_t i = 0; i < sizeof counts / sizeof(u64); i++) ((u64*)total)[i] += ((u64*)&counts)[i];
  return failure.c_str();
}

}  // namespace simt

#define threadIdx (Index{simt::current->thread, 0, 0})
#define blockIdx simt::block_index
#define blockDim simt::block_size
#define gridDim simt::grid_size

template <class T> T load(const T* p) {
  simt::counts.loaded += sizeof(T);
  return simt::check(p, sizeof(T), "a load") ? *p : T{};
}
template <class T> void store(T* p, Same<T> value) {
  simt::counts.stored += sizeof(T);
  if (simt::check(p, sizeof(T), "a store")) *p = value;
}
inline uint4 load_stream(const uint4* p) { return load(p); }
inline void copy_async(void* to, const void* from) {
  simt::counts.copied += 16;
  simt::check(from, 16, "a copy");
  std::memset(to, 0xff, 16);
  simt::current->groups.back().push_back({to, from});
}
inline void copy_commit() { simt::current->groups.emplace_back(); }
template <int pending> void copy_wait() {
  auto& groups = simt::current->groups;  // the last one is still open
  while ((int)groups.size() - 1 > pending) {
    for (auto& copy : groups.front()) std::memcpy(copy.to, copy.from, 16);
    groups.erase(groups.begin());
  }
}

inline void sync_block() { simt::counts.barrier++; simt::wait_for(simt::AT_BLOCK); }
inline void sync_warp() { simt::counts.barrier++; simt::wait_for(simt::AT_WARP); }
template <class T> T shuffle_xor(T value, int mask) { simt::counts.shuffle++; return simt::gather(value).template get<T>(simt::lane() ^ mask); }
template <class T> T shuffle_up(T value, int delta) {
  simt::counts.shuffle++;
  int lane = simt::lane();
  return simt::gather(value).template get<T>(lane < delta ? lane : lane - delta);
}
template <class T> T shuffle(T value, int lane) { simt::counts.shuffle++; return simt::gather(value).template get<T>(lane % 32); }
inline u32 ballot(bool value) {
  simt::counts.shuffle++;
  auto gathered = simt::gather((u32)value);
  u32 bits = 0;
  for (int lane = 0; lane < 32; lane++) bits |= gathered.get<u32>(lane) << lane;
  return bits;
}
template <class T> void atomic_add(T* shared, Same<T> value) { simt::counts.atomic++; *shared += value; }

inline float fused(float a, float b, float c) { simt::counts.fma++; return std::fmaf(a, b, c); }
inline float exp2_fast(float x) { simt::counts.special++; return std::exp2(x); }
inline u32 as_bits(float f) { u32 bits; std::memcpy(&bits, &f, 4); return bits; }
inline float as_float(u32 bits) { float f; std::memcpy(&f, &bits, 4); return f; }
inline float to_float(u16 half) { simt::counts.special++; return simt::low(half); }
inline u16 to_half(float f) { simt::counts.special++; return (u16)simt::pair((_Float16)f, 0); }
inline int round_even(float f) { return (int)std::nearbyintf(f); }
inline u64 multiply_high(u64 a, u64 b) { return (u64)((unsigned __int128)a * b >> 64); }
inline int bits_set(u32 bits) { return __builtin_popcount(bits); }
inline u32 and_or(u32 a, u32 mask, u32 bits) { simt::counts.logic++; return (a & mask) | bits; }
inline u32 permute(u32 a, u32 b, u32 selector) {
  simt::counts.logic++;
  u64 bytes = a | (u64)b << 32;
  u32 result = 0;
  for (int i = 0; i < 4; i++) result |= (u32)(bytes >> (8 * (selector >> (4 * i) & 7)) & 255) << (8 * i);
  return result;
}
inline u32 half2_sub(u32 a, u32 b) { simt::counts.half2++; return simt::pair((_Float16)(simt::low(a) - simt::low(b)), (_Float16)(simt::high(a) - simt::high(b))); }
inline u32 half2_fma(u32 a, u32 b, u32 c) {
  using namespace simt;
  counts.half2++;
  return pair((_Float16)((double)low(a) * low(b) + low(c)), (_Float16)((double)high(a) * high(b) + high(c)));
}

inline void ldmatrix(u32 (&r)[4], const void* row) {
  simt::counts.ldmatrix++;
  u32 words[4];
  std::memcpy(words, row, 16);
  auto gathered = simt::gather(words[0], words[1], words[2], words[3]);
  int lane = simt::lane();
  for (int matrix = 0; matrix < 4; matrix++) r[matrix] = gathered.get<u32>(matrix * 8 + lane / 4, lane % 4);
}
inline void mma(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  using namespace simt;
  counts.mma++;
  auto gathered = gather(a[0], a[1], a[2], a[3], b[0], b[1]);
  int row = lane() / 4, pair = lane() % 4;
  for (int i = 0; i < 4; i++) {
    int column = pair * 2 + i % 2, lower = i / 2;
    float sum = 0;
    for (int k = 0; k < 16; k++) {
      int owner = k % 8 / 2, upper = k / 8;
      u32 x = gathered.get<u32>(row * 4 + owner, lower + 2 * upper), y = gathered.get<u32>(column * 4 + owner, 4 + upper);
      sum += k % 2 ? high(x) * high(y) : low(x) * low(y);
    }
    c[i] += sum;
  }
}
