// FP8 weights as the V3 family publishes them: `X.weight` holds E4M3 codes [O, I], `X.weight_scale_inv`
// beside it an FP32 scale for each 128×128 block, [ceil(O/128), ceil(I/128)]. Despite its name the scale is
// multiplied: weight = code · scale. config.json says so under "quantization_config".
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/safetensors.h"
#include "tensor/quantized.h"

namespace moray {

// The name of a weight's scales: "model.norm.weight" to "model.norm.weight_scale_inv".
std::string fp8_scale_name(std::string_view weight_name);
bool is_fp8_scale_name(std::string_view name);
std::string fp8_weight_name(std::string_view scale_name);  // whose scales they are

// Whether published FP8 folders keep this weight in FP8: the linears of attention, MLPs and experts
// ("..._proj", "kv_a_proj_with_mqa"). Embedding, head, router, norms and the MTP layer's eh_proj stay in
// BF16.
bool is_fp8_in_published_folders(std::string_view weight_name);

// One weight with its scales, both checked, the codes where they lie in the mapped file.
struct Fp8Weight {
  std::string name, where;  // the tensor's, and the folder's for messages
  int64_t rows = 0, columns = 0;
  const e4m3* codes = nullptr;  // row-major
  std::vector<float> scales;    // of blocks, row-major

  int64_t block_columns() const { return (columns + kTile - 1) / kTile; }
  float scale(int64_t row, int64_t column) const {
    return scales[static_cast<size_t>(row / kTile * block_columns() + column / kTile)];
  }
};

// Whether the folder holds this tensor as E4M3 codes. Throws Error when it holds no such tensor.
bool is_fp8_weight(const SafetensorsFolder& folder, std::string_view name);

// Pairs a weight with its scales. Throws Error naming tensor and folder when the codes are not E4M3 of two
// dimensions, the scales are missing, of another shape or dtype (F32 and BF16 are read), or negative, NaN or
// infinite. The codes are not looked at: see expect_no_fp8_nan.
Fp8Weight fp8_weight(const SafetensorsFolder& folder, std::string_view name);
// The same from the file of the codes and that of the scales (nullptr: missing), as of a folder that is not
// whole.
Fp8Weight fp8_weight(const SafetensorsFile& file, const SafetensorsFile* holder_of_scales,
                     std::string_view name);

// Throws Error naming the first element whose code is NaN. Reads every code, at the speed of memory.
void expect_no_fp8_nan(const Fp8Weight& weight);

// Rows [begin, end) as numbers: `into` is f32, f64 or bf16 of [end - begin, columns]. The product is rounded
// to f32 and, into bf16, once more, as `dequantize` of ops/quantize.h does.
void dequantize_rows(const Fp8Weight& weight, int64_t begin, int64_t end, const Tensor& into);

// SafetensorsFolder::read, which also reads FP8 weights with their scales; NaN codes are errors. `into` must
// have the stored shape.
void read_dequantized(const SafetensorsFolder& folder, std::string_view name, const Tensor& into);

// Throws Error when the folder holds scales without their FP8 weight.
void expect_no_stray_scales(const SafetensorsFolder& folder);

// "quantization_config" of config.json. nullopt when there is none; Error for another method, format or block
// size than the published ones, which are then named. `where` begins the message.
struct Fp8Scheme {
  ScaleFormat scales = ScaleFormat::fp32;  // "scale_fmt": "ue8m0" is power_of_two; V3.1 has it
};
std::optional<Fp8Scheme> read_fp8_scheme(std::string_view config_json, const std::string& where);
// config.json with "quantization_config" added at its end.
std::string with_fp8_scheme(std::string_view config_json, const Fp8Scheme& scheme);

}  // namespace moray
