// moray quantize: a model folder made a folder of 8-bit or 4-bit weights.
#pragma once

#include <string>

namespace moray {

struct QuantizeOptions {
  std::string model, output;
  std::string format = "4bit";
  std::string text;  // a file on which what it costs is measured
  int threads = 0;
  bool json = false;
};
int run_quantize(const QuantizeOptions&);

}  // namespace moray
