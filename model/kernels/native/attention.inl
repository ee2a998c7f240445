// Attention of one query to pages, on 16 lanes. Included after rows.inl.
//
// Scores of a page are products of rows; results add up rows, a few registers of the head at a time. The maximum
// so far scales both (softmax as it goes: Milakov and Gimelshein 2018). INT4 keeps even and odd numbers of a
// head in registers of their own, so the query is put into that order and the result taken out of it.

// A storage reads BYTES of a row into PARTS registers.
struct Float32 {
    static constexpr int BYTES = 64, PARTS = 1;
    GLM_TARGET static GLM_INLINE void read(const uint8_t* p, Floats* to) { to[0] = load(reinterpret_cast<const float*>(p)); }
};

struct Float16 {
    static constexpr int BYTES = 32, PARTS = 1;
    GLM_TARGET static GLM_INLINE void read(const uint8_t* p, Floats* to) {
        to[0] = load_halves(reinterpret_cast<const uint16_t*>(p));
    }
};

struct Int8 {
    static constexpr int BYTES = 16, PARTS = 1;
    GLM_TARGET static GLM_INLINE void read(const uint8_t* p, Floats* to) {
        to[0] = to_floats(load_bytes(reinterpret_cast<const int8_t*>(p)));
    }
};

struct Int4 {
    static constexpr int BYTES = 16, PARTS = 2;
    GLM_TARGET static GLM_INLINE void read(const uint8_t* p, Floats* to) {
        const Ints pairs = load_bytes(p);
        to[0] = to_floats(both(pairs, fill(int32_t{15})));
        to[1] = to_floats(shift_right<4>(pairs));
    }
};

// The last `bytes` of a row, fewer than a register takes; zeros after them.
template <class S>
GLM_TARGET static inline void read_rest(const uint8_t* p, int bytes, Floats* to) {
    alignas(64) uint8_t rest[64] = {};
    std::memcpy(rest, p, bytes);
    S::read(rest, to);
}

// Where the numbers of a head are while they are computed with: `order` of number i.
template <class S>
static inline int order(int i) {
    return S::PARTS == 1 ? i : i / 32 * 32 + i % 2 * 16 + i % 32 / 2;
}

// What is fetched while 16 rows are computed with: the 16 rows that come next, and those after them. One alone
// leaves memory idle at times, and the other way round: the first cache waits for too few lines at once.
struct Ahead {
    const uint8_t *next, *later;

    GLM_INLINE void fetch(int begin, int end) const {
        for (int i = begin; i < end; i += 64) {
            prefetch(next + i);
            prefetch_later(later + i);
        }
    }
};

// Products of `count` <= 16 rows with the query, SCORE_ROWS at a time. Those of rows that are not there are anything.
template <class S>
GLM_TARGET static inline Floats scores(const uint8_t* rows, int row_bytes, int count, const float* query, Ahead ahead) {
    const int whole = row_bytes / S::BYTES, rest = row_bytes % S::BYTES;
    Floats total[16];
    GLM_UNROLL
    for (int t = 0; t < 16; t += SCORE_ROWS) {
        const uint8_t* row[SCORE_ROWS];
        GLM_UNROLL
        for (int r = 0; r < SCORE_ROWS; r++) {
            row[r] = rows + (t + r < count ? t + r : 0) * row_bytes;
            total[t + r] = fill(0.0f);
        }
        const float* q = query;
        for (int c = 0; c < whole; c++, q += 16 * S::PARTS) {
            ahead.fetch((t * whole + c * SCORE_ROWS) * S::BYTES, (t * whole + (c + 1) * SCORE_ROWS) * S::BYTES);
            GLM_UNROLL
            for (int r = 0; r < SCORE_ROWS; r++) {
                Floats x[S::PARTS];
                S::read(row[r] + c * S::BYTES, x);
                GLM_UNROLL
                for (int p = 0; p < S::PARTS; p++) total[t + r] = fma(x[p], load(q + 16 * p), total[t + r]);
            }
        }
        if (rest == 0) continue;
        GLM_UNROLL
        for (int r = 0; r < SCORE_ROWS; r++) {
            Floats x[S::PARTS];
            read_rest<S>(row[r] + whole * S::BYTES, rest, x);
            GLM_UNROLL
            for (int p = 0; p < S::PARTS; p++) total[t + r] = fma(x[p], load(q + 16 * p), total[t + r]);
        }
    }
    return sums(total);
}

// sums = keep * sums + start + rows times their weights, for CHUNKS registers' worth of each row; `rest`: bytes
// of a last one.
template <class S, int CHUNKS>
GLM_TARGET static inline void mix(const uint8_t* rows, int row_bytes, int count, const float* weights, Floats keep,
                                  Floats start, int rest, const Ahead* ahead, float* sums) {
    constexpr int SUMS = CHUNKS * S::PARTS;
    Floats total[SUMS];
    GLM_UNROLL
    for (int i = 0; i < SUMS; i++) total[i] = fma(load(sums + 16 * i), keep, start);
    for (int t = 0; t < count; t++) {
        const uint8_t* row = rows + t * row_bytes;
        const Floats weight = fill(weights[t]);
        if (ahead != nullptr) ahead->fetch(t * row_bytes, (t + 1) * row_bytes);
        GLM_UNROLL
        for (int c = 0; c < CHUNKS; c++) {
            Floats x[S::PARTS];
            if (rest > 0)
                read_rest<S>(row, rest, x);
            else
                S::read(row + c * S::BYTES, x);
            GLM_UNROLL
            for (int p = 0; p < S::PARTS; p++)
                total[c * S::PARTS + p] = fma(x[p], weight, total[c * S::PARTS + p]);
        }
    }
    GLM_UNROLL
    for (int i = 0; i < SUMS; i++) store(sums + 16 * i, total[i]);
}

