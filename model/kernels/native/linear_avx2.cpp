// AVX2 with FMA and F16C: products of unsigned and signed bytes summed in pairs into int16.
#include "compiler.hpp"
#include "cpu.hpp"
#include "half.hpp"
#include "kernels.hpp"

#if !GLM_X86

const glm::Kernels* glm::avx2_kernels() { return nullptr; }

#else

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#define GLM_TARGET GLM_TARGET_AVX2

namespace glm {
namespace {
namespace avx2 {

#include "lanes_avx2.inl"

#include "rows.inl"

#include "exact.inl"

constexpr int BLOCK_ROWS = 4, BLOCK_VECTORS = 1, SCORE_ROWS = 4, MIX_SUMS = 4;

#include "attention.inl"

#include "context.inl"

#include "rope.inl"

using Bytes = __m256i;
using Sums = __m256i;
constexpr int PARTS = 2;

GLM_TARGET GLM_INLINE Bytes part(const uint8_t* line, int number) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(line) + number);
}

GLM_TARGET GLM_INLINE void keep_part(uint8_t* line, int number, Bytes a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(line) + number, a);
}

GLM_TARGET GLM_INLINE Bytes four(const int8_t* p) {
    int32_t word;
    std::memcpy(&word, p, sizeof word);
    return _mm256_set1_epi32(word);
}

GLM_TARGET GLM_INLINE Bytes as_bytes(Sums a) { return a; }

template <int BITS>
struct Products;

// Codes of 0..15 times -127..127: eight pairs of them are 30480 at most, which an int16 holds.
template <>
struct Products<4> {
    static constexpr bool SIGNED = false;
    GLM_TARGET static GLM_INLINE Bytes see(Bytes line, bool upper) {
        return _mm256_and_si256(upper ? _mm256_srli_epi16(line, 4) : line, _mm256_set1_epi8(15));
    }
    GLM_TARGET static GLM_INLINE Sums nothing() { return _mm256_setzero_si256(); }
    GLM_TARGET static GLM_INLINE Sums add(Sums sum, Bytes w, Bytes x) {
        const __m256i pairs = _mm256_maddubs_epi16(w, x);
#if defined(__GNUC__) && !defined(__clang__)  // which would add up in another order, for which registers are too few
        __asm__("vpaddw %1, %0, %0" : "+x"(sum) : "x"(pairs));
        return sum;
#else
        return _mm256_add_epi16(sum, pairs);
#endif
    }
    GLM_TARGET static GLM_INLINE __m256i finish(__m256i total, Sums sum) {
        return _mm256_add_epi32(total, _mm256_madd_epi16(sum, _mm256_set1_epi16(1)));
    }
};

// The sign goes to the other factor: a pair of 0..128 times -127..127 is 32512 at most.
template <>
struct Products<8> {
    static constexpr bool SIGNED = true;
    GLM_TARGET static GLM_INLINE Bytes see(Bytes line, bool) { return line; }
    GLM_TARGET static GLM_INLINE Sums nothing() { return _mm256_setzero_si256(); }
    GLM_TARGET static GLM_INLINE Sums add(Sums sum, Bytes w, Bytes x) {
        const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
        return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    GLM_TARGET static GLM_INLINE __m256i finish(__m256i total, Sums sum) { return _mm256_add_epi32(total, sum); }
};

#include "narrow.inl"

GLM_TARGET uint64_t read(const void* p, int64_t bytes) {
    const auto* lines = static_cast<const __m256i*>(p);
    __m256i sum[4];
    for (auto& s : sum) s = _mm256_setzero_si256();
    for (int64_t i = 0; i + 4 <= bytes / 32; i += 4)
        for (int c = 0; c < 4; c++) sum[c] = _mm256_add_epi64(sum[c], _mm256_loadu_si256(lines + i + c));
    uint64_t words[4], total = 0;
    for (const auto& s : sum) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(words), s);
        for (const uint64_t word : words) total += word;
    }
    return total;
}

}  // namespace avx2
}  // namespace

const Kernels* avx2_kernels() {
    using namespace avx2;
    static const Kernels set = {"avx2", quantize,   multiply, decode, exact, norm,
                                finish, dot_rounds, DOT_MACS, read,   {attend, merge, context, rotate, keep}};
    return has_avx2() ? &set : nullptr;
}

}  // namespace glm

#endif
