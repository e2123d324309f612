#include "serve/quantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <nlohmann/json.hpp>

#include "base/folder_lock.h"
#include "checkpoint/coded_weights.h"
#include "checkpoint/convert.h"
#include "checkpoint/fp8_weights.h"
#include "tensor/int_rows.h"

namespace moray {

namespace {

constexpr const char* kRecordFile = ".moray-quantize.json";
constexpr int64_t kPieceRows = 16;

// A weight on its way: where it lies, in F32, BF16, F64 or FP8.
struct Source {
  const SafetensorsFile& file;
  const StoredTensor& stored;
  std::optional<Fp8Weight> fp8;

  int64_t rows() const { return stored.shape[0]; }
  int64_t columns() const { return stored.shape[1]; }

  // Rows [begin, end) widened to f32.
  void read(int64_t begin, int64_t end, const Tensor& into) const {
    if (fp8) return dequantize_rows(*fp8, begin, end, into);
    const auto skipped = static_cast<size_t>(begin * columns()) * stored_dtype_bytes(stored.dtype);
    const std::byte* from = file.bytes(stored).data() + skipped;
    const bool read = convert_elements(stored.dtype, from, (end - begin) * columns(), DType::f32, into.raw());
    MORAY_CHECK(read, "'{}' is {}", stored.name, stored.dtype);
  }
};

const SafetensorsFile* holder_of(std::span<const SafetensorsFile> files, const std::string& name) {
  const auto found =
      std::ranges::find_if(files, [&](const SafetensorsFile& file) { return file.find(name) != nullptr; });
  return found == files.end() ? nullptr : &*found;
}

Source source_of(const SafetensorsFile& shard, const StoredTensor& stored,
                 std::span<const SafetensorsFile> files) {
  if (stored.dtype == "F8_E4M3")
    return {shard, stored, fp8_weight(shard, holder_of(files, fp8_scale_name(stored.name)), stored.name)};
  if (stored.dtype != "F32" && stored.dtype != "BF16" && stored.dtype != "F64")
    fail("{}: '{}' is {}, which cannot be quantized", shard.path().string(), stored.name, stored.dtype);
  return {shard, stored, std::nullopt};
}

// A tensor of the new shard: one that is copied, codes, or their scales.
struct Output {
  std::string name;
  const StoredTensor* stored;
  std::optional<DType> codes;  // what the weight becomes
  bool is_scale = false;
};

// In the old order; scales of FP8 weights that are quantized are not taken over.
std::vector<Output> outputs_of(const SafetensorsFile& shard, IntFormat format) {
  std::vector<Output> outputs;
  for (const StoredTensor& stored : shard.tensors()) {
    if (is_fp8_scale_name(stored.name) && int_weight_dtype(fp8_weight_name(stored.name), 0, format)) continue;
    const bool matrix = stored.shape.size() == 2;
    const auto codes = matrix ? int_weight_dtype(stored.name, stored.shape[1], format) : std::nullopt;
    outputs.push_back({stored.name, &stored, codes});
    if (!codes) continue;
    const std::string scales = int_scale_name(stored.name);
    if (shard.find(scales) != nullptr)
      fail("{}: has '{}' already; are its weights quantized?", shard.path().string(), scales);
    outputs.push_back({scales, &stored, codes, true});
  }
  return outputs;
}

TensorToWrite to_write(const Output& output) {
  const StoredTensor& stored = *output.stored;
  if (!output.codes) return {output.name, stored.dtype, stored.shape, stored.bytes()};
  const Shape matrix = {stored.shape[0], stored.shape[1]};
  return output.is_scale ? tensor_to_write(output.name, DType::f32, scales_shape(matrix, *output.codes))
                         : tensor_to_write(output.name, *output.codes, stored_shape(matrix, *output.codes));
}

[[noreturn]] void fail_not_finite(const SafetensorsFile& file, const StoredTensor& stored) {
  fail("{}: '{}' holds NaN or infinity", file.path().string(), stored.name);
}

struct Quantized {
  Tensor codes, scales;
};

Quantized quantize(Exec& exec, const Source& source, DType dtype) {
  const Shape matrix = {source.rows(), source.columns()};
  Quantized result{Tensor::empty(*exec.allocator, stored_shape(matrix, dtype), dtype),
                   Tensor::empty(*exec.allocator, scales_shape(matrix, dtype), DType::f32)};
  std::atomic<bool> finite = true;
  exec.pool->for_ranges(source.rows(), kPieceRows, [&](int64_t begin, int64_t end, int) {
    const Tensor piece = Tensor::empty(*exec.allocator, {end - begin, source.columns()}, DType::f32);
    source.read(begin, end, piece);
    for (int64_t row = begin; row < end; ++row) {
      const auto x = piece.row(row - begin).span<float>();
      const Tensor codes = result.codes.row(row);
      float* scales = result.scales.row(row).data<float>();
      const bool good = dtype == DType::u8 ? quantize_row_int4(x, codes.data<uint8_t>(), scales)
                                           : quantize_row_int8(x, codes.data<int8_t>(), scales);
      if (!good) finite = false;
    }
  });
  if (!finite) fail_not_finite(source.file, source.stored);
  return result;
}

// What is kept as it is.
std::span<const std::byte> kept_bytes(Exec& exec, const SafetensorsFile& shard, const StoredTensor& stored) {
  constexpr int64_t kPiece = 1 << 18;
  const std::span<const std::byte> bytes = shard.bytes(stored);
  const auto size = static_cast<int64_t>(stored_dtype_bytes(stored.dtype));
  std::atomic<bool> finite = true;
  exec.pool->for_ranges(stored.elements(), kPiece, [&](int64_t begin, int64_t end, int) {
    if (first_not_finite(stored.dtype, bytes.data() + begin * size, end - begin) >= 0) finite = false;
  });
  if (!finite) fail_not_finite(shard, stored);
  return bytes;
}

// What is quantized, so that a part of something else is not gone on with.
std::string record_of(const SafetensorsFolder& folder, IntFormat format) {
  const nlohmann::ordered_json record{{"format", int_format_name(format)}, {"shards", shards_state(folder)}};
  return record.dump(2) + "\n";
}

uint64_t data_bytes(const SafetensorsFile& file) {
  uint64_t bytes = 0;
  for (const StoredTensor& tensor : file.tensors()) bytes += tensor.bytes();
  return bytes;
}

std::vector<TensorToWrite> to_write(const std::vector<Output>& outputs) {
  std::vector<TensorToWrite> list;
  for (const Output& output : outputs) list.push_back(to_write(output));
  return list;
}

// What is copied of the folder. Throws Error for files that lie elsewhere or cannot be read.
std::vector<fs::path> files_beside(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (!entry.is_regular_file() || !is_kept_beside_weights(name)) continue;
    expect_inside(folder, name);
    files.push_back(MappedFile(entry.path()).path());
  }
  return files;
}

uint64_t bytes_there(const fs::path& file) {
  std::error_code absent;
  const uintmax_t bytes = fs::file_size(file, absent);
  return absent ? 0 : bytes;
}

fs::path part_of(const fs::path& shard) {
  return shard.string() + ".part";
}

// What `part` lacks of the folder it is to become; a shard that was under way is written over.
uint64_t bytes_to_come(const SafetensorsFolder& folder, const std::vector<fs::path>& beside, IntFormat format,
                       const fs::path& part) {
  uint64_t bytes = 0;
  for (const fs::path& file : beside) bytes += bytes_there(file);
  for (const SafetensorsFile& shard : folder.files()) {
    const fs::path into = part / shard.path().filename();
    std::error_code ignored;
    if (fs::exists(into, ignored)) continue;
    const uint64_t whole = safetensors_bytes(to_write(outputs_of(shard, format)));
    bytes += whole - std::min(whole, bytes_there(part_of(into)));
  }
  return bytes;
}

void begin_part(const fs::path& part, const std::string& record) {
  const fs::path path = part / kRecordFile;
  std::error_code ignored;
  if (fs::exists(path, ignored)) {
    if (read_file(path) != record)
      fail("{}: is the beginning of another model's or format's quantization; remove it", part.string());
    return;
  }
  for (const fs::directory_entry& entry : fs::directory_iterator(part))
    if (entry.path().filename() != ".lock")
      fail("{}: exists and is not the work of a quantization; remove it", part.string());
  write_file_atomically(path, record);
}

}  // namespace

