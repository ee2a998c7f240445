// Attention of many queries of one sequence, on 16 lanes. Included after attention.inl.
//
// The lanes are queries, so softmax needs nothing across lanes: scores [keys, queries] = K Q^T, results
// [head size, queries] += V^T weights. Only the queries are transposed before and the results after it.

// c [rows, QUERIES] = keep [QUERIES] * c + a b (keep NULL: only a b), for b [depth, QUERIES] and the element of a
// at row * row_step + k * step. Goes on to the next multiple of BLOCK_ROWS.
GLM_TARGET static inline void product(const float* a, int64_t row_step, int64_t step, const float* b, int64_t depth,
                                      int rows, const float* keep, float* c) {
    for (int row = 0; row < rows; row += BLOCK_ROWS, c += BLOCK_ROWS * QUERIES) {
        const float* x[BLOCK_ROWS];
        GLM_UNROLL
        for (int r = 0; r < BLOCK_ROWS; r++) x[r] = a + (row + r) * row_step;
        for (int q = 0; q < QUERIES; q += 16 * BLOCK_VECTORS) {
            Floats total[BLOCK_ROWS][BLOCK_VECTORS];
            GLM_UNROLL
            for (int r = 0; r < BLOCK_ROWS; r++) {
                GLM_UNROLL
                for (int v = 0; v < BLOCK_VECTORS; v++) {
                    const int at = q + 16 * v;
                    total[r][v] = keep ? mul(load(c + r * QUERIES + at), load(keep + at)) : fill(0.0f);
                }
            }
            const float* y = b + q;
            for (int64_t i = 0; i < depth * step; i += step, y += QUERIES) {
                Floats column[BLOCK_VECTORS];
                GLM_UNROLL
                for (int v = 0; v < BLOCK_VECTORS; v++) column[v] = load(y + 16 * v);
                GLM_UNROLL
                for (int r = 0; r < BLOCK_ROWS; r++) {
                    const Floats factor = fill(x[r][i]);
                    GLM_UNROLL
                    for (int v = 0; v < BLOCK_VECTORS; v++) total[r][v] = fma(factor, column[v], total[r][v]);
                }
            }
            GLM_UNROLL
            for (int r = 0; r < BLOCK_ROWS; r++) {
                GLM_UNROLL
                for (int v = 0; v < BLOCK_VECTORS; v++) store(c + r * QUERIES + q + 16 * v, total[r][v]);
            }
        }
    }
}

// The rows of a page as floats, `padded` apart.
template <class S>
GLM_TARGET static void read_rows(const Layer& layer, int64_t row, int count, int padded, float* out) {
    alignas(64) float numbers[32];
    for (int t = 0; t < count; t++, row++, out += padded) {
        const uint8_t* p = layer.data + row * layer.row_bytes;
        const Floats scale = fill(layer.scale ? from_half(layer.scale[row]) : 1.0f);
        const Floats zero = fill(layer.zero ? from_half(layer.zero[row]) : 0.0f);
        for (int i = 0, done = 0; i < layer.row_bytes; i += S::BYTES, done += 16 * S::PARTS) {
            Floats x[S::PARTS];
            read_rest<S>(p + i, layer.row_bytes - i < S::BYTES ? layer.row_bytes - i : S::BYTES, x);
            for (int part = 0; part < S::PARTS; part++) store(numbers + 16 * part, fma(x[part], scale, zero));
            for (int n = 0; n < 16 * S::PARTS && done + n < layer.head_size; n++) out[done + n] = numbers[order<S>(n)];
        }
    }
}

GLM_TARGET static void read_page(const Layer& layer, int64_t row, int count, int padded, float* out) {
    switch (layer.storage) {
        case GLM_FLOAT32: return read_rows<Float32>(layer, row, count, padded, out);
        case GLM_FLOAT16: return read_rows<Float16>(layer, row, count, padded, out);
        case GLM_INT8: return read_rows<Int8>(layer, row, count, padded, out);
        case GLM_INT4: return read_rows<Int4>(layer, row, count, padded, out);
    }
}

// Keys (which 0) or values (1) of `count` tokens from `begin` on, side by side.
GLM_TARGET static void gather(const Context& x, int which, int64_t begin, int count, float* out) {
    const int padded = x.padded();
    if (x.pages) {
        for (int t = 0; t < count; t += PAGE)  // `begin` is a multiple of a page
            read_page(*x.pages, x.pages->rows(x.table[(begin + t) / PAGE], which, x.head),
                      count - t < PAGE ? count - t : PAGE, padded, out + t * padded);
        return;
    }
    const float* from = (which ? x.value : x.key) + begin * x.stride + x.head * x.head_size;
    for (int t = 0; t < count; t++) std::memcpy(out + t * padded, from + t * x.stride, sizeof(float) * x.head_size);
}

