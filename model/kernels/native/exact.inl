// Weights as floats and products with them, on 16 lanes. Included after lanes_*.inl.

// N: how far the wanted nibble or byte stands from the lowest bit of its row's four bytes.
template <int N>
GLM_TARGET static inline Floats nibble(Ints four) {
    return to_floats(both(shift_right<N>(four), fill(int32_t{15})));
}

template <int N>
GLM_TARGET static inline Floats byte(Ints four) {
    return to_floats(shift_right<24>(shift_left<24 - N>(four)));
}

GLM_TARGET static void decode(const glm_matrix& w, int64_t tile, int block, float* weights) {
    const int bytes = w.block * TILE * w.bits / 8;
    const auto* packed = static_cast<const uint8_t*>(w.packed) + (tile * w.blocks + block) * bytes;
    const int64_t group = (tile * w.groups + block / w.group_blocks) * TILE;
    const Floats scale = load_halves(w.scale + group);
    const float offset = w.bits == 4 ? 8.0f : 0.0f;
    const Floats zero = w.zero ? add(fill(offset), load_halves(w.zero + group)) : fill(offset);
    const Floats least = fnma(zero, scale, fill(0.0f));
    for (int line = 0; line < bytes / 64; line++) {
        int32_t lanes[TILE];
        std::memcpy(lanes, packed + 64 * line, sizeof lanes);
        const Ints four = load(lanes);
        float* low = weights + 4 * TILE * line;
        if (w.bits == 8) {
            store(low, fma(byte<0>(four), scale, least));
            store(low + TILE, fma(byte<8>(four), scale, least));
            store(low + 2 * TILE, fma(byte<16>(four), scale, least));
            store(low + 3 * TILE, fma(byte<24>(four), scale, least));
            continue;
        }
        float* high = low + w.block / 2 * TILE;
        store(low, fma(nibble<0>(four), scale, least));
        store(low + TILE, fma(nibble<8>(four), scale, least));
        store(low + 2 * TILE, fma(nibble<16>(four), scale, least));
        store(low + 3 * TILE, fma(nibble<24>(four), scale, least));
        store(high, fma(nibble<4>(four), scale, least));
        store(high + TILE, fma(nibble<12>(four), scale, least));
        store(high + 2 * TILE, fma(nibble<20>(four), scale, least));
        store(high + 3 * TILE, fma(nibble<28>(four), scale, least));
    }
}

// Every fourth column to a chain of its own, so that additions need not wait for each other.
template <int ROWS>
GLM_TARGET static inline void exact_rows(const float* weights, const float* x, int64_t stride, int columns, float* acc) {
    Floats chain[ROWS][4];
    for (int r = 0; r < ROWS; r++)
        for (int t = 0; t < 4; t++) chain[r][t] = fill(0.0f);
    int column = 0;
    for (; column + 4 <= columns; column += 4)
        for (int t = 0; t < 4; t++) {
            const Floats w = load(weights + (column + t) * TILE);
            for (int r = 0; r < ROWS; r++) chain[r][t] = fma(w, fill(x[r * stride + column + t]), chain[r][t]);
        }
    for (int t = 0; column + t < columns; t++)
        for (int r = 0; r < ROWS; r++)
            chain[r][t] = fma(load(weights + (column + t) * TILE), fill(x[r * stride + column + t]), chain[r][t]);
    for (int r = 0; r < ROWS; r++) {
        const Floats sum = add(add(chain[r][0], chain[r][1]), add(chain[r][2], chain[r][3]));
        store(acc + r * TILE, add(load(acc + r * TILE), sum));
    }
}

GLM_TARGET static void exact(const float* weights, const float* x, int64_t stride, int columns, int64_t rows, float* acc) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) exact_rows<4>(weights, x + r * stride, stride, columns, acc + r * TILE);
    for (; r < rows; r++) exact_rows<1>(weights, x + r * stride, stride, columns, acc + r * TILE);
}
