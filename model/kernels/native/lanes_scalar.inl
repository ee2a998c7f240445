// 16 lanes in plain C++, what every other lanes_*.inl means. Included in a namespace, after <cmath>, <cstring>.
// The order of `sum` and the result of `larger` where a number is NaN are part of the meaning.

struct Floats {
    float v[16];
};

struct Ints {
    int32_t v[16];
};

#define GLM_LANES(T, expression)                     \
    do {                                             \
        T r;                                         \
        for (int i = 0; i < 16; i++) r.v[i] = (expression); \
        return r;                                    \
    } while (0)

static inline Floats fill(float a) { GLM_LANES(Floats, a); }
static inline Floats load(const float* p) { GLM_LANES(Floats, p[i]); }
static inline Floats load_part(const float* p, int64_t n) { GLM_LANES(Floats, i < n ? p[i] : 0.0f); }
static inline void store(float* p, Floats a) { std::memcpy(p, a.v, sizeof a.v); }
static inline void store_past(float* p, Floats a) { store(p, a); }  // the caches, to a multiple of 64 bytes
static inline void store_part(float* p, Floats a, int64_t n) { std::memcpy(p, a.v, sizeof(float) * (n < 16 ? n : 16)); }

static inline Floats add(Floats a, Floats b) { GLM_LANES(Floats, a.v[i] + b.v[i]); }
static inline Floats sub(Floats a, Floats b) { GLM_LANES(Floats, a.v[i] - b.v[i]); }
static inline Floats mul(Floats a, Floats b) { GLM_LANES(Floats, a.v[i] * b.v[i]); }
static inline Floats div(Floats a, Floats b) { GLM_LANES(Floats, a.v[i] / b.v[i]); }
static inline Floats fma(Floats a, Floats b, Floats c) { GLM_LANES(Floats, std::fma(a.v[i], b.v[i], c.v[i])); }
static inline Floats larger(Floats a, Floats b) { GLM_LANES(Floats, a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
static inline Floats smaller(Floats a, Floats b) { GLM_LANES(Floats, a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }

// a * b + c as c - a * b, rounded once.
static inline Floats fnma(Floats a, Floats b, Floats c) { GLM_LANES(Floats, std::fma(-a.v[i], b.v[i], c.v[i])); }

static inline float sum(Floats a) {
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; i++) a.v[i] += a.v[i + half];
    return a.v[0];
}

// Lane i is the sum of a[i].
static inline Floats sums(const Floats (&a)[16]) { GLM_LANES(Floats, sum(a[i])); }

static inline float largest(Floats a) {
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; i++) a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
    return a.v[0];
}

// -- int32 ------------------------------------------------------------------------------------

static inline Ints fill(int32_t a) { GLM_LANES(Ints, a); }
static inline Ints load(const int32_t* p) { GLM_LANES(Ints, p[i]); }
static inline Ints add(Ints a, Ints b) { GLM_LANES(Ints, a.v[i] + b.v[i]); }
static inline Ints both(Ints a, Ints b) { GLM_LANES(Ints, a.v[i] & b.v[i]); }
static inline Ints larger(Ints a, Ints b) { GLM_LANES(Ints, a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }

template <int N>
static inline Ints shift_left(Ints a) {
    GLM_LANES(Ints, static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) << N));
}

// Keeps the sign.
template <int N>
static inline Ints shift_right(Ints a) {
    GLM_LANES(Ints, a.v[i] >> N);
}

static inline int32_t sum(Ints a) {
    int32_t r = 0;
    for (int i = 0; i < 16; i++) r += a.v[i];
    return r;
}

static inline int32_t largest(Ints a) {
    int32_t r = a.v[0];
    for (int i = 1; i < 16; i++) r = a.v[i] > r ? a.v[i] : r;
    return r;
}

// -- conversions ------------------------------------------------------------------------------

static inline Floats to_floats(Ints a) { GLM_LANES(Floats, static_cast<float>(a.v[i])); }

// To the nearest, half to even; for numbers that an int32 can hold.
static inline Ints to_ints(Floats a) { GLM_LANES(Ints, static_cast<int32_t>(std::lrint(a.v[i]))); }

static inline Ints bits(Floats a) {
    Ints r;
    std::memcpy(r.v, a.v, sizeof r.v);
    return r;
}

static inline Floats from_bits(Ints a) {
    Floats r;
    std::memcpy(r.v, a.v, sizeof r.v);
    return r;
}

static inline Ints load_bytes(const int8_t* p) { GLM_LANES(Ints, p[i]); }
static inline Ints load_bytes(const uint8_t* p) { GLM_LANES(Ints, p[i]); }

// Lanes of -128..127 to int8.
static inline void store_bytes(int8_t* p, Ints a) {
    for (int i = 0; i < 16; i++) p[i] = static_cast<int8_t>(a.v[i]);
}

// float16, all its numbers.
static inline Floats load_halves(const uint16_t* p) { GLM_LANES(Floats, from_half(p[i])); }

// To the nearest float16, half to even.
static inline void store_halves(uint16_t* p, Floats a) {
    for (int i = 0; i < 16; i++) p[i] = to_half(a.v[i]);
}

#undef GLM_LANES
