// How much else went on while something was measured.
#pragma once

#include <string>

namespace moray {

struct Noise {
  double load_average = 0;  // of the last minute
  double others = 0;        // share of the processors that other processes used meanwhile
  double steal = 0;         // share that the hypervisor gave to others
  std::string to_string() const;
};

class NoiseProbe {
 public:
  NoiseProbe();         // begins
  Noise noise() const;  // since then; shares are 0 where /proc is not there

 private:
  struct Ticks {
    double all = 0, idle = 0, steal = 0;
  };
  static Ticks machine_ticks();
  static double own_seconds();

  Ticks begin_;
  double own_begin_ = 0;
};

// "AMD EPYC, 2 cores, Linux 6.1": what the figures were measured on.
std::string machine_name();

}  // namespace moray
