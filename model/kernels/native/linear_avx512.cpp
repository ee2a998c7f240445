// AVX-512 with VNNI: four products of unsigned and signed bytes summed into each of 16 int32.
#include "compiler.hpp"
#include "cpu.hpp"
#include "half.hpp"
#include "kernels.hpp"

#if !GLM_X86

const glm::Kernels* glm::avx512_kernels() { return nullptr; }

#else

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#define GLM_TARGET GLM_TARGET_AVX512

namespace glm {
namespace {
namespace avx512 {

#include "lanes_avx512.inl"

#include "rows.inl"

#include "exact.inl"

constexpr int BLOCK_ROWS = 8, BLOCK_VECTORS = 2, SCORE_ROWS = 16, MIX_SUMS = 8;

#include "attention.inl"

#include "context.inl"

#include "rope.inl"

// Bytes that a stream of weights is fetched ahead, so that it leaves the rows of x in the caches; its scales, a
// sixteenth.
constexpr int AHEAD = 3072;

GLM_TARGET inline __m512i line(const uint8_t* p, int number) { return _mm512_loadu_si512(p + 64 * number); }

GLM_TARGET inline __m512i four(const int8_t* p) {
    int32_t word;
    std::memcpy(&word, p, sizeof word);
    return _mm512_set1_epi32(word);
}

// sum + products of unsigned w and signed x. As an intrinsic its type is not that of a sum in a loop, and GCC
// keeps each sum in two registers, one for either.
GLM_TARGET GLM_INLINE __m512i dot(__m512i sum, __m512i w, __m512i x) {
#if defined(__GNUC__) && !defined(__clang__)
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
    return sum;
#else
    return _mm512_dpbusd_epi32(sum, w, x);
#endif
}

// The same with the four bytes at x for all lanes.
GLM_TARGET GLM_INLINE __m512i dot_four(__m512i sum, __m512i w, const int8_t* x) {
#if defined(__GNUC__) && !defined(__clang__)
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(w), "m"(*reinterpret_cast<const int8_t(*)[4]>(x)));
    return sum;
#else
    return _mm512_dpbusd_epi32(sum, w, four(x));
#endif
}

GLM_TARGET inline __m512i low(__m512i line) { return _mm512_and_si512(line, _mm512_set1_epi8(15)); }

GLM_TARGET inline __m512i high(__m512i line) { return low(_mm512_srli_epi16(line, 4)); }

GLM_TARGET inline __m512i unsigned_bytes(__m512i line) { return _mm512_xor_si512(line, _mm512_set1_epi8(-128)); }

GLM_TARGET inline __m512 zero_at(const glm_matrix& w, int64_t at) {
    return _mm512_mul_ps(load_halves(w.zero + at).v, _mm512_set1_ps(w.bits == 4 ? 1.0f / 8 : 1.0f / 128));
}

// The float step at the end of a block, for one row of x.
template <bool ZERO>
GLM_TARGET inline __m512 accumulate(__m512i total, __m512 scale, __m512 zero, int32_t start, float x_scale, __m512 acc) {
    __m512 value = _mm512_cvtepi32_ps(total);
    if (ZERO) value = _mm512_fmadd_ps(zero, _mm512_set1_ps(static_cast<float>(start)), value);
    return _mm512_fmadd_ps(_mm512_mul_ps(value, scale), _mm512_set1_ps(x_scale), acc);
}

// -- linear ------------------------------------------------------------------------------------

// Up to here rows have sums of their own for high nibbles, which stay where they are: a shift less for each line,
// and an instruction that adds to a sum waits less for the one before.
constexpr int FEW = 4;

template <int BITS, int BLOCK, int ROWS>
GLM_TARGET inline void multiply_block(const uint8_t* p, const Quantized& x, __m512i (&total)[ROWS]) {
    constexpr bool APART = ROWS <= FEW;
    constexpr int LINES = BLOCK * BITS / 32, AT_ONCE = APART ? LINES : 1;
    constexpr int HALF = 4 * ROWS * LINES;  // from the columns of low nibbles to those of high ones
    __m512i other[APART ? ROWS : 1];
    GLM_UNROLL
    for (int r = 0; r < ROWS; r++) total[r] = _mm512_set1_epi32(x.start[r]);
    GLM_UNROLL
    for (auto& sum : other) sum = _mm512_setzero_si512();
    const int8_t* codes = x.codes;
    for (int begin = 0; begin < LINES; begin += AT_ONCE, codes += 4 * ROWS * AT_ONCE) {
        GLM_UNROLL
        for (int k = 0; k < AT_ONCE; k++) {
            const uint8_t* at = p + 64 * (begin + k);
            _mm_prefetch(reinterpret_cast<const char*>(at) + AHEAD, _MM_HINT_NTA);
            if (BITS == 8) {
                const __m512i w = unsigned_bytes(line(at, 0));
                GLM_UNROLL
                for (int r = 0; r < ROWS; r++) {
                    __m512i& sum = APART && k % 2 ? other[APART ? r : 0] : total[r];
                    sum = dot_four(sum, w, codes + 4 * (k * ROWS + r));
                }
                continue;
            }
            const __m512i w = line(at, 0), w0 = low(w), w1 = APART ? _mm512_and_si512(w, _mm512_set1_epi8(-16)) : high(w);
            GLM_UNROLL
            for (int r = 0; r < ROWS; r++) {
                __m512i& sum = APART ? other[APART ? r : 0] : total[r];
                total[r] = dot_four(total[r], w0, codes + 4 * (k * ROWS + r));
                sum = dot_four(sum, w1, codes + HALF + 4 * (k * ROWS + r));
            }
        }
    }
    if (!APART) return;
    GLM_UNROLL
    for (int r = 0; r < ROWS; r++) {
        __m512i& sum = other[APART ? r : 0];
        total[r] = _mm512_add_epi32(total[r], BITS == 4 ? _mm512_srai_epi32(sum, 4) : sum);
    }
}

template <int BITS, int BLOCK, int ROWS, bool ZERO>
GLM_TARGET void multiply_rows(const glm_matrix& w, int64_t tile, int begin, int end, const Quantized& from_begin, float* sums) {
    constexpr int BYTES = BLOCK * TILE * BITS / 8;
    const auto* p = static_cast<const uint8_t*>(w.packed) + (tile * w.blocks + begin) * BYTES;
    int64_t group = (tile * w.groups + begin / w.group_blocks) * TILE;
    int left = 0, next = w.group_blocks - begin % w.group_blocks;
    Quantized x = from_begin;
    __m512 acc[ROWS], scale = _mm512_setzero_ps(), zero = scale;
    GLM_UNROLL
    for (int r = 0; r < ROWS; r++) acc[r] = load(sums + r * TILE).v;
    for (int b = begin; b < end; b++, left--, p += BYTES, x = x.from(1, BLOCK, ROWS)) {
        if (left == 0) {
            scale = load_halves(w.scale + group).v;
            if (ZERO) zero = zero_at(w, group);
            _mm_prefetch(reinterpret_cast<const char*>(w.scale + group) + AHEAD / 16, _MM_HINT_T0);
            group += TILE;
            left = next;
            next = w.group_blocks;
        }
        __m512i total[ROWS];
        multiply_block<BITS, BLOCK, ROWS>(p, x, total);
        GLM_UNROLL
        for (int r = 0; r < ROWS; r++) acc[r] = accumulate<ZERO>(total[r], scale, zero, x.start[r], x.scale[r], acc[r]);
    }
    GLM_UNROLL
    for (int r = 0; r < ROWS; r++) store(sums + r * TILE, {acc[r]});
}

template <int BITS, int BLOCK, bool ZERO>
GLM_TARGET void multiply_of(const glm_matrix& w, int64_t tile, int begin, int end, const Quantized& x, int rows, float* sums) {
    switch (rows) {
        case 1: return multiply_rows<BITS, BLOCK, 1, ZERO>(w, tile, begin, end, x, sums);
        case 2: return multiply_rows<BITS, BLOCK, 2, ZERO>(w, tile, begin, end, x, sums);
        case 3: return multiply_rows<BITS, BLOCK, 3, ZERO>(w, tile, begin, end, x, sums);
        case 4: return multiply_rows<BITS, BLOCK, 4, ZERO>(w, tile, begin, end, x, sums);
        case 5: return multiply_rows<BITS, BLOCK, 5, ZERO>(w, tile, begin, end, x, sums);
        case 6: return multiply_rows<BITS, BLOCK, 6, ZERO>(w, tile, begin, end, x, sums);
        case 7: return multiply_rows<BITS, BLOCK, 7, ZERO>(w, tile, begin, end, x, sums);
        case 8: return multiply_rows<BITS, BLOCK, 8, ZERO>(w, tile, begin, end, x, sums);
        case 9: return multiply_rows<BITS, BLOCK, 9, ZERO>(w, tile, begin, end, x, sums);
        case 10: return multiply_rows<BITS, BLOCK, 10, ZERO>(w, tile, begin, end, x, sums);
        case 11: return multiply_rows<BITS, BLOCK, 11, ZERO>(w, tile, begin, end, x, sums);
        case 12: return multiply_rows<BITS, BLOCK, 12, ZERO>(w, tile, begin, end, x, sums);
        case 13: return multiply_rows<BITS, BLOCK, 13, ZERO>(w, tile, begin, end, x, sums);
        case 14: return multiply_rows<BITS, BLOCK, 14, ZERO>(w, tile, begin, end, x, sums);
        case 15: return multiply_rows<BITS, BLOCK, 15, ZERO>(w, tile, begin, end, x, sums);
        case 16: return multiply_rows<BITS, BLOCK, 16, ZERO>(w, tile, begin, end, x, sums);
    }
}

GLM_TARGET void multiply(const glm_matrix& w, int64_t tile, int begin, int end, const Quantized& x, int rows, float* sums) {
    if (w.bits == 8)
        (w.zero ? multiply_of<8, 64, true> : multiply_of<8, 64, false>)(w, tile, begin, end, x, rows, sums);
    else if (w.block == 64)
        (w.zero ? multiply_of<4, 64, true> : multiply_of<4, 64, false>)(w, tile, begin, end, x, rows, sums);
    else
        (w.zero ? multiply_of<4, 32, true> : multiply_of<4, 32, false>)(w, tile, begin, end, x, rows, sums);
}

// -- probes ------------------------------------------------------------------------------------

constexpr int SUMS = 12;

GLM_TARGET int32_t dot_rounds(int64_t rounds) {
    __m512i sum[SUMS];
    for (auto& s : sum) s = _mm512_setzero_si512();
    const __m512i w = _mm512_set1_epi32(static_cast<int32_t>(rounds | 1)), x = _mm512_set1_epi32(0x01FF01FF);
    for (int64_t n = 0; n < rounds; n++)
        for (auto& s : sum) s = dot(s, w, x);
    for (int i = 1; i < SUMS; i++) sum[0] = _mm512_add_epi32(sum[0], sum[i]);
    return _mm512_reduce_add_epi32(sum[0]);
}

GLM_TARGET uint64_t read(const void* p, int64_t bytes) {
    const auto* lines = static_cast<const uint8_t*>(p);
    __m512i sum[4];
    for (auto& s : sum) s = _mm512_setzero_si512();
    for (int64_t i = 0; i + 256 <= bytes; i += 256)
        for (int c = 0; c < 4; c++) sum[c] = _mm512_add_epi64(sum[c], line(lines + i, c));
    return _mm512_reduce_add_epi64(_mm512_add_epi64(_mm512_add_epi64(sum[0], sum[1]), _mm512_add_epi64(sum[2], sum[3])));
}

}  // namespace avx512
}  // namespace

const Kernels* avx512_kernels() {
    using namespace avx512;
    static const Kernels set = {"avx512vnni", quantize, multiply, decode, exact, norm, finish,
                                dot_rounds,   SUMS * 64, read, {attend, merge, context, rotate, keep}};
    return has_avx512() ? &set : nullptr;
}

}  // namespace glm

#endif
