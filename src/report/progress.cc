#include "report/progress.h"

#include <fmt/core.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "base/log.h"

namespace moray {
namespace {

constexpr std::chrono::steady_clock::duration kLiveInterval = std::chrono::milliseconds(100);
constexpr int kPlainColumns = 160;

int terminal_columns() {
  winsize size{};
  constexpr int kUsual = 80;
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : kUsual;
}

std::chrono::steady_clock::duration to_clock(double seconds) {
  return std::chrono::duration_cast<std::chrono::steady_clock::duration>(
      std::chrono::duration<double>(seconds));
}

std::string bar(double fraction, int cells) {
  const int full = static_cast<int>(fraction * cells);
  return fmt::format("[{:#<{}}{:.<{}}]", "", full, "", cells - full);
}

std::string time_left(const ProgressState& s) {
  const int64_t fresh = s.done - s.already_done;
  if (s.total == 0) return "after " + short_duration(s.seconds);
  if (s.done >= s.total) return "took " + short_duration(s.seconds);
  if (fresh <= 0 || s.seconds <= 0) return "";
  return short_duration(s.seconds / static_cast<double>(fresh) * static_cast<double>(s.total - s.done)) +
         " left";
}

}  // namespace

std::string short_duration(double seconds) {
  const int64_t s = std::llround(std::clamp(seconds, 0.0, 1e12));
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m {:02}s", s / 60, s % 60);
  if (s < 86400) return fmt::format("{}h {:02}m", s / 3600, s % 3600 / 60);
  return fmt::format("{}d {:02}h", s / 86400, s % 86400 / 3600);
}

std::string short_count(double count) {
  constexpr const char* kSuffixes[] = {"", "k", "M", "G", "T"};
  size_t i = 0;
  for (; count >= 999.5 && i + 1 < std::size(kSuffixes); ++i) count /= 1000;
  if (i == 0) return fmt::format("{:.0f}", count);
  const int decimals = count < 9.995 ? 2 : count < 99.95 ? 1 : 0;
  return fmt::format("{:.{}f}{}", count, decimals, kSuffixes[i]);
}

std::string progress_line(const ProgressState& s, int columns) {
  const double fraction =
      s.total > 0 ? std::clamp(static_cast<double>(s.done) / static_cast<double>(s.total), 0.0, 1.0) : 1.0;
  const bool known = s.total > 0;
  const std::string head =
      known ? fmt::format("{} {:3.0f}%", s.label, std::floor(100 * fraction)) : std::string(s.label);
  std::string tail;
  const auto add = [&](const std::string& part) {
    if (!part.empty()) tail += "  " + part;
  };
  add(std::string(s.detail));
  const std::string done = short_count(static_cast<double>(s.done));
  add(known ? fmt::format("{}/{} {}", done, short_count(static_cast<double>(s.total)), s.unit)
            : fmt::format("{} {}", done, s.unit));
  if (s.seconds > 0 && s.done > s.already_done) {
    const double rate = static_cast<double>(s.done - s.already_done) / s.seconds;
    if (rate >= 1) add(fmt::format("{} {}/s", short_count(rate), s.unit));
  }
  add(time_left(s));

  const auto fits = [&](size_t size) { return size <= static_cast<size_t>(std::max(columns, 0)); };
  constexpr int kBarCells = 20;
  const std::string with_bar = fmt::format("{} {}{}", head, bar(fraction, kBarCells), tail);
  if (known && fits(with_bar.size())) return with_bar;
  const std::string without_bar = head + tail;
  if (fits(without_bar.size())) return without_bar;
  const std::string least = fmt::format("{}  {}", head, time_left(s));
  return fits(least.size()) ? least : least.substr(0, static_cast<size_t>(std::max(columns, 0)));
}

Progress::Progress(std::string label, int64_t total, std::string unit, int64_t already_done)
    : label_(std::move(label)),
      total_(total),
      unit_(std::move(unit)),
      already_done_(already_done),
      terminal_(::isatty(STDERR_FILENO) == 1),
      start_(std::chrono::steady_clock::now()),
      next_show_(start_ + to_clock(kQuietSeconds)) {}

Progress::~Progress() {
  if (line_open_) log::plain("\n");
}

void Progress::update(int64_t done, std::string_view detail) {
  const auto now = std::chrono::steady_clock::now();
  const bool last = total_ > 0 && done >= total_;
  if (now < next_show_ && !(last && shown_)) return;
  next_show_ = now + (terminal_ ? kLiveInterval : to_clock(kPlainSeconds));
  shown_ = true;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const ProgressState state{label_, done, total_, unit_, already_done_, seconds, detail};
  if (terminal_) {
    // The last column stays free: a full line would wrap on some terminals. "\x1b[K" clears what was longer
    // before.
    log::plain("\r{}\x1b[K", progress_line(state, terminal_columns() - 1));
    line_open_ = true;
  } else {
    log::plain("{}\n", progress_line(state, kPlainColumns));
  }
}

}  // namespace moray
