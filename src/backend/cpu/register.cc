#include "backend/cpu/register.h"

#include <hwy/targets.h>

#include <atomic>
#include <cstdlib>
#include <string_view>

#include "backend/cpu/kernels_list.h"
#include "base/error.h"

namespace moray::cpu {

namespace {

std::atomic<int64_t> forced_targets = 0;

// What the machine has, whatever is forced at the moment. Asked for once: Highway asks the processor each
// time, and a virtual machine's host answers, in tens of microseconds.
int64_t machine_targets() {
  static const int64_t targets = hwy::SupportedTargets();
  return targets;
}

void restrict_to_environment() {
  const char* variable = std::getenv("MORAY_SIMD");
  if (variable == nullptr || *variable == '\0') return;
  const std::string_view name = variable;
  if (name != "avx2" && name != "avx512") fail("MORAY_SIMD: '{}' is neither avx2 nor avx512", name);
  if (!force_simd(variable)) fail("MORAY_SIMD: this processor has no {}", name);
}

}  // namespace

const char* simd_name() {
  const int64_t forced = forced_targets;
  return ((forced != 0 ? forced : machine_targets()) & HWY_AVX3) != 0 ? "avx512" : "avx2";
}

bool force_simd(const char* name) {
  const std::string_view wanted = name;
  const int64_t target = wanted == "avx512" ? HWY_AVX3 : wanted == "avx2" ? HWY_AVX2 : 0;
  if ((machine_targets() & target) == 0) return false;
  hwy::SetSupportedTargetsForTest(target);
  hwy::GetChosenTarget().Update(target);
  forced_targets = target;
  return true;
}

void register_kernels() {
  if ((machine_targets() & HWY_AVX2) == 0)
    fail("this processor lacks AVX2 and FMA, which moray's kernels need");
  restrict_to_environment();
  register_matmul();
  register_matmul_fp8();
  register_attention();
  register_quantize();
  register_rms_norm();
  register_rope();
  register_swiglu();
  register_route();
  register_permute();
  register_elementwise();
  register_adamw();
  register_embedding();
  register_cross_entropy();
  register_weight_matmul();
  register_mla_decode();
}

}  // namespace moray::cpu