void quantize_shard(Exec& exec, const SafetensorsFile& shard, std::span<const SafetensorsFile> files,
                    IntFormat format, const fs::path& into, const QuantizeProgress& progress) {
  const std::vector<Output> outputs = outputs_of(shard, format);
  const std::vector<TensorToWrite> list = to_write(outputs);
  const fs::path part = part_of(into);
  uint64_t done = 0;
  Quantized current;
  write_safetensors(part, list, [&](size_t i) -> std::span<const std::byte> {
    const Output& output = outputs[i];
    if (output.is_scale) return {current.scales.raw(), current.scales.bytes()};
    done += output.stored->bytes();
    if (progress) progress(done);
    if (!output.codes) return kept_bytes(exec, shard, *output.stored);
    current = quantize(exec, source_of(shard, *output.stored, files), *output.codes);
    return {current.codes.raw(), current.codes.bytes()};
  });
  fs::rename(part, into);
  sync_folder(into.parent_path());
}

void expect_quantizable(std::string_view config_json, const std::string& where) {
  if (read_int_format(config_json, where)) fail("{}: the weights are quantized already", where);
  read_fp8_scheme(config_json, where);
}

bool is_kept_beside_weights(const std::string& name) {
  for (const char* ending :
       {".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth"})
    if (name.ends_with(ending)) return false;
  return !name.starts_with(".") && name != "config.json";
}

