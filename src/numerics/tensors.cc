#include "numerics/tensors.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <mutex>
#include <optional>

#include "base/error.h"
#include "checkpoint/convert.h"
#include "checkpoint/fp8_weights.h"

namespace moray::numerics {

namespace {

// The tensors of a model folder, or of a single file of whatever kind.
class Source {
 public:
  explicit Source(const fs::path& path) {
    if (fs::is_directory(path))
      folder_.emplace(path);
    else
      file_.emplace(path);
    for (const std::string& name : folder_ ? folder_->names() : file_->names())
      if (const StoredTensor& tensor = stored(name); is_studied(tensor)) tensors_.push_back(&tensor);
  }

  const std::vector<const StoredTensor*>& tensors() const { return tensors_; }
  std::span<const std::byte> bytes(const StoredTensor& tensor) const {
    return folder_ ? folder_->bytes(tensor.name) : file_->bytes(tensor);
  }
  std::optional<Fp8Weight> fp8(const StoredTensor& tensor) const {
    if (tensor.dtype != "F8_E4M3") return std::nullopt;
    if (!folder_)
      fail("{}: '{}' is FP8; give the folder, so that its scales are found", file_->path().string(),
           tensor.name);
    Fp8Weight weight = fp8_weight(*folder_, tensor.name);
    expect_no_fp8_nan(weight);
    return weight;
  }
  std::string where() const { return (folder_ ? folder_->path() : file_->path()).string(); }

 private:
  const StoredTensor& stored(const std::string& name) const {
    return folder_ ? folder_->tensor(name) : file_->tensor(name);
  }
  static bool is_studied(const StoredTensor& tensor) {
    return tensor.shape.size() == 2 && tensor.elements() > 0 && !is_fp8_scale_name(tensor.name) &&
           (tensor.dtype == "F32" || tensor.dtype == "BF16" || tensor.dtype == "F64" ||
            tensor.dtype == "F8_E4M3");
  }

  std::optional<SafetensorsFolder> folder_;
  std::optional<SafetensorsFile> file_;
  std::vector<const StoredTensor*> tensors_;
};

// A tensor's rows as f32, a band of up to 128 at a time.
class Bands {
 public:
  Bands(const Source& source, const StoredTensor& tensor)
      : stored_(tensor),
        bytes_(source.bytes(tensor)),
        fp8_(source.fp8(tensor)),
        values_(Tensor::empty(allocator_, {std::min(kTile, tensor.shape[0]), tensor.shape[1]}, DType::f32)) {}

  // visit(first row, rows, elements)
  template <class Visit>
  void for_each(const Visit& visit) {
    const int64_t rows = stored_.shape[0], columns = stored_.shape[1];
    for (int64_t row = 0; row < rows; row += kTile) {
      const int64_t count = std::min(kTile, rows - row);
      if (fp8_)
        dequantize_rows(*fp8_, row, row + count, values_.rows(0, count));
      else
        convert_elements(
            stored_.dtype,
            bytes_.data() + static_cast<size_t>(row * columns) * stored_dtype_bytes(stored_.dtype),
            count * columns, DType::f32, values_.raw());
      visit(row, count, static_cast<const float*>(values_.data<float>()));
    }
  }

 private:
  const StoredTensor& stored_;
  std::span<const std::byte> bytes_;
  std::optional<Fp8Weight> fp8_;
  Allocator allocator_;
  Tensor values_;
};

// Elements of a band that share a scale.
struct Group {
  const float* at;
  int64_t rows, columns, stride;

  template <class Visit>
  void for_each(const Visit& visit) const {
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t column = 0; column < columns; ++column) visit(at[row * stride + column]);
  }
};

float amax_of(const Group& group) {
  float amax = 0;
  group.for_each([&](float x) { amax = std::max(amax, std::abs(x)); });
  return amax;
}

float scale_of(float amax, ScaleFormat format) {
  if (amax == 0) return 1;
  const float scale = std::max(amax / 448, FLT_MIN);
  return format == ScaleFormat::power_of_two ? power_of_two_up(scale) : scale;
}

void add_loss(const Group& group, float scale, QuantizationLoss& loss) {
  group.for_each([&](float x) {
    const float back = to_float(narrow<e4m3>(x / scale)) * scale;
    const double error = static_cast<double>(x) - static_cast<double>(back);
    loss.squares += error * error;
    loss.zeroed += x != 0 && back == 0;
    loss.greatest = std::max(loss.greatest, std::abs(error));
  });
}

class Study {
 public:
  Study(const Source& source, const StoredTensor& tensor) : source_(source), bands_(source, tensor) {
    loss_.name = tensor.name;
    loss_.rows = tensor.shape[0];
    loss_.columns = tensor.shape[1];
  }

