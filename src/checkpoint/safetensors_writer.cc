#include "checkpoint/safetensors_writer.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/convert.h"
#include "checkpoint/safetensors.h"

namespace moray {

namespace {

constexpr size_t kDataAlignment = 64;  // a cache line; also a multiple of the format's 8
constexpr int64_t kChunkElements = 16 * 1024;

uint64_t stored_bytes(const NamedTensor& named) {
  return static_cast<uint64_t>(named.tensor.elements()) * dtype_bytes(named.stored_dtype());
}

// The length and the JSON, padded with spaces so that the data begins at a multiple of kDataAlignment.
std::string header_text(std::span<const StoredShape> tensors) {
  std::string json = R"({"__metadata__":{"format":"pt"})";
  uint64_t offset = 0;
  for (const StoredShape& tensor : tensors) {
    const uint64_t end = offset + tensor.bytes;
    json += fmt::format(R"(,{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", json_quote(tensor.name),
                        tensor.dtype, fmt::join(tensor.shape, ","), offset, end);
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

void check_names(std::span<const NamedTensor> tensors) {
  std::set<std::string_view> names;
  for (const NamedTensor& named : tensors) {
    MORAY_CHECK(named.tensor.defined(), "'{}'", named.name);
    MORAY_CHECK(names.insert(named.name).second, "'{}' twice", named.name);
  }
}

// Cuts the list into runs of at most max_bytes each (a single larger tensor gets a run of its own).
std::vector<std::span<const NamedTensor>> cut(std::span<const NamedTensor> tensors, uint64_t max_bytes) {
  std::vector<std::span<const NamedTensor>> shards;
  size_t begin = 0;
  uint64_t bytes = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const uint64_t next = stored_bytes(tensors[i]);
    if (i > begin && bytes + next > max_bytes) {
      shards.push_back(tensors.subspan(begin, i - begin));
      begin = i;
      bytes = 0;
    }
    bytes += next;
  }
  shards.push_back(tensors.subspan(begin));
  return shards;
}

}  // namespace

WrittenFile write_safetensors(const fs::path& path, std::span<const NamedTensor> tensors) {
  check_names(tensors);
  FileWriter writer(path);
  std::vector<StoredShape> shapes;
  for (const NamedTensor& named : tensors) {
    const auto extents = named.tensor.shape().extents();
    shapes.push_back(stored_shape(named.name, named.stored_dtype(), {extents.begin(), extents.end()}));
  }
  writer.write(header_text(shapes));
  for (const NamedTensor& named : tensors) write_elements(writer, named);
  const uint64_t sum = writer.finish();
  return {path.filename().string(), writer.bytes_written(), sum};
}

StoredShape stored_shape(const std::string& name, DType dtype, const std::vector<int64_t>& shape) {
  uint64_t elements = 1;
  for (int64_t extent : shape) elements *= static_cast<uint64_t>(extent);
  return {name, std::string(stored_dtype_name(dtype)), shape, elements * dtype_bytes(dtype)};
}

WrittenFile write_safetensors(const fs::path& path, std::span<const StoredShape> tensors,
                              const std::function<std::span<const std::byte>(size_t)>& bytes_of) {
  FileWriter writer(path);
  writer.write(header_text(tensors));
  for (size_t i = 0; i < tensors.size(); ++i) {
    const std::span<const std::byte> bytes = bytes_of(i);
    MORAY_CHECK(bytes.size() == tensors[i].bytes, "'{}': {} bytes", tensors[i].name, bytes.size());
    writer.write(bytes.data(), bytes.size());
  }
  const uint64_t sum = writer.finish();
  return {path.filename().string(), writer.bytes_written(), sum};
}

std::vector<WrittenFile> write_safetensors_folder(const fs::path& folder,
                                                  std::span<const NamedTensor> tensors,
                                                  uint64_t max_shard_bytes) {
  check_names(tensors);
  const auto shards = cut(tensors, max_shard_bytes);
  if (shards.size() == 1) return {write_safetensors(folder / "model.safetensors", tensors)};

  std::vector<WrittenFile> written;
  std::map<std::string, std::string> shard_of;  // sorted by tensor name, as Hugging Face writes it
  uint64_t total_bytes = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    written.push_back(write_safetensors(folder / name, shards[i]));
    for (const NamedTensor& named : shards[i]) {
      shard_of[named.name] = name;
      total_bytes += stored_bytes(named);
    }
  }
  std::string index =
      fmt::format("{{\n  \"metadata\": {{\n    \"total_size\": {}\n  }},\n  \"weight_map\": {{", total_bytes);
  const char* separator = "\n";
  for (const auto& [name, shard] : shard_of) {
    index += fmt::format("{}    {}: {}", separator, json_quote(name), json_quote(shard));
    separator = ",\n";
  }
  index += "\n  }\n}\n";
  written.push_back(write_text_file(folder / "model.safetensors.index.json", index));
  return written;
}

void write_safetensors_index(const fs::path& folder, std::span<const std::string> shard_names) {
  if (shard_names.size() == 1 && shard_names[0] == "model.safetensors") return;
  std::map<std::string, std::string> shard_of;
  uint64_t bytes = 0;
  for (const std::string& name : shard_names) {
    const SafetensorsFile shard(folder / name);
    for (const StoredTensor& tensor : shard.tensors()) {
      bytes += tensor.bytes();
      shard_of[tensor.name] = name;
    }
  }
  const nlohmann::ordered_json index{{"metadata", {{"total_size", bytes}}}, {"weight_map", shard_of}};
  write_file_atomically(folder / "model.safetensors.index.json", index.dump(2) + "\n");
}

WrittenFile write_text_file(const fs::path& path, std::string_view content) {
  FileWriter writer(path);
  writer.write(content);
  const uint64_t sum = writer.finish();
  return {path.filename().string(), writer.bytes_written(), sum};
}

}  // namespace moray
