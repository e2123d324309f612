#pragma once

namespace moray::reference {

// Fills every slot of Device::reference; each kernel takes f32 or f64 tensors alike.
void register_kernels();

}  // namespace moray::reference