QuantizeSummary quantize_folder(Exec& exec, const fs::path& model, const fs::path& output, IntFormat format,
                                const std::function<void(uint64_t, uint64_t)>& progress) {
  std::error_code error;
  if (fs::exists(fs::symlink_status(output, error))) fail("{}: exists already", output.string());
  const fs::path config_path = model / "config.json";
  const std::string config = read_file(config_path);
  expect_quantizable(config, config_path.string());
  const SafetensorsFolder folder(model);
  QuantizeSummary summary{.shards = static_cast<int64_t>(folder.files().size())};
  for (const SafetensorsFile& file : folder.files()) summary.bytes_before += data_bytes(file);
  const std::vector<fs::path> beside = files_beside(model);
  const fs::path whole = whole_path(output), part = whole.string() + ".part";
  expect_room(part, bytes_to_come(folder, beside, format, part));
  create_folder(part);
  const FolderLock lock(part, "quantization");
  begin_part(part, record_of(folder, format));

  uint64_t before = 0;
  std::vector<std::string> names;
  for (const SafetensorsFile& file : folder.files()) {
    const fs::path into = part / names.emplace_back(file.path().filename().string());
    if (fs::exists(into, error))
      ++summary.shards_there;
    else
      quantize_shard(exec, file, folder.files(), format, into,
                     [&](uint64_t done) { progress(before + done, summary.bytes_before); });
    before += data_bytes(file);
    summary.bytes_after += data_bytes(SafetensorsFile(into));
  }
  write_safetensors_index(part, names);
  for (const fs::path& file : beside) write_file_atomically(part / file.filename(), MappedFile(file).text());
  write_file_atomically(part / "config.json", with_int_format(config, format));
  lock.remove();
  sync_folder(part);
  fs::rename(part, whole, error);
  if (error) fail("{}: cannot rename to {}: {}", part.string(), whole.string(), error.message());
  fs::remove(whole / kRecordFile, error);  // not before: a part says to its end what it is of
  sync_folder(whole.parent_path());
  return summary;
}

}  // namespace moray
