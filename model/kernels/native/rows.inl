// Rows of floats on 16 lanes: quantising activations, LayerNorm, GELU. Included after lanes_*.inl.

// e^x to 2 units in the last place, for x in about [-87, 88]; beyond it the value at that end.
GLM_TARGET static inline Floats exponential(Floats x) {
    x = larger(smaller(x, fill(88.0f)), fill(-87.0f));
    const Floats n = to_floats(to_ints(mul(x, fill(1.44269504088896341f))));
    Floats r = fnma(n, fill(0.693359375f), x);  // ln 2 in two parts, the first exact times n
    r = fnma(n, fill(-2.12194440e-4f), r);
    Floats p = fill(1.9875691500e-4f);  // Cephes, expf
    p = fma(p, r, fill(1.3981999507e-3f));
    p = fma(p, r, fill(8.3334519073e-3f));
    p = fma(p, r, fill(4.1665795894e-2f));
    p = fma(p, r, fill(1.6666665459e-1f));
    p = fma(p, r, fill(5.0000001201e-1f));
    p = add(fma(p, mul(r, r), r), fill(1.0f));
    return mul(p, from_bits(shift_left<23>(add(to_ints(n), fill(int32_t{127})))));
}

// 0.5 x (1 + tanh(u)) = x / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3).
GLM_TARGET static inline Floats gelu(Floats x) {
    const Floats minus_2u = mul(x, fma(mul(x, x), fill(-0.0713548162726f), fill(-1.5957691216057308f)));
    return div(x, add(fill(1.0f), exponential(minus_2u)));
}

GLM_TARGET static void finish(const float* sums, const float* bias, bool with_gelu, bool past, float* y) {
    Floats x = load(sums);
    if (bias != nullptr) x = add(x, load(bias));
    if (with_gelu) x = gelu(x);
    if (past && reinterpret_cast<std::uintptr_t>(y) % 64 == 0)
        store_past(y, x);
    else
        store(y, x);
}

// Blocks whose largest number is below this count as zero: their reciprocal might not be finite.
constexpr float TINY = 1e-30f;

// Codes of one block to codes [block]; returns their sum.
GLM_TARGET static inline int32_t quantize_block(const float* x, int64_t columns, int block, int8_t* codes, float* scale) {
    Floats part[4];  // 64 / 16
    Ints top = fill(int32_t{0});
    for (int i = 0; i < block / TILE; i++) {
        const int64_t left = columns - i * TILE;
        part[i] = left >= TILE ? load(x + i * TILE) : load_part(x + i * TILE, left > 0 ? left : 0);
        top = larger(top, both(bits(part[i]), fill(int32_t{0x7FFFFFFF})));  // |x| in the order of its bits
    }
    const int32_t top_bits = largest(top);
    float most;
    std::memcpy(&most, &top_bits, sizeof most);
    const bool finite = top_bits < 0x7F800000;
    if (!finite || most < TINY) {
        std::memset(codes, 0, block);
        *scale = finite ? 0.0f : std::numeric_limits<float>::quiet_NaN();
        return 0;
    }
    *scale = most / 127.0f;
    const Floats steps = fill(127.0f / most);
    Ints total = fill(int32_t{0});
    for (int i = 0; i < block / TILE; i++) {
        const Ints q = to_ints(mul(part[i], steps));
        total = add(total, q);
        store_bytes(codes + i * TILE, q);
    }
    return sum(total);
}

// Block after block, so that the rows' codes of a block meet in the same cache lines.
GLM_TARGET static void quantize(const float* x, int64_t stride, int64_t columns, int block, int offset, int rows,
                                int8_t* codes, float* scale, int32_t* start) {
    alignas(64) int8_t line[64];
    for (int64_t begin = 0; begin < columns; begin += block, codes += block * rows, scale += rows, start += rows)
        for (int r = 0; r < rows; r++) {
            start[r] = -offset * quantize_block(x + r * stride + begin, columns - begin, block, line, scale + r);
            for (int i = 0; i < block; i += 4) std::memcpy(codes + i * rows + 4 * r, line + i, 4);
        }
}

GLM_TARGET static void norm(const float* x, const float* y, float alpha, const float* weight, const float* bias,
                            float epsilon, int64_t width, float* out) {
    const Floats times = fill(alpha);
    Floats total = fill(0.0f);
    for (int64_t i = 0; i < width; i += TILE) {
        const Floats t = fma(times, load_part(x + i, width - i), y ? load_part(y + i, width - i) : fill(0.0f));
        store_part(out + i, t, width - i);
        total = add(total, t);
    }
    const float mean = sum(total) / static_cast<float>(width);
    Floats squares = fill(0.0f), rest = fill(0.0f);
    const int64_t whole = width / TILE * TILE;
    for (int64_t i = 0; i < whole; i += TILE) {
        const Floats d = sub(load(out + i), fill(mean));
        squares = fma(d, d, squares);
        rest = add(rest, d);
    }
    float square = sum(squares), left = sum(rest);
    for (int64_t i = whole; i < width; i++) {
        const float d = out[i] - mean;
        square = std::fma(d, d, square);
        left += d;
    }
    left /= static_cast<float>(width);  // what rounding left of the mean
    const float variance = std::fma(-left, left, square / static_cast<float>(width));
    const Floats centre = fill(mean + left), factor = fill(1.0f / std::sqrt(variance + epsilon));
    for (int64_t i = 0; i < width; i += TILE) {
        const Floats t = mul(sub(load_part(out + i, width - i), centre), factor);
        store_part(out + i, fma(t, load_part(weight + i, width - i), load_part(bias + i, width - i)), width - i);
    }
}
