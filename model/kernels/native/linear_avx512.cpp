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

constexpr int AHEAD = 6144;  // bytes that a stream of weights is fetched ahead

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

GLM_TARGET inline int64_t scale_at(const glm_matrix& w, int64_t tile, int block) {
    return (tile * w.groups + block / w.group_blocks) * TILE;
}

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

// -- straight from the packed weights ----------------------------------------------------------

// CHAINS sums for each row of x, because an instruction that adds to a sum waits for the one before.
template <int BITS, int BLOCK, int ROWS>
GLM_TARGET inline void stream_block(const uint8_t* p, const Quantized& x, __m512i (&total)[ROWS]) {
    constexpr int LINES = BLOCK * BITS / 32, CHAINS = ROWS == 1 ? 4 : 2;
    __m512i chain[ROWS][CHAINS];
    GLM_UNROLL
    for (int r = 0; r < ROWS; r++) {
        chain[r][0] = _mm512_set1_epi32(x.start[r]);
        GLM_UNROLL
        for (int c = 1; c < CHAINS; c++) chain[r][c] = _mm512_setzero_si512();
    }
    GLM_UNROLL
    for (int j = 0; j < LINES; j++) {
        _mm_prefetch(reinterpret_cast<const char*>(p) + 64 * j + AHEAD, _MM_HINT_T0);
        const int8_t* codes = x.codes + 4 * ROWS * j;
        if (BITS == 8) {
            const __m512i w = unsigned_bytes(line(p, j));
            GLM_UNROLL
            for (int r = 0; r < ROWS; r++) {
                __m512i& sum = chain[r][j % CHAINS];
                sum = dot_four(sum, w, codes + 4 * r);
            }
            continue;
        }
        const __m512i both = line(p, j), w0 = low(both), w1 = high(both);
        GLM_UNROLL
        for (int r = 0; r < ROWS; r++) {
            __m512i &sum0 = chain[r][2 * j % CHAINS], &sum1 = chain[r][(2 * j + 1) % CHAINS];
            sum0 = dot_four(sum0, w0, codes + 4 * r);
            sum1 = dot_four(sum1, w1, codes + 4 * ROWS * LINES + 4 * r);
        }
    }
    GLM_UNROLL
    for (int r = 0; r < ROWS; r++) {
        total[r] = _mm512_add_epi32(chain[r][0], chain[r][1]);
        GLM_UNROLL
        for (int c = 2; c < CHAINS; c++) total[r] = _mm512_add_epi32(total[r], chain[r][c]);
    }
}

template <int BITS, int BLOCK, int ROWS, bool ZERO>
GLM_TARGET void stream_tile(const glm_matrix& w, int64_t tile, const Quantized& whole, float* out) {
    constexpr int BYTES = BLOCK * TILE * BITS / 8;
    const auto* p = static_cast<const uint8_t*>(w.packed) + tile * w.blocks * BYTES;
    int64_t group = tile * w.groups * TILE;
    Quantized x = whole;
    __m512 acc[ROWS], scale = _mm512_setzero_ps(), zero = scale;
    GLM_UNROLL
    for (int r = 0; r < ROWS; r++) acc[r] = _mm512_setzero_ps();
    for (int b = 0, left = 0; b < w.blocks; b++, left--, p += BYTES, x = x.from(1, BLOCK, ROWS)) {
        if (left == 0) {
            scale = load_halves(w.scale + group).v;
            if (ZERO) zero = zero_at(w, group);
            group += TILE;
            left = w.group_blocks;
        }
        __m512i total[ROWS];
        stream_block<BITS, BLOCK, ROWS>(p, x, total);
        GLM_UNROLL
        for (int r = 0; r < ROWS; r++) acc[r] = accumulate<ZERO>(total[r], scale, zero, x.start[r], x.scale[r], acc[r]);
    }
    GLM_UNROLL
    for (int r = 0; r < ROWS; r++) _mm512_storeu_ps(out + r * TILE, acc[r]);
}

template <int BITS, int BLOCK, bool ZERO>
GLM_TARGET void stream_rows(const glm_matrix& w, int64_t tile, const Quantized& x, int rows, float* out) {
    switch (rows) {
        case 1: return stream_tile<BITS, BLOCK, 1, ZERO>(w, tile, x, out);
        case 2: return stream_tile<BITS, BLOCK, 2, ZERO>(w, tile, x, out);
        case 3: return stream_tile<BITS, BLOCK, 3, ZERO>(w, tile, x, out);
        case 4: return stream_tile<BITS, BLOCK, 4, ZERO>(w, tile, x, out);
    }
}

template <int BITS, int BLOCK>
GLM_TARGET void stream_of(const glm_matrix& w, int64_t tile, const Quantized& x, int rows, float* out) {
    w.zero ? stream_rows<BITS, BLOCK, true>(w, tile, x, rows, out) : stream_rows<BITS, BLOCK, false>(w, tile, x, rows, out);
}

