// Messages to the person at the terminal, on stderr; stdout belongs to results. Names from files may be in
// them: what would steer a terminal is left out (base/utf8.h).
#pragma once

#include <fmt/core.h>

#include <string_view>

namespace moray::log {

// What stderr does not take (a full disk, a terminal that is gone) is lost; work goes on.
void write_plain(std::string_view text);  // as it is, at once
void write_info(std::string_view message);
void write_warning(std::string_view message);

template <class... Args>
void plain(fmt::format_string<Args...> format, Args&&... args) {
  write_plain(fmt::format(format, std::forward<Args>(args)...));
}

template <class... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
  write_info(fmt::format(format, std::forward<Args>(args)...));
}

template <class... Args>
void warning(fmt::format_string<Args...> format, Args&&... args) {
  write_warning(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace moray::log
