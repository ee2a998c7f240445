// 16 lanes in four NEON registers; lanes_scalar.inl says what the functions mean.

struct Floats {
    float32x4_t v[4];
};

struct Ints {
    int32x4_t v[4];
};

#define GLM_EACH_1(f, a) {{f(a.v[0]), f(a.v[1]), f(a.v[2]), f(a.v[3])}}
#define GLM_EACH_2(f, a, b) {{f(a.v[0], b.v[0]), f(a.v[1], b.v[1]), f(a.v[2], b.v[2]), f(a.v[3], b.v[3])}}

GLM_TARGET static inline Floats fill(float a) {
    const float32x4_t v = vdupq_n_f32(a);
    return {{v, v, v, v}};
}

GLM_TARGET static inline Floats load(const float* p) {
    return {{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}};
}

GLM_TARGET static inline void store(float* p, Floats a) {
    vst1q_f32(p, a.v[0]);
    vst1q_f32(p + 4, a.v[1]);
    vst1q_f32(p + 8, a.v[2]);
    vst1q_f32(p + 12, a.v[3]);
}

GLM_TARGET static inline Floats load_part(const float* p, int64_t n) {
    if (n >= 16) return load(p);
    float lanes[16] = {};
    if (n > 0) std::memcpy(lanes, p, sizeof(float) * n);
    return load(lanes);
}

GLM_TARGET static inline void store_past(float* p, Floats a) { store(p, a); }

GLM_TARGET static inline void store_part(float* p, Floats a, int64_t n) {
    if (n >= 16) return store(p, a);
    float lanes[16];
    store(lanes, a);
    std::memcpy(p, lanes, sizeof(float) * n);
}

GLM_TARGET static inline Floats add(Floats a, Floats b) { return GLM_EACH_2(vaddq_f32, a, b); }
GLM_TARGET static inline Floats sub(Floats a, Floats b) { return GLM_EACH_2(vsubq_f32, a, b); }
GLM_TARGET static inline Floats mul(Floats a, Floats b) { return GLM_EACH_2(vmulq_f32, a, b); }
GLM_TARGET static inline Floats div(Floats a, Floats b) { return GLM_EACH_2(vdivq_f32, a, b); }

GLM_TARGET static inline Floats fma(Floats a, Floats b, Floats c) {
    return {{vfmaq_f32(c.v[0], a.v[0], b.v[0]), vfmaq_f32(c.v[1], a.v[1], b.v[1]), vfmaq_f32(c.v[2], a.v[2], b.v[2]),
             vfmaq_f32(c.v[3], a.v[3], b.v[3])}};
}

GLM_TARGET static inline Floats fnma(Floats a, Floats b, Floats c) {
    return {{vfmsq_f32(c.v[0], a.v[0], b.v[0]), vfmsq_f32(c.v[1], a.v[1], b.v[1]), vfmsq_f32(c.v[2], a.v[2], b.v[2]),
             vfmsq_f32(c.v[3], a.v[3], b.v[3])}};
}

