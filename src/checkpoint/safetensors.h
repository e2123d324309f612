// Reading safetensors files: Hugging Face's format of named tensors in one memory-mapped file or a folder of
// shards.
//
// A file is: header length n (8 bytes, little endian), n bytes of JSON {name: {dtype, shape, data_offsets}},
// data. Nothing in it is trusted: all sizes and ranges are checked before a byte of data is touched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"
#include "tensor/tensor.h"

namespace moray {

// One tensor of a safetensors file. The dtype is the format's own word ("F32", "BF16", "F8_E4M3", ...),
// because a file may hold types that have no Tensor form here.
struct StoredTensor {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  uint64_t begin = 0, end = 0;  // byte range inside the data section

  int64_t elements() const;
  uint64_t bytes() const { return end - begin; }
};

// The bytes of an element of a safetensors dtype; 0 for an unknown word.
size_t stored_dtype_bytes(std::string_view dtype);

// The safetensors word for a Tensor's dtype, "F32" for f32.
std::string_view stored_dtype_name(DType dtype);

// A file, mapped and checked: the header is valid, and the tensors cover the data section exactly, without
// overlap, holes or bytes left over. Throws Error naming the file and the tensor otherwise.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const fs::path& path);

  const fs::path& path() const { return file_.path(); }
  const std::vector<StoredTensor>& tensors() const { return tensors_; }  // in the order of their data
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  std::vector<std::string> names() const;  // in the order of their data

  const StoredTensor* find(std::string_view name) const;    // nullptr when absent
  const StoredTensor& tensor(std::string_view name) const;  // Error when absent
  std::span<const std::byte> bytes(const StoredTensor& tensor) const;

  // Copies a tensor into `into`, whose shape must be the stored one (else Error), converting among F32, BF16
  // and F64 to `into`'s dtype: exact when widening, to nearest even when narrowing. FP8 codes widen to these
  // (without any scale) or read into their own type, I32 and U8 into theirs. Other pairs throw Error.
  void read(std::string_view name, const Tensor& into) const;
  Tensor read(std::string_view name, Allocator& allocator, DType dtype) const;  // into new storage

 private:
  MappedFile file_;
  size_t data_begin_ = 0;
  std::vector<StoredTensor> tensors_;
  std::map<std::string, size_t, std::less<>> by_name_;
  std::map<std::string, std::string> metadata_;
};

// A Hugging Face folder's weights: `model.safetensors`, or `model.safetensors.index.json` and its shards.
// Checked: every name of the index is in exactly the shard it names, no shard holds another name, and no
// shard lies outside the folder (by "..", by an absolute path, or by a link; links of the hub's cache, from
// snapshots/REVISION to ../../blobs, are followed).
class SafetensorsFolder {
 public:
  explicit SafetensorsFolder(const fs::path& folder);

  const fs::path& path() const { return folder_; }
  const std::vector<SafetensorsFile>& files() const { return files_; }
  std::vector<std::string> names() const;  // sorted

  const StoredTensor* find(std::string_view name) const;
  const StoredTensor& tensor(std::string_view name) const;
  std::span<const std::byte> bytes(std::string_view name) const;
  void read(std::string_view name, const Tensor& into) const;
  Tensor read(std::string_view name, Allocator& allocator, DType dtype) const;
  const SafetensorsFile& file_of(std::string_view name) const;  // Error when absent

 private:
  void open_shards(const fs::path& index);
  SafetensorsFile open_inside(const std::string& file_name) const;

  fs::path folder_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, size_t, std::less<>> file_by_name_;  // tensor name to its place in files_
};

// Throws Error unless the file lies in the folder itself, links followed, or among the blobs of a hub's
// cache.
void expect_inside(const fs::path& folder, const std::string& file_name);

// Tells one state of a folder's shards from another: a line each of name, size, and times of writing and
// change.
std::string shards_state(const SafetensorsFolder& folder);

}  // namespace moray
