#include "serve/stop_strings.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace moray {

StopStrings::StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const std::string& stop : stops_)
    if (stop.empty()) fail("a stop string is empty");
}

std::string StopStrings::push(std::string_view text) {
  if (stopped_) return {};
  held_ += text;
  size_t found = std::string::npos, undecided = held_.size();
  for (const std::string& stop : stops_) {
    found = std::min(found, held_.find(stop));
    // The longest end of the text that begins this string.
    for (size_t size = std::min(stop.size() - 1, held_.size()); size > 0; --size)
      if (held_.ends_with(std::string_view(stop).substr(0, size))) {
        undecided = std::min(undecided, held_.size() - size);
        break;
      }
  }
  stopped_ = found != std::string::npos;
  const size_t shown = stopped_ ? found : undecided;
  std::string out = held_.substr(0, shown);
  held_.erase(0, shown);
  return out;
}

std::string StopStrings::finish() {
  return stopped_ ? std::string() : std::exchange(held_, {});
}

}  // namespace moray
