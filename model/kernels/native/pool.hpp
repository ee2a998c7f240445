// Threads that stay, owned by the caller: started once, they spin a little for the next task and then sleep.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

struct glm_pool {
public:
    glm_pool(int threads, bool pin, int spin_us);  // throws std::system_error
    ~glm_pool();
    glm_pool(const glm_pool&) = delete;
    glm_pool& operator=(const glm_pool&) = delete;

    int threads() const { return static_cast<int>(workers_.size()) + 1; }

    // task(thread) on every thread, 0 the calling one; returns when all have. Hold `lock()` around it.
    template <class Task>
    void run(Task& task) {
        run([](void* argument, int thread) { (*static_cast<Task*>(argument))(thread); }, &task);
    }

    // part(thread, begin, end) for pieces of the range [0, count), given out as threads come for them: some multiple
    // of `step`, half of what would be a thread's share of the rest, so that pieces are long and threads end together.
    // A single piece stays on the calling thread. Hold `lock()` around it.
    template <class Part>
    void split(int64_t count, int64_t step, Part part) {
        if (count <= step || workers_.empty()) {
            if (count > 0) part(0, int64_t{0}, count);
            return;
        }
        std::atomic<int64_t> next{0};
        auto task = [&](int thread) {
            for (int64_t begin = 0, end = 0; begin < count;) {
                const int64_t share = (count - begin) / (2 * threads()) / step * step;
                end = std::min(count, begin + std::max(share, step));
                if (!next.compare_exchange_weak(begin, end, std::memory_order_relaxed)) continue;
                part(thread, begin, end);
                begin = next.load(std::memory_order_relaxed);
            }
        };
        run(task);
    }

    // One call at a time uses the threads and the scratch.
    std::unique_lock<std::mutex> lock() { return std::unique_lock<std::mutex>(call_); }

    // At least `bytes`, aligned to 64, kept for the next call; what it held is lost. Hold `lock()`.
    void* scratch(std::size_t bytes);

private:
    using Function = void (*)(void* argument, int thread);
    void run(Function, void* argument);
    void work(int thread);
    void stop();
    template <class Ready>
    void wait(Ready ready, std::condition_variable&);

    std::vector<std::thread> workers_;
    std::chrono::microseconds spin_;
    std::mutex call_;

    Function function_ = nullptr;
    void* argument_ = nullptr;
    alignas(64) std::atomic<uint64_t> turn_{0};  // counts tasks
    alignas(64) std::atomic<int> busy_{0};       // workers that have not finished this task
    alignas(64) std::atomic<int> sleeping_{0};
    bool stopping_ = false;
    std::mutex sleep_;
    std::condition_variable task_, finished_;

    std::vector<char> scratch_;
};
