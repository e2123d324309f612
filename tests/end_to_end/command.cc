#include "command.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <thread>

namespace moray::test {

namespace {

std::vector<std::string> environment_of(const Invocation& invocation) {
  std::vector<std::string> variables;
  for (const char* kept : {"PATH", "HOME", "TMPDIR", "ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"})
    if (const char* value = std::getenv(kept); value != nullptr)
      variables.push_back(std::string(kept) + "=" + value);
  for (const auto& [name, value] : invocation.environment) variables.push_back(name + "=" + value);
  return variables;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (std::string& text : texts) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

void redirect(int fd, const fs::path& path, int flags) {
  const int file = ::open(path.c_str(), flags, 0600);
  if (file < 0 || ::dup2(file, fd) < 0) ::_exit(126);
  ::close(file);
}

}  // namespace

Process::Process(const Invocation& invocation) {
  std::vector<std::string> arguments{MORAY_COMMAND};
  arguments.insert(arguments.end(), invocation.arguments.begin(), invocation.arguments.end());
  std::vector<std::string> variables = environment_of(invocation);
  const std::vector<char*> argv = pointers(arguments), envp = pointers(variables);
  write_file_atomically(files_ / "in", invocation.input);
  const fs::path out = invocation.output_path.empty() ? files_ / "out" : fs::path(invocation.output_path);
  pid_ = ::fork();
  MORAY_CHECK(pid_ >= 0);
  if (pid_ > 0) return;
  redirect(STDIN_FILENO, files_ / "in", O_RDONLY);
  redirect(STDOUT_FILENO, out, O_WRONLY | O_CREAT | O_APPEND);
  redirect(STDERR_FILENO, files_ / "err", O_WRONLY | O_CREAT | O_APPEND);
  for (int file : invocation.closed) ::close(file);
  if (invocation.file_size_limit > 0) {
    const rlimit limit{invocation.file_size_limit, invocation.file_size_limit};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ::execve(argv[0], argv.data(), envp.data());
  ::_exit(127);
}

Process::~Process() {
  if (ended()) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, &status_, 0);
}

void Process::signal(int number) const {
  ::kill(pid_, number);
}

bool Process::ended() {
  if (pid_ > 0 && ::waitpid(pid_, &status_, WNOHANG) == pid_) pid_ = -1;
  return pid_ < 0;
}

bool Process::ends_within(double seconds) {
  const double end = seconds_now() + seconds;
  while (!ended()) {
    if (seconds_now() > end) return false;
    sleep_seconds(0.001);
  }
  return true;
}

Outcome Process::wait() {
  if (pid_ > 0) MORAY_CHECK(::waitpid(pid_, &status_, 0) == pid_);
  pid_ = -1;
  Outcome outcome;
  outcome.status = WIFEXITED(status_) ? WEXITSTATUS(status_) : 128 + WTERMSIG(status_);
  if (fs::exists(files_ / "out")) outcome.out = read_file(files_ / "out");
  outcome.err = err_so_far();
  return outcome;
}

std::string Process::err_so_far() const {
  const fs::path path = files_ / "err";
  return fs::exists(path) ? read_file(path) : "";
}

Outcome moray(const std::vector<std::string>& arguments) {
  return moray(Invocation{arguments});
}

Outcome moray(const Invocation& invocation) {
  return Process(invocation).wait();
}

void sleep_seconds(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

}  // namespace moray::test
