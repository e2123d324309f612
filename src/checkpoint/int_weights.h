// Weights of 8 and 4 bits in folders: `X.weight` holds I8 codes [O, I], or U8 [O, int4_row_bytes(I)] rows of
// 4-bit codes (tensor/int_rows.h); `X.weight_scale` beside it F32 [O, ceil(I / 128)]. config.json says so
// under "quantization_config": {"quant_method": "moray", "format": "4bit", "version": 1}.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/dtype.h"

namespace moray {

enum class IntFormat : uint8_t { int8, int4 };
std::string_view int_format_name(IntFormat format);                             // "8bit", "4bit"
IntFormat parse_int_format(const std::string& name, const std::string& where);  // Error for other names

// "model.norm.weight" to "model.norm.weight_scale".
std::string int_scale_name(std::string_view weight_name);

// What a weight becomes: i8, u8 (4 bits), or nothing where it is kept as it is. Quantized are the linears of
// attention, MLPs and experts, and the head; kept are embeddings, routers, norms, biases and the MTP modules'
// eh_proj and copies. In a 4-bit folder 8 bits are for the head; for the projections to and from the latent
// (kv_a_proj_with_mqa, kv_b_proj), which are small and touch every token's cache; and for rows that are no
// multiple of 32.
std::optional<DType> int_weight_dtype(std::string_view name, int64_t columns, IntFormat format);

// Of "quantization_config". nullopt when there is none or it is of another method; Error for formats and
// versions that are not known.
std::optional<IntFormat> read_int_format(std::string_view config_json, const std::string& where);
// config.json with its "quantization_config" replaced.
std::string with_int_format(std::string_view config_json, IntFormat format);

}  // namespace moray
