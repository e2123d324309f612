#include "plan/goodput.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace moray::plan {

Goodput plan_goodput(const Cluster& cluster, double gpus, double checkpoint_bytes, double interval_seconds) {
  constexpr double kSecondsAYear = 365.25 * 24 * 3600, kSecondsAnHour = 3600;
  Goodput goodput;
  const double failures_a_second = gpus * cluster.failures_per_gpu_year.value / kSecondsAYear;
  goodput.checkpoint_seconds = checkpoint_bytes / cluster.storage_bandwidth.value;
  goodput.checkpoint_interval_seconds = interval_seconds;
  const double delta = goodput.checkpoint_seconds;
  if (failures_a_second == 0) {
    goodput.hours_between_failures = std::numeric_limits<double>::infinity();
    if (interval_seconds > 0) goodput.share = interval_seconds / (interval_seconds + delta);
    return goodput;
  }
  const double between = 1 / failures_a_second;
  goodput.hours_between_failures = between / kSecondsAnHour;
  if (interval_seconds == 0) goodput.checkpoint_interval_seconds = std::sqrt(2 * delta * between);
  const double interval = goodput.checkpoint_interval_seconds;
  const double lost = (cluster.restart_seconds.value + (interval + delta) / 2) / between;
  goodput.share = interval / (interval + delta) * std::max(0.0, 1 - lost);
  return goodput;
}

}  // namespace moray::plan
