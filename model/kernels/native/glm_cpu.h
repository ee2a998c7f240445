/* The CPU library of glmbot: INT4 and INT8 linear layers and what a decoder needs beside them.
 *
 * A plain C interface, opened by ctypes. Nothing here allocates for the caller, throws or keeps a pointer
 * after a call; matrices stay where the caller has them (a mapped file, for example). float16 numbers are
 * passed as uint16_t. Calls with one pool from several threads wait for each other.
 */
#ifndef GLM_CPU_H
#define GLM_CPU_H

#include <stdint.h>

#if defined(_WIN32)
#define GLM_API __declspec(dllexport)
#else
#define GLM_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define GLM_ABI 1

GLM_API int32_t glm_abi(void); /* GLM_ABI of the built library */

/* -- instruction sets -------------------------------------------------------------------------- */

GLM_API const char* glm_isa(void);            /* the one in use; at load the best of this CPU */
GLM_API const char* glm_isas(void);           /* those of this CPU, best first: "avx512vnni avx2 scalar" */
GLM_API int32_t glm_use(const char* isa);     /* 0, or -1: unknown or not on this CPU. Not while a call is running */

/* -- threads ----------------------------------------------------------------------------------- */

typedef struct glm_pool glm_pool;

/* `threads` that work at once, the calling one among them; NULL where they cannot be started. pin: bind the
 * others to a CPU each (Linux). A waiting thread spins for spin_us microseconds, then sleeps. */
GLM_API glm_pool* glm_pool_new(int32_t threads, int32_t pin, int32_t spin_us);
GLM_API void glm_pool_free(glm_pool*);
GLM_API int32_t glm_pool_threads(const glm_pool*);

/* -- matrices ---------------------------------------------------------------------------------- */

/* A matrix [out_features, in_features] in tiles of 16 rows x `block` columns (model/tiles.py has the order):
 * packed [tiles, blocks, 16 * block * bits / 8], scale and zero [tiles, groups, 16]. A weight is
 * (integer - zero) * scale. Padding counts for nothing. */
typedef struct {
    const void* packed;
    const uint16_t* scale;
    const uint16_t* zero; /* or NULL: 0 */
    const float* bias;    /* [out_features] or NULL */
    int32_t bits;         /* 4 | 8 */
    int32_t block;        /* 32 | 64; INT8: 64 */
    int32_t blocks;       /* ceil(in_features / block) */
    int32_t group_blocks; /* blocks that share a scale; `blocks` when a row is one group */
    int32_t groups;
    int32_t out_features;
    int32_t in_features;
} glm_matrix;

#define GLM_EXACT 1 /* float activations instead of int8 */
#define GLM_GELU 2  /* tanh-GELU of the result */

/* y [rows, out] = x [rows, in] W^T + bias. Row i of y depends on row i of x only, to the bit. A row of x that
 * is not finite gives a row of NaN (GLM_EXACT: what IEEE 754 says). x and y do not overlap. */
GLM_API void glm_linear(glm_pool*, const glm_matrix*, const float* x, int64_t rows, float* y, int32_t flags);

/* Rows `ids` of a matrix as floats, y [rows, in]; an id that is none gives NaN. */
GLM_API void glm_embed(const glm_matrix*, const int64_t* ids, int64_t rows, float* y);

/* -- elementwise ------------------------------------------------------------------------------- */

/* out [rows, width] = LayerNorm(alpha * x + y) with the population's variance; y may be NULL. out may be x or y. */
GLM_API void glm_norm(glm_pool*, const float* x, const float* y, float alpha, const float* weight, const float* bias,
              float epsilon, int64_t rows, int64_t width, float* out);

/* -- attention --------------------------------------------------------------------------------- */

#define GLM_FLOAT32 0
#define GLM_FLOAT16 1
#define GLM_INT8 2
#define GLM_INT4 3

/* Keys and values of all layers in pages of 16 tokens: data [layers, pages, 2 (keys, values), heads, 16, head_size],
 * scale (integers) and zero (GLM_INT4) [layers, pages, 2, heads, 16]. model/kv_cache.py says what they mean. */
typedef struct {
    void* data;
    uint16_t* scale;
    uint16_t* zero;
    int64_t pages;
    int32_t storage; /* GLM_FLOAT32 ... GLM_INT4 */
    int32_t heads;
    int32_t head_size; /* with GLM_INT4 an even number */
} glm_pages;

/* Splits qkv [tokens, heads, 3, head_size] into query, key and value [tokens, heads, head_size], rotates the first
 * two by cos and sin [tokens, axes, head_size / axes / 2], and keeps keys and values of a layer in slots [tokens]
 * (16 times the page plus the place in it). */
GLM_API void glm_rope_kv(glm_pool*, const glm_pages*, int64_t layer, const float* qkv, const float* cos,
                         const float* sin, int32_t axes, const int64_t* slots, int64_t tokens, float* query,
                         float* key, float* value);

/* Attention of sequences' new tokens to their pages. sequences [count, 3]: where in `tables` its pages begin, how
 * many tokens came before, how many are new; these are in the pages, and each sees what comes up to itself.
 * query and out: [new tokens of all sequences, heads, head_size]. */
GLM_API void glm_attention(glm_pool*, const glm_pages*, int64_t layer, const float* query, const int32_t* tables,
                           const int32_t* sequences, int64_t count, float* out);

/* Attention where everything sees everything: query and out [queries, heads, head_size], key and value [tokens, ...]. */
GLM_API void glm_context_attention(glm_pool*, const float* query, int64_t queries, const float* key,
                                   const float* value, int64_t tokens, int32_t heads, int32_t head_size, float* out);


/* -- layers ------------------------------------------------------------------------------------ */

/* One layer: a -> m = LayerNorm(alpha a + dense(attention(a))) -> LayerNorm'(alpha m + mlp(m)), of which the last
 * norm belongs to what comes next. norm and next: [hidden]. */
typedef struct {
    glm_matrix query_key_value;
    glm_matrix dense;
    glm_matrix dense_h_to_4h;
    glm_matrix dense_4h_to_h;
    const float* norm_weight;
    const float* norm_bias;
    const float* next_weight;
    const float* next_bias;
} glm_block;

/* glm_linear, glm_rope_kv, glm_attention ... of all layers, one after another: what a caller would lose between
 * them is a few percent of the time of a token. a and out: [tokens, hidden], space: tokens * (3 hidden + the
 * larger of 3 hidden and the MLP's width); flags: GLM_EXACT or 0. */
GLM_API void glm_layers(glm_pool*, const glm_block*, int32_t layers, const glm_pages*, const float* cos,
                        const float* sin, int32_t axes, const int64_t* slots, const int32_t* tables,
                        const int32_t* sequences, int64_t count, float alpha, float epsilon, int32_t flags,
                        const float* a, int64_t tokens, float* space, float* out);

/* -- probes ------------------------------------------------------------------------------------ */

/* Seconds of one sequential read of memory by all threads. */
GLM_API double glm_probe_read(glm_pool*, const void* p, int64_t bytes);
/* Seconds of `rounds` of integer dot products in registers by all threads, and how many multiply-accumulates
 * that were: the limit of the instruction set in use. */
GLM_API double glm_probe_dot(glm_pool*, int64_t rounds, int64_t* macs);

#ifdef __cplusplus
}
#endif
#endif
