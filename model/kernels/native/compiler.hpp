// What differs between compilers: target attributes of single functions, inlining, pause.
//
// One library holds every instruction set of its architecture. A function for more than the baseline carries
// the attribute GLM_TARGET_..., so no file needs flags of its own; MSVC takes intrinsics without asking.
// Everything is compiled with -ffp-contract=off: a fused multiply-add is written as one, so that results are
// the same bits on every instruction set.
#pragma once

#if defined(__x86_64__) || defined(_M_X64)
#define GLM_X86 1
#else
#define GLM_X86 0
#endif

#if defined(__aarch64__) || defined(_M_ARM64)
#define GLM_ARM64 1
#else
#define GLM_ARM64 0
#endif

#if defined(__GNUC__) || defined(__clang__)
#define GLM_INLINE inline __attribute__((always_inline))
#define GLM_TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")))
#define GLM_TARGET_AVX2 __attribute__((target("avx2,fma,f16c")))
#if defined(__clang__)
#define GLM_TARGET_DOTPROD __attribute__((target("dotprod")))
#else
#define GLM_TARGET_DOTPROD __attribute__((target("arch=armv8.2-a+dotprod")))
#endif
#if defined(__clang__)
#define GLM_UNROLL _Pragma("clang loop unroll(full)")
#else
#define GLM_UNROLL _Pragma("GCC unroll 16")
#endif
#else  // MSVC
#define GLM_UNROLL
#define GLM_INLINE __forceinline
#define GLM_TARGET_AVX512
#define GLM_TARGET_AVX2
#define GLM_TARGET_DOTPROD
#endif

#if GLM_X86
#include <immintrin.h>
#elif GLM_ARM64
#include <arm_neon.h>
#if defined(_MSC_VER)
#include <intrin.h>
#endif
#endif

namespace glm {

// Tells the core that this is a spinning loop.
inline void pause() {
#if GLM_X86
    _mm_pause();
#elif GLM_ARM64 && defined(_MSC_VER)
    __yield();
#elif GLM_ARM64
    __asm__ volatile("yield");
#endif
}

// Ask for the cache line at an address that is read soon, and for one that is read later (into the second cache).
inline void prefetch(const void* p) {
#if GLM_X86
    _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
#elif defined(__GNUC__) || defined(__clang__)
    __builtin_prefetch(p, 0, 3);
#elif GLM_ARM64
    __prefetch(p);
#endif
}

inline void prefetch_later(const void* p) {
#if GLM_X86
    _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1);
#elif defined(__GNUC__) || defined(__clang__)
    __builtin_prefetch(p, 0, 2);
#elif GLM_ARM64
    __prefetch2(p, 2);
#endif
}

}  // namespace glm
