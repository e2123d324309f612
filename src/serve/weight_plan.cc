#include "serve/weight_plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>
#include <functional>
#include <map>
#include <set>

#include "checkpoint/coded_weights.h"
#include "checkpoint/fp8_weights.h"
#include "tensor/int_rows.h"

namespace moray {

namespace {

constexpr size_t kMostProblems = 5;  // named in one message

Shape shape_of(const std::vector<int64_t>& extents) {
  switch (extents.size()) {
    case 1:
      return {extents[0]};
    case 2:
      return {extents[0], extents[1]};
    default:
      return {};
  }
}

bool has_shape(const StoredTensor& stored, const Shape& shape) {
  return shape_of(stored.shape) == shape && stored.shape.size() == static_cast<size_t>(shape.rank());
}

// Tensors of MTP modules that are not served, and leftovers of the authors' code, are no surprise.
bool may_be_left_out(const std::string& name, const deepseek::ModelConfig& declared, bool with_mtp) {
  if (name.ends_with("rotary_emb.inv_freq")) return true;
  for (int64_t depth = 0; depth < declared.num_nextn_predict_layers; ++depth) {
    const std::string prefix = fmt::format("model.layers.{}.", declared.num_hidden_layers + depth);
    if (!name.starts_with(prefix)) continue;
    if (!with_mtp) return true;
    const std::string rest = name.substr(prefix.size());
    return rest == "embed_tokens.weight" || rest == "shared_head.head.weight";
  }
  return false;
}

// What is wrong with a folder's tensors; the first few are enough.
class Problems {
 public:
  template <class... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    if (!full()) list_.push_back(fmt::format(format, std::forward<Args>(args)...));
  }
  bool full() const { return list_.size() >= kMostProblems; }
  // Throws Error if there are any.
  void end(const std::string& where) const {
    if (!list_.empty())
      fail("{}: the tensors do not fit config.json: {}{}", where, fmt::join(list_, "; "),
           full() ? "; and more" : "");
  }

 private:
  std::vector<std::string> list_;
};

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
      if (problems_.full()) break;
      add(parameter);
    }
    if (!problems_.full()) find_extra();
    problems_.end(folder_.path().string());
    return std::move(plan_);
  }

 private:
  // The stored tensor when it is there and of that shape.
  const StoredTensor* expect(const std::string& name, const Shape& shape) {
    const StoredTensor* stored = folder_.find(name);
    if (stored == nullptr) {
      problems_.add("'{}' is missing", name);
      return nullptr;
    }
    known_.insert(name);
    if (has_shape(*stored, shape)) return stored;
    problems_.add("'{}' is [{}], expected {}", name, fmt::join(stored->shape, ", "), shape.to_string());
    return nullptr;
  }

  // What a parameter may be stored as.
  struct Allowed {
    bool as_f32, fp8, integers;
  };

  static Allowed allowed(const Parameter& parameter) {
    const bool router = parameter.name.ends_with("mlp.gate.weight");
    const bool as_f32 =
        parameter.kind == ParameterKind::vector || parameter.kind == ParameterKind::buffer || router;
    const bool linear = !as_f32 && parameter.kind != ParameterKind::table;
    return {as_f32, linear, linear || parameter.name == "lm_head.weight"};
  }

  // What a stored type is served as; nothing for those that are not.
  static std::optional<DType> served(const std::string& stored, const Allowed& allowed, const Shape& shape) {
    if (stored == "F32") return DType::f32;
    if (stored == "BF16") return allowed.as_f32 ? DType::f32 : DType::bf16;
    if (stored == "F8_E4M3" && allowed.fp8) return DType::f8_e4m3;
    if (stored == "I8" && allowed.integers) return DType::i8;
    if (stored == "U8" && allowed.integers && shape[1] % kInt4Group == 0) return DType::u8;
    return std::nullopt;
  }

  void add(const Parameter& parameter) {
    const bool experts = parameter.kind == ParameterKind::experts;
    const Shape& whole = parameter.tensor->shape();
    PlannedTensor tensor{parameter.name,           whole, DType::f32, false, experts ? whole[0] : 0,
                         allowed(parameter).as_f32};
    const Shape matrix = experts ? Shape{whole[1], whole[2]} : whole;
    for (int64_t e = 0; e < std::max<int64_t>(1, tensor.experts) && !problems_.full(); ++e) {
      const std::string name = tensor.stored_name(e);
      const StoredTensor* there = folder_.find(name);
      const std::optional<DType> dtype =
          there == nullptr ? std::nullopt : served(there->dtype, allowed(parameter), matrix);
      const StoredTensor* stored = expect(name, stored_shape(matrix, dtype.value_or(DType::f32)));
      if (stored == nullptr) continue;
      if (!dtype)
        problems_.add("'{}' is {}, which is not served{}", name, stored->dtype,
                      stored->dtype == "F16" ? "; convert it to BF16" : "");
      else if (e > 0 && *dtype != tensor.dtype)
        problems_.add("'{}' is {}, the experts before it are not", name, stored->dtype);
      else
        tensor.dtype = *dtype;
      if (dtype && has_scales(*dtype)) expect_scale(name, matrix, *dtype);
    }
    tensor.shape = stored_shape(whole, tensor.dtype);
    plan_.tensors.push_back(tensor);
    if (has_scales(tensor.dtype))
      plan_.tensors.push_back({scales_name(tensor.name, tensor.dtype), scales_shape(whole, tensor.dtype),
                               DType::f32, true, tensor.experts, false, tensor.dtype != DType::f8_e4m3});
  }

  void expect_scale(const std::string& name, const Shape& matrix, DType dtype) {
    const std::string scale = scales_name(name, dtype);
    const StoredTensor* stored = expect(scale, scales_shape(matrix, dtype));
    if (stored != nullptr && stored->dtype != "F32")
      problems_.add("'{}' is {}, expected F32", scale, stored->dtype);
  }

  void find_extra() {
    const bool with_mtp = plan_.config.num_nextn_predict_layers > 0;
    for (const std::string& name : folder_.names())
      if (!known_.contains(name) && !may_be_left_out(name, declared_, with_mtp))
        problems_.add("'{}' belongs to no part of the model", name);
  }

  const SafetensorsFolder& folder_;
  const deepseek::ModelConfig& declared_;
  WeightPlan plan_;
  std::set<std::string> known_;
  Problems problems_;
};

