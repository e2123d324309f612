#include "apps/input.h"

#include <cstdio>

#include "base/error.h"
#include "base/files.h"

namespace moray {

std::string read_text(const std::string& path) {
  if (path != "-") return read_file(path, kAnySize);
  std::string text;
  char buffer[1 << 16];
  for (size_t got; (got = std::fread(buffer, 1, sizeof buffer, stdin)) > 0;) text.append(buffer, got);
  if (std::ferror(stdin)) fail("standard input: cannot read");
  return text;
}

}  // namespace moray