  TensorLoss run() {
    bands_.for_each([&](int64_t row, int64_t rows, const float* x) { look(row, rows, x); });
    bands_.for_each([&](int64_t, int64_t rows, const float* x) { measure(rows, x); });
    return loss_;
  }

 private:
  void look(int64_t row, int64_t rows, const float* x) {
    for (int64_t i = 0; i < rows * loss_.columns; ++i) {
      if (!std::isfinite(x[i]))
        fail("{}: '{}' holds {} at [{}, {}]", source_.where(), loss_.name, x[i], row + i / loss_.columns,
             i % loss_.columns);
      loss_.squares += static_cast<double>(x[i]) * static_cast<double>(x[i]);
      if (std::abs(x[i]) <= std::abs(loss_.greatest)) continue;
      loss_.greatest = x[i];
      loss_.greatest_row = row + i / loss_.columns;
      loss_.greatest_column = i % loss_.columns;
    }
  }

  void measure(int64_t rows, const float* x) {
    const Group band{x, rows, loss_.columns, loss_.columns};
    const double far = TensorLoss::kFarOut * loss_.rms();
    band.for_each([&](float value) { loss_.far_out += std::abs(static_cast<double>(value)) > far; });
    add(band, std::abs(loss_.greatest), Sharing::tensor);
    for (int64_t column = 0; column < loss_.columns; column += kTile) {
      Group block{x + column, rows, std::min(kTile, loss_.columns - column), loss_.columns};
      add(block, amax_of(block), Sharing::block);
      for (Group tile = block; tile.at < x + column + rows * loss_.columns; tile.at += loss_.columns) {
        tile.rows = 1;
        add(tile, amax_of(tile), Sharing::tile);
      }
    }
  }

  void add(const Group& group, float amax, Sharing sharing) {
    for (ScaleFormat format : kScaleFormats)
      add_loss(group, scale_of(amax, format),
               loss_.losses[static_cast<size_t>(sharing)][static_cast<size_t>(format)]);
  }

  const Source& source_;
  Bands bands_;
  TensorLoss loss_;
};

}  // namespace

const char* sharing_name(Sharing sharing) {
  switch (sharing) {
    case Sharing::tile:
      return "tile";
    case Sharing::block:
      return "block";
    default:
      return "tensor";
  }
}

double TensorLoss::rms() const {
  return std::sqrt(squares / elements());
}

double TensorLoss::outlier() const {
  return squares > 0 ? std::abs(static_cast<double>(greatest)) / rms() : 0;
}

double TensorLoss::relative_error(Sharing sharing, ScaleFormat format) const {
  return squares > 0 ? std::sqrt(loss(sharing, format).squares / squares) : 0;
}

std::vector<TensorLoss> study_tensors(const fs::path& path, ThreadPool& pool,
                                      const std::function<void(int64_t)>& progress) {
  const Source source(path);
  std::vector<TensorLoss> losses(source.tensors().size());
  std::mutex mutex;
  int64_t done = 0;
  int64_t failed = static_cast<int64_t>(losses.size());
  std::exception_ptr failure;  // of the first tensor that has one, whichever thread finds it
  pool.for_each(static_cast<int64_t>(losses.size()), [&](int64_t i, int) {
    const StoredTensor& tensor = *source.tensors()[static_cast<size_t>(i)];
    try {
      losses[static_cast<size_t>(i)] = Study(source, tensor).run();
    } catch (const Error&) {
      const std::lock_guard lock(mutex);
      if (i < failed) failure = std::current_exception();
      failed = std::min(failed, i);
    }
    const std::lock_guard lock(mutex);
    progress(done += tensor.elements());
  });
  if (failure) std::rethrow_exception(failure);
  return losses;
}

int64_t elements_to_study(const fs::path& path) {
  const Source source(path);
  int64_t elements = 0;
  for (const StoredTensor* tensor : source.tensors()) elements += tensor->elements();
  return elements;
}

std::string tensor_kind(const std::string& name) {
  std::string kind;
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('.', begin), name.size());
    const std::string part = name.substr(begin, end - begin);
    const bool number = !part.empty() && part.find_first_not_of("0123456789") == std::string::npos;
    kind += fmt::format("{}{}", kind.empty() ? "" : ".", number ? "*" : part);
    begin = end + 1;
  }
  for (const char* prefix : {"model.", "layers.*."})
    if (kind.starts_with(prefix)) kind.erase(0, std::string_view(prefix).size());
  if (kind.ends_with(".weight")) kind.resize(kind.size() - std::string_view(".weight").size());
  return kind;
}

}  // namespace moray::numerics
