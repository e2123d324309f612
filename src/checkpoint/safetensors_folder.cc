// SafetensorsFolder: a model's weights in one file or in shards with an index.
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/safetensors.h"

namespace moray {

namespace {
constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

// In the cache of Hugging Face's hub client, snapshots/REVISION/FILE links to ../../blobs/HASH. That folder,
// or nothing for a folder elsewhere.
fs::path hub_blobs(const fs::path& folder) {
  const fs::path snapshots = folder.parent_path();
  return snapshots.filename() == "snapshots" ? snapshots.parent_path() / "blobs" : fs::path();
}

// Weights in formats that are not read, named with what to do.
void refuse_other_formats(const fs::path& folder) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".gguf"))
      fail("{}: '{}' holds GGUF weights, which are not read; take the model's safetensors folder",
           folder.string(), name);
    if (name.ends_with(".bin") && name.starts_with("pytorch_model"))
      fail("{}: '{}' holds pickled weights, which are not read; take the model's safetensors folder",
           folder.string(), name);
  }
}
}  // namespace

SafetensorsFolder::SafetensorsFolder(const fs::path& folder) : folder_(folder) {
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) fail("{}: not a folder", folder.string());
  if (fs::exists(folder / kSingleFile, ignored)) {
    files_.push_back(open_inside(kSingleFile));
    for (const StoredTensor& tensor : files_[0].tensors()) file_by_name_.emplace(tensor.name, 0);
  } else if (fs::exists(folder / kIndexFile, ignored)) {
    open_shards(folder / kIndexFile);
  } else {
    refuse_other_formats(folder);
    fail("{}: holds neither {} nor {}", folder.string(), kSingleFile, kIndexFile);
  }
}

void expect_inside(const fs::path& folder, const std::string& file_name) {
  std::error_code error;
  const fs::path real = fs::canonical(folder / file_name, error);
  if (error) fail("{}: '{}' is missing or unreadable: {}", folder.string(), file_name, error.message());
  const fs::path inside = fs::canonical(folder, error);
  if (error) fail("{}: cannot resolve: {}", folder.string(), error.message());
  if (real.parent_path() != inside && real.parent_path() != hub_blobs(inside))
    fail("{}: '{}' is a link out of the folder, to {}", folder.string(), file_name, real.string());
}

SafetensorsFile SafetensorsFolder::open_inside(const std::string& file_name) const {
  expect_inside(folder_, file_name);
  return SafetensorsFile(folder_ / file_name);
}

void SafetensorsFolder::open_shards(const fs::path& index) {
  const std::string where = index.string();
  const nlohmann::json document = parse_json(read_file(index), where);
  std::map<std::string, size_t> place_of_shard;
  for (const auto& [name, shard] : json_object(document, "weight_map", where).items()) {
    if (!shard.is_string()) fail("{}: the shard of '{}' is not a string", where, name);
    const auto file_name = shard.get<std::string>();
    if (file_name.find('/') != std::string::npos || !file_name.ends_with(".safetensors")) {
      fail("{}: '{}' is not the name of a .safetensors file in this folder", where, file_name);
    }
    const auto [place, is_new] = place_of_shard.emplace(file_name, files_.size());
    if (is_new) files_.push_back(open_inside(file_name));
    if (files_[place->second].find(name) == nullptr) fail("{}: '{}' is not in '{}'", where, name, file_name);
    file_by_name_.emplace(name, place->second);
  }
  for (size_t i = 0; i < files_.size(); ++i) {
    for (const StoredTensor& tensor : files_[i].tensors()) {
      const auto indexed = file_by_name_.find(tensor.name);
      if (indexed == file_by_name_.end()) {
        fail("{}: '{}' in '{}' is not in the index", where, tensor.name,
             files_[i].path().filename().string());
      }
      if (indexed->second != i) {
        fail("{}: '{}' is in both '{}' and '{}'", where, tensor.name,
             files_[indexed->second].path().filename().string(), files_[i].path().filename().string());
      }
    }
  }
}

std::vector<std::string> SafetensorsFolder::names() const {
  std::vector<std::string> names;
  for (const auto& [name, file] : file_by_name_) names.push_back(name);
  return names;
}

const SafetensorsFile& SafetensorsFolder::file_of(std::string_view name) const {
  const auto found = file_by_name_.find(name);
  if (found == file_by_name_.end()) fail("{}: there is no tensor '{}'", folder_.string(), name);
  return files_[found->second];
}

const StoredTensor* SafetensorsFolder::find(std::string_view name) const {
  return file_by_name_.find(name) == file_by_name_.end() ? nullptr : file_of(name).find(name);
}

const StoredTensor& SafetensorsFolder::tensor(std::string_view name) const {
  return file_of(name).tensor(name);
}

std::span<const std::byte> SafetensorsFolder::bytes(std::string_view name) const {
  return file_of(name).bytes(tensor(name));
}

void SafetensorsFolder::read(std::string_view name, const Tensor& into) const {
  file_of(name).read(name, into);
}

Tensor SafetensorsFolder::read(std::string_view name, Allocator& allocator, DType dtype) const {
  return file_of(name).read(name, allocator, dtype);
}

std::string shards_state(const SafetensorsFolder& folder) {
  std::string state;
  for (const SafetensorsFile& file : folder.files()) {
    struct stat of {};
    if (::stat(file.path().c_str(), &of) != 0) fail("{}: {}", file.path().string(), std::strerror(errno));
    // The time of change too: tools that copy or restore a file set the time of writing.
    state += fmt::format("{} {} {}.{:09} {}.{:09}\n", file.path().filename().string(), of.st_size,
                         of.st_mtim.tv_sec, of.st_mtim.tv_nsec, of.st_ctim.tv_sec, of.st_ctim.tv_nsec);
  }
  return state;
}

}  // namespace moray
