// Text that a user hands over.
#pragma once

#include <string>

namespace moray {

// A file's text, of any size, or with "-" standard input to its end. Throws Error.
std::string read_text(const std::string& path);

}  // namespace moray
