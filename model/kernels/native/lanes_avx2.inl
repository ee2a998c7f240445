// 16 lanes in two AVX registers; lanes_scalar.inl says what the functions mean.

struct Floats {
    __m256 v[2];
};

struct Ints {
    __m256i v[2];
};

#define GLM_EACH_1(f, a) {{f(a.v[0]), f(a.v[1])}}
#define GLM_EACH_2(f, a, b) {{f(a.v[0], b.v[0]), f(a.v[1], b.v[1])}}
#define GLM_EACH_3(f, a, b, c) {{f(a.v[0], b.v[0], c.v[0]), f(a.v[1], b.v[1], c.v[1])}}

// Which of eight lanes are among the first n, as maskload and maskstore want it.
GLM_TARGET static inline __m256i first(int64_t n) {
    const int count = static_cast<int>(n < 0 ? 0 : n < 8 ? n : 8);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

GLM_TARGET static inline Floats fill(float a) { return {{_mm256_set1_ps(a), _mm256_set1_ps(a)}}; }
GLM_TARGET static inline Floats load(const float* p) { return {{_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}}; }

GLM_TARGET static inline Floats load_part(const float* p, int64_t n) {
    return {{_mm256_maskload_ps(p, first(n)), _mm256_maskload_ps(p + 8, first(n - 8))}};
}

GLM_TARGET static inline void store(float* p, Floats a) {
    _mm256_storeu_ps(p, a.v[0]);
    _mm256_storeu_ps(p + 8, a.v[1]);
}

GLM_TARGET static inline void store_past(float* p, Floats a) {
    _mm256_stream_ps(p, a.v[0]);
    _mm256_stream_ps(p + 8, a.v[1]);
}

GLM_TARGET static inline void store_part(float* p, Floats a, int64_t n) {
    _mm256_maskstore_ps(p, first(n), a.v[0]);
    _mm256_maskstore_ps(p + 8, first(n - 8), a.v[1]);
}

GLM_TARGET static inline Floats add(Floats a, Floats b) { return GLM_EACH_2(_mm256_add_ps, a, b); }
GLM_TARGET static inline Floats sub(Floats a, Floats b) { return GLM_EACH_2(_mm256_sub_ps, a, b); }
GLM_TARGET static inline Floats mul(Floats a, Floats b) { return GLM_EACH_2(_mm256_mul_ps, a, b); }
GLM_TARGET static inline Floats div(Floats a, Floats b) { return GLM_EACH_2(_mm256_div_ps, a, b); }
GLM_TARGET static inline Floats fma(Floats a, Floats b, Floats c) { return GLM_EACH_3(_mm256_fmadd_ps, a, b, c); }
GLM_TARGET static inline Floats fnma(Floats a, Floats b, Floats c) { return GLM_EACH_3(_mm256_fnmadd_ps, a, b, c); }
GLM_TARGET static inline Floats larger(Floats a, Floats b) { return GLM_EACH_2(_mm256_max_ps, a, b); }
GLM_TARGET static inline Floats smaller(Floats a, Floats b) { return GLM_EACH_2(_mm256_min_ps, a, b); }

GLM_TARGET static inline float sum(Floats a) {
    const __m256 eight = _mm256_add_ps(a.v[0], a.v[1]);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// [a0 b0] + [a1 b1] in halves; [a01 b01] + [a23 b23] and [a0 a2 b0 b2] + [a1 a3 b1 b3] in lanes of each half.
GLM_TARGET static inline __m256 fold_halves(__m256 a, __m256 b) {
    return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}

GLM_TARGET static inline __m256 fold_pairs(__m256 a, __m256 b) {
    return _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xEE));
}

GLM_TARGET static inline __m256 fold_lanes(__m256 a, __m256 b) {
    return _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xDD));
}

