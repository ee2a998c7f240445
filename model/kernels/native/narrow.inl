// Linear layers where a line of 16 rows takes PARTS registers. Included after lanes_*.inl and these, of the
// instruction set: Bytes and Sums, registers of 16 / PARTS rows; part, keep_part, four, as_bytes; and for 4 and 8
// bits Products: how a line is seen, what is added up and how that becomes int32.

// Bytes that the weights are fetched ahead: to the second cache, to the first. Their scales, a sixteenth.
constexpr int AHEAD_L2 = 8192, AHEAD_L1 = 2048;

constexpr int AT_ONCE = 4;  // rows of x, as many as have their sums in registers

// The scale and zero-point of blocks, one after another.
template <bool ZERO>
struct Scales {
    const glm_matrix& w;
    int64_t at;
    int left, next;  // blocks to which these still belong, and those that follow
    Floats scale, zero;

    GLM_TARGET GLM_INLINE Scales(const glm_matrix& w, int64_t tile, int begin)
        : w(w),
          at((tile * w.groups + begin / w.group_blocks) * TILE),
          left(0),
          next(w.group_blocks - begin % w.group_blocks),
          scale(fill(0.0f)),
          zero(scale) {}

    GLM_TARGET GLM_INLINE void advance() {
        if (left-- > 0) return;
        scale = load_halves(w.scale + at);
        if (ZERO) zero = mul(load_halves(w.zero + at), fill(w.bits == 4 ? 1.0f / 8 : 1.0f / 128));
        prefetch(w.scale + at + AHEAD_L2 / 32);
        at += TILE;
        left = next - 1;
        next = w.group_blocks;
    }
};

// Half of a block for COUNT rows of x: the low or high nibbles of its lines, half of its lines, or of its unpacked
// codes. `step`: from the codes of four columns to those of the next.
template <class P, int LINES, int COUNT>
GLM_TARGET GLM_INLINE void multiply_half(const uint8_t* p, bool upper, const int8_t* codes, int step, Ints (&total)[COUNT]) {
    Sums sum[COUNT][PARTS];
    GLM_UNROLL
    for (int r = 0; r < COUNT; r++) {
        GLM_UNROLL
        for (int i = 0; i < PARTS; i++) sum[r][i] = P::nothing();
    }
    GLM_UNROLL
    for (int k = 0; k < LINES; k++, codes += step) {
        Bytes w[PARTS];
        GLM_UNROLL
        for (int i = 0; i < PARTS; i++) w[i] = P::see(part(p + 64 * k, i), upper);
        GLM_UNROLL
        for (int r = 0; r < COUNT; r++) {
            const Bytes x = four(codes + 4 * r);
            GLM_UNROLL
            for (int i = 0; i < PARTS; i++) sum[r][i] = P::add(sum[r][i], w[i], x);
        }
    }
    GLM_UNROLL
    for (int r = 0; r < COUNT; r++) {
        GLM_UNROLL
        for (int i = 0; i < PARTS; i++) total[r].v[i] = P::finish(total[r].v[i], sum[r][i]);
    }
}

// A block for COUNT of `rows` rows of x; `upper`: the lines, or unpacked codes, of its second half.
template <class P, int BLOCK, bool ZERO, int COUNT>
GLM_TARGET GLM_INLINE void multiply_block(const uint8_t* p, const uint8_t* upper, const Scales<ZERO>& scales,
                                          const Quantized& x, int rows, float* sums) {
    Ints total[COUNT];
    GLM_UNROLL
    for (int r = 0; r < COUNT; r++) total[r] = fill(P::SIGNED ? 0 : x.start[r]);
    multiply_half<P, BLOCK / 8>(p, false, x.codes, 4 * rows, total);
    multiply_half<P, BLOCK / 8>(upper, true, x.codes + BLOCK / 2 * rows, 4 * rows, total);
    GLM_UNROLL
    for (int r = 0; r < COUNT; r++) {
        Floats value = to_floats(total[r]);
        if (ZERO) value = fma(scales.zero, fill(static_cast<float>(x.start[r])), value);
        store(sums + r * TILE, fma(mul(value, scales.scale), fill(x.scale[r]), load(sums + r * TILE)));
    }
}

template <int BYTES>
GLM_TARGET GLM_INLINE void fetch(const uint8_t* p) {
    GLM_UNROLL
    for (int i = 0; i < BYTES; i += 64) {
        prefetch_later(p + i + AHEAD_L2);
        prefetch(p + i + AHEAD_L1);
    }
}

// ROWS rows of x, straight from the packed weights.
template <int BITS, int BLOCK, bool ZERO, int ROWS>
GLM_TARGET void multiply_few(const glm_matrix& w, int64_t tile, int begin, int end, Quantized x, float* sums) {
    constexpr int BYTES = BLOCK * TILE * BITS / 8;
    const auto* p = static_cast<const uint8_t*>(w.packed) + (tile * w.blocks + begin) * BYTES;
    Scales<ZERO> scales(w, tile, begin);
    for (int b = begin; b < end; b++, p += BYTES, x = x.from(1, BLOCK, ROWS)) {
        scales.advance();
        fetch<BYTES>(p);
        multiply_block<Products<BITS>, BLOCK, ZERO, ROWS>(p, BITS == 4 ? p : p + BYTES / 2, scales, x, ROWS, sums);
    }
}

