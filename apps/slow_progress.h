// Progress on stderr for work that may be short: silent for two seconds; then one line rewritten in place on
// a terminal, or a plain line every ten seconds elsewhere.
#pragma once

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <string>

namespace moray {

class SlowProgress {
 public:
  // Calls make_line() only when a line is due.
  template <class MakeLine>
  void show(MakeLine&& make_line) {
    const auto now = std::chrono::steady_clock::now();
    if (now < due_) return;
    due_ = now + (terminal_ ? std::chrono::milliseconds(200) : std::chrono::seconds(10));
    const std::string line = make_line();
    std::fprintf(stderr, terminal_ ? "\r\033[K%s" : "%s\n", line.c_str());
    std::fflush(stderr);
    shown_ = true;
  }

  // Clears the line on a terminal.
  void finish() {
    if (shown_ && terminal_) std::fputs("\r\033[K", stderr);
    shown_ = false;
  }
  ~SlowProgress() { finish(); }

 private:
  bool terminal_ = ::isatty(STDERR_FILENO) == 1;
  bool shown_ = false;
  std::chrono::steady_clock::time_point due_ = std::chrono::steady_clock::now() + std::chrono::seconds(2);
};

}  // namespace moray
