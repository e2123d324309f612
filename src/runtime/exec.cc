#include "runtime/exec.h"

namespace moray {

const char* device_name(Device device) {
  return device == Device::cpu ? "cpu" : "reference";
}

}  // namespace moray
