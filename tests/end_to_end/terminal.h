// `moray` at a terminal: a pseudo-terminal whose keys a test presses and whose screen it reads.
#pragma once

#include "command.h"

namespace moray::test {

class Terminal {
 public:
  explicit Terminal(std::vector<std::string> arguments);
  ~Terminal();  // ends what still runs
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  void type(const std::string& keys) const;  // "\r" is Enter, "\x03" Ctrl-C, "\x04" Ctrl-D
  // What the screen shows from the last call on until `text` has appeared; a failure after `seconds`.
  std::string read_until(const std::string& text, double seconds = 60);
  int wait();  // the exit status, as a shell shows it

 private:
  pid_t pid_ = -1;
  int fd_ = -1;
  std::string unread_;
};

}  // namespace moray::test
