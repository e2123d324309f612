// Text that ends an answer: what may be the beginning of a stop string is held back until it is decided.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace moray {

class StopStrings {
 public:
  // Throws Error for an empty string.
  explicit StopStrings(std::vector<std::string> stops);

  // Takes the next piece of text; returns what can be shown. After a stop string has appeared, stopped() is
  // true and nothing from it on is ever returned.
  std::string push(std::string_view text);
  std::string finish();  // the text is over: what was held back
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace moray
