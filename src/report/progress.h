// A progress line on stderr: live on a terminal, a plain line every few seconds elsewhere. Work that is over
// within two seconds shows none.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace moray {

class Progress {
 public:
  // `total` and update()'s `done` count in `unit`s ("tokens"); a total of 0 is unknown. `already_done` is
  // where a resumed job starts, so that the time left is estimated from this run's speed alone.
  Progress(std::string label, int64_t total, std::string unit, int64_t already_done = 0);
  ~Progress();  // ends the live line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Shows the state, at most about ten times a second on a terminal and once in kPlainSeconds elsewhere; the
  // last update (done == total) always shows, if any did. Cheap to call.
  void update(int64_t done, std::string_view detail = {});

  static constexpr double kQuietSeconds = 2;
  static constexpr double kPlainSeconds = 5;

 private:
  std::string label_;
  int64_t total_;
  std::string unit_;
  int64_t already_done_;
  bool terminal_;
  bool line_open_ = false;
  bool shown_ = false;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point next_show_;
};

struct ProgressState {
  std::string_view label;
  int64_t done = 0;
  int64_t total = 0;  // 0: unknown
  std::string_view unit;
  int64_t already_done = 0;
  double seconds = 0;  // since already_done
  std::string_view detail;
};

// The text of one line, at most `columns` characters: what does not fit is left out, the bar first.
std::string progress_line(const ProgressState& state, int columns);

// "48s", "3m 07s", "2h 05m", "3d 04h".
std::string short_duration(double seconds);

// 950, "12.3k", "4.56M", "14.8T".
std::string short_count(double count);

}  // namespace moray
