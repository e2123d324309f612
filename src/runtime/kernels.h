// Kernel slots: an op family is a struct of plain function pointers, one instance a device, filled at
// start-up by the backends from explicit lists.
#pragma once

#include <array>
#include <type_traits>

#include "runtime/exec.h"

namespace moray {

template <class Kernels>
Kernels& kernels(Device device) {
  static std::array<Kernels, kDeviceCount> slots{};
  return slots[static_cast<size_t>(device)];
}

// Weights before what was made with them, so that a finding can be named after them.
template <class... Arguments>
void examine(FiniteFinder& finder, const char* op, const Arguments&... arguments) {
  finder.begin_op();
  int index = 0;
  const auto look = [&](const auto& argument) {
    ++index;
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(argument)>, Tensor>)
      finder.examine(op, index, argument);
    else if constexpr (requires { argument.scales; })  // a QuantizedTensor
      finder.examine(op, index, argument.scales);
  };
  (look(arguments), ...);
}

// Calls a kernel as `kernel(exec, arguments...)`; an empty slot throws "[op] no kernel for this device". With
// a tracer the call is recorded: its floating-point operations as given, its bytes those of all tensors among
// the arguments.
template <class Kernel, class... Arguments>
void launch(Exec& exec, const char* op, double flops, Kernel* kernel, Arguments&&... arguments) {
  if (kernel == nullptr) fail("[{}] no kernel for device {}", op, device_name(exec.device));
  if (exec.tracer == nullptr) {
    kernel(exec, arguments...);
    if (exec.finder != nullptr) examine(*exec.finder, op, arguments...);
    return;
  }
  const Tracer::Clock::time_point start = Tracer::Clock::now();
  kernel(exec, arguments...);
  const auto bytes_of = [](const auto& argument) {
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(argument)>, Tensor>)
      return argument.defined() ? static_cast<double>(argument.bytes()) : 0.0;
    else if constexpr (requires { argument.bytes(); })  // a QuantizedTensor
      return static_cast<double>(argument.bytes());
    else
      return 0.0;
  };
  exec.tracer->record(op, start, (0.0 + ... + bytes_of(arguments)), flops);
}

}  // namespace moray
