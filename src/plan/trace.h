// GPU kernels of a PyTorch-profiler (Chrome) trace, each put in a class by its name.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moray::plan {

enum class TraceClass {
  dense_gemm,    // FP8 linears, forward and input gradient
  grouped_gemm,  // routed experts, forward and input gradient
  wgrad_gemm,    // weight gradients, dense and experts'
  other_gemm,    // the router, libraries' own
  attention_forward,
  attention_backward,
  cast,         // quantize along rows, casts, copies into another layout
  transpose,    // re-tiling along columns for weight gradients
  elementwise,  // norms, RoPE, SwiGLU, reductions, permutation of rows
  dispatch,
  combine,
  synchronize,  // communication that moves no activations: counts, barriers, collectives
  other,
};
inline constexpr int kTraceClasses = static_cast<int>(TraceClass::other) + 1;

// "dense GEMM", "attention forward", ...
const char* name(TraceClass);
// Dispatch, combine and what synchronizes them.
bool is_communication(TraceClass);
// The class of a kernel by the substrings of its (demangled) name: DeepSeek's own kernels, DeepEP, DeepGEMM,
// FlashAttention and PyTorch's.
TraceClass classify_kernel(std::string_view kernel_name);

struct TraceKernel {
  TraceClass kind = TraceClass::other;
  int64_t stream = 0;
  int64_t blocks = 0;   // thread blocks of the grid; 0: not recorded
  double start_us = 0;  // from the first kernel's start
  double duration_us = 0;
};

struct Trace {
  std::vector<TraceKernel> kernels;  // in order of start
  std::string device;                // "NVIDIA H800"; empty when not recorded
  int64_t sms = 0;                   // 0: not recorded
};

inline constexpr size_t kMaxTraceBytes = size_t{1}
                                         << 29;  // of JSON text; parsed it takes a few times as much

// Reads the kernels and memory operations of one GPU. Throws Error, beginning with `where`, for text that is
// no such trace, kernels of several GPUs, times that are no finite numbers, or more than kMaxTraceBytes.
Trace parse_trace(std::string_view json, const std::string& where);

}  // namespace moray::plan
