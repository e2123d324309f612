// Two kinds of error: a user's mistake throws moray::Error with one clear line; a broken invariant aborts.
#pragma once

#include <fmt/core.h>

#include <stdexcept>
#include <string>

namespace moray {

// A user's mistake: a config, a file, a request. what() says what, where, and the value got, in one line.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

// Prints the broken invariant and aborts.
[[noreturn]] void check_failed(const char* file, int line, const char* condition, const std::string& message);

}  // namespace moray

// MORAY_CHECK(condition) or MORAY_CHECK(condition, "format", args...): an invariant of the program, not of
// its input.
#define MORAY_CHECK(condition, ...)                                                               \
  do {                                                                                            \
    if (!(condition)) [[unlikely]]                                                                \
      ::moray::check_failed(__FILE__, __LINE__, #condition, ::moray::check_message(__VA_ARGS__)); \
  } while (false)

namespace moray {
inline std::string check_message() {
  return {};
}
template <class... Args>
std::string check_message(fmt::format_string<Args...> format, Args&&... args) {
  return fmt::format(format, std::forward<Args>(args)...);
}
}  // namespace moray