// NEON's own maximum and minimum give NaN where either is; these give b.
GLM_TARGET static inline float32x4_t larger(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
GLM_TARGET static inline float32x4_t smaller(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
GLM_TARGET static inline Floats larger(Floats a, Floats b) { return GLM_EACH_2(larger, a, b); }
GLM_TARGET static inline Floats smaller(Floats a, Floats b) { return GLM_EACH_2(smaller, a, b); }

// The 16 lanes to 4, in the order of `sum`.
GLM_TARGET static inline float32x4_t fold(Floats a) {
    return vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
}

// [a0 a1 b0 b1] + [a2 a3 b2 b3].
GLM_TARGET static inline float32x4_t fold_pairs(float32x4_t a, float32x4_t b) {
    return vaddq_f32(vcombine_f32(vget_low_f32(a), vget_low_f32(b)), vcombine_f32(vget_high_f32(a), vget_high_f32(b)));
}

GLM_TARGET static inline float sum(Floats a) {
    const float32x4_t four = fold(a);
    const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

// Of four of them.
GLM_TARGET static inline float32x4_t sums_of(const Floats* a) {
    return vpaddq_f32(fold_pairs(fold(a[0]), fold(a[1])), fold_pairs(fold(a[2]), fold(a[3])));
}

GLM_TARGET static inline Floats sums(const Floats (&a)[16]) {
    return {{sums_of(a), sums_of(a + 4), sums_of(a + 8), sums_of(a + 12)}};
}

GLM_TARGET static inline float largest(Floats a) {
    const float32x4_t four = larger(larger(a.v[0], a.v[2]), larger(a.v[1], a.v[3]));
    const float32x4_t two = larger(four, vcombine_f32(vget_high_f32(four), vget_high_f32(four)));
    const float x = vgetq_lane_f32(two, 0), y = vgetq_lane_f32(two, 1);
    return x > y ? x : y;
}

// -- int32 ------------------------------------------------------------------------------------

GLM_TARGET static inline Ints fill(int32_t a) {
    const int32x4_t v = vdupq_n_s32(a);
    return {{v, v, v, v}};
}

GLM_TARGET static inline Ints load(const int32_t* p) {
    return {{vld1q_s32(p), vld1q_s32(p + 4), vld1q_s32(p + 8), vld1q_s32(p + 12)}};
}

GLM_TARGET static inline Ints add(Ints a, Ints b) { return GLM_EACH_2(vaddq_s32, a, b); }
GLM_TARGET static inline Ints both(Ints a, Ints b) { return GLM_EACH_2(vandq_s32, a, b); }
GLM_TARGET static inline Ints larger(Ints a, Ints b) { return GLM_EACH_2(vmaxq_s32, a, b); }

// To the left by N, which is negative to the right; keeps the sign.
GLM_TARGET static inline Ints shift(Ints a, int n) {
    const int32x4_t by = vdupq_n_s32(n);
    return {{vshlq_s32(a.v[0], by), vshlq_s32(a.v[1], by), vshlq_s32(a.v[2], by), vshlq_s32(a.v[3], by)}};
}

template <int N>
GLM_TARGET static inline Ints shift_left(Ints a) {
    return shift(a, N);
}

template <int N>
GLM_TARGET static inline Ints shift_right(Ints a) {
    return shift(a, -N);
}

GLM_TARGET static inline int32_t sum(Ints a) {
    return vaddvq_s32(vaddq_s32(vaddq_s32(a.v[0], a.v[1]), vaddq_s32(a.v[2], a.v[3])));
}

GLM_TARGET static inline int32_t largest(Ints a) {
    return vmaxvq_s32(vmaxq_s32(vmaxq_s32(a.v[0], a.v[1]), vmaxq_s32(a.v[2], a.v[3])));
}

// -- conversions ------------------------------------------------------------------------------

GLM_TARGET static inline Floats to_floats(Ints a) { return GLM_EACH_1(vcvtq_f32_s32, a); }
GLM_TARGET static inline Ints to_ints(Floats a) { return GLM_EACH_1(vcvtnq_s32_f32, a); }
GLM_TARGET static inline Ints bits(Floats a) { return GLM_EACH_1(vreinterpretq_s32_f32, a); }
GLM_TARGET static inline Floats from_bits(Ints a) { return GLM_EACH_1(vreinterpretq_f32_s32, a); }

GLM_TARGET static inline Ints load_bytes(const int8_t* p) {
    const int8x16_t bytes = vld1q_s8(p);
    const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
    return {{vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)), vmovl_s16(vget_low_s16(high)),
             vmovl_s16(vget_high_s16(high))}};
}

GLM_TARGET static inline Ints load_bytes(const uint8_t* p) {
    const uint8x16_t bytes = vld1q_u8(p);
    const int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes)));
    const int16x8_t high = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(bytes)));
    return {{vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)), vmovl_s16(vget_low_s16(high)),
             vmovl_s16(vget_high_s16(high))}};
}

GLM_TARGET static inline void store_bytes(int8_t* p, Ints a) {
    const int16x8_t low = vcombine_s16(vmovn_s32(a.v[0]), vmovn_s32(a.v[1]));
    const int16x8_t high = vcombine_s16(vmovn_s32(a.v[2]), vmovn_s32(a.v[3]));
    vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}

GLM_TARGET static inline float32x4_t four_halves(const uint16_t* p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}

GLM_TARGET static inline Floats load_halves(const uint16_t* p) {
    return {{four_halves(p), four_halves(p + 4), four_halves(p + 8), four_halves(p + 12)}};
}

GLM_TARGET static inline void store_halves(uint16_t* p, Floats a) {
    vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(a.v[0])));
    vst1_u16(p + 4, vreinterpret_u16_f16(vcvt_f16_f32(a.v[1])));
    vst1_u16(p + 8, vreinterpret_u16_f16(vcvt_f16_f32(a.v[2])));
    vst1_u16(p + 12, vreinterpret_u16_f16(vcvt_f16_f32(a.v[3])));
}

#undef GLM_EACH_1
#undef GLM_EACH_2