template <class S>
GLM_TARGET static inline void mix_all(const uint8_t* rows, int row_bytes, int count, const float* weights, Floats keep,
                                      Floats start, const Ahead* ahead, float* sums) {
    constexpr int CHUNKS = MIX_SUMS / S::PARTS;
    int left = row_bytes;
    for (; left >= CHUNKS * S::BYTES; left -= CHUNKS * S::BYTES, rows += CHUNKS * S::BYTES, ahead = nullptr) {
        mix<S, CHUNKS>(rows, row_bytes, count, weights, keep, start, 0, ahead, sums);
        sums += 16 * MIX_SUMS;
    }
    for (; left > 0; left -= S::BYTES, rows += S::BYTES, ahead = nullptr) {
        mix<S, 1>(rows, row_bytes, count, weights, keep, start, left < S::BYTES ? left : 0, ahead, sums);
        sums += 16 * S::PARTS;
    }
}

// Lanes from `count` on become `value`.
GLM_TARGET static inline Floats only(Floats x, int count, float value) {
    if (count >= 16) return x;
    alignas(64) float lanes[16];
    store(lanes, x);
    for (int i = count; i < 16; i++) lanes[i] = value;
    return load(lanes);
}

constexpr float LOWEST = -3.0e38f;

// e^x where a NaN stays one.
GLM_TARGET static inline Floats weight_of(Floats x) { return fma(x, fill(0.0f), exponential(x)); }

template <class S>
GLM_TARGET static void attend_as(const Layer& layer, const int32_t* table, int tokens, int head, const float* query,
                                 float* part) {
    alignas(64) float weights[16];
    const int padded = layer.padded(), row_bytes = layer.row_bytes;
    float *sums = part + PART_HEAD, *q = sums + padded;
    float most = -std::numeric_limits<float>::infinity(), total = 0.0f;
    const float factor = 1.0f / std::sqrt(static_cast<float>(layer.head_size));
    std::memset(q, 0, sizeof(float) * padded);
    std::memset(sums, 0, sizeof(float) * padded);
    for (int i = 0; i < layer.head_size; i++) {
        q[order<S>(i)] = query[i] * factor;
        total += q[order<S>(i)];
    }
    Floats exponentials = fill(0.0f);
    const auto at = [&](int64_t row) { return layer.data + row * row_bytes; };
    const int64_t following = layer.rows(table[0], 0, head + 1 < layer.heads ? head + 1 : head);  // most likely
    int64_t keys = layer.rows(table[0], 0, head);
    for (int t = 0; t < tokens; t += PAGE) {
        const int count = tokens - t < PAGE ? tokens - t : PAGE;
        const int64_t values = keys + layer.heads * PAGE;
        const int64_t next = tokens - t > PAGE ? layer.rows(table[t / PAGE + 1], 0, head) : following;
        Floats x = scores<S>(at(keys), row_bytes, count, q, {at(values), at(next)});
        if (layer.scale) x = mul(x, load_halves(layer.scale + keys));
        if (layer.zero) x = fma(load_halves(layer.zero + keys), fill(total), x);
        x = only(x, count, LOWEST);
        const float before = most, top = largest(x);
        most = top > most ? top : most;
        const Floats keep = before == most ? fill(1.0f) : exponential(fill(before - most));
        x = only(weight_of(sub(x, fill(most))), count, 0.0f);
        exponentials = fma(exponentials, keep, x);
        Floats start = fill(0.0f);
        if (layer.zero) start = fill(sum(only(mul(x, load_halves(layer.zero + values)), count, 0.0f)));
        if (layer.scale) x = mul(x, load_halves(layer.scale + values));
        store(weights, x);
        const Ahead ahead = {at(next), at(next + layer.heads * PAGE)};
        mix_all<S>(at(values), row_bytes, count, weights, keep, start, &ahead, sums);
        keys = next;
    }
    part[0] = most;
    part[1] = sum(exponentials);
}

GLM_TARGET static void attend(const Layer& layer, const int32_t* table, int tokens, int head, const float* query,
                              float* part) {
    switch (layer.storage) {
        case GLM_FLOAT32: return attend_as<Float32>(layer, table, tokens, head, query, part);
        case GLM_FLOAT16: return attend_as<Float16>(layer, table, tokens, head, query, part);
        case GLM_INT8: return attend_as<Int8>(layer, table, tokens, head, query, part);
        case GLM_INT4: return attend_as<Int4>(layer, table, tokens, head, query, part);
    }
}

// Over the first part.
GLM_TARGET static void merge(const Layer& layer, float* parts, int count, float* out) {
    const int64_t floats = layer.part_floats();
    const int padded = layer.padded();
    float most = parts[0], *sums = parts + PART_HEAD;
    for (int i = 1; i < count; i++) most = parts[i * floats] > most ? parts[i * floats] : most;
    Floats total = fill(0.0f);
    for (int i = 0; i < count; i++) {
        const float* part = parts + i * floats;
        const Floats factor = exponential(fill(part[0] - most));
        total = fma(factor, fill(part[1]), total);
        for (int c = 0; c < padded; c += 16) {
            const Floats sum = i > 0 ? load(sums + c) : fill(0.0f);
            store(sums + c, fma(factor, load(part + PART_HEAD + c), sum));
        }
    }
    for (int c = 0; c < padded; c += 16) store(sums + c, div(load(sums + c), total));
    if (layer.storage != GLM_INT4) std::memcpy(out, sums, sizeof(float) * layer.head_size);
    for (int i = 0; layer.storage == GLM_INT4 && i < layer.head_size; i++) out[i] = sums[order<Int4>(i)];
}
