// Which instruction set runs: the best of this CPU from the start, another one by glm_use.
#include <atomic>
#include <cstring>
#include <string>

#include "compiler.hpp"
#include "glm_cpu.h"
#include "kernels.hpp"

namespace glm {
namespace {

struct Choices {
    const Kernels* all[4];  // best first
    int count = 0;
    std::string names;

    Choices() {
        for (const Kernels* set : {avx512_kernels(), avx2_kernels(), neon_kernels(), &scalar_kernels()}) {
            if (set == nullptr) continue;
            if (count > 0) names += ' ';
            names += set->name;
            all[count++] = set;
        }
    }
};

const Choices& choices() {
    static const Choices found;
    return found;
}

std::atomic<const Kernels*>& chosen() {
    static std::atomic<const Kernels*> set{choices().all[0]};
    return set;
}

}  // namespace

const Kernels& kernels() { return *chosen().load(std::memory_order_relaxed); }

}  // namespace glm

int32_t glm_abi(void) { return GLM_ABI; }

const char* glm_isa(void) { return glm::kernels().name; }

const char* glm_isas(void) { return glm::choices().names.c_str(); }

int32_t glm_use(const char* isa) {
    for (int i = 0; i < glm::choices().count; i++) {
        const glm::Kernels* set = glm::choices().all[i];
        if (std::strcmp(set->name, isa) != 0) continue;
        glm::chosen().store(set);
        return 0;
    }
    return -1;
}
