#include <algorithm>
#include <cstring>

#include "attention.hpp"
#include "glm_cpu.h"
#include "kernels.hpp"
#include "pool.hpp"

namespace {

constexpr int64_t HEADS = 16;  // of any tokens, that are worth another thread

}  // namespace

void glm_rope_kv(glm_pool* pool, const glm_pages* pages, int64_t number, const float* qkv, const float* cos, const float* sin,
                 int32_t axes, const int64_t* slots, int64_t tokens, float* query, float* key, float* value) {
    using namespace glm;
    const auto guard = pool->lock();
    const AttentionKernels& attention = kernels().attention;
    const Layer layer(*pages, number);
    const int size = layer.head_size, half = size / axes / 2;
    pool->split(tokens * layer.heads, HEADS, [&](int, int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
            const int64_t token = i / layer.heads, angles = token * axes * half, slot = slots[token], at = i * size;
            const int head = static_cast<int>(i % layer.heads);
            const float* x = qkv + 3 * at;
            attention.rotate(x, cos + angles, sin + angles, axes, half, query + at);
            attention.rotate(x + size, cos + angles, sin + angles, axes, half, key + at);
            std::memcpy(value + at, x + 2 * size, sizeof(float) * size);
            attention.keep(layer, layer.rows(slot / PAGE, 0, head) + slot % PAGE, key + at);
            attention.keep(layer, layer.rows(slot / PAGE, 1, head) + slot % PAGE, value + at);
        }
    });
}
