// Ctrl-C that ends what is being computed, not the command.
#pragma once

#include <csignal>

namespace moray {

// While one lives, SIGINT sets interrupted() and makes a waiting read return; afterwards it does what it did before.
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

constexpr int kInterruptedStatus = 130;  // as a shell tells of a process that SIGINT ended

}  // namespace moray
