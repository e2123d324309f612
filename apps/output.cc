#include "apps/output.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/utf8.h"

namespace moray {

void write_output(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  flush_output();
}

void write_text(std::string_view text) {
  static const bool terminal = ::isatty(STDOUT_FILENO) != 0;
  write_output(terminal ? printable(text, "\n\t") : text);
}

void flush_output() {
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
    fail("standard output: cannot write: {}", std::strerror(errno));
}

void occupy_standard_streams() {
  for (int file = 0; file <= 2; ++file)  // each takes the lowest number that is free
    if (::fcntl(file, F_GETFD) < 0) ::open("/dev/null", file == 0 ? O_WRONLY : O_RDONLY);
}

std::string on_one_line(std::string_view text) {
  constexpr size_t kMostBytes = 4000;
  std::string line = printable(text);
  if (line.size() > kMostBytes)
    line.replace(valid_utf8_prefix(std::string_view(line).substr(0, kMostBytes)), std::string::npos, "...");
  return line;
}

void print_json(const nlohmann::ordered_json& json, int indent) {
  fmt::print("{}\n", json.dump(indent, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
}

}  // namespace moray
