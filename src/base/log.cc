#include "base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <cstdio>

#include "base/utf8.h"

namespace moray::log {

namespace {
spdlog::logger& logger() {
  static const auto instance = [] {
    auto made =
        std::make_shared<spdlog::logger>("moray", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
    made->set_pattern("%^%v%$");
    return made;
  }();
  return *instance;
}
}  // namespace

void write_plain(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}
void write_info(std::string_view message) {
  logger().info("{}", printable(message, "\n"));
}
void write_warning(std::string_view message) {
  logger().warn("warning: {}", printable(message, "\n"));
}

}  // namespace moray::log
