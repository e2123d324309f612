#include "bench/noise.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <thread>

namespace moray {

NoiseProbe::Ticks NoiseProbe::machine_ticks() {
  std::ifstream stat("/proc/stat");
  std::string label;
  Ticks ticks;
  double user = 0, nice = 0, system = 0, idle = 0, wait = 0, irq = 0, soft = 0;
  if (!(stat >> label >> user >> nice >> system >> idle >> wait >> irq >> soft >> ticks.steal)) return {};
  ticks.idle = idle + wait;
  ticks.all = user + nice + system + ticks.idle + irq + soft + ticks.steal;
  return ticks;
}

double NoiseProbe::own_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

NoiseProbe::NoiseProbe() : begin_(machine_ticks()), own_begin_(own_seconds()) {}

Noise NoiseProbe::noise() const {
  Noise noise;
  getloadavg(&noise.load_average, 1);
  const Ticks end = machine_ticks();
  const double all = end.all - begin_.all;
  if (all <= 0) return noise;
  const double own = (own_seconds() - own_begin_) * static_cast<double>(sysconf(_SC_CLK_TCK));
  noise.steal = (end.steal - begin_.steal) / all;
  noise.others = std::max(0.0, (all - (end.idle - begin_.idle) - (end.steal - begin_.steal) - own) / all);
  return noise;
}

std::string Noise::to_string() const {
  return fmt::format("load average {:.2f}, other processes {:.0f}% of the processors, stolen {:.1f}%",
                     load_average, 100 * others, 100 * steal);
}

std::string machine_name() {
  std::ifstream info("/proc/cpuinfo");
  std::string line, model = "unknown processor";
  while (std::getline(info, line))
    if (line.rfind("model name", 0) == 0 && line.find(": ") != std::string::npos) {
      model = line.substr(line.find(": ") + 2);
      break;
    }
  utsname system{};
  uname(&system);
  return fmt::format("{}, {} cores, {} {}", model, std::thread::hardware_concurrency(), system.sysname,
                     system.release);
}

}  // namespace moray
