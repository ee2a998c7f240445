// One kernel source, two machines: a graphics card (NVRTC, no headers needed) and, for tests, the host (g++).
//
// Kernels touch global memory by load, load_stream, store and copy_async only, keep what a block shares in
// dynamic shared memory, and write every fused multiply-add as `fused`: so the host can poison, bound and count
// what they do, and computes the same bits but for exp2, tanh and the order inside an mma. Halves travel as
// 16-bit integers. On the host blocks run one after another: kernels must not wait for other blocks.
#pragma once

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;

template <class T> struct Identity { using type = T; };
template <class T> using Same = typename Identity<T>::type;  // takes what another argument says

#if !defined(__CUDACC__)
#include "simt_host.hpp"
#else

#define SIMT_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define SIMT_FN __device__ __forceinline__
#define SIMT_UNROLL _Pragma("unroll")
#define SIMT_ROLLED _Pragma("unroll 1")
#define SIMT_SHARED(name) extern __shared__ __align__(128) u8 name[]

// -- memory ------------------------------------------------------------------------------------------------

template <class T> SIMT_FN T load(const T* p) { return *p; }
template <class T> SIMT_FN void store(T* p, Same<T> value) { *p = value; }

// Read once and never again: past the first cache.
SIMT_FN uint4 load_stream(const uint4* p) {
  uint4 r;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3},[%4];" : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w) : "l"(p));
  return r;
}

SIMT_FN u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// 16 bytes from global to shared memory; they are there after copy_wait of their group by this very thread.
// Before sm_80 there is no such copy: the bytes go through registers.
#if __CUDA_ARCH__ >= 800
SIMT_FN void copy_async(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0],[%1],16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
SIMT_FN void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int pending> SIMT_FN void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory"); }
#else
SIMT_FN void copy_async(void* to, const void* from) { *(uint4*)to = *(const uint4*)from; }
SIMT_FN void copy_commit() {}
template <int pending> SIMT_FN void copy_wait() {}
#endif

// -- threads -----------------------------------------------------------------------------------------------

SIMT_FN void sync_block() { __syncthreads(); }
SIMT_FN void sync_warp() { __syncwarp(); }
template <class T> SIMT_FN T shuffle_xor(T value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
template <class T> SIMT_FN T shuffle_up(T value, int delta) { return __shfl_up_sync(0xffffffffu, value, delta); }
template <class T> SIMT_FN T shuffle(T value, int lane) { return __shfl_sync(0xffffffffu, value, lane); }
SIMT_FN u32 ballot(bool value) { return __ballot_sync(0xffffffffu, value); }
template <class T> SIMT_FN void atomic_add(T* shared, Same<T> value) { atomicAdd(shared, value); }

// -- numbers -----------------------------------------------------------------------------------------------

SIMT_FN float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
SIMT_FN float exp2_fast(float x) { float y; asm("ex2.approx.ftz.f32 %0,%1;" : "=f"(y) : "f"(x)); return y; }
SIMT_FN float to_float(u16 half) { float f; asm("cvt.f32.f16 %0,%1;" : "=f"(f) : "h"(half)); return f; }
SIMT_FN u16 to_half(float f) { u16 h; asm("cvt.rn.f16.f32 %0,%1;" : "=h"(h) : "f"(f)); return h; }
SIMT_FN u32 as_bits(float f) { return __float_as_uint(f); }
SIMT_FN float as_float(u32 bits) { return __uint_as_float(bits); }
SIMT_FN int round_even(float f) { return __float2int_rn(f); }
SIMT_FN u64 multiply_high(u64 a, u64 b) { return __umul64hi(a, b); }
SIMT_FN int bits_set(u32 bits) { return __popc(bits); }
SIMT_FN u32 and_or(u32 a, u32 mask, u32 bits) { u32 r; asm("lop3.b32 %0,%1,%2,%3,0xEA;" : "=r"(r) : "r"(a), "r"(mask), "r"(bits)); return r; }
SIMT_FN u32 permute(u32 a, u32 b, u32 selector) { u32 r; asm("prmt.b32 %0,%1,%2,%3;" : "=r"(r) : "r"(a), "r"(b), "r"(selector)); return r; }
SIMT_FN u32 half2_sub(u32 a, u32 b) { u32 r; asm("sub.f16x2 %0,%1,%2;" : "=r"(r) : "r"(a), "r"(b)); return r; }
SIMT_FN u32 half2_fma(u32 a, u32 b, u32 c) { u32 r; asm("fma.rn.f16x2 %0,%1,%2,%3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); return r; }

// -- matrices ----------------------------------------------------------------------------------------------

// Four 8 x 8 matrices of halves: lane 8i + r names row r of matrix i, 16 bytes in shared memory.
SIMT_FN void ldmatrix(u32 (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

// c[16 x 8] += a[16 x 16] b[16 x 8] for a warp, halves in, floats out. With g = lane / 4 and t = lane % 4:
// a[0] is row g, columns 2t and 2t + 1; a[1] row g + 8; a[2], a[3] the same at columns + 8;
// b[0] is rows 2t and 2t + 1 of column g, b[1] those + 8; c[0], c[1] row g, columns 2t, 2t + 1; c[2], c[3] row g + 8.
SIMT_FN void mma(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5},{%6},{%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(b[0]));
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5},{%6},{%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[2]), "r"(a[3]), "r"(b[1]));
#endif
}

#endif

// -- on both -----------------------------------------------------------------------------------------------

constexpr int WARP = 32;

SIMT_FN float warp_sum(float value) {
  SIMT_UNROLL for (int mask = WARP / 2; mask; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}

SIMT_FN float warp_max(float value) {
  SIMT_UNROLL for (int mask = WARP / 2; mask; mask /= 2) {
    float other = shuffle_xor(value, mask);
    value = other > value ? other : value;
  }
  return value;
}

// tanh form of GELU, as the published model has it; exp2 overflows to a quotient of 0.
SIMT_FN float gelu(float x) {
  float inner = 0.7978845608f * x * fused(0.044715f * x, x, 1.0f);
  return x - x / (1.0f + exp2_fast(2.0f * 1.4426950409f * inner));
}

SIMT_FN int divide_up(int a, int b) { return (a + b - 1) / b; }
SIMT_FN int least(int a, int b) { return a < b ? a : b; }
