// Failures and checkpoints: the share of wall-clock time that trains (Young 1974, Daly 2006).
#pragma once

#include "plan/cluster.h"

namespace moray::plan {

struct Goodput {
  double hours_between_failures = 0;       // of the whole run; infinite when nothing fails
  double checkpoint_seconds = 0;           // training stands still so long for one
  double checkpoint_interval_seconds = 0;  // from one checkpoint's end to the next one's start
  double share = 1;                        // useful time over all time
};

// `checkpoint_bytes`: what one GPU writes. `interval_seconds` 0 takes the best one, sqrt(2 δ M) with δ the
// checkpoint's time and M the time between failures. A failure costs the restart and half an interval; the
// share is τ/(τ+δ) · max(0, 1 − (R + (τ+δ)/2)/M).
Goodput plan_goodput(const Cluster& cluster, double gpus, double checkpoint_bytes, double interval_seconds);

}  // namespace moray::plan
