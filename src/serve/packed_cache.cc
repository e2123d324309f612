#include "serve/packed_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/log.h"

namespace moray {

namespace {

constexpr std::string_view kMagic = "moraypk1";
constexpr int64_t kVersion = 1;  // of the forms that weights are served in
constexpr size_t kAlignment = 4096, kPreludeBytes = 24;
constexpr size_t kPieceBytes = size_t{4} << 20;

uint64_t aligned(uint64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// What the file must have been made of.
nlohmann::json source_of(const SafetensorsFolder& folder) {
  const std::string config = read_file(folder.path() / "config.json");
  return {{"version", kVersion},
          {"config", checksum(std::as_bytes(std::span(config)))},
          {"shards", shards_state(folder)}};
}

// The tensors that there are, in the order of Model::visit: weights, then scales.
std::vector<Parameter> tensors_of(ServedModel& served) {
  std::vector<Parameter> all;
  for (deepseek::Model* tree : {&served.model, &served.scales})
    for (const Parameter& parameter : list_parameters(*tree))
      if (parameter.tensor->defined()) all.push_back(parameter);
  return all;
}

struct Piece {
  std::byte* at = nullptr;
  size_t bytes = 0;
  uint64_t file_offset = 0, sum = 0;
};

void append_pieces(const Tensor& tensor, uint64_t file_offset, std::vector<Piece>& pieces) {
  for (size_t begin = 0; begin < tensor.bytes(); begin += kPieceBytes)
    pieces.push_back(
        {tensor.raw() + begin, std::min(kPieceBytes, tensor.bytes() - begin), file_offset + begin, 0});
}

uint64_t sum_of(const Piece& piece) {
  return checksum({piece.at, piece.bytes});
}

class File {
 public:
  explicit File(const fs::path& path)
      : fd_(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)) {
    if (fd_ >= 0 && ::fstat(fd_, &info_) != 0) info_ = {};
  }
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  bool is_there() const { return fd_ >= 0 && S_ISREG(info_.st_mode); }
  uint64_t bytes() const { return static_cast<uint64_t>(info_.st_size); }
  uid_t owner() const { return info_.st_uid; }
  bool read(uint64_t offset, void* to, size_t bytes) const {
    for (auto* at = static_cast<char*>(to); bytes > 0;) {
      const ssize_t got = ::pread(fd_, at, bytes, static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return false;
      at += got;
      offset += static_cast<uint64_t>(got);
      bytes -= static_cast<size_t>(got);
    }
    return true;
  }

 private:
  int fd_;
  struct stat info_ {};
};

// Whoever can change the folder decides about its weights anyway.
bool is_trusted(const File& file, const fs::path& folder) {
  struct stat of_folder {};
  if (file.owner() == ::geteuid() || file.owner() == 0) return true;
  return ::stat(folder.c_str(), &of_folder) == 0 && file.owner() == of_folder.st_uid;
}

// No header of these tensors is longer: an entry each, and the digits of a sum for each piece.
size_t most_header_bytes(const nlohmann::json& source, const WeightPlan& plan) {
  constexpr size_t kAround = 4096, kEntryBytes = 256, kSumBytes = 21;
  size_t bytes = kAround + source.dump().size();
  for (const PlannedTensor& tensor : plan.tensors)
    bytes += kEntryBytes + tensor.name.size() + (tensor.bytes() / kPieceBytes + 1) * kSumBytes;
  return bytes;
}

enum class HeaderState { good, of_another_model, damaged };

// The header's text, in `text` when it is good. A length is believed only within what the plan's header can
// have.
HeaderState read_header(const File& file, size_t most_bytes, std::string& text) {
  char prelude[kPreludeBytes];
  uint64_t length = 0, sum = 0;
  if (!file.read(0, prelude, sizeof(prelude)) || std::string_view(prelude, kMagic.size()) != kMagic)
    return HeaderState::damaged;
  std::memcpy(&length, prelude + 8, sizeof(length));
  std::memcpy(&sum, prelude + 16, sizeof(sum));
  if (length > file.bytes()) return HeaderState::damaged;
  if (length > most_bytes) return HeaderState::of_another_model;
  text.resize(length);
  const bool good =
      file.read(kPreludeBytes, text.data(), length) && checksum(std::as_bytes(std::span(text))) == sum;
  return good ? HeaderState::good : HeaderState::damaged;
}

nlohmann::json entry_of(const Parameter& parameter) {
  return {{"name", parameter.name},
          {"dtype", dtype_name(parameter.tensor->dtype())},
          {"shape", parameter.tensor->shape().to_string()},
          {"panels", parameter.tensor->layout() == TensorLayout::panels}};
}

// The pieces of `served` as the header places them; false when it is not what was planned.
bool place_pieces(const nlohmann::json& header, ServedModel& served, uint64_t file_bytes,
                  std::vector<Piece>& pieces) {
  const std::vector<Parameter> tensors = tensors_of(served);
  if (header.at("tensors").size() != tensors.size()) return false;
  uint64_t offset = header.at("data").get<uint64_t>();
  for (size_t i = 0; i < tensors.size(); ++i) {
    const nlohmann::json& entry = header.at("tensors")[i];
    const nlohmann::json expected = entry_of(tensors[i]);
    for (const auto& [key, value] : expected.items())
      if (entry.at(key) != value) return false;
    append_pieces(*tensors[i].tensor, offset, pieces);
    offset = aligned(offset + tensors[i].tensor->bytes());
  }
  if (header.at("sums").size() != pieces.size() || offset != file_bytes) return false;
  for (size_t i = 0; i < pieces.size(); ++i) pieces[i].sum = header.at("sums")[i].get<uint64_t>();
  return true;
}

bool read_pieces(Exec& exec, const File& file, const std::vector<Piece>& pieces,
                 const LoadProgress& progress) {
  constexpr size_t kRound = 64;  // pieces between two reports
  std::atomic<bool> good = true;
  size_t done = 0;
  for (size_t begin = 0; begin < pieces.size() && good; begin += kRound) {
    const size_t count = std::min(kRound, pieces.size() - begin);
    exec.pool->for_each(static_cast<int64_t>(count), [&](int64_t index, int) {
      const Piece& piece = pieces[begin + static_cast<size_t>(index)];
      if (!file.read(piece.file_offset, piece.at, piece.bytes) || sum_of(piece) != piece.sum) good = false;
    });
    for (size_t i = begin; i < begin + count; ++i) done += pieces[i].bytes;
    if (progress) progress(done);
  }
  return good;
}

std::optional<ServedModel> damaged(const fs::path& path) {
  log::warning("{}: is damaged and left aside; --packed writes a new one", path.string());
  return std::nullopt;
}

// Not the temporary folder, in default of others: there anybody may put a file of the name that is looked
// for.
std::optional<fs::path> user_cache() {
  for (const auto& [variable, below] : {std::pair{"XDG_CACHE_HOME", ""}, std::pair{"HOME", ".cache"}})
    if (const char* value = std::getenv(variable); value != nullptr && *value == '/')
      return fs::path(value) / below / "moray";
  return std::nullopt;
}

bool can_be_written_to(const fs::path& folder) {
  return ::faccessat(AT_FDCWD, folder.c_str(), W_OK | X_OK, AT_EACCESS) == 0;
}

fs::path part_of(const fs::path& path, pid_t process) {
  return fmt::format("{}.{}.part", path.string(), process);
}

// What killed processes began.
void remove_left_parts(const fs::path& path) {
  const std::string before = path.filename().string() + ".";
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(path.parent_path(), error)) {
    const std::string name = entry.path().filename().string();
    pid_t process = 0;
    if (!name.starts_with(before) || std::sscanf(name.c_str() + before.size(), "%d", &process) != 1) continue;
    if (entry.path() == part_of(path, process) && ::kill(process, 0) != 0 && errno == ESRCH)
      fs::remove(entry.path(), error);
  }
}

}  // namespace

std::vector<fs::path> packed_cache_paths(const fs::path& folder) {
  std::vector<fs::path> paths = {folder / ".moray-packed"};
  std::error_code error;
  const std::string whole = fs::weakly_canonical(folder, error).string();
  if (const std::optional<fs::path> cache = user_cache())
    paths.push_back(*cache / fmt::format("{}-{:016x}.packed", fs::path(whole).filename().string(),
                                         checksum(std::as_bytes(std::span(whole)))));
  return paths;
}

fs::path packed_cache_path(const fs::path& folder) {
  const std::vector<fs::path> paths = packed_cache_paths(folder);
  if (can_be_written_to(folder)) return paths[0];
  if (paths.size() == 1)
    fail("{}: cannot be written to, and neither XDG_CACHE_HOME nor HOME names another place",
         folder.string());
  return paths[1];
}

void write_packed_cache(Exec& exec, const fs::path& path, const SafetensorsFolder& folder,
                        const ServedModel& served, const LoadProgress& progress) {
  ServedModel copy = served;
  const std::vector<Parameter> tensors = tensors_of(copy);
  std::vector<Piece> pieces;
  nlohmann::json header{{"source", source_of(folder)}, {"data", uint64_t{0}}};
  for (const Parameter& parameter : tensors) {
    append_pieces(*parameter.tensor, 0, pieces);
    header["tensors"].push_back(entry_of(parameter));
  }
  exec.pool->for_each(static_cast<int64_t>(pieces.size()), [&](int64_t index, int) {
    Piece& piece = pieces[static_cast<size_t>(index)];
    piece.sum = sum_of(piece);
  });
  for (const Piece& piece : pieces) header["sums"].push_back(piece.sum);
  constexpr size_t kRoomForOffset = 20;  // its digits
  header["data"] = aligned(kPreludeBytes + header.dump().size() + kRoomForOffset);
  const std::string text = header.dump();
  const uint64_t length = text.size(), sum = checksum(std::as_bytes(std::span(text)));

  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  remove_left_parts(path);
  const fs::path part = part_of(path, ::getpid());
  try {
    FileWriter writer(part);
    const std::string zeros(kAlignment, '\0');
    const auto fill_up = [&] {
      writer.write(zeros.data(), aligned(writer.bytes_written()) - writer.bytes_written());
    };
    writer.write(kMagic);
    writer.write(&length, sizeof(length));
    writer.write(&sum, sizeof(sum));
    writer.write(text);
    fill_up();
    size_t done = 0;
    for (const Parameter& parameter : tensors) {
      std::vector<Piece> of_tensor;
      append_pieces(*parameter.tensor, 0, of_tensor);
      for (const Piece& piece : of_tensor) {
        writer.write(piece.at, piece.bytes);
        if (progress) progress(done += piece.bytes);
      }
      fill_up();
    }
    writer.finish();
    fs::rename(part, path);
  } catch (...) {
    fs::remove(part, error);
    throw;
  }
}

std::optional<ServedModel> read_packed_cache(Exec& exec, const fs::path& path,
                                             const SafetensorsFolder& folder, const WeightPlan& plan,
                                             const LoadProgress& progress) {
  const File file(path);
  if (!file.is_there()) return std::nullopt;
  if (!is_trusted(file, folder.path())) {
    log::warning("{}: belongs to another user than this one or the model folder's, and is left aside",
                 path.string());
    return std::nullopt;
  }
  const nlohmann::json source = source_of(folder);
  std::string text;
  const HeaderState state = read_header(file, most_header_bytes(source, plan), text);
  if (state == HeaderState::of_another_model) return std::nullopt;
  if (state == HeaderState::damaged) return damaged(path);
  try {
    const nlohmann::json header = nlohmann::json::parse(text);
    if (source != header.at("source")) return std::nullopt;
    ServedModel served = allocate_weights(exec, plan);
    std::vector<Piece> pieces;
    if (!place_pieces(header, served, file.bytes(), pieces)) return std::nullopt;
    if (!read_pieces(exec, file, pieces, progress)) return damaged(path);
    return served;
  } catch (const nlohmann::json::exception&) {
    return damaged(path);
  }
}

namespace {

void keep_packed(Exec& exec, const SafetensorsFolder& folder, const ServedModel& served,
                 const LoadProgress& progress) {
  fs::path path = folder.path();
  try {
    path = packed_cache_path(folder.path());
    write_packed_cache(exec, path, folder, served, progress);
    log::info("{}: the packed weights for later starts, {:.2f} GB", path.string(),
              static_cast<double>(fs::file_size(path)) / 1e9);
  } catch (const std::exception& failure) {
    log::warning("{}: the packed weights are not kept: {}", path.string(), failure.what());
  }
}

}  // namespace

ServedModel load_weights_or_packed(Exec& exec, const SafetensorsFolder& folder, const WeightPlan& plan,
                                   bool keep, const LoadProgress& reading, const LoadProgress& writing) {
  for (const fs::path& path : packed_cache_paths(folder.path()))
    if (std::optional<ServedModel> packed = read_packed_cache(exec, path, folder, plan, reading))
      return std::move(*packed);
  ServedModel served = load_weights(exec, folder, plan, reading);
  if (keep) keep_packed(exec, folder, served, writing);
  return served;
}

}  // namespace moray
