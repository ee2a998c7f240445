#include "cpu.hpp"

#include <cstdint>

#include "compiler.hpp"

#if GLM_X86
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#elif GLM_ARM64 && defined(__linux__)
#include <sys/auxv.h>
#elif GLM_ARM64 && defined(_WIN32)
#include <windows.h>
#endif

namespace glm {

#if GLM_X86
namespace {

struct Leaf {
    uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Leaf cpuid(uint32_t leaf) {
    Leaf r;
#if defined(_MSC_VER)
    int top[4], v[4];
    __cpuid(top, 0);
    if (leaf > static_cast<uint32_t>(top[0])) return r;
    __cpuidex(v, static_cast<int>(leaf), 0);
    r.eax = v[0], r.ebx = v[1], r.ecx = v[2], r.edx = v[3];
#else
    __get_cpuid_count(leaf, 0, &r.eax, &r.ebx, &r.ecx, &r.edx);
#endif
    return r;
}

// The register states that the operating system saves (XCR0).
uint64_t saved_states() {
    constexpr uint32_t osxsave = 1u << 27;
    if ((cpuid(1).ecx & osxsave) == 0) return 0;
#if defined(_MSC_VER)
    return _xgetbv(0);
#else
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<uint64_t>(high) << 32) | low;
#endif
}

bool all(uint64_t value, uint64_t bits) { return (value & bits) == bits; }

constexpr uint32_t bit(int n) { return 1u << n; }

}  // namespace

bool has_avx2() {
    const uint32_t fma_avx_f16c = bit(12) | bit(28) | bit(29), avx2 = bit(5);
    return all(saved_states(), 0x6) && all(cpuid(1).ecx, fma_avx_f16c) && all(cpuid(7).ebx, avx2);
}

bool has_avx512() {
    const uint32_t f_dq_bw_vl = bit(16) | bit(17) | bit(30) | bit(31), vnni = bit(11);
    return has_avx2() && all(saved_states(), 0xE6) && all(cpuid(7).ebx, f_dq_bw_vl) && all(cpuid(7).ecx, vnni);
}

bool has_dotprod() { return false; }

#else

bool has_avx2() { return false; }
bool has_avx512() { return false; }

bool has_dotprod() {
#if GLM_ARM64 && defined(__APPLE__)
    return true;  // since the M1
#elif GLM_ARM64 && defined(__linux__)
    return (getauxval(AT_HWCAP) & (1ul << 20)) != 0;  // HWCAP_ASIMDDP
#elif GLM_ARM64 && defined(_WIN32)
    return IsProcessorFeaturePresent(43) != 0;  // PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE
#else
    return false;
#endif
}

#endif

}  // namespace glm
