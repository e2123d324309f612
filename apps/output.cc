#include "apps/output.h"

#include <fcntl.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/error.h"

namespace moray {

void write_output(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  flush_output();
}

void flush_output() {
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
    fail("standard output: cannot write: {}", std::strerror(errno));
}

void occupy_standard_streams() {
  for (int file = 0; file <= 2; ++file)  // each takes the lowest number that is free
    if (::fcntl(file, F_GETFD) < 0) ::open("/dev/null", file == 0 ? O_WRONLY : O_RDONLY);
}

std::string on_one_line(std::string text) {
  constexpr size_t kMostBytes = 4000;
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  if (text.size() > kMostBytes) text.replace(kMostBytes, std::string::npos, "...");
  return text;
}

}  // namespace moray
