#include "checkpoint/safetensors_writer.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/convert.h"
#include "checkpoint/safetensors.h"

namespace moray {

namespace {

constexpr size_t kDataAlignment = 64;  // a cache line; also a multiple of the format's 8
constexpr int64_t kChunkElements = 16 * 1024;
constexpr const char* kOneShard = "model.safetensors";

// The length and the JSON, padded with spaces so that the data begins at a multiple of kDataAlignment.
std::string header_text(std::span<const TensorToWrite> tensors) {
  std::string json = R"({"__metadata__":{"format":"pt"})";
  uint64_t offset = 0;
  for (const TensorToWrite& tensor : tensors) {
    const uint64_t end = offset + tensor.bytes;
    json += fmt::format(R"(,{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                        json_quote(tensor.name), tensor.dtype, fmt::join(tensor.shape, ","), offset, end);
    offset = end;
  }
  json += '}';
  json.append((kDataAlignment - (sizeof(uint64_t) + json.size()) % kDataAlignment) % kDataAlignment, ' ');
  std::string length;
  for (size_t i = 0; i < sizeof(uint64_t); ++i) length += static_cast<char>((json.size() >> (8 * i)) & 0xff);
  return length + json;
}

void write_elements(FileWriter& writer, const NamedTensor& named) {
  const Tensor& tensor = named.tensor;
  const DType stored = named.stored_dtype();
  if (stored == tensor.dtype()) {
    writer.write(tensor.raw(), tensor.bytes());
    return;
  }
  std::vector<std::byte> chunk(static_cast<size_t>(kChunkElements) * dtype_bytes(stored));
  for (int64_t i = 0; i < tensor.elements(); i += kChunkElements) {
    const int64_t count = std::min(kChunkElements, tensor.elements() - i);
    const std::byte* from = tensor.raw() + static_cast<size_t>(i) * dtype_bytes(tensor.dtype());
    const bool converts =
        convert_elements(stored_dtype_name(tensor.dtype()), from, count, stored, chunk.data());
    MORAY_CHECK(converts, "'{}': {} to {}", named.name, dtype_name(tensor.dtype()), dtype_name(stored));
    writer.write(chunk.data(), static_cast<size_t>(count) * dtype_bytes(stored));
  }
}

// Writes the elements of the i-th tensor.
using WriteTensor = std::function<void(FileWriter&, size_t)>;

WriteTensor elements_of(std::span<const NamedTensor> tensors) {
  return [tensors](FileWriter& writer, size_t i) { write_elements(writer, tensors[i]); };
}

WriteTensor made_by(std::span<const TensorToWrite> tensors, const BytesOf& bytes_of) {
  return [tensors, &bytes_of](FileWriter& writer, size_t i) {
    const std::span<const std::byte> bytes = bytes_of(i);
    MORAY_CHECK(bytes.size() == tensors[i].bytes, "'{}': {} bytes", tensors[i].name, bytes.size());
    writer.write(bytes.data(), bytes.size());
  };
}

std::vector<TensorToWrite> listed(std::span<const NamedTensor> tensors) {
  std::vector<TensorToWrite> list;
  for (const NamedTensor& named : tensors) {
    MORAY_CHECK(named.tensor.defined(), "'{}'", named.name);
    list.push_back(tensor_to_write(named.name, named.stored_dtype(), named.tensor.shape()));
  }
  return list;
}

void check_names(std::span<const TensorToWrite> tensors) {
  std::set<std::string_view> names;
  for (const TensorToWrite& tensor : tensors)
    MORAY_CHECK(names.insert(tensor.name).second, "'{}' twice", tensor.name);
}

// Tensors [begin, end).
WrittenFile write_range(const fs::path& path, std::span<const TensorToWrite> tensors, size_t begin,
                        size_t end, const WriteTensor& write) {
  FileWriter writer(path);
  writer.write(header_text(tensors.subspan(begin, end - begin)));
  for (size_t i = begin; i < end; ++i) write(writer, i);
  const uint64_t sum = writer.finish();
  return {path.filename().string(), writer.bytes_written(), sum};
}

// Where runs of at most max_bytes each end (a single larger tensor gets a run of its own).
std::vector<size_t> cut(std::span<const TensorToWrite> tensors, uint64_t max_bytes) {
  std::vector<size_t> ends;
  uint64_t bytes = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (bytes > 0 && bytes + tensors[i].bytes > max_bytes) {
      ends.push_back(i);
      bytes = 0;
    }
    bytes += tensors[i].bytes;
  }
  ends.push_back(tensors.size());
  return ends;
}

// `shard_of` is sorted by tensor name, as Hugging Face writes it.
WrittenFile write_index(const fs::path& folder, const std::map<std::string, std::string>& shard_of,
                        uint64_t total_bytes) {
  std::string index =
      fmt::format("{{\n  \"metadata\": {{\n    \"total_size\": {}\n  }},\n  \"weight_map\": {{", total_bytes);
  const char* separator = "\n";
  for (const auto& [name, shard] : shard_of) {
    index += fmt::format("{}    {}: {}", separator, json_quote(name), json_quote(shard));
    separator = ",\n";
  }
  index += "\n  }\n}\n";
  return write_text_file(folder / "model.safetensors.index.json", index);
}

std::vector<WrittenFile> write_shards(const fs::path& folder, std::span<const TensorToWrite> tensors,
                                      const WriteTensor& write, uint64_t max_shard_bytes) {
  check_names(tensors);
  const std::vector<size_t> ends = cut(tensors, max_shard_bytes);
  if (ends.size() == 1) return {write_range(folder / kOneShard, tensors, 0, tensors.size(), write)};
  std::vector<WrittenFile> written;
  std::map<std::string, std::string> shard_of;
  uint64_t total_bytes = 0;
  size_t next = 0;
  for (size_t end : ends) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", written.size() + 1, ends.size());
    written.push_back(write_range(folder / name, tensors, next, end, write));
    for (; next < end; ++next) {
      shard_of[tensors[next].name] = name;
      total_bytes += tensors[next].bytes;
    }
  }
  written.push_back(write_index(folder, shard_of, total_bytes));
  return written;
}

}  // namespace

