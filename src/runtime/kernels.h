// Kernel slots: an op family is a struct of plain function pointers, one instance a device, filled at start-up by the
// backends from explicit lists.
#pragma once

#include <array>

#include "runtime/exec.h"

namespace moray {

template <class Kernels>
Kernels& kernels(Device device) {
  static std::array<Kernels, kDeviceCount> slots{};
  return slots[static_cast<size_t>(device)];
}

// The kernel itself; an empty slot throws "[op] no kernel for this device".
template <class Function>
Function* filled(Function* kernel, const char* op, Device device) {
  if (kernel == nullptr) fail("[{}] no kernel for device {}", op, device_name(device));
  return kernel;
}

}  // namespace moray
