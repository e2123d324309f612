// Ctrl-C that ends what is being computed, not the command.
#pragma once

#include <csignal>

namespace moray {

// While one lives, SIGINT sets interrupted() and ends wait_for_input(); afterwards it does what it did
// before. Throws Error where the process may open no more files.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

 private:
  struct sigaction before_ {};
};

bool interrupted();
bool take_interrupt();  // interrupted(), which is false from then on
// Until the file can be read (or is at its end); false: interrupted, before or meanwhile.
bool wait_for_input(int file);

constexpr int kInterruptedStatus = 130;  // as a shell tells of a process that SIGINT ended

}  // namespace moray
