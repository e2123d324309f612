#include "serve/served_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>

#include "checkpoint/convert.h"
#include "tensor/panels.h"

namespace moray {

namespace {

// A piece of a stored tensor on its way into memory.
struct Piece {
  const PlannedTensor* tensor = nullptr;
  int64_t expert = 0;
  const StoredTensor* stored = nullptr;
  const std::byte* from = nullptr;
  std::byte* to = nullptr;
  int64_t count = 0;      // elements
  int64_t row_bytes = 0;  // where whole panels are to be packed, else 0
};

constexpr int64_t kPieceElements = 4 << 20;

int64_t row_bytes_of(const Tensor& tensor) {
  return tensor.extent(-1) * static_cast<int64_t>(dtype_bytes(tensor.dtype()));
}

void append_pieces(const SafetensorsFolder& folder, const PlannedTensor& planned, const Tensor& tensor,
                   std::vector<Piece>& pieces) {
  for (int64_t e = 0; e < std::max<int64_t>(1, planned.experts); ++e) {
    const std::string name = planned.stored_name(e);
    const StoredTensor& stored = folder.tensor(name);
    const Tensor into = planned.experts > 0 ? tensor.row(e) : tensor;
    const auto from_bytes = static_cast<int64_t>(stored_dtype_bytes(stored.dtype));
    const bool panels = tensor.layout() == TensorLayout::panels;
    const int64_t panel = panels ? kPanelRows * into.extent(-1) : 1;
    const int64_t together = std::max(kPieceElements / panel, int64_t{1}) * panel;
    for (int64_t at = 0; at < into.elements(); at += together)
      pieces.push_back({&planned, e, &stored, folder.bytes(name).data() + at * from_bytes,
                        into.raw() + at * static_cast<int64_t>(dtype_bytes(planned.dtype)),
                        std::min(together, into.elements() - at), panels ? row_bytes_of(into) : 0});
  }
}

// Kernels read codes without looking for NaN.
bool has_nan_code(const std::byte* codes, int64_t count) {
  bool found = false;
  for (int64_t i = 0; i < count; ++i) found |= (codes[i] & std::byte{0x7f}) == std::byte{0x7f};
  return found;
}

// Kernels count on magnitudes of at most 127.
bool has_odd_code(const std::byte* codes, int64_t count) {
  return std::find(codes, codes + count, std::byte{0x80}) != codes + count;
}

// Infinity counts as beyond any limit.
bool are_scales(const std::byte* values, int64_t count, float below) {
  for (int64_t i = 0; i < count; ++i) {
    float scale = 0;
    std::memcpy(&scale, values + i * int64_t{sizeof(float)}, sizeof(float));
    if (!(scale >= 0 && scale < below)) return false;
  }
  return true;
}

// What a scale must stay below: that of integers, whose kernels multiply by it and do no more, need only be
// finite.
float scale_limit(const PlannedTensor& scales) {
  return scales.scales_integers ? std::numeric_limits<float>::infinity() : kMostFp8Scale;
}

// False: the piece holds what must not be served.
bool read_piece(const Piece& piece) {
  if (piece.tensor->is_small && first_not_finite(piece.stored->dtype, piece.from, piece.count) >= 0)
    return false;
  MORAY_CHECK(convert_elements(piece.stored->dtype, piece.from, piece.count, piece.tensor->dtype, piece.to));
  if (piece.row_bytes > 0)
    pack_panels(piece.to,
                piece.count * static_cast<int64_t>(dtype_bytes(piece.tensor->dtype)) / piece.row_bytes,
                piece.row_bytes, piece.tensor->dtype);
  if (piece.tensor->dtype == DType::f8_e4m3) return !has_nan_code(piece.to, piece.count);
  if (piece.tensor->dtype == DType::i8) return !has_odd_code(piece.to, piece.count);
  return !piece.tensor->is_scale || are_scales(piece.to, piece.count, scale_limit(*piece.tensor));
}

// Where in its tensor a piece has a number that is not finite, and which.
[[noreturn]] void fail_not_finite(const SafetensorsFolder& folder, const Piece& piece) {
  const std::string name = piece.tensor->stored_name(piece.expert);
  const auto bytes = static_cast<int64_t>(stored_dtype_bytes(piece.stored->dtype));
  const int64_t in_piece = first_not_finite(piece.stored->dtype, piece.from, piece.count);
  const int64_t at = (piece.from - folder.bytes(name).data()) / bytes + in_piece;
  float value = 0;
  convert_elements(piece.stored->dtype, piece.from + in_piece * bytes, 1, DType::f32,
                   reinterpret_cast<std::byte*>(&value));
  const bool matrix = piece.stored->shape.size() == 2;
  const int64_t columns = matrix ? piece.stored->shape[1] : 1;
  fail("{}: '{}' is not finite: {} at [{}]", folder.path().string(), name, value,
       matrix ? fmt::format("{}, {}", at / columns, at % columns) : std::to_string(at));
}

void read_pieces(Exec& exec, const SafetensorsFolder& folder, const std::vector<Piece>& pieces,
                 const LoadProgress& progress) {
  constexpr size_t kRound = 64;  // pieces between two reports
  std::atomic<size_t> bad = pieces.size(), done = 0;
  for (size_t begin = 0; begin < pieces.size(); begin += kRound) {
    const size_t count = std::min(kRound, pieces.size() - begin);
    exec.pool->for_each(static_cast<int64_t>(count), [&](int64_t index, int) {
      const size_t at = begin + static_cast<size_t>(index);
      if (!read_piece(pieces[at])) {
        size_t before = bad;
        while (at < before && !bad.compare_exchange_weak(before, at)) {
        }
      }
      release_pages({pieces[at].from,
                     static_cast<size_t>(pieces[at].count) * stored_dtype_bytes(pieces[at].stored->dtype)});
      done += static_cast<size_t>(pieces[at].count) * dtype_bytes(pieces[at].tensor->dtype);
    });
    if (progress) progress(done);
  }
  if (bad == pieces.size()) return;
  const Piece& piece = pieces[bad];
  if (piece.tensor->is_small) fail_not_finite(folder, piece);
  const std::string name = piece.tensor->stored_name(piece.expert);
  if (piece.tensor->is_scale)
    fail("{}: '{}' holds a scale that is not between 0 and {}", folder.path().string(), name,
         scale_limit(*piece.tensor));
  if (piece.tensor->dtype == DType::i8)
    fail("{}: '{}' holds the code -128, which 8-bit weights do not have", folder.path().string(), name);
  fail("{}: '{}' holds NaN", folder.path().string(), name);
}

// Where each tensor of the plan belongs.
std::vector<Parameter> places_of(const WeightPlan& plan, ServedModel& served) {
  const std::vector<Parameter> weights = list_parameters(served.model),
                               scales = list_parameters(served.scales);
  std::vector<Parameter> places;
  size_t next = 0;  // weight
  for (const PlannedTensor& planned : plan.tensors) {
    if (!planned.is_scale) ++next;
    const Parameter& parameter = (planned.is_scale ? scales : weights)[next - 1];
    MORAY_CHECK(planned.name.starts_with(parameter.name), "{} for {}", planned.name, parameter.name);
    places.push_back(parameter);
  }
  return places;
}

}  // namespace

bool lies_in_panels(const Parameter& parameter) {
  const bool product = parameter.kind == ParameterKind::matrix || parameter.kind == ParameterKind::experts ||
                       parameter.name.ends_with("lm_head.weight");
  return product && !parameter.name.ends_with("kv_b_proj.weight") &&
         fits_panels(parameter.tensor->shape(), parameter.tensor->dtype());
}

namespace {
void pack(Exec& exec, Tensor& tensor) {
  const int64_t row_bytes = row_bytes_of(tensor);
  exec.pool->for_each(tensor.elements() / tensor.extent(-1) / kPanelRows, [&](int64_t panel, int) {
    pack_panels(tensor.raw() + panel * kPanelRows * row_bytes, kPanelRows, row_bytes, tensor.dtype());
  });
  tensor = tensor.lying_in(TensorLayout::panels);
}
}  // namespace

void pack_weights(Exec& exec, ServedModel& served) {
  const std::vector<Parameter> weights = list_parameters(served.model),
                               scales = list_parameters(served.scales);
  for (size_t i = 0; i < weights.size(); ++i) {
    Tensor& weight = *weights[i].tensor;
    if (weight.layout() == TensorLayout::panels || !lies_in_panels(weights[i])) continue;
    pack(exec, weight);
    if (weight.dtype() == DType::i8 || weight.dtype() == DType::u8) pack(exec, *scales[i].tensor);
  }
}

ServedModel allocate_weights(Exec& exec, const WeightPlan& plan) {
  ServedModel served;
  served.model = served.scales = deepseek::make_model(plan.config, [](const Shape&) { return Tensor(); });
  const std::vector<Parameter> places = places_of(plan, served);
  bool codes_in_panels = false;  // of integers, whose scales lie as they do
  for (size_t i = 0; i < places.size(); ++i) {
    const PlannedTensor& planned = plan.tensors[i];
    Tensor& tensor = *places[i].tensor;
    tensor = Tensor::empty(*exec.allocator, planned.shape, planned.dtype);
    const bool panels = planned.is_scale ? codes_in_panels : lies_in_panels(places[i]);
    codes_in_panels = panels && (planned.dtype == DType::i8 || planned.dtype == DType::u8);
    if (panels) tensor = tensor.lying_in(TensorLayout::panels);
  }
  return served;
}

ServedModel load_weights(Exec& exec, const SafetensorsFolder& folder, const WeightPlan& plan,
                         const LoadProgress& progress) {
  ServedModel served = allocate_weights(exec, plan);
  const std::vector<Parameter> places = places_of(plan, served);
  std::vector<Piece> pieces;
  for (size_t i = 0; i < places.size(); ++i)
    append_pieces(folder, plan.tensors[i], *places[i].tensor, pieces);
  read_pieces(exec, folder, pieces, progress);
  return served;
}

ServedModel serve_trained(const deepseek::Model& model) {
  return {model, deepseek::make_model(model.config, [](const Shape&) { return Tensor(); })};
}

}  // namespace moray
