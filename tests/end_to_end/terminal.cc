#include "terminal.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

namespace moray::test {

Terminal::Terminal(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), MORAY_COMMAND);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const winsize size{.ws_row = 40, .ws_col = 120, .ws_xpixel = 0, .ws_ypixel = 0};
  pid_ = ::forkpty(&fd_, nullptr, nullptr, &size);
  MORAY_CHECK(pid_ >= 0);
  if (pid_ > 0) return;
  ::execv(argv[0], argv.data());
  ::_exit(127);
}

Terminal::~Terminal() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  ::close(fd_);
}

void Terminal::type(const std::string& keys) const {
  MORAY_CHECK(::write(fd_, keys.data(), keys.size()) == static_cast<ssize_t>(keys.size()));
}

std::string Terminal::read_until(const std::string& text, double seconds) {
  const double end = seconds_now() + seconds;
  while (true) {
    if (const size_t at = unread_.find(text); at != std::string::npos) {
      const std::string shown = unread_.substr(0, at + text.size());
      unread_.erase(0, at + text.size());
      return shown;
    }
    pollfd ready{fd_, POLLIN, 0};
    char buffer[4096];
    ssize_t count = 0;
    if (::poll(&ready, 1, 100) > 0) count = ::read(fd_, buffer, sizeof(buffer));
    if (count > 0) unread_.append(buffer, static_cast<size_t>(count));
    if (count < 0 || seconds_now() > end) {
      ADD_FAILURE() << "'" << text << "' did not appear; the screen shows: " << unread_;
      return unread_;
    }
  }
}

int Terminal::wait() {
  int status = 0;
  MORAY_CHECK(::waitpid(std::exchange(pid_, -1), &status, 0) > 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace moray::test
