// What this machine can do at most, for figures that say how far from it the rest is.
#include <algorithm>
#include <atomic>
#include <chrono>

#include "glm_cpu.h"
#include "kernels.hpp"
#include "pool.hpp"

namespace {

std::atomic<uint64_t> sink;  // so that nothing is left out as unused

template <class Task>
double seconds(glm_pool& pool, Task task) {
    const auto start = std::chrono::steady_clock::now();
    pool.run(task);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

double glm_probe_read(glm_pool* pool, const void* p, int64_t bytes) {
    const auto guard = pool->lock();
    const glm::Kernels& kernels = glm::kernels();
    const int64_t part = bytes / pool->threads() / 256 * 256;
    return seconds(*pool, [&](int thread) { sink += kernels.read(static_cast<const char*>(p) + thread * part, part); });
}

double glm_probe_dot(glm_pool* pool, int64_t rounds, int64_t* macs) {
    const auto guard = pool->lock();
    const glm::Kernels& kernels = glm::kernels();
    *macs = rounds * kernels.dot_macs * pool->threads();
    return seconds(*pool, [&](int) { sink += static_cast<uint64_t>(kernels.dot_rounds(rounds)); });
}
