#include "plan/kernel_rates.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "base/config.h"
#include "base/error.h"
#include "base/json.h"

namespace moray::plan {

const char* kernel_class_name(KernelClass kernel_class) {
  switch (kernel_class) {
    case KernelClass::gemm_dense_fp8:
      return "gemm_dense_fp8";
    case KernelClass::gemm_grouped_fp8:
      return "gemm_grouped_fp8";
    case KernelClass::gemm_wgrad_fp8:
      return "gemm_wgrad_fp8";
    case KernelClass::gemm_bf16:
      return "gemm_bf16";
    case KernelClass::attention_forward:
      return "attention_forward";
    case KernelClass::attention_backward:
      return "attention_backward";
    case KernelClass::cast:
      return "cast";
    case KernelClass::transpose:
      return "transpose";
    case KernelClass::elementwise:
      return "elementwise";
  }
  return "";
}

KernelRates KernelRates::assumed() {
  KernelRates rates;
  // FP8 products on Hopper promote partial sums on the ordinary cores every 128 elements; public kernels of
  // that kind reach 50 to 75% of the FP8 peak at these shapes, weight gradients (FP32 accumulation into
  // memory, 1x128 tiles on both sides) less.
  rates[KernelClass::gemm_dense_fp8] = 0.60;
  rates[KernelClass::gemm_grouped_fp8] = 0.60;
  rates[KernelClass::gemm_wgrad_fp8] = 0.40;
  // Vendor libraries reach 65 to 75% of the BF16 peak under the power limit.
  rates[KernelClass::gemm_bf16] = 0.65;
  // FlashAttention-3 publishes 600 to 650 TFLOP/s forward and 450 to 550 backward on 989 for causal attention
  // at 4096 to 16384.
  rates[KernelClass::attention_forward] = 0.60;
  rates[KernelClass::attention_backward] = 0.45;
  // Streaming kernels reach 80 to 90% of the memory's bandwidth; tiles and scales cost some of it.
  rates[KernelClass::cast] = 0.60;
  rates[KernelClass::transpose] = 0.50;
  rates[KernelClass::elementwise] = 0.65;
  // Published dispatch and combine kernels (DeepEP) reach 43 to 58 of 50 GB/s with all bytes counted, 153 to
  // 158 of 160 in a node.
  rates.network_efficiency = 0.90;
  rates.node_efficiency = 0.95;
  return rates;
}

KernelRates parse_rates(std::string_view text, const std::string& file) {
  Config config = Config::parse(text, file);
  const auto share = [&](const std::string& key) {
    if (!config.has(key)) fail("{}: '{}' is missing", file, key);
    const double value = config.number(key, 0);
    if (!(value > 0 && value <= 1))
      fail("{} is {}, expected more than 0 and at most 1", config.where(key), value);
    return value;
  };
  KernelRates rates;
  rates.source = config.string("source");
  for (size_t i = 0; i < kKernelClasses; ++i)
    rates.efficiency[i] = share(kernel_class_name(static_cast<KernelClass>(i)));
  rates.network_efficiency = share("network_efficiency");
  rates.node_efficiency = share("node_efficiency");
  config.reject_unknown_keys();
  return rates;
}

KernelRates read_rates(const fs::path& file) {
  return parse_rates(read_file(file), file.string());
}

std::string rates_toml(const KernelRates& rates) {
  std::string text = fmt::format("source = {}\n", json_quote(rates.source));
  for (size_t i = 0; i < kKernelClasses; ++i)
    text += fmt::format("{} = {:.4f}\n", kernel_class_name(static_cast<KernelClass>(i)), rates.efficiency[i]);
  return text + fmt::format("network_efficiency = {:.4f}\nnode_efficiency = {:.4f}\n",
                            rates.network_efficiency, rates.node_efficiency);
}

double Machine::units_a_second(KernelClass kernel_class) const {
  const double efficiency = rates[kernel_class];
  if (!counts_flops(kernel_class)) return cluster.memory_bandwidth.value * efficiency;
  const bool fp8 = kernel_class == KernelClass::gemm_dense_fp8 ||
                   kernel_class == KernelClass::gemm_grouped_fp8 ||
                   kernel_class == KernelClass::gemm_wgrad_fp8;
  const double peak = fp8 ? cluster.flops_fp8.value : cluster.flops_bf16.value;
  return peak * efficiency * (1 - communication_sms / cluster.sms.value);
}

double Machine::seconds(const Work& work) const {
  double total = 0;
  for (size_t i = 0; i < kKernelClasses; ++i) {
    if (work.amount[i] == 0) continue;
    const double rate = units_a_second(static_cast<KernelClass>(i));
    total += rate > 0 ? work.amount[i] / rate : std::numeric_limits<double>::infinity();
  }
  return total;
}

double Machine::seconds(const Traffic& traffic) const {
  const double network = traffic.network_bytes / (cluster.network_bandwidth.value * rates.network_efficiency);
  const double node = traffic.node_bytes / (cluster.node_bandwidth.value * rates.node_efficiency);
  double latency = 0;
  if (traffic.node_bytes > 0) latency += cluster.node_latency.value;
  if (traffic.network_bytes > 0) latency += cluster.network_latency.value;
  return std::max(network, node) + latency;
}

}  // namespace moray::plan
