#include "serve/random_model.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "base/random.h"
#include "checkpoint/coded_weights.h"
#include "checkpoint/fp8_weights.h"
#include "checkpoint/int_weights.h"
#include "checkpoint/safetensors_writer.h"

namespace moray {

namespace {

constexpr int64_t kPiece = 1 << 20;

// Uniform in ±√3 times `deviation`; codes over all their range.
void fill(Exec& exec, const Tensor& tensor, double deviation, uint64_t stream) {
  const auto range = static_cast<float>(deviation * std::sqrt(12.0));
  exec.pool->for_ranges(tensor.elements(), kPiece, [&](int64_t begin, int64_t end, int) {
    uint64_t state = Random(stream, static_cast<uint64_t>(begin)).next();
    for (int64_t i = begin; i < end; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      const float value = (static_cast<float>(state >> 40) * 0x1p-24f - 0.5f) * range;
      switch (tensor.dtype()) {
        case DType::f32:
          tensor.data<float>()[i] = value;
          break;
        case DType::bf16:
          tensor.data<bf16>()[i] = to_bf16(value);
          break;
        case DType::i8:
          tensor.data<int8_t>()[i] = static_cast<int8_t>(value);
          break;
        case DType::u8:
          tensor.data<uint8_t>()[i] = static_cast<uint8_t>(state >> 56);
          break;
        default:
          tensor.data<e4m3>()[i] = narrow<e4m3>(value);
      }
    }
  });
}

// How a matrix is stored, what `fill` is asked for, and the scale that makes 1/sqrt(inputs) of it.
struct RandomForm {
  DType dtype = DType::f32;
  double deviation = 1;
  float scale = 0;  // 0: none
};

RandomForm random_form(const Parameter& parameter, DType dtype) {
  const auto inputs = static_cast<double>(parameter.tensor->extent(-1));
  const double deviation = 1 / std::sqrt(inputs);
  if (parameter.name.ends_with("mlp.gate.weight")) return {DType::f32, deviation, 0};
  if (dtype == DType::f32 || dtype == DType::bf16) return {dtype, deviation, 0};
  if (dtype == DType::f8_e4m3) {
    if (parameter.kind == ParameterKind::table) return {DType::bf16, deviation, 0};
    return {dtype, 448 / std::sqrt(3.0), static_cast<float>(deviation * std::sqrt(3.0) / 448)};
  }
  const auto codes = int_weight_dtype(parameter.name, parameter.tensor->extent(-1),
                                      dtype == DType::u8 ? IntFormat::int4 : IntFormat::int8);
  if (!codes) return {DType::bf16, deviation, 0};
  constexpr double kInt4Size =
      90.9;  // of s·(2q − 7 − z) over all bits of q, s and z, in the root mean square
  if (codes == DType::u8) return {DType::u8, 1, static_cast<float>(deviation / kInt4Size)};
  return {DType::i8, 127 / std::sqrt(3.0), static_cast<float>(deviation * std::sqrt(3.0) / 127)};
}

Tensor filled(Exec& exec, const Shape& shape, float value) {
  const Tensor tensor = exec.empty(shape);
  std::ranges::fill(tensor.span<float>(), value);
  return tensor;
}

bool is_vector(ParameterKind kind) {
  return kind == ParameterKind::vector || kind == ParameterKind::buffer;
}

// What a folder holds of a model: each tensor's name and shape, and how to make it.
struct RandomTensor {
  TensorToWrite to_write;
  std::function<Tensor(Exec&)> make;
};

void append_matrix(const Parameter& parameter, DType dtype, uint64_t stream,
                   std::vector<RandomTensor>& tensors) {
  const bool experts = parameter.kind == ParameterKind::experts;
  const Shape whole = parameter.tensor->shape();
  const Shape shape = experts ? Shape{whole[1], whole[2]} : whole;
  const RandomForm form = random_form(parameter, dtype);
  for (int64_t e = 0; e < (experts ? whole[0] : 1); ++e) {
    std::string name = parameter.name;
    if (experts) name.replace(name.find("{}"), 2, std::to_string(e));
    const Shape values = stored_shape(shape, form.dtype);
    const uint64_t own = stream * 4096 + static_cast<uint64_t>(e);
    tensors.push_back({tensor_to_write(name, form.dtype, values), [=](Exec& exec) {
                         const Tensor tensor = Tensor::empty(*exec.allocator, values, form.dtype);
                         fill(exec, tensor, form.deviation, own);
                         return tensor;
                       }});
    if (form.scale == 0) continue;
    const Shape scales = scales_shape(shape, form.dtype);
    tensors.push_back({tensor_to_write(scales_name(name, form.dtype), DType::f32, scales),
                       [=](Exec& exec) { return filled(exec, scales, form.scale); }});
  }
}

std::vector<RandomTensor> random_tensors(const deepseek::ModelConfig& config, DType dtype) {
  deepseek::Model shapes =
      deepseek::make_model(config, [](const Shape& shape) { return Tensor::shape_only(shape, DType::f32); });
  std::vector<RandomTensor> tensors;
  uint64_t stream = 0;
  for (const Parameter& parameter : list_parameters(shapes)) {
    ++stream;
    if (!is_vector(parameter.kind)) {
      append_matrix(parameter, dtype, stream, tensors);
      continue;
    }
    const Shape shape = parameter.tensor->shape();
    const float value = parameter.kind == ParameterKind::vector ? 1.0f : 0.0f;
    tensors.push_back({tensor_to_write(parameter.name, DType::f32, shape),
                       [=](Exec& exec) { return filled(exec, shape, value); }});
  }
  return tensors;
}

std::string config_text(const deepseek::ModelConfig& config, DType dtype) {
  const std::string text = config.to_json(dtype == DType::f32 ? "float32" : "bfloat16", 0, 1);
  if (dtype == DType::f8_e4m3) return with_fp8_scheme(text, {});
  if (dtype == DType::i8 || dtype == DType::u8)
    return with_int_format(text, dtype == DType::u8 ? IntFormat::int4 : IntFormat::int8);
  return text;
}

}  // namespace

ServedModel random_model(Exec& exec, const deepseek::ModelConfig& config, DType dtype) {
  ServedModel served;
  served.model =
      deepseek::make_model(config, [](const Shape& shape) { return Tensor::shape_only(shape, DType::f32); });
  served.scales = deepseek::make_model(config, [](const Shape&) { return Tensor(); });
  const std::vector<Parameter> weights = list_parameters(served.model),
                               scales = list_parameters(served.scales);
  for (size_t i = 0; i < weights.size(); ++i) {
    const Shape shape = weights[i].tensor->shape();
    const ParameterKind kind = weights[i].kind;
    if (is_vector(kind)) {
      *weights[i].tensor = filled(exec, shape, kind == ParameterKind::vector ? 1.0f : 0.0f);
      continue;
    }
    const RandomForm form = random_form(weights[i], dtype);
    *weights[i].tensor = Tensor::empty(*exec.allocator, stored_shape(shape, form.dtype), form.dtype);
    fill(exec, *weights[i].tensor, form.deviation, i);
    if (form.scale != 0) *scales[i].tensor = filled(exec, scales_shape(shape, form.dtype), form.scale);
  }
  return served;
}

void write_random_folder(Exec& exec, const deepseek::ModelConfig& config, DType dtype, const fs::path& folder,
                         uint64_t max_shard_bytes, const std::function<void(uint64_t, uint64_t)>& progress) {
  std::error_code error;
  if (fs::exists(folder, error)) fail("{}: exists already", folder.string());
  const std::vector<RandomTensor> tensors = random_tensors(config, dtype);
  std::vector<TensorToWrite> list;
  uint64_t done = 0, total = 0;
  for (const RandomTensor& tensor : tensors) total += list.emplace_back(tensor.to_write).bytes;
  expect_room(folder, safetensors_bytes(list));
  fs::create_directories(folder, error);
  if (error) fail("{}: cannot create the folder: {}", folder.string(), error.message());
  Tensor current;
  const auto bytes_of = [&](size_t i) -> std::span<const std::byte> {
    current = tensors[i].make(exec);
    if (progress) progress(done += current.bytes(), total);
    return {current.raw(), current.bytes()};
  };
  try {
    write_safetensors_folder(folder, list, bytes_of, max_shard_bytes);
    write_file_atomically(folder / "config.json", config_text(config, dtype));
  } catch (...) {
    fs::remove_all(folder, error);  // a part of a model is of no use, and large
    throw;
  }
}

std::vector<ReadWeight> weights_of_a_token(const ServedModel& served) {
  deepseek::Model model = served.model, scales = served.scales;
  const std::vector<Parameter> weights = list_parameters(model), of_codes = list_parameters(scales);
  const double share = static_cast<double>(model.config.num_experts_per_tok) /
                       static_cast<double>(std::max<int64_t>(1, model.config.n_routed_experts));
  std::vector<ReadWeight> read;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i].name == "model.embed_tokens.weight") continue;
    for (const Tensor& tensor : {*weights[i].tensor, *of_codes[i].tensor})
      if (tensor.defined()) read.push_back({tensor, weights[i].kind == ParameterKind::experts ? share : 1});
  }
  return read;
}

}  // namespace moray