// The tensors that a model without MTP is read from. Experts stay one entry: a hostile config may speak of
// billions.
class ModelTensors {
 public:
  explicit ModelTensors(deepseek::ModelConfig config) {
    config.num_nextn_predict_layers = 0;
    deepseek::Model model = deepseek::make_model(
        config, [](const Shape& shape) { return Tensor::shape_only(shape, DType::f32); });
    for (const Parameter& parameter : list_parameters(model)) {
      const Shape& whole = parameter.tensor->shape();
      if (parameter.kind == ParameterKind::experts)
        list_[parameter.name] = {.name = parameter.name, .shape = {whole[1], whole[2]}, .experts = whole[0]};
      else
        list_[parameter.name] = {.name = parameter.name, .shape = whole};
    }
  }

  // Gets all stored names until it returns false.
  void for_each_name(const std::function<bool(const std::string&)>& take) const {
    for (const auto& [name, tensor] : list_)
      for (int64_t e = 0; e < std::max<int64_t>(1, tensor.experts); ++e)
        if (!take(tensor.stored_name(e))) return;
  }

  // The shape of a stored tensor of that name, one expert's; nullptr when there is none.
  const Shape* find(const std::string& stored_name) const {
    if (const auto found = list_.find(stored_name); found != list_.end())
      return found->second.experts == 0 ? &found->second.shape : nullptr;
    constexpr std::string_view kExperts = ".experts.";
    const size_t at = stored_name.find(kExperts);
    if (at == std::string::npos) return nullptr;
    const size_t begin = at + kExperts.size(),
                 end = std::min(stored_name.find('.', begin), stored_name.size());
    std::string name = stored_name;
    const auto found = list_.find(name.replace(begin, end - begin, "{}"));
    int64_t expert = -1;
    std::from_chars(stored_name.data() + begin, stored_name.data() + end, expert);
    if (found == list_.end() || expert < 0 || expert >= found->second.experts) return nullptr;
    return found->second.stored_name(expert) == stored_name ? &found->second.shape : nullptr;  // "07" is none
  }

 private:
  std::map<std::string, PlannedTensor> list_;
};

std::string weight_of(const std::string& name) {
  return is_fp8_scale_name(name) ? fp8_weight_name(name) : name;
}

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

void expect_tensor_names(const std::set<std::string>& names, const deepseek::ModelConfig& config,
                         const std::string& where) {
  const ModelTensors tensors(config);
  Problems problems;
  tensors.for_each_name([&](const std::string& name) {
    if (!names.contains(name)) problems.add("'{}' is missing", name);
    return !problems.full();
  });
  for (const std::string& name : names)
    if (tensors.find(weight_of(name)) == nullptr && !may_be_left_out(name, config, false))
      problems.add("'{}' belongs to no part of the model", name);
  problems.end(where);
}

void expect_tensors_of_model(const SafetensorsFile& shard, const deepseek::ModelConfig& config) {
  const ModelTensors tensors(config);
  Problems problems;
  for (const StoredTensor& stored : shard.tensors()) {
    const Shape* shape = tensors.find(weight_of(stored.name));
    if (shape == nullptr && !may_be_left_out(stored.name, config, false))
      problems.add("'{}' belongs to no part of the model", stored.name);
    else if (shape != nullptr && !is_fp8_scale_name(stored.name) && !has_shape(stored, *shape))
      problems.add("'{}' is [{}], expected {}", stored.name, fmt::join(stored.shape, ", "),
                   shape->to_string());
  }
  problems.end(shard.path().string());
}

}  // namespace moray
