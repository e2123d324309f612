#include "serve/random_model.h"

#include <algorithm>
#include <cmath>

#include "base/random.h"

namespace moray {

namespace {

constexpr int64_t kPiece = 1 << 20;

// Uniform in ±√3 times `deviation`.
void fill(Exec& exec, const Tensor& tensor, double deviation, uint64_t stream) {
  const auto range = static_cast<float>(deviation * std::sqrt(12.0));
  exec.pool->for_ranges(tensor.elements(), kPiece, [&](int64_t begin, int64_t end, int) {
    uint64_t state = Random(stream, static_cast<uint64_t>(begin)).next();
    for (int64_t i = begin; i < end; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      const float value = (static_cast<float>(state >> 40) * 0x1p-24f - 0.5f) * range;
      if (tensor.dtype() == DType::f32)
        tensor.data<float>()[i] = value;
      else if (tensor.dtype() == DType::bf16)
        tensor.data<bf16>()[i] = to_bf16(value);
      else
        tensor.data<e4m3>()[i] = narrow<e4m3>(value);
    }
  });
}

Tensor filled(Exec& exec, const Shape& shape, float value) {
  const Tensor tensor = exec.empty(shape);
  std::ranges::fill(tensor.span<float>(), value);
  return tensor;
}

Shape block_shape(const Shape& shape) {
  const int64_t rows = (shape[-2] + kTile - 1) / kTile, columns = (shape[-1] + kTile - 1) / kTile;
  return shape.rank() == 3 ? Shape{shape[0], rows, columns} : Shape{rows, columns};
}

}  // namespace

ServedModel random_model(Exec& exec, const deepseek::ModelConfig& config, DType dtype) {
  ServedModel served;
  served.model = deepseek::make_model(config, [](const Shape& shape) { return Tensor::shape_only(shape, DType::f32); });
  served.scales = deepseek::make_model(config, [](const Shape&) { return Tensor(); });
  const std::vector<Parameter> weights = list_parameters(served.model), scales = list_parameters(served.scales);
  for (size_t i = 0; i < weights.size(); ++i) {
    const Shape shape = weights[i].tensor->shape();
    const ParameterKind kind = weights[i].kind;
    if (kind == ParameterKind::vector || kind == ParameterKind::buffer) {
      *weights[i].tensor = filled(exec, shape, kind == ParameterKind::vector ? 1.0f : 0.0f);
      continue;
    }
    const bool router = weights[i].name.ends_with("mlp.gate.weight"), table = kind == ParameterKind::table;
    const bool codes = dtype == DType::f8_e4m3 && !router && !table;
    const DType stored = router ? DType::f32 : codes ? dtype : dtype == DType::f32 ? DType::f32 : DType::bf16;
    *weights[i].tensor = Tensor::empty(*exec.allocator, shape, stored);
    const double deviation = 1 / std::sqrt(static_cast<double>(shape[-1]));
    fill(exec, *weights[i].tensor, codes ? 448 / std::sqrt(3.0) : deviation, i);
    if (codes) *scales[i].tensor = filled(exec, block_shape(shape), static_cast<float>(deviation * std::sqrt(3.0) / 448));
  }
  return served;
}

double bytes_a_token(const ServedModel& served) {
  deepseek::Model model = served.model, scales = served.scales;
  const std::vector<Parameter> weights = list_parameters(model), of_codes = list_parameters(scales);
  const double share = static_cast<double>(model.config.num_experts_per_tok) /
                       static_cast<double>(std::max<int64_t>(1, model.config.n_routed_experts));
  double sum = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i].name == "model.embed_tokens.weight") continue;
    double bytes = static_cast<double>(weights[i].tensor->bytes());
    if (of_codes[i].tensor->defined()) bytes += static_cast<double>(of_codes[i].tensor->bytes());
    sum += weights[i].kind == ParameterKind::experts ? bytes * share : bytes;
  }
  return sum;
}

}  // namespace moray
