// The key half of kv_b_proj folded into queries.
#pragma once

#include "ops/mla_decode.h"

namespace moray::cpu {

void absorb_queries(Exec&, const Tensor& q, const StoredWeight& kv_b_proj, const MlaShape&,
                    const Tensor& q_latent);

}  // namespace moray::cpu
