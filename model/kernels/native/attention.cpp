// Attention over pages (decode) and within a prompt: the work in pieces that depend on lengths only, so that
// results are the same bits for any number of threads.
#include <algorithm>

#include "attention.hpp"
#include "glm_cpu.h"
#include "kernels.hpp"
#include "pool.hpp"

namespace glm {
namespace {

constexpr int MANY = 16;              // new tokens of a sequence from which on tiles of queries are faster
constexpr int64_t ALONE = 128 << 10;  // bytes of pages that are not worth another thread

// A part of a query's context, for all heads.
struct Part {
    const int32_t* table;
    int32_t tokens;
    int32_t query;
    int32_t number, count;  // among the parts of its query
    int64_t before;         // parts of earlier queries
};

int parts_of(int64_t tokens) { return static_cast<int>((tokens + PAGE * SPLIT_PAGES - 1) / (PAGE * SPLIT_PAGES)); }

void in_tiles(glm_pool& pool, const Context& sequence, const float* query, int64_t queries, int heads, float* out) {
    const int64_t most = TILES * QUERIES, groups = (queries + most - 1) / most, stride = int64_t{heads} * sequence.head_size;
    const int64_t floats = sequence.space_floats();
    auto* memory = static_cast<float*>(pool.scratch(sizeof(float) * floats * pool.threads()));
    pool.split(groups * heads, 1, [&](int thread, int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
            Context x = sequence;
            x.head = static_cast<int>(i / groups);
            const int64_t first = i % groups * most, at = first * stride + int64_t{x.head} * x.head_size;
            const int count = static_cast<int>(std::min(most, queries - first));
            kernels().attention.context(x, query + at, first, count, stride, memory + thread * floats, out + at);
        }
    });
}

// The parts of all queries of short sequences; `sequences` [count, 3].
int64_t list_parts(const int32_t* tables, const int32_t* sequences, int64_t count, Part* parts) {
    int64_t listed = 0;
    for (int32_t s = 0, query = 0; s < count; query += sequences[3 * s + 2], s++) {
        const int32_t *table = tables + sequences[3 * s], length = sequences[3 * s + 1], added = sequences[3 * s + 2];
        if (added >= MANY) continue;
        for (int32_t i = 0; i < added; i++) {
            const int32_t tokens = length + i + 1, of_query = parts_of(tokens);
            for (int32_t n = 0; n < of_query; n++, listed++) {
                if (parts == nullptr) continue;
                const int32_t skipped = n * PAGE * SPLIT_PAGES;
                parts[listed] = {table + n * SPLIT_PAGES, std::min(tokens - skipped, PAGE * SPLIT_PAGES), query + i, n,
                                 of_query, listed - n};
            }
        }
    }
    return listed;
}

void in_parts(glm_pool& pool, const Layer& layer, const float* query, const int32_t* tables, const int32_t* sequences,
              int64_t count, float* out) {
    const int64_t listed = list_parts(tables, sequences, count, nullptr), heads = layer.heads;
    if (listed == 0) return;
    const int64_t floats = layer.part_floats(), head_size = layer.head_size;
    const int64_t list_bytes = (listed * static_cast<int64_t>(sizeof(Part)) + 63) / 64 * 64;
    auto* memory = static_cast<char*>(pool.scratch(list_bytes + sizeof(float) * floats * listed * heads));
    auto* parts = reinterpret_cast<Part*>(memory);
    auto* results = reinterpret_cast<float*>(memory + list_bytes);
    list_parts(tables, sequences, count, parts);

    const AttentionKernels& attention = kernels().attention;
    const auto result = [&](const Part& part, int64_t head) {
        return results + (part.before * heads + head * part.count + part.number) * floats;
    };
    const auto finish = [&](const Part& part, int64_t head) {
        attention.merge(layer, result(part, head) - part.number * floats, part.count,
                        out + (part.query * heads + head) * head_size);
    };
    int64_t bytes = 0;
    bool divided = false;
    for (int64_t i = 0; i < listed; i++) {
        bytes += parts[i].tokens * heads * layer.row_bytes * 2;
        divided |= parts[i].count > 1;
    }
    const int64_t all = listed * heads, step = bytes < ALONE ? all : std::max<int64_t>(1, all / (pool.threads() * 16));
    pool.split(all, step, [&](int, int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
            const Part& part = parts[i / heads];
            const int64_t head = i % heads;
            attention.attend(layer, part.table, part.tokens, static_cast<int>(head),
                             query + (part.query * heads + head) * head_size, result(part, head));
            if (part.count == 1) finish(part, head);
        }
    });
    if (!divided) return;
    pool.split(all, std::max<int64_t>(64, all / pool.threads()), [&](int, int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
            const Part& part = parts[i / heads];
            if (part.count > 1 && part.number == 0) finish(part, i % heads);
        }
    });
}

}  // namespace
}  // namespace glm

void glm_attention(glm_pool* pool, const glm_pages* pages, int64_t number, const float* query, const int32_t* tables,
                   const int32_t* sequences, int64_t count, float* out) {
    using namespace glm;
    const auto guard = pool->lock();
    const Layer layer(*pages, number);
    const int64_t width = int64_t{layer.heads} * layer.head_size;
    for (int64_t s = 0, done = 0; s < count; done += sequences[3 * s + 2], s++) {
        const int64_t added = sequences[3 * s + 2], tokens = sequences[3 * s + 1] + added;
        if (added < MANY) continue;
        const Context x = {&layer, tables + sequences[3 * s], nullptr, nullptr, 0, tokens, added - 1, 0, layer.head_size};
        in_tiles(*pool, x, query + done * width, added, layer.heads, out + done * width);
    }
    in_parts(*pool, layer, query, tables, sequences, count, out);
}

void glm_context_attention(glm_pool* pool, const float* query, int64_t queries, const float* key, const float* value,
                           int64_t tokens, int32_t heads, int32_t head_size, float* out) {
    using namespace glm;
    const auto guard = pool->lock();
    const Context x = {nullptr, nullptr, key, value, int64_t{heads} * head_size, tokens, 0, 0, head_size};
    in_tiles(*pool, x, query, queries, heads, out);
}
