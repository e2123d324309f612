#include "data/normalize.h"

#include <utf8proc.h>

#include <cstdlib>
#include <memory>

#include "base/error.h"
#include "base/utf8.h"

namespace moray {

std::string normalize_nfc(std::string_view text) {
  std::string result;
  while (!text.empty()) {
    const size_t valid = valid_utf8_prefix(text);
    uint8_t* composed = nullptr;
    const utf8proc_ssize_t size =
        utf8proc_map(reinterpret_cast<const uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(valid),
                     &composed, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    const std::unique_ptr<uint8_t, decltype(&std::free)> owned(composed, &std::free);
    if (size < 0) fail("a text of {} bytes cannot be normalized: {}", valid, utf8proc_errmsg(size));
    result.append(reinterpret_cast<const char*>(composed), static_cast<size_t>(size));
    text.remove_prefix(valid);
    if (text.empty()) break;
    result += text[0];  // no UTF-8
    text.remove_prefix(1);
  }
  return result;
}

}  // namespace moray
