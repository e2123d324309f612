#include "backend/register.h"

#include "backend/cpu/register.h"
#include "backend/reference/register.h"

namespace moray {

void register_backends() {
  static const bool once = [] {
    reference::register_kernels();
    cpu::register_kernels();
    return true;
  }();
  (void)once;
}

}  // namespace moray
