// 16 lanes in one AVX-512 register; lanes_scalar.inl says what the functions mean.

struct Floats {
    __m512 v;
};

struct Ints {
    __m512i v;
};

GLM_TARGET static inline __mmask16 first(int64_t n) { return static_cast<__mmask16>(n < 16 ? (1u << n) - 1 : 0xFFFFu); }

GLM_TARGET static inline Floats fill(float a) { return {_mm512_set1_ps(a)}; }
GLM_TARGET static inline Floats load(const float* p) { return {_mm512_loadu_ps(p)}; }
GLM_TARGET static inline Floats load_part(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
GLM_TARGET static inline void store(float* p, Floats a) { _mm512_storeu_ps(p, a.v); }
GLM_TARGET static inline void store_past(float* p, Floats a) { _mm512_stream_ps(p, a.v); }
GLM_TARGET static inline void store_part(float* p, Floats a, int64_t n) { _mm512_mask_storeu_ps(p, first(n), a.v); }

GLM_TARGET static inline Floats add(Floats a, Floats b) { return {_mm512_add_ps(a.v, b.v)}; }
GLM_TARGET static inline Floats sub(Floats a, Floats b) { return {_mm512_sub_ps(a.v, b.v)}; }
GLM_TARGET static inline Floats mul(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }
GLM_TARGET static inline Floats div(Floats a, Floats b) { return {_mm512_div_ps(a.v, b.v)}; }
GLM_TARGET static inline Floats fma(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
GLM_TARGET static inline Floats fnma(Floats a, Floats b, Floats c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
GLM_TARGET static inline Floats larger(Floats a, Floats b) { return {_mm512_max_ps(a.v, b.v)}; }
GLM_TARGET static inline Floats smaller(Floats a, Floats b) { return {_mm512_min_ps(a.v, b.v)}; }

GLM_TARGET static inline __m256 upper(__m512 a) { return _mm512_extractf32x8_ps(a, 1); }

GLM_TARGET static inline float sum(Floats a) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), upper(a.v));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// [a0 a1 b0 b1] + [a2 a3 b2 b3] and [a0 a2 b0 b2] + [a1 a3 b1 b3], in parts of four lanes and in lanes of each part.
GLM_TARGET static inline __m512 fold_halves(__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
}

GLM_TARGET static inline __m512 fold_parts(__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
}

GLM_TARGET static inline __m512 fold_pairs(__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xEE));
}

GLM_TARGET static inline __m512 fold_lanes(__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xDD));
}

GLM_TARGET static inline Floats sums(const Floats (&a)[16]) {
    __m512 fourth[4];  // in its part p the row 4 p + i
    GLM_UNROLL
    for (int i = 0; i < 4; i++)
        fourth[i] = fold_parts(fold_halves(a[i].v, a[4 + i].v), fold_halves(a[8 + i].v, a[12 + i].v));
    return {fold_lanes(fold_pairs(fourth[0], fourth[1]), fold_pairs(fourth[2], fourth[3]))};
}

GLM_TARGET static inline float largest(Floats a) {
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a.v), upper(a.v));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// -- int32 ------------------------------------------------------------------------------------

GLM_TARGET static inline Ints fill(int32_t a) { return {_mm512_set1_epi32(a)}; }
GLM_TARGET static inline Ints load(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
GLM_TARGET static inline Ints add(Ints a, Ints b) { return {_mm512_add_epi32(a.v, b.v)}; }
GLM_TARGET static inline Ints both(Ints a, Ints b) { return {_mm512_and_si512(a.v, b.v)}; }
GLM_TARGET static inline Ints larger(Ints a, Ints b) { return {_mm512_max_epi32(a.v, b.v)}; }

template <int N>
GLM_TARGET static inline Ints shift_left(Ints a) {
    return {_mm512_slli_epi32(a.v, N)};
}

template <int N>
GLM_TARGET static inline Ints shift_right(Ints a) {
    return {_mm512_srai_epi32(a.v, N)};
}

GLM_TARGET static inline int32_t sum(Ints a) { return _mm512_reduce_add_epi32(a.v); }
GLM_TARGET static inline int32_t largest(Ints a) { return _mm512_reduce_max_epi32(a.v); }

// -- conversions ------------------------------------------------------------------------------

GLM_TARGET static inline Floats to_floats(Ints a) { return {_mm512_cvtepi32_ps(a.v)}; }
GLM_TARGET static inline Ints to_ints(Floats a) { return {_mm512_cvtps_epi32(a.v)}; }
GLM_TARGET static inline Ints bits(Floats a) { return {_mm512_castps_si512(a.v)}; }
GLM_TARGET static inline Floats from_bits(Ints a) { return {_mm512_castsi512_ps(a.v)}; }

GLM_TARGET static inline Ints load_bytes(const int8_t* p) {
    return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}

GLM_TARGET static inline Ints load_bytes(const uint8_t* p) {
    return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}

GLM_TARGET static inline void store_bytes(int8_t* p, Ints a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}

GLM_TARGET static inline Floats load_halves(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}

GLM_TARGET static inline void store_halves(uint16_t* p, Floats a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
