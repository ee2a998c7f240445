// What this CPU and its operating system can run.
#pragma once

namespace glm {

bool has_avx2();    // with FMA and F16C
bool has_avx512();  // F, BW, VL, DQ and VNNI, with the above
bool has_dotprod();

}  // namespace glm