uint64_t safetensors_bytes(std::span<const TensorToWrite> tensors) {
  uint64_t bytes = header_text(tensors).size();
  for (const TensorToWrite& tensor : tensors) bytes += tensor.bytes;
  return bytes;
}

TensorToWrite tensor_to_write(const std::string& name, DType dtype, const Shape& shape) {
  return {name,
          std::string(stored_dtype_name(dtype)),
          {shape.extents().begin(), shape.extents().end()},
          static_cast<uint64_t>(shape.elements()) * dtype_bytes(dtype)};
}

WrittenFile write_safetensors(const fs::path& path, std::span<const NamedTensor> tensors) {
  const std::vector<TensorToWrite> list = listed(tensors);
  check_names(list);
  return write_range(path, list, 0, list.size(), elements_of(tensors));
}

WrittenFile write_safetensors(const fs::path& path, std::span<const TensorToWrite> tensors,
                              const BytesOf& bytes_of) {
  check_names(tensors);
  return write_range(path, tensors, 0, tensors.size(), made_by(tensors, bytes_of));
}

std::vector<WrittenFile> write_safetensors_folder(const fs::path& folder,
                                                  std::span<const NamedTensor> tensors,
                                                  uint64_t max_shard_bytes) {
  return write_shards(folder, listed(tensors), elements_of(tensors), max_shard_bytes);
}

std::vector<WrittenFile> write_safetensors_folder(const fs::path& folder,
                                                  std::span<const TensorToWrite> tensors,
                                                  const BytesOf& bytes_of, uint64_t max_shard_bytes) {
  return write_shards(folder, tensors, made_by(tensors, bytes_of), max_shard_bytes);
}

void write_safetensors_index(const fs::path& folder, std::span<const std::string> shard_names) {
  if (shard_names.size() == 1 && shard_names[0] == kOneShard) return;
  std::map<std::string, std::string> shard_of;
  uint64_t bytes = 0;
  for (const std::string& name : shard_names) {
    const SafetensorsFile shard(folder / name);
    for (const StoredTensor& tensor : shard.tensors()) {
      bytes += tensor.bytes();
      shard_of[tensor.name] = name;
    }
  }
  write_index(folder, shard_of, bytes);
}

WrittenFile write_text_file(const fs::path& path, std::string_view content) {
  FileWriter writer(path);
  writer.write(content);
  const uint64_t sum = writer.finish();
  return {path.filename().string(), writer.bytes_written(), sum};
}

}  // namespace moray
