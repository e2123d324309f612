#include "checkpoint/safetensors.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "checkpoint/convert.h"
#include "checkpoint/safetensors_header.h"

namespace moray {

namespace {

constexpr size_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit

uint64_t header_bytes(std::span<const std::byte> file, const std::string& where) {
  if (file.size() < kLengthBytes) fail("{}: not a safetensors file: only {} bytes", where, file.size());
  uint64_t bytes = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) bytes |= static_cast<uint64_t>(file[i]) << (8 * i);
  if (bytes > kMaxHeaderBytes || bytes > file.size() - kLengthBytes) {
    fail("{}: truncated or not a safetensors file: a header of {} bytes in a file of {}", where, bytes,
         file.size());
  }
  return bytes;
}

// Sorted by place, each tensor must begin where the one before ended, and the last end with the file.
void check_coverage(const std::vector<StoredTensor>& tensors, uint64_t data_bytes, const std::string& where) {
  uint64_t expected = 0;
  for (const StoredTensor& tensor : tensors) {
    if (tensor.begin != expected) {
      fail("{}: the tensor '{}' begins at byte {} of the data, {} expected (overlap or hole)", where,
           tensor.name, tensor.begin, expected);
    }
    expected = tensor.end;
  }
  if (expected != data_bytes) {
    fail("{}: the tensors need {} bytes of data, the file has {} (truncated, or bytes left over)", where,
         expected, data_bytes);
  }
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

Shape tensor_shape(const StoredTensor& stored, const std::string& where) {
  const std::vector<int64_t>& s = stored.shape;
  switch (s.size()) {
    case 0:
      return {};
    case 1:
      return {s[0]};
    case 2:
      return {s[0], s[1]};
    case 3:
      return {s[0], s[1], s[2]};
    case 4:
      return {s[0], s[1], s[2], s[3]};
    default:
      fail("{}: the tensor '{}' has {} dimensions, 4 at most are supported", where, stored.name, s.size());
  }
}

}  // namespace

int64_t StoredTensor::elements() const {
  return static_cast<int64_t>(bytes() / std::max<size_t>(stored_dtype_bytes(dtype), 1));
}

size_t stored_dtype_bytes(std::string_view dtype) {
  if (dtype == "F64" || dtype == "I64" || dtype == "U64") return 8;
  if (dtype == "F32" || dtype == "I32" || dtype == "U32") return 4;
  if (dtype == "F16" || dtype == "BF16" || dtype == "I16" || dtype == "U16") return 2;
  if (dtype == "I8" || dtype == "U8" || dtype == "BOOL") return 1;
  if (dtype == "F8_E4M3" || dtype == "F8_E5M2" || dtype == "F8_E8M0") return 1;
  return 0;
}

std::string_view stored_dtype_name(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "F32";
    case DType::f64:
      return "F64";
    case DType::bf16:
      return "BF16";
    case DType::i32:
      return "I32";
    case DType::f8_e4m3:
      return "F8_E4M3";
    case DType::f8_e5m2:
      return "F8_E5M2";
    case DType::u8:
      return "U8";
    case DType::i8:
      return "I8";
  }
  return "";
}

SafetensorsFile::SafetensorsFile(const fs::path& path) : file_(path) {
  const std::string where = path.string();
  const uint64_t header_size = header_bytes(file_.bytes(), where);
  SafetensorsHeader header = parse_safetensors_header(file_.text().substr(kLengthBytes, header_size), where);
  tensors_ = std::move(header.tensors);
  metadata_ = std::move(header.metadata);
  data_begin_ = kLengthBytes + header_size;
  // Empty tensors share their place with a neighbour: they sort before it.
  std::stable_sort(tensors_.begin(), tensors_.end(), [](const StoredTensor& a, const StoredTensor& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  check_coverage(tensors_, file_.bytes().size() - data_begin_, where);
  for (size_t i = 0; i < tensors_.size(); ++i) by_name_.emplace(tensors_[i].name, i);
}

std::vector<std::string> SafetensorsFile::names() const {
  std::vector<std::string> names;
  for (const StoredTensor& tensor : tensors_) names.push_back(tensor.name);
  return names;
}

const StoredTensor* SafetensorsFile::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

const StoredTensor& SafetensorsFile::tensor(std::string_view name) const {
  const StoredTensor* found = find(name);
  if (found == nullptr) fail("{}: there is no tensor '{}'", path().string(), name);
  return *found;
}

std::span<const std::byte> SafetensorsFile::bytes(const StoredTensor& tensor) const {
  return file_.bytes().subspan(data_begin_ + tensor.begin, tensor.bytes());
}

void SafetensorsFile::read(std::string_view name, const Tensor& into) const {
  MORAY_CHECK(into.defined());
  const StoredTensor& stored = tensor(name);
  const auto extents = into.shape().extents();
  if (!std::equal(extents.begin(), extents.end(), stored.shape.begin(), stored.shape.end())) {
    fail("{}: the tensor '{}' has shape {}, {} expected", path().string(), name, shape_text(stored.shape),
         into.shape().to_string());
  }
  if (!convert_elements(stored.dtype, bytes(stored).data(), into.elements(), into.dtype(), into.raw())) {
    fail("{}: the tensor '{}' is {}, which cannot be read as {}", path().string(), name, stored.dtype,
         dtype_name(into.dtype()));
  }
}

Tensor SafetensorsFile::read(std::string_view name, Allocator& allocator, DType dtype) const {
  Tensor into = Tensor::empty(allocator, tensor_shape(tensor(name), path().string()), dtype);
  read(name, into);
  return into;
}

}  // namespace moray
