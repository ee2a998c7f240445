// float16 in plain C++, for processors and places without instructions for it.
#pragma once

#include <cstdint>
#include <cstring>

namespace glm {

inline float from_half(uint16_t h) {
    const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, rest = h & 0x7FFF;
    uint32_t bits;
    float value;
    if (rest >= 0x7C00) {  // infinite or NaN
        bits = sign | 0x7F800000 | (rest & 0x3FF) << 13;
    } else if (rest >= 0x400) {
        bits = sign | ((rest << 13) + ((127 - 15) << 23));
    } else {  // subnormal: a multiple of 2^-24
        value = static_cast<float>(rest) * 5.9604644775390625e-8f;
        std::memcpy(&bits, &value, sizeof bits);
        bits |= sign;
    }
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// To the nearest, half to even.
inline uint16_t to_half(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
    bits &= 0x7FFFFFFF;
    if (bits > 0x7F800000) return sign | 0x7E00;   // NaN
    if (bits >= 0x477FF000) return sign | 0x7C00;  // rounds to 65536 or more
    if (bits < 0x38800000) {                       // below 2^-14: adding 0.5 leaves multiples of 2^-24
        float magnitude;
        std::memcpy(&magnitude, &bits, sizeof magnitude);
        magnitude += 0.5f;
        std::memcpy(&bits, &magnitude, sizeof bits);
        return sign | static_cast<uint16_t>(bits - 0x3F000000);
    }
    bits += 0xFFF + (bits >> 13 & 1);
    return sign | static_cast<uint16_t>((bits >> 13) - ((127 - 15) << 10));
}

}  // namespace glm
