#include "pool.hpp"

#include <new>
#include <system_error>

#include "compiler.hpp"
#include "glm_cpu.h"

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace {

constexpr int PAUSES = 32;  // between two looks at the clock: about a microsecond

// Binds a worker to the CPU of its number among those that this process may use.
void bind(std::thread& thread, int number) {
#if defined(__linux__)
    cpu_set_t allowed, one;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    number %= CPU_COUNT(&allowed);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &allowed) || number-- > 0) continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        pthread_setaffinity_np(thread.native_handle(), sizeof one, &one);
        return;
    }
#else
    (void)thread, (void)number;
#endif
}

}  // namespace

glm_pool::glm_pool(int threads, bool pin, int spin_us) : spin_(spin_us) {
    workers_.reserve(threads - 1);
    try {
        for (int i = 1; i < threads; i++) {
            workers_.emplace_back(&glm_pool::work, this, i);
            if (pin) bind(workers_.back(), i);
        }
    } catch (...) {
        stop();
        throw;
    }
}

glm_pool::~glm_pool() { stop(); }

void glm_pool::stop() {
    {
        std::lock_guard<std::mutex> guard(sleep_);
        stopping_ = true;
        turn_.fetch_add(1);
    }
    task_.notify_all();
    for (auto& worker : workers_) worker.join();
}

// Spins until ready() or the time is up, then sleeps. Whoever makes it ready looks at sleeping_ afterwards:
// in the single order of sequentially consistent operations one of the two sees the other.
template <class Ready>
void glm_pool::wait(Ready ready, std::condition_variable& sign) {
    if (ready()) return;
    const auto end = std::chrono::steady_clock::now() + spin_;
    do {
        for (int i = 0; i < PAUSES; i++) {
            if (ready()) return;
            glm::pause();
        }
    } while (std::chrono::steady_clock::now() < end);
    std::unique_lock<std::mutex> guard(sleep_);
    sleeping_.fetch_add(1);
    sign.wait(guard, ready);
    sleeping_.fetch_sub(1);
}

void glm_pool::run(Function function, void* argument) {
    if (!workers_.empty()) {
        function_ = function;
        argument_ = argument;
        busy_.store(static_cast<int>(workers_.size()));
        turn_.fetch_add(1);
        if (sleeping_.load() > 0) {
            { std::lock_guard<std::mutex> guard(sleep_); }
            task_.notify_all();
        }
    }
    function(argument, 0);
    wait([this] { return busy_.load() == 0; }, finished_);
}

void glm_pool::work(int thread) {
    for (uint64_t done = 0;; done++) {
        wait([&] { return turn_.load() != done; }, task_);
        if (stopping_) return;
        function_(argument_, thread);
        if (busy_.fetch_sub(1) == 1 && sleeping_.load() > 0) {
            { std::lock_guard<std::mutex> guard(sleep_); }
            finished_.notify_all();
        }
    }
}

void* glm_pool::scratch(std::size_t bytes) {
    constexpr std::size_t line = 64;
    if (scratch_.size() < bytes + line) {
        std::vector<char>().swap(scratch_);  // freed first: the two need not fit at once
        scratch_.resize(bytes + line);
    }
    const auto address = reinterpret_cast<std::uintptr_t>(scratch_.data());
    return reinterpret_cast<void*>((address + line - 1) / line * line);
}

glm_pool* glm_pool_new(int32_t threads, int32_t pin, int32_t spin_us) {
    if (threads < 1 || spin_us < 0) return nullptr;
    try {
        return new glm_pool(threads, pin != 0, spin_us);
    } catch (const std::exception&) {
        return nullptr;
    }
}

void glm_pool_free(glm_pool* pool) { delete pool; }

int32_t glm_pool_threads(const glm_pool* pool) { return pool->threads(); }
