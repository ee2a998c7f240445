// Rotary positions and what is kept in pages, on 16 lanes. Included after attention.inl.
//
// The codes are those of model/kv_cache.py to the bit, so no multiplication is fused with an addition here.

GLM_TARGET static void rotate(const float* x, const float* cos, const float* sin, int axes, int half, float* out) {
    for (int axis = 0; axis < axes; axis++, x += 2 * half, out += 2 * half, cos += half, sin += half) {
        for (int i = 0; i < half; i += 16) {
            const int n = half - i;
            const Floats u = load_part(x + i, n), w = load_part(x + half + i, n);
            const Floats c = load_part(cos + i, n), s = load_part(sin + i, n);
            store_part(out + i, sub(mul(u, c), mul(w, s)), n);
            store_part(out + half + i, add(mul(w, c), mul(u, s)), n);
        }
    }
}

// A scale as it is stored, and what numbers are multiplied by.
struct Scale {
    uint16_t half;
    float reciprocal;
};

static inline Scale scale_of(float value) {
    const uint16_t half = to_half(value);
    const float stored = from_half(half);
    return {half, stored == 0.0f ? 0.0f : 1.0f / stored};
}

// Codes of 16 numbers, half to even; within [low, high] also where they are not finite.
GLM_TARGET static inline Ints codes_of(Floats x, float reciprocal, float low, float high) {
    return to_ints(smaller(larger(mul(x, fill(reciprocal)), fill(low)), fill(high)));
}

// 16 numbers from number i on; the place of those that are not there is taken by the first one.
GLM_TARGET static inline Floats numbers(const float* x, int i, int size) {
    if (size - i >= 16) return load(x + i);
    alignas(64) float lanes[16];
    for (int n = 0; n < 16; n++) lanes[n] = x[i + n < size ? i + n : 0];
    return load(lanes);
}

static inline int left(int i, int size) { return size - i < 16 ? size - i : 16; }

GLM_TARGET static void keep_float16(const float* x, int size, uint8_t* to) {
    uint16_t halves[16];
    for (int i = 0; i < size; i += 16) {
        store_halves(halves, numbers(x, i, size));
        std::memcpy(to + 2 * i, halves, 2 * left(i, size));
    }
}

GLM_TARGET static void keep_int8(const float* x, int size, uint8_t* to, uint16_t* to_scale) {
    Ints top = fill(int32_t{0});
    for (int i = 0; i < size; i += 16) top = larger(top, both(bits(numbers(x, i, size)), fill(int32_t{0x7FFFFFFF})));
    const int32_t top_bits = largest(top);  // that of a NaN, where there is one
    float most;
    std::memcpy(&most, &top_bits, sizeof most);
    const Scale scale = scale_of(most / 127.0f);
    *to_scale = scale.half;
    int8_t codes[16];
    for (int i = 0; i < size; i += 16) {
        store_bytes(codes, codes_of(numbers(x, i, size), scale.reciprocal, -127.0f, 127.0f));
        std::memcpy(to + i, codes, left(i, size));
    }
}

GLM_TARGET static void keep_int4(const float* x, int size, uint8_t* to, uint16_t* to_scale, uint16_t* to_zero) {
    Floats least = fill(x[0]), most = least, nothing = fill(0.0f);
    for (int i = 0; i < size; i += 16) {
        const Floats part = numbers(x, i, size);
        least = smaller(least, part);
        most = larger(most, part);
        nothing = fma(part, fill(0.0f), nothing);  // NaN where a number is not finite
    }
    const float low = sum(nothing) - largest(sub(fill(0.0f), least)), high = largest(most);
    const Scale scale = scale_of((high - low) / 15.0f);
    *to_scale = scale.half;
    *to_zero = to_half(low);
    const Floats zero = fill(from_half(*to_zero));
    int8_t codes[16];
    for (int i = 0; i < size; i += 16) {
        store_bytes(codes, codes_of(sub(numbers(x, i, size), zero), scale.reciprocal, 0.0f, 15.0f));
        for (int n = 0; n < left(i, size); n += 2) to[(i + n) / 2] = static_cast<uint8_t>(codes[n] | codes[n + 1] << 4);
    }
}

GLM_TARGET static void keep(const Layer& layer, int64_t row, const float* x) {
    uint8_t* to = layer.data + row * layer.row_bytes;
    switch (layer.storage) {
        case GLM_FLOAT32: std::memcpy(to, x, layer.row_bytes); return;
        case GLM_FLOAT16: return keep_float16(x, layer.head_size, to);
        case GLM_INT8: return keep_int8(x, layer.head_size, to, layer.scale + row);
        case GLM_INT4: return keep_int4(x, layer.head_size, to, layer.scale + row, layer.zero + row);
    }
}
