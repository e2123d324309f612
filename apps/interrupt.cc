#include "apps/interrupt.h"

#include <atomic>

namespace moray {

namespace {
std::atomic<bool> was_interrupted = false;
}

InterruptGuard::InterruptGuard() {
  was_interrupted = false;
  struct sigaction action {};
  action.sa_handler = [](int) { was_interrupted = true; };  // without SA_RESTART: a waiting read returns
  ::sigaction(SIGINT, &action, &before_);
}

InterruptGuard::~InterruptGuard() {
  ::sigaction(SIGINT, &before_, nullptr);
}

bool interrupted() {
  return was_interrupted;
}

bool take_interrupt() {
  return was_interrupted.exchange(false);
}

}  // namespace moray
