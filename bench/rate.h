// How often something happens a second on several threads at once, and how steady that is.
#pragma once

#include <functional>

namespace moray {

// The best and the median of the repeats, in the unit of the work a second.
struct Rate {
  double best = 0, median = 0;
  double spread() const { return best / median - 1; }  // 0 on a quiet machine
};

// Runs body(thread) on `threads` threads at once, again and again for about `seconds`. A repeat lasts from
// the first thread's start to the last one's end; `work` is what all threads together do in it.
Rate rate_on_threads(int threads, double work, double seconds, const std::function<void(int thread)>& body);

}  // namespace moray
