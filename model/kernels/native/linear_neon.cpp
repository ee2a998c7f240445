// NEON with dot products: four products of signed bytes summed into each of 4 int32.
#include "compiler.hpp"
#include "cpu.hpp"
#include "half.hpp"
#include "kernels.hpp"

#if !GLM_ARM64

const glm::Kernels* glm::neon_kernels() { return nullptr; }

#else

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#define GLM_TARGET GLM_TARGET_DOTPROD

namespace glm {
namespace {
namespace neon {

#include "lanes_neon.inl"

#include "rows.inl"

#include "exact.inl"

constexpr int BLOCK_ROWS = 4, BLOCK_VECTORS = 1, SCORE_ROWS = 4, MIX_SUMS = 4;

#include "attention.inl"

#include "context.inl"

#include "rope.inl"

using Bytes = int8x16_t;
using Sums = int32x4_t;
constexpr int PARTS = 4;

GLM_TARGET GLM_INLINE Bytes part(const uint8_t* line, int number) {
    return vreinterpretq_s8_u8(vld1q_u8(line + 16 * number));
}

GLM_TARGET GLM_INLINE void keep_part(uint8_t* line, int number, Bytes a) {
    vst1q_u8(line + 16 * number, vreinterpretq_u8_s8(a));
}

GLM_TARGET GLM_INLINE Bytes four(const int8_t* p) {
    int32_t word;
    std::memcpy(&word, p, sizeof word);
    return vreinterpretq_s8_s32(vdupq_n_s32(word));
}

GLM_TARGET GLM_INLINE Bytes as_bytes(Sums a) { return vreinterpretq_s8_s32(a); }

// Codes of 0..15 are signed bytes as well, and so are those of 8 bits without their offset.
template <int BITS>
struct Products {
    static constexpr bool SIGNED = BITS == 8;
    GLM_TARGET static GLM_INLINE Bytes see(Bytes line, bool upper) {
        if (BITS == 8) return line;
        const uint8x16_t codes = vreinterpretq_u8_s8(line);
        return vreinterpretq_s8_u8(upper ? vshrq_n_u8(codes, 4) : vandq_u8(codes, vdupq_n_u8(15)));
    }
    GLM_TARGET static GLM_INLINE Sums nothing() { return vdupq_n_s32(0); }
    GLM_TARGET static GLM_INLINE Sums add(Sums sum, Bytes w, Bytes x) { return vdotq_s32(sum, w, x); }
    GLM_TARGET static GLM_INLINE int32x4_t finish(int32x4_t total, Sums sum) { return vaddq_s32(total, sum); }
};

#include "narrow.inl"

GLM_TARGET uint64_t read(const void* p, int64_t bytes) {
    const auto* words = static_cast<const uint64_t*>(p);
    uint64x2_t sum[4];
    for (auto& s : sum) s = vdupq_n_u64(0);
    for (int64_t i = 0; i + 8 <= bytes / 8; i += 8)
        for (int c = 0; c < 4; c++) sum[c] = vaddq_u64(sum[c], vld1q_u64(words + i + 2 * c));
    return vaddvq_u64(vaddq_u64(vaddq_u64(sum[0], sum[1]), vaddq_u64(sum[2], sum[3])));
}

}  // namespace neon
}  // namespace

const Kernels* neon_kernels() {
    using namespace neon;
    static const Kernels set = {"neon", quantize,   multiply, decode, exact, norm,
                                finish, dot_rounds, DOT_MACS, read,   {attend, merge, context, rotate, keep}};
    return has_dotprod() ? &set : nullptr;
}

}  // namespace glm

#endif
