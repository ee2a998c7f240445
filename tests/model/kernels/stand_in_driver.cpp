// Stands in for NVIDIA's driver where there is none: keeps what it is told, fails as it is told.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {
std::string log;
unsigned long context = 7;
thread_local void* current = nullptr;
int fails(const char* name) {  // GLMBOT_STAND_IN_FAILS is "cuInit=100,..."
  const char* told = std::getenv("GLMBOT_STAND_IN_FAILS");
  const char* found = told ? std::strstr(told, name) : nullptr;
  return found ? std::atoi(found + std::strlen(name) + 1) : 0;
}
template <class... A> void note(const char* format, A... values) {
  char line[512];
  std::snprintf(line, sizeof line, format, values...);
  log += line;
}
}  // namespace

extern "C" {
const char* stand_in_log() { return log.c_str(); }
void stand_in_reset() { log.clear(); }
int cuInit(unsigned) { return fails("cuInit"); }
int cuDriverGetVersion(int* version) { *version = 13000; return fails("cuDriverGetVersion"); }
int cuGetErrorName(int error, const char** name) {
  *name = error == 9999 ? nullptr : "CUDA_ERROR_STAND_IN";
  return error == 9999;
}
int cuGetErrorString(int error, const char** text) {
  *text = nullptr;
  if (error == 9999) return 1;
  static char told[32];
  std::snprintf(told, sizeof told, "error %d", error);
  *text = told;
  return 0;
}
int cuCtxGetCurrent(void** context_) { *context_ = &context; return 0; }
int cuCtxSetCurrent(void* context_) { current = context_; note("enter\n"); return fails("cuCtxSetCurrent"); }
int cuModuleLoadData(void** module, const char* cubin) {
  *module = (void*)cubin;
  note("load %.4s\n", cubin + 0);
  return fails("cuModuleLoadData");
}
int cuModuleGetFunction(void** function, void*, const char* name) {
  auto* kept = new std::string(name);
  *function = kept;
  return fails("cuModuleGetFunction");
}
int cuFuncSetAttribute(void* function, int attribute, int value) {
  note("attribute %d %d\n", attribute, value);
  return fails("cuFuncSetAttribute");
}
int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned a, unsigned b, unsigned c, unsigned shared,
                   void* stream, void** arguments, void** extra) {
  if (!current) return 201;  // CUDA_ERROR_INVALID_CONTEXT
  note("launch %s %u %u %u %u %u %u shared %u stream %lu pointer %lx integer %d float %g null %lx\n",
       static_cast<std::string*>(function)->c_str(), x, y, z, a, b, c, shared, (unsigned long)stream,
       *(unsigned long*)arguments[0], *(int*)arguments[1], *(float*)arguments[2], *(unsigned long*)arguments[3]);
  return fails("cuLaunchKernel");
}
}
