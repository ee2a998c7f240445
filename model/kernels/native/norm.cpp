#include "glm_cpu.h"
#include "kernels.hpp"
#include "pool.hpp"

namespace {

constexpr int64_t ROWS = 4;  // that are worth another thread

}  // namespace

void glm_norm(glm_pool* pool, const float* x, const float* y, float alpha, const float* weight, const float* bias,
              float epsilon, int64_t rows, int64_t width, float* out) {
    const auto guard = pool->lock();
    const glm::Kernels& kernels = glm::kernels();
    pool->split(rows, ROWS, [&](int, int64_t begin, int64_t end) {
        for (int64_t at = begin * width; at < end * width; at += width)
            kernels.norm(x + at, y ? y + at : nullptr, alpha, weight, bias, epsilon, width, out + at);
    });
}