// Of eight of them.
GLM_TARGET static inline __m256 sums_of(const Floats* a) {
    __m256 two[4];  // the sums of a[i] in the lower half, those of a[4 + i] in the upper one
    GLM_UNROLL
    for (int i = 0; i < 4; i++)
        two[i] = fold_halves(_mm256_add_ps(a[i].v[0], a[i].v[1]), _mm256_add_ps(a[4 + i].v[0], a[4 + i].v[1]));
    return fold_lanes(fold_pairs(two[0], two[1]), fold_pairs(two[2], two[3]));
}

GLM_TARGET static inline Floats sums(const Floats (&a)[16]) { return {{sums_of(a), sums_of(a + 8)}}; }

GLM_TARGET static inline float largest(Floats a) {
    const __m256 eight = _mm256_max_ps(a.v[0], a.v[1]);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// -- int32 ------------------------------------------------------------------------------------

GLM_TARGET static inline Ints fill(int32_t a) { return {{_mm256_set1_epi32(a), _mm256_set1_epi32(a)}}; }

GLM_TARGET static inline Ints load(const int32_t* p) {
    const auto* halves = reinterpret_cast<const __m256i*>(p);
    return {{_mm256_loadu_si256(halves), _mm256_loadu_si256(halves + 1)}};
}

GLM_TARGET static inline Ints add(Ints a, Ints b) { return GLM_EACH_2(_mm256_add_epi32, a, b); }
GLM_TARGET static inline Ints both(Ints a, Ints b) { return GLM_EACH_2(_mm256_and_si256, a, b); }
GLM_TARGET static inline Ints larger(Ints a, Ints b) { return GLM_EACH_2(_mm256_max_epi32, a, b); }

template <int N>
GLM_TARGET static inline Ints shift_left(Ints a) {
    return {{_mm256_slli_epi32(a.v[0], N), _mm256_slli_epi32(a.v[1], N)}};
}

template <int N>
GLM_TARGET static inline Ints shift_right(Ints a) {
    return {{_mm256_srai_epi32(a.v[0], N), _mm256_srai_epi32(a.v[1], N)}};
}

GLM_TARGET static inline int32_t sum(Ints a) {
    const __m256i eight = _mm256_add_epi32(a.v[0], a.v[1]);
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0xEE));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0x55)));
}

GLM_TARGET static inline int32_t largest(Ints a) {
    const __m256i eight = _mm256_max_epi32(a.v[0], a.v[1]);
    const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0xEE));
    return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0x55)));
}

// -- conversions ------------------------------------------------------------------------------

GLM_TARGET static inline Floats to_floats(Ints a) { return GLM_EACH_1(_mm256_cvtepi32_ps, a); }
GLM_TARGET static inline Ints to_ints(Floats a) { return GLM_EACH_1(_mm256_cvtps_epi32, a); }
GLM_TARGET static inline Ints bits(Floats a) { return GLM_EACH_1(_mm256_castps_si256, a); }
GLM_TARGET static inline Floats from_bits(Ints a) { return GLM_EACH_1(_mm256_castsi256_ps, a); }

GLM_TARGET static inline Ints load_bytes(const int8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {{_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(bytes, bytes))}};
}

GLM_TARGET static inline Ints load_bytes(const uint8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {{_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_unpackhi_epi64(bytes, bytes))}};
}

GLM_TARGET static inline void store_bytes(int8_t* p, Ints a) {
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.v[0], a.v[1]), 0xD8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

GLM_TARGET static inline Floats load_halves(const uint16_t* p) {
    const auto* halves = reinterpret_cast<const __m128i*>(p);
    return {{_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))}};
}

GLM_TARGET static inline void store_halves(uint16_t* p, Floats a) {
    auto* halves = reinterpret_cast<__m128i*>(p);
    _mm_storeu_si128(halves, _mm256_cvtps_ph(a.v[0], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128(halves + 1, _mm256_cvtps_ph(a.v[1], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

#undef GLM_EACH_1
#undef GLM_EACH_2
#undef GLM_EACH_3
