#include "checkpoint/int_weights.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/fp8_weights.h"
#include "tensor/int_rows.h"

namespace moray {

namespace {
constexpr int64_t kVersion = 1;
}

std::string_view int_format_name(IntFormat format) {
  return format == IntFormat::int8 ? "8bit" : "4bit";
}

IntFormat parse_int_format(const std::string& name, const std::string& where) {
  if (name == "8bit") return IntFormat::int8;
  if (name == "4bit") return IntFormat::int4;
  fail("{} is '{}', expected '8bit' or '4bit'", where, name);
}

std::string int_scale_name(std::string_view weight_name) {
  return std::string(weight_name).append("_scale");
}

std::optional<DType> int_weight_dtype(std::string_view name, int64_t columns, IntFormat format) {
  if (name == "lm_head.weight") return DType::i8;
  if (!is_fp8_in_published_folders(name)) return std::nullopt;
  const bool of_latents = name.ends_with(".kv_b_proj.weight") || name.ends_with(".kv_a_proj_with_mqa.weight");
  const bool bytes = format == IntFormat::int8 || of_latents || columns % kInt4Group != 0;
  return bytes ? DType::i8 : DType::u8;
}

std::optional<IntFormat> read_int_format(std::string_view config_json, const std::string& where) {
  const nlohmann::json config = parse_json(config_json, where);
  const nlohmann::json* scheme = json_find(config, "quantization_config", where);
  if (scheme == nullptr) return std::nullopt;
  const std::string inside = where + ": quantization_config";
  if (json_string(*scheme, "quant_method", inside) != "moray") return std::nullopt;
  if (const int64_t version = json_integer(*scheme, "version", inside); version != kVersion)
    fail("{}: version is {}, only {} is known; quantize the original again", inside, version, kVersion);
  return parse_int_format(json_string(*scheme, "format", inside), inside + ": format");
}

std::string with_int_format(std::string_view config_json, IntFormat format) {
  auto config = nlohmann::ordered_json::parse(config_json);
  config["quantization_config"] = {
      {"quant_method", "moray"}, {"format", int_format_name(format)}, {"version", kVersion}};
  return config.dump(2) + "\n";
}

}  // namespace moray
