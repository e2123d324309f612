// The one place that knows the backends: fills the kernel slots of every device this program has.
#pragma once

namespace moray {

// Idempotent. Throws Error on a machine whose processor lacks AVX2 and FMA.
void register_backends();

}  // namespace moray
