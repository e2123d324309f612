// What spoils every token in silence is named before it is served.
#include "serve/served_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "backend/register.h"
#include "base/test_help.h"

namespace moray {
namespace {

// The golden model with one stored element put in the place of another, and what loading says of it.
class Spoilt {
 public:
  explicit Spoilt(const char* golden)
      : from_(fs::path(MORAY_SOURCE_DIR) / "tests/golden/inference" / golden) {
    register_backends();
  }

  std::string refusal(const std::string& name, uint64_t element, float value) {
    std::string file = read_file(from_ / "model.safetensors");
    const StoredTensor stored = SafetensorsFile(from_ / "model.safetensors").tensor(name);
    uint64_t header = 0;
    std::memcpy(&header, file.data(), sizeof(header));
    const uint64_t data = sizeof(header) + header + stored.begin;
    const bf16 narrow = to_bf16(value);
    if (stored.dtype == "BF16")
      std::memcpy(file.data() + data + element * sizeof(narrow), &narrow, sizeof(narrow));
    else
      std::memcpy(file.data() + data + element * sizeof(value), &value, sizeof(value));
    write_file_atomically(scratch_ / "model.safetensors", file);
    return test::error_of([&] {
      const auto config = deepseek::ModelConfig::from_json(read_file(from_ / "config.json"), "config");
      const SafetensorsFolder folder(scratch_.path());
      load_weights(exec_, folder, plan_weights(folder, config, false));
    });
  }
  std::string where() const { return scratch_.path().string(); }

 private:
  fs::path from_;
  test::ScratchFolder scratch_;
  Allocator allocator_;
  ThreadPool pool_{2};
  Exec exec_{Device::cpu, &pool_, &allocator_, DType::f32};
};

TEST(ServedModel, NormsRoutersAndBiasesAreFinite) {
  const std::string gate = "model.layers.1.mlp.gate.", norm = "model.norm.weight";
  for (const char* golden : {"v3-f32", "v3-fp8"}) {
    SCOPED_TRACE(golden);
    Spoilt spoilt(golden);
    const std::string before = spoilt.where() + ": '";
    EXPECT_EQ(spoilt.refusal(norm, 3, 0.5f), "no error");
    EXPECT_EQ(spoilt.refusal(norm, 3, NAN), before + norm + "' is not finite: nan at [3]");
    EXPECT_EQ(spoilt.refusal(gate + "weight", 2 * 36 + 5, INFINITY),
              before + gate + "weight' is not finite: inf at [2, 5]");
    EXPECT_EQ(spoilt.refusal(gate + "e_score_correction_bias", 1, -INFINITY),
              before + gate + "e_score_correction_bias' is not finite: -inf at [1]");
  }
}

}  // namespace
}  // namespace moray
