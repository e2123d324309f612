// A config.json of any bytes: a model's shape that validates and counts, or refused in words.
#include "base/error.h"
#include "checkpoint/fp8_weights.h"
#include "models/deepseek/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace moray;
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const deepseek::ModelConfig config = deepseek::ModelConfig::from_json(text, "config.json");
    const deepseek::ParameterCounts counts = deepseek::count_parameters(config);
    MORAY_CHECK(counts.total > 0 && counts.active > 0 && counts.mtp >= 0);
  } catch (const Error&) {
  }
  try {
    read_fp8_scheme(text, "config.json");
  } catch (const Error&) {
  }
  return 0;
}
