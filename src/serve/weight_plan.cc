#include "serve/weight_plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <set>

#include "tensor/quantized.h"

namespace moray {

namespace {

constexpr std::string_view kScaleSuffix = "_scale_inv";
constexpr size_t kMostProblems = 5;  // named in one message

Shape shape_of(const std::vector<int64_t>& extents) {
  switch (extents.size()) {
    case 1: return {extents[0]};
    case 2: return {extents[0], extents[1]};
    default: return {};
  }
}

Shape block_shape(const Shape& matrix) {
  return {(matrix[0] + kTile - 1) / kTile, (matrix[1] + kTile - 1) / kTile};
}

Shape stacked(int64_t experts, const Shape& matrix) {
  return experts > 0 ? Shape{experts, matrix[0], matrix[1]} : matrix;
}

class Planner {
 public:
  Planner(const SafetensorsFolder& folder, const deepseek::ModelConfig& config, bool with_mtp)
      : folder_(folder), declared_(config) {
    plan_.config = config;
    if (!with_mtp) plan_.config.num_nextn_predict_layers = 0;
  }

  WeightPlan run() {
    deepseek::Model shapes = deepseek::make_model(
        plan_.config, [](const Shape& shape) { return Tensor::shape_only(shape, DType::f32); });
    for (const Parameter& parameter : list_parameters(shapes)) {
      if (problems_.size() >= kMostProblems) break;
      add(parameter);
    }
    if (problems_.size() < kMostProblems) find_extra();
    if (!problems_.empty())
      fail("{}: the tensors do not fit config.json: {}{}", folder_.path().string(), fmt::join(problems_, "; "),
           problems_.size() >= kMostProblems ? "; and more" : "");
    return std::move(plan_);
  }

 private:
  template <class... Args>
  void problem(fmt::format_string<Args...> format, Args&&... args) {
    if (problems_.size() < kMostProblems) problems_.push_back(fmt::format(format, std::forward<Args>(args)...));
  }

  // The stored tensor when it is there and of that shape.
  const StoredTensor* expect(const std::string& name, const Shape& shape) {
    const StoredTensor* stored = folder_.find(name);
    if (stored == nullptr) {
      problem("'{}' is missing", name);
      return nullptr;
    }
    known_.insert(name);
    if (shape_of(stored->shape) == shape && stored->shape.size() == static_cast<size_t>(shape.rank()))
      return stored;
    problem("'{}' is [{}], expected {}", name, fmt::join(stored->shape, ", "), shape.to_string());
    return nullptr;
  }

  // What a stored type is served as; nothing for those that are not.
  static std::optional<DType> served(const std::string& stored, bool as_f32, bool allow_codes) {
    if (stored == "F32") return DType::f32;
    if (stored == "BF16") return as_f32 ? DType::f32 : DType::bf16;
    if (stored == "F8_E4M3" && allow_codes) return DType::f8_e4m3;
    return std::nullopt;
  }

  void add(const Parameter& parameter) {
    const bool experts = parameter.kind == ParameterKind::experts;
    const Shape& whole = parameter.tensor->shape();
    PlannedTensor tensor{parameter.name, whole, DType::f32, false, experts ? whole[0] : 0};
    const Shape matrix = experts ? Shape{whole[1], whole[2]} : whole;
    const bool router = parameter.name.ends_with("mlp.gate.weight");
    const bool as_f32 = parameter.kind == ParameterKind::vector || parameter.kind == ParameterKind::buffer || router;
    const bool allow_codes = !as_f32 && parameter.kind != ParameterKind::table;
    for (int64_t e = 0; e < std::max<int64_t>(1, tensor.experts) && problems_.size() < kMostProblems; ++e) {
      const std::string name = tensor.stored_name(e);
      const StoredTensor* stored = expect(name, matrix);
      if (stored == nullptr) continue;
      const std::optional<DType> dtype = served(stored->dtype, as_f32, allow_codes);
      if (!dtype)
        problem("'{}' is {}, which is not served{}", name, stored->dtype,
                stored->dtype == "F16" ? "; convert it to BF16" : "");
      else if (e > 0 && *dtype != tensor.dtype)
        problem("'{}' is {}, the experts before it are not", name, stored->dtype);
      else
        tensor.dtype = *dtype;
      if (dtype == DType::f8_e4m3) expect_scale(name, matrix);
    }
    plan_.tensors.push_back(tensor);
    if (tensor.dtype == DType::f8_e4m3)
      plan_.tensors.push_back({tensor.name + std::string(kScaleSuffix), stacked(tensor.experts, block_shape(matrix)),
                               DType::f32, true, tensor.experts});
  }

  void expect_scale(const std::string& name, const Shape& matrix) {
    const std::string scale = name + std::string(kScaleSuffix);
    const StoredTensor* stored = expect(scale, block_shape(matrix));
    if (stored != nullptr && stored->dtype != "F32") problem("'{}' is {}, expected F32", scale, stored->dtype);
  }

  // Tensors of MTP modules that are not served, and leftovers of the authors' code, are no surprise.
  bool may_be_left_out(const std::string& name) const {
    if (name.ends_with("rotary_emb.inv_freq")) return true;
    for (int64_t depth = 0; depth < declared_.num_nextn_predict_layers; ++depth) {
      const std::string prefix = fmt::format("model.layers.{}.", declared_.num_hidden_layers + depth);
      if (!name.starts_with(prefix)) continue;
      if (plan_.config.num_nextn_predict_layers == 0) return true;
      const std::string rest = name.substr(prefix.size());
      return rest == "embed_tokens.weight" || rest == "shared_head.head.weight";
    }
    return false;
  }

  void find_extra() {
    for (const std::string& name : folder_.names())
      if (!known_.contains(name) && !may_be_left_out(name)) problem("'{}' belongs to no part of the model", name);
  }

  const SafetensorsFolder& folder_;
  const deepseek::ModelConfig& declared_;
  WeightPlan plan_;
  std::set<std::string> known_;
  std::vector<std::string> problems_;
};

}  // namespace

std::string PlannedTensor::stored_name(int64_t expert) const {
  if (experts == 0) return name;
  std::string stored = name;
  return stored.replace(stored.find("{}"), 2, std::to_string(expert));
}

size_t WeightPlan::bytes() const {
  size_t sum = 0;
  for (const PlannedTensor& tensor : tensors) sum += tensor.bytes();
  return sum;
}

WeightPlan plan_weights(const SafetensorsFolder& folder, const deepseek::ModelConfig& config, bool with_mtp) {
  return Planner(folder, config, with_mtp).run();
}

}  // namespace moray
