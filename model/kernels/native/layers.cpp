#include <cstring>

#include "glm_cpu.h"

void glm_layers(glm_pool* pool, const glm_block* blocks, int32_t layers, const glm_pages* pages, const float* cos,
                const float* sin, int32_t axes, const int64_t* slots, const int32_t* tables, const int32_t* sequences,
                int64_t count, float alpha, float epsilon, int32_t flags, const float* a, int64_t tokens, float* space,
                float* out) {
    const int64_t hidden = blocks->dense.out_features, floats = tokens * hidden;
    float *qkv = space, *context = qkv, *branch = context + floats, *middle = branch + floats;
    float *inner = qkv + 3 * floats, *query = inner, *key = query + floats, *value = key + floats;
    std::memcpy(out, a, sizeof(float) * floats);
    for (int32_t layer = 0; layer < layers; layer++) {
        const glm_block& block = blocks[layer];
        glm_linear(pool, &block.query_key_value, out, tokens, qkv, flags);
        glm_rope_kv(pool, pages, layer, qkv, cos, sin, axes, slots, tokens, query, key, value);
        glm_attention(pool, pages, layer, query, tables, sequences, count, context);
        glm_linear(pool, &block.dense, context, tokens, branch, flags);
        glm_norm(pool, out, branch, alpha, block.norm_weight, block.norm_bias, epsilon, tokens, hidden, middle);
        glm_linear(pool, &block.dense_h_to_4h, middle, tokens, inner, flags | GLM_GELU);
        glm_linear(pool, &block.dense_4h_to_h, inner, tokens, branch, flags);
        glm_norm(pool, middle, branch, alpha, block.next_weight, block.next_bias, epsilon, tokens, hidden, out);
    }
}