// Codes as they stand in their own bytes.
template <int BITS>
struct Unpacked : Products<BITS> {
    GLM_TARGET static GLM_INLINE Bytes see(Bytes line, bool) { return line; }
};

// More rows of x: each block is unpacked first, and met by AT_ONCE at a time.
template <int BITS, int BLOCK, bool ZERO>
GLM_TARGET void multiply_many(const glm_matrix& w, int64_t tile, int begin, int end, Quantized whole, int rows, float* sums) {
    using P = Unpacked<BITS>;
    constexpr int BYTES = BLOCK * TILE * BITS / 8, HALF = BLOCK * TILE / 2;
    alignas(64) uint8_t codes[2 * HALF];
    const auto* p = static_cast<const uint8_t*>(w.packed) + (tile * w.blocks + begin) * BYTES;
    Scales<ZERO> scales(w, tile, begin);
    for (int b = begin; b < end; b++, p += BYTES, whole = whole.from(1, BLOCK, rows)) {
        scales.advance();
        fetch<BYTES>(p);
        if (BITS == 4) {
            GLM_UNROLL
            for (int i = 0; i < HALF / 64 * PARTS; i++) {
                keep_part(codes, i, Products<BITS>::see(part(p, i), false));
                keep_part(codes + HALF, i, Products<BITS>::see(part(p, i), true));
            }
        }
        const uint8_t *lower = BITS == 4 ? codes : p, *upper = lower + HALF;
        Quantized x = whole;
        float* to = sums;
        for (int left = rows; left > 0;) {
            const int count = left >= 2 * AT_ONCE ? AT_ONCE : left > AT_ONCE ? (left + 1) / 2 : left;
            switch (count) {
                case 1: multiply_block<P, BLOCK, ZERO, 1>(lower, upper, scales, x, rows, to); break;
                case 2: multiply_block<P, BLOCK, ZERO, 2>(lower, upper, scales, x, rows, to); break;
                case 3: multiply_block<P, BLOCK, ZERO, 3>(lower, upper, scales, x, rows, to); break;
                case 4: multiply_block<P, BLOCK, ZERO, 4>(lower, upper, scales, x, rows, to); break;
            }
            x = {x.codes + 4 * count, x.scale + count, x.start + count};
            to += count * TILE;
            left -= count;
        }
    }
}

template <int BITS, int BLOCK, bool ZERO>
GLM_TARGET void multiply_of(const glm_matrix& w, int64_t tile, int begin, int end, const Quantized& x, int rows, float* sums) {
    switch (rows) {
        case 1: return multiply_few<BITS, BLOCK, ZERO, 1>(w, tile, begin, end, x, sums);
        case 2: return multiply_few<BITS, BLOCK, ZERO, 2>(w, tile, begin, end, x, sums);
        case 3: return multiply_few<BITS, BLOCK, ZERO, 3>(w, tile, begin, end, x, sums);
        case 4: return multiply_few<BITS, BLOCK, ZERO, 4>(w, tile, begin, end, x, sums);
        default: return multiply_many<BITS, BLOCK, ZERO>(w, tile, begin, end, x, rows, sums);
    }
}

GLM_TARGET static void multiply(const glm_matrix& w, int64_t tile, int begin, int end, const Quantized& x, int rows,
                                float* sums) {
    if (w.bits == 8)
        (w.zero ? multiply_of<8, 64, true> : multiply_of<8, 64, false>)(w, tile, begin, end, x, rows, sums);
    else if (w.block == 64)
        (w.zero ? multiply_of<4, 64, true> : multiply_of<4, 64, false>)(w, tile, begin, end, x, rows, sums);
    else
        (w.zero ? multiply_of<4, 32, true> : multiply_of<4, 32, false>)(w, tile, begin, end, x, rows, sums);
}

// A round of the probe adds LINES products to each of CHAINS sums, as `multiply_half` does.
constexpr int CHAINS = 3 * AT_ONCE, LINES = 8;
constexpr int64_t DOT_MACS = int64_t{CHAINS} * LINES * 4 * TILE / PARTS;

GLM_TARGET static int32_t dot_rounds(int64_t rounds) {
    using P = Products<4>;
    const auto code = static_cast<int8_t>(rounds | 1);
    const int8_t codes[4] = {code, code, code, code};
    const Bytes x = four(codes);
    Ints total = fill(0);
    Sums chain[CHAINS];
    for (auto& sum : chain) sum = P::nothing();
    for (int64_t n = 0; n < rounds; n++) {
        GLM_UNROLL
        for (int k = 0; k < LINES; k++) {
            GLM_UNROLL
            for (int c = 0; c < CHAINS; c++) chain[c] = P::add(chain[c], as_bytes(chain[c]), x);
        }
        GLM_UNROLL
        for (int c = 0; c < CHAINS; c++) total.v[0] = P::finish(total.v[0], chain[c]);
    }
    return sum(total);
}