// Scores [count, QUERIES] to weights; `most` and `total` [QUERIES] go on, `keep` is what earlier results count.
GLM_TARGET static inline void soften(float* scores, int count, float* most, float* total, float* keep) {
    for (int q = 0; q < QUERIES; q += 16) {
        const Floats before = load(most + q);
        Floats top = before;
        for (int t = 0; t < count; t++) top = larger(load(scores + t * QUERIES + q), top);
        const Floats factor = exponential(sub(before, top));
        Floats sums = mul(load(total + q), factor);
        for (int t = 0; t < count; t++) {
            const Floats weight = weight_of(sub(load(scores + t * QUERIES + q), top));
            store(scores + t * QUERIES + q, weight);
            sums = add(sums, weight);
        }
        store(most + q, top);
        store(total + q, sums);
        store(keep + q, factor);
    }
}

// `value` for what a query does not see: query number i sees `seen` + i of the `count` tokens.
static void hide(float* scores, int count, int64_t seen, float value) {
    for (int t = 0; t < count; t++)
        for (int64_t q = 0; q < t - seen + 1 && q < QUERIES; q++) scores[t * QUERIES + q] = value;
}

// The queries of a tile: themselves and their results so far [head size, QUERIES], the rest of softmax [QUERIES].
struct Tile {
    float *query, *results, *most, *total;

    Tile(float* space, int padded)
        : query(space), results(query + padded * QUERIES), most(results + padded * QUERIES), total(most + QUERIES) {}
    static int64_t floats(int padded) { return (2 * padded + 2) * QUERIES; }
};

GLM_TARGET static void context(const Context& x, const float* query, int64_t first, int queries, int64_t stride, float* space,
                               float* out) {
    const int padded = x.padded(), tiles = (queries + QUERIES - 1) / QUERIES;
    const float factor = 1.0f / std::sqrt(static_cast<float>(x.head_size));
    float *keys = space, *values = keys + KEYS * padded, *scores = values + KEYS * padded, *keep = scores + KEYS * QUERIES;
    const auto tile = [&](int i) { return Tile(keep + QUERIES + i * Tile::floats(padded), padded); };
    for (int i = 0; i < tiles; i++) {
        const Tile t = tile(i);
        std::memset(t.query, 0, sizeof(float) * Tile::floats(padded));
        for (int n = 0; n < QUERIES; n++) t.most[n] = -std::numeric_limits<float>::infinity();
    }
    for (int i = 0; i < queries; i++) {
        float* to = tile(i / QUERIES).query + i % QUERIES;
        for (int c = 0; c < x.head_size; c++) to[c * QUERIES] = query[i * stride + c] * factor;
    }
    const int64_t all = x.tokens - x.hidden + first;  // what the first query sees where some is hidden
    const int64_t end = x.hidden ? std::min(x.tokens, all + queries - 1) : x.tokens;
    for (int64_t begin = 0; begin < end; begin += KEYS) {
        const int count = static_cast<int>(std::min<int64_t>(KEYS, end - begin));
        gather(x, 0, begin, count, keys);
        gather(x, 1, begin, count, values);
        for (int i = 0; i < tiles; i++) {
            const Tile t = tile(i);
            const int64_t seen = all + i * QUERIES - begin;  // by its first query, of these keys
            const bool partly = x.hidden && seen < count;
            product(keys, padded, 1, t.query, x.head_size, count, nullptr, scores);
            if (partly) hide(scores, count, seen, LOWEST);
            soften(scores, count, t.most, t.total, keep);
            if (partly) hide(scores, count, seen, 0.0f);
            product(values, 1, padded, scores, count, x.head_size, keep, t.results);
        }
    }
    for (int i = 0; i < tiles; i++) {
        const Tile t = tile(i);
        for (int c = 0; c < x.head_size; c++) {
            float* row = t.results + c * QUERIES;
            for (int q = 0; q < QUERIES; q += 16) store(row + q, div(load(row + q), load(t.total + q)));
        }
    }
    for (int i = 0; i < queries; i++) {
        const float* from = tile(i / QUERIES).results + i % QUERIES;
        for (int c = 0; c < x.head_size; c++) out[i * stride + c] = from[c * QUERIES];
    }
}
