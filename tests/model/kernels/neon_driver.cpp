// Calls one function of the library for a test that cannot open it itself, on a processor that is emulated.
//
//   neon_driver                              prints the instruction sets
//   neon_driver ISA THREADS FUNCTION <in >out
//
// in: the number of integers and they themselves, then the number of arrays, each as its bytes and they themselves;
// numbers are int64, an array of no bytes is NULL. out: all arrays, one after another, as the call leaves them.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "glm_cpu.h"

namespace {

void take(void* to, size_t bytes) {
    if (std::fread(to, 1, bytes, stdin) != bytes) std::exit(2);
}

int64_t number() {
    int64_t value;
    take(&value, sizeof value);
    return value;
}

struct Array {
    std::vector<char> bytes;

    Array() : bytes(static_cast<size_t>(number())) { take(bytes.data(), bytes.size()); }

    // An array as a function wants it: float*, const int64_t* ...
    template <class T>
    operator T*() {
        return bytes.empty() ? nullptr : reinterpret_cast<T*>(bytes.data());
    }
};

}  // namespace

int main(int count, char** words) {
    if (count == 1) return std::puts(glm_isas()) < 0;
    if (count != 4 || glm_use(words[1]) != 0) return 3;
    glm_pool* pool = glm_pool_new(std::atoi(words[2]), 0, 1);
    const char* function = words[3];
    std::vector<int64_t> n(number());
    for (auto& value : n) value = number();
    std::vector<Array> a(number());
    const auto is = [&](const char* name) { return std::strcmp(function, name) == 0; };
    const auto small = [&](int i) { return static_cast<int32_t>(n[i]); };
    if (is("linear") || is("embed")) {
        const glm_matrix w = {a[0],     a[1],     a[2],     a[3],     small(0), small(1),
                              small(2), small(3), small(4), small(5), small(6)};
        if (is("linear"))
            glm_linear(pool, &w, a[4], n[7], a[5], small(8));
        else
            glm_embed(&w, a[4], n[7], a[5]);
    } else if (is("norm")) {
        const float* factors = a[4];
        glm_norm(pool, a[0], a[1], factors[0], a[2], a[3], factors[1], n[0], n[1], a[5]);
    } else if (is("context_attention")) {
        glm_context_attention(pool, a[0], n[0], a[1], a[2], n[1], small(2), small(3), a[3]);
    } else if (is("attention") || is("rope_kv")) {
        const glm_pages pages = {a[0], a[1], a[2], n[0], small(1), small(2), small(3)};
        if (is("attention"))
            glm_attention(pool, &pages, n[4], a[3], a[4], a[5], n[5], a[6]);
        else
            glm_rope_kv(pool, &pages, n[4], a[3], a[4], a[5], small(5), a[6], n[6], a[7], a[8], a[9]);
    } else {
        return 4;
    }
    glm_pool_free(pool);
    for (const auto& array : a)
        if (std::fwrite(array.bytes.data(), 1, array.bytes.size(), stdout) != array.bytes.size()) return 2;
    return 0;
}
