#include "checkpoint/fp8_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/json.h"

namespace moray {

namespace {

constexpr std::string_view kScaleSuffix = "_scale_inv";
constexpr std::string_view kWeightScale = ".weight_scale_inv";

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

// `holder` has the scales; nullptr: nothing has.
std::vector<float> read_scales(const SafetensorsFile* holder, const StoredTensor& codes,
                               const std::string& where) {
  const std::string name = fp8_scale_name(codes.name);
  if (holder == nullptr) fail("{}: '{}' is FP8, but its scales '{}' are missing", where, codes.name, name);
  const StoredTensor* scales = &holder->tensor(name);
  const auto blocks = [](int64_t extent) { return (extent + kTile - 1) / kTile; };
  const std::vector<int64_t> expected = {blocks(codes.shape[0]), blocks(codes.shape[1])};
  if (scales->shape != expected)
    fail("{}: '{}' has shape {}, but the weight is {} and needs {} blocks of {}×{}", where, name,
         shape_text(scales->shape), shape_text(codes.shape), shape_text(expected), kTile, kTile);
  if (scales->dtype != "F32" && scales->dtype != "BF16")
    fail("{}: '{}' is {}, expected F32 or BF16", where, name, scales->dtype);
  Allocator allocator;
  const Tensor tensor = holder->read(name, allocator, DType::f32);
  const std::span<const float> values = tensor.span<float>();
  for (size_t i = 0; i < values.size(); ++i)
    if (!(values[i] >= 0 && std::isfinite(values[i])))
      fail("{}: '{}' holds {} at block {}", where, name, values[i], i);
  return {values.begin(), values.end()};
}

constexpr bool is_nan(e4m3 code) {
  return (code.bits & 0x7f) == 0x7f;
}

constexpr std::array<float, e4m3::codes> kValues = [] {
  std::array<float, e4m3::codes> values{};
  for (size_t code = 0; code < values.size(); ++code)
    values[code] = to_float(e4m3{static_cast<uint8_t>(code)});
  return values;
}();

// The float that rounds to `into`'s type; f64 takes it as it is.
template <class Into>
void dequantize_into(const Fp8Weight& weight, int64_t begin, int64_t end, Into* into) {
  for (int64_t row = begin; row < end; ++row)
    for (int64_t column = 0; column < weight.columns; column += kTile) {
      const float scale = weight.scale(row, column);
      const e4m3* codes = weight.codes + row * weight.columns + column;
      const int64_t count = std::min(kTile, weight.columns - column);
      for (int64_t i = 0; i < count; ++i) {
        const float value = kValues[codes[i].bits] * scale;
        if constexpr (std::is_same_v<Into, bf16>)
          *into++ = to_bf16(value);
        else
          *into++ = value;
      }
    }
}

}  // namespace

std::string fp8_scale_name(std::string_view weight_name) {
  return std::string(weight_name).append(kScaleSuffix);
}

bool is_fp8_scale_name(std::string_view name) {
  return name.ends_with(kWeightScale);
}

std::string fp8_weight_name(std::string_view scale_name) {
  return std::string(scale_name.substr(0, scale_name.size() - kScaleSuffix.size()));
}

bool is_fp8_in_published_folders(std::string_view weight_name) {
  if (weight_name.ends_with(".kv_a_proj_with_mqa.weight")) return true;
  return weight_name.ends_with("_proj.weight") && !weight_name.ends_with(".eh_proj.weight");
}

bool is_fp8_weight(const SafetensorsFolder& folder, std::string_view name) {
  return folder.tensor(name).dtype == "F8_E4M3";
}

Fp8Weight fp8_weight(const SafetensorsFolder& folder, std::string_view name) {
  const std::string scales = fp8_scale_name(name);
  return fp8_weight(folder.file_of(name), folder.find(scales) == nullptr ? nullptr : &folder.file_of(scales),
                    name);
}

Fp8Weight fp8_weight(const SafetensorsFile& file, const SafetensorsFile* holder_of_scales,
                     std::string_view name) {
  const StoredTensor& stored = file.tensor(name);
  const std::string where = file.path().parent_path().string();
  if (stored.dtype != "F8_E4M3") fail("{}: '{}' is {}, expected F8_E4M3", where, name, stored.dtype);
  if (stored.shape.size() != 2)
    fail("{}: '{}' is FP8 of shape {}, expected two dimensions", where, name, shape_text(stored.shape));
  return {std::string(name),
          where,
          stored.shape[0],
          stored.shape[1],
          reinterpret_cast<const e4m3*>(file.bytes(stored).data()),
          read_scales(holder_of_scales, stored, where)};
}

void expect_no_fp8_nan(const Fp8Weight& weight) {
  const e4m3* end = weight.codes + weight.rows * weight.columns;
  const e4m3* found = std::find_if(weight.codes, end, is_nan);
  if (found == end) return;
  const int64_t at = found - weight.codes;
  fail("{}: '{}' holds NaN at [{}, {}]", weight.where, weight.name, at / weight.columns, at % weight.columns);
}

void dequantize_rows(const Fp8Weight& weight, int64_t begin, int64_t end, const Tensor& into) {
  MORAY_CHECK(0 <= begin && begin <= end && end <= weight.rows, "rows {} to {} of {}", begin, end,
              weight.rows);
  MORAY_CHECK(into.shape() == Shape({end - begin, weight.columns}), "{}", into.shape().to_string());
  switch (into.dtype()) {
    case DType::f32:
      return dequantize_into(weight, begin, end, into.data<float>());
    case DType::f64:
      return dequantize_into(weight, begin, end, into.data<double>());
    case DType::bf16:
      return dequantize_into(weight, begin, end, into.data<bf16>());
    default:
      MORAY_CHECK(false, "into {}", dtype_name(into.dtype()));
  }
}

void read_dequantized(const SafetensorsFolder& folder, std::string_view name, const Tensor& into) {
  if (!is_fp8_weight(folder, name)) return folder.read(name, into);
  const Fp8Weight weight = fp8_weight(folder, name);
  if (into.shape() != Shape({weight.rows, weight.columns}))
    fail("{}: the tensor '{}' has shape [{}, {}], {} expected", weight.where, name, weight.rows,
         weight.columns, into.shape().to_string());
  expect_no_fp8_nan(weight);
  dequantize_rows(weight, 0, weight.rows, into);
}

void expect_no_stray_scales(const SafetensorsFolder& folder) {
  for (const std::string& name : folder.names()) {
    if (!is_fp8_scale_name(name)) continue;
    const std::string weight = fp8_weight_name(name);
    const StoredTensor* stored = folder.find(weight);
    if (stored == nullptr || stored->dtype != "F8_E4M3")
      fail("{}: '{}' are the scales of '{}', which is {}", folder.path().string(), name, weight,
           stored == nullptr ? "missing" : stored->dtype + ", not F8_E4M3");
  }
}

std::optional<Fp8Scheme> read_fp8_scheme(std::string_view config_json, const std::string& where) {
  const nlohmann::json config = parse_json(config_json, where);
  if (json_find(config, "quantization_config", where) == nullptr) return std::nullopt;
  const std::string inside = where + ": quantization_config";
  const nlohmann::json& scheme = json_object(config, "quantization_config", where);
  const std::string method = json_string(scheme, "quant_method", inside);
  if (method != "fp8") fail("{}: quant_method is '{}'; only 'fp8' is read", inside, method);
  if (const std::string format = json_string(scheme, "fmt", inside, "e4m3"); format != "e4m3")
    fail("{}: fmt is '{}'; only 'e4m3' is read", inside, format);
  const nlohmann::json& block = json_array(scheme, "weight_block_size", inside);
  if (block != nlohmann::json({kTile, kTile}))
    fail("{}: weight_block_size is {}; only [{}, {}] is read", inside, block.dump(), kTile, kTile);
  const std::string scale_format = json_string(scheme, "scale_fmt", inside, "");
  if (scale_format.empty()) return Fp8Scheme{ScaleFormat::fp32};
  if (scale_format != "ue8m0") fail("{}: scale_fmt is '{}'; only 'ue8m0' is known", inside, scale_format);
  return Fp8Scheme{ScaleFormat::power_of_two};
}

std::string with_fp8_scheme(std::string_view config_json, const Fp8Scheme& scheme) {
  auto config = nlohmann::ordered_json::parse(config_json);
  nlohmann::ordered_json& quantization = config["quantization_config"];
  quantization["activation_scheme"] = "dynamic";
  quantization["fmt"] = "e4m3";
  quantization["quant_method"] = "fp8";
  if (scheme.scales == ScaleFormat::power_of_two) quantization["scale_fmt"] = "ue8m0";
  quantization["weight_block_size"] = {kTile, kTile};
  return config.dump(2) + "\n";
}

}  // namespace moray