GLM_TARGET void stream(const glm_matrix& w, int64_t tile, const Quantized& x, int rows, float* out) {
    if (w.bits == 8)
        stream_of<8, 64>(w, tile, x, rows, out);
    else if (w.block == 64)
        stream_of<4, 64>(w, tile, x, rows, out);
    else
        stream_of<4, 32>(w, tile, x, rows, out);
}

// -- unpacked once for many rows of x ------------------------------------------------------------

GLM_TARGET void unpack(const glm_matrix& w, int64_t tile, int begin, int end, uint8_t* codes, float* scale, float* zero) {
    const int lines = w.block * w.bits / 32;
    const auto* p = static_cast<const uint8_t*>(w.packed) + (tile * w.blocks + begin) * lines * 64;
    for (int b = begin; b < end; b++, scale += TILE, codes += w.block * TILE, p += lines * 64) {
        const int64_t at = scale_at(w, tile, b);
        store(scale, load_halves(w.scale + at));
        if (w.zero) _mm512_storeu_ps(zero + (b - begin) * TILE, zero_at(w, at));
        for (int j = 0; j < lines; j++) {
            if (w.bits == 8) {
                _mm512_storeu_si512(codes + 64 * j, unsigned_bytes(line(p, j)));
            } else {
                _mm512_storeu_si512(codes + 64 * j, low(line(p, j)));
                _mm512_storeu_si512(codes + 64 * (lines + j), high(line(p, j)));
            }
        }
    }
}

// Two tiles times ROWS rows of x: all integer sums of a block in registers, float sums in the first cache.
template <int ROWS, int LINES, bool ZERO>
GLM_TARGET void panel_rows(const Panel& p, const Quantized& whole, float* acc) {
    Quantized x = whole;
    const uint8_t *w0 = p.codes[0], *w1 = p.codes[1];
    for (int b = 0; b < p.blocks; b++, x.scale += ROWS, x.start += ROWS) {
        __m512i total0[ROWS], total1[ROWS];
        GLM_UNROLL
        for (int r = 0; r < ROWS; r++) total0[r] = total1[r] = _mm512_set1_epi32(x.start[r]);
        for (int j = 0; j < LINES; j++, w0 += 64, w1 += 64, x.codes += 4 * ROWS) {
            const __m512i first = line(w0, 0), second = line(w1, 0);
            GLM_UNROLL
            for (int r = 0; r < ROWS; r++) {
                const __m512i codes = four(x.codes + 4 * r);
                total0[r] = dot(total0[r], first, codes);
                total1[r] = dot(total1[r], second, codes);
            }
        }
        const __m512 scale0 = load(p.scale[0] + b * TILE).v, scale1 = load(p.scale[1] + b * TILE).v;
        const __m512 zero0 = ZERO ? load(p.zero[0] + b * TILE).v : scale0, zero1 = ZERO ? load(p.zero[1] + b * TILE).v : scale1;
        GLM_UNROLL
        for (int r = 0; r < ROWS; r++) {
            float* sum = acc + r * PANEL_TILES * TILE;
            store(sum, {accumulate<ZERO>(total0[r], scale0, zero0, x.start[r], x.scale[r], load(sum).v)});
            store(sum + TILE, {accumulate<ZERO>(total1[r], scale1, zero1, x.start[r], x.scale[r], load(sum + TILE).v)});
        }
    }
}

template <int LINES, bool ZERO>
GLM_TARGET void panel_of(const Panel& p, const Quantized& x, int rows, float* acc) {
    switch (rows) {
        case 1: return panel_rows<1, LINES, ZERO>(p, x, acc);
        case 2: return panel_rows<2, LINES, ZERO>(p, x, acc);
        case 3: return panel_rows<3, LINES, ZERO>(p, x, acc);
        case 4: return panel_rows<4, LINES, ZERO>(p, x, acc);
        case 5: return panel_rows<5, LINES, ZERO>(p, x, acc);
        case 6: return panel_rows<6, LINES, ZERO>(p, x, acc);
        case 7: return panel_rows<7, LINES, ZERO>(p, x, acc);
        case 8: return panel_rows<8, LINES, ZERO>(p, x, acc);
        case 9: return panel_rows<9, LINES, ZERO>(p, x, acc);
        case 10: return panel_rows<10, LINES, ZERO>(p, x, acc);
        case 11: return panel_rows<11, LINES, ZERO>(p, x, acc);
        case 12: return panel_rows<12, LINES, ZERO>(p, x, acc);
    }
}

GLM_TARGET void panel(const Panel& p, const Quantized& x, int rows, float* acc) {
    if (p.block == 64)
        p.zero[0] ? panel_of<16, true>(p, x, rows, acc) : panel_of<16, false>(p, x, rows, acc);
    else
        p.zero[0] ? panel_of<8, true>(p, x, rows, acc) : panel_of<8, false>(p, x, rows, acc);
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
    static const Kernels set = {"avx512vnni", quantize,   stream,           unpack, panel, decode, exact, norm, finish,
                                dot_rounds,   SUMS * 64, read};
    return has_avx512() ? &set : nullptr;
}

}  // namespace glm

#endif
