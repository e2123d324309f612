#include "checkpoint/safetensors_header.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/utf8.h"

namespace moray {

namespace {

using nlohmann::json;

constexpr std::string_view kMetadata = "__metadata__";

// Names come from the file: cut and cleaned before they enter a message.
std::string shown(const std::string& name) {
  return printable(name.substr(0, 120)) + (name.size() > 120 ? "..." : "");
}

// nlohmann's event interface. `state_` says which part of the fixed structure the next event must continue.
class HeaderReader : public json::json_sax_t {
 public:
  explicit HeaderReader(const std::string& where) : where_(where) {}

  SafetensorsHeader take() { return std::move(header_); }

  bool start_object(size_t) override {
    if (state_ == State::start) return go(State::names);
    if (state_ == State::tensor_start) return go(State::fields);
    if (state_ == State::metadata_start) return go(State::metadata);
    unexpected("an object");
  }

  bool end_object() override {
    if (state_ == State::fields) {
      finish_tensor();
      return go(State::names);
    }
    return go(state_ == State::metadata ? State::names : State::end);
  }

  bool key(string_t& name) override {
    if (state_ == State::names) {
      if (!names_.insert(name).second) fail("{}: the tensor '{}' appears twice", where_, shown(name));
      current_ = {};
      current_.name = name;
      has_dtype_ = has_shape_ = false;
      offsets_.clear();
      return go(name == kMetadata ? State::metadata_start : State::tensor_start);
    }
    if (state_ == State::metadata) {
      if (header_.metadata.contains(name)) fail("{}: the metadata '{}' appears twice", where_, shown(name));
      metadata_key_ = name;
      return true;
    }
    if (name == "dtype" && !has_dtype_) return go(State::dtype);
    if (name == "shape" && !has_shape_) return go(State::shape_start);
    if (name == "data_offsets" && offsets_.empty()) return go(State::offsets_start);
    unexpected("the key '" + shown(name) + "'");
  }

  bool start_array(size_t) override {
    if (state_ == State::shape_start) return go(State::shape);
    if (state_ == State::offsets_start) return go(State::offsets);
    unexpected("an array");
  }

  bool end_array() override {
    has_shape_ = has_shape_ || state_ == State::shape;
    if (state_ == State::offsets && offsets_.size() != 2) unexpected("the wrong number of data_offsets");
    return go(State::fields);
  }

  bool string(string_t& value) override {
    if (state_ == State::dtype) {
      current_.dtype = value;
      has_dtype_ = true;
      return go(State::fields);
    }
    if (state_ != State::metadata) unexpected("a string");
    header_.metadata.emplace(metadata_key_, value);
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (value > INT64_MAX) unexpected("a number that is too large");
    if (state_ == State::shape) {
      current_.shape.push_back(static_cast<int64_t>(value));
    } else if (state_ == State::offsets && offsets_.size() < 2) {
      offsets_.push_back(value);
    } else {
      unexpected("a number");
    }
    return true;
  }

  bool null() override { unexpected("null"); }
  bool boolean(bool) override { unexpected("a boolean"); }
  bool number_integer(number_integer_t) override { unexpected("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { unexpected("a fraction"); }
  bool binary(binary_t&) override { unexpected("binary data"); }
  bool parse_error(size_t position, const std::string&, const json::exception&) override {
    fail("{}: the header is not valid JSON near byte {}", where_, position);
  }

 private:
  enum class State {
    start,
    names,
    metadata_start,
    metadata,
    tensor_start,
    fields,
    dtype,
    shape_start,
    shape,
    offsets_start,
    offsets,
    end
  };

  bool go(State state) {
    state_ = state;
    return true;
  }

  [[noreturn]] void unexpected(const std::string& what) const {
    fail("{}: unexpected {} in the header, at tensor '{}'", where_, what, shown(current_.name));
  }

  void finish_tensor() {
    StoredTensor& tensor = current_;
    if (!has_dtype_ || !has_shape_ || offsets_.size() != 2)
      unexpected("lack of dtype, shape or data_offsets");
    tensor.begin = offsets_[0];
    tensor.end = offsets_[1];
    const std::string name = shown(tensor.name);
    uint64_t bytes = stored_dtype_bytes(tensor.dtype);
    if (bytes == 0) fail("{}: the tensor '{}' has the unknown dtype '{}'", where_, name, shown(tensor.dtype));
    // Extents beside a zero are multiplied too: nobody who forms a partial product later shall overflow.
    for (int64_t extent : tensor.shape) {
      const uint64_t factor = extent == 0 ? 1 : static_cast<uint64_t>(extent);
      if (__builtin_mul_overflow(bytes, factor, &bytes) || bytes > INT64_MAX) {
        fail("{}: the shape of '{}' is too large", where_, name);
      }
    }
    if (std::find(tensor.shape.begin(), tensor.shape.end(), 0) != tensor.shape.end()) bytes = 0;
    if (tensor.begin > tensor.end || tensor.end - tensor.begin != bytes) {
      fail("{}: the tensor '{}' has the byte range [{}, {}), but its shape and dtype need {} bytes", where_,
           name, tensor.begin, tensor.end, bytes);
    }
    header_.tensors.push_back(std::move(tensor));
  }

  const std::string& where_;
  State state_ = State::start;
  SafetensorsHeader header_;
  std::set<std::string> names_;
  StoredTensor current_;
  bool has_dtype_ = false, has_shape_ = false;
  std::vector<uint64_t> offsets_;
  std::string metadata_key_;
};

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view text, const std::string& where) {
  // The library would skip a byte order mark and take a NUL byte for the end of the text.
  if (!text.starts_with('{')) fail("{}: not a safetensors file: the header does not begin with '{{'", where);
  if (text.find('\0') != std::string_view::npos) fail("{}: the header contains a NUL byte", where);
  HeaderReader reader(where);
  json::sax_parse(text, &reader);
  return reader.take();
}

}  // namespace moray
