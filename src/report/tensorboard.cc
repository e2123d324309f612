// An event file is a row of TFRecords: length (8 bytes), masked crc of the length, event, masked crc of the
// event. An event is a protobuf: wall_time = 1 (double), step = 2 (varint), file_version = 3 (string),
// summary = 5, which repeats value = 1: tag = 1 (string), simple_value = 2 (float). TensorFlow's event.proto
// and summary.proto name them.
#include "report/tensorboard.h"

#include <array>
#include <bit>
#include <chrono>
#include <cstring>
#include <optional>

#include "base/error.h"

namespace moray {
namespace {

enum WireType : uint8_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

static_assert(std::endian::native == std::endian::little, "records are written as memory holds them");

template <class T>
void put_fixed(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

template <class T>
T get_fixed(std::string_view bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}

void put_key(std::string& out, int field, WireType type) {
  put_varint(out, static_cast<uint64_t>(field) << 3 | type);
}

void put_bytes(std::string& out, int field, std::string_view bytes) {
  put_key(out, field, kBytes);
  put_varint(out, bytes.size());
  out += bytes;
}

std::string event_header(double wall_seconds, int64_t step) {
  std::string event;
  put_key(event, 1, kFixed64);
  put_fixed(event, wall_seconds);
  put_key(event, 2, kVarint);
  put_varint(event, static_cast<uint64_t>(step));
  return event;
}

std::string scalar_value(const std::string& tag, double scalar) {
  std::string value;
  put_bytes(value, 1, tag);
  put_key(value, 2, kFixed32);
  put_fixed(value, static_cast<float>(scalar));
  return value;
}

uint32_t masked_crc(std::string_view bytes) {
  return std::rotr(crc32c(bytes), 15) + 0xa282ead8u;
}

std::string record(std::string_view event) {
  std::string out;
  put_fixed(out, uint64_t{event.size()});
  put_fixed(out, masked_crc(out));
  out += event;
  put_fixed(out, masked_crc(event));
  return out;
}

constexpr size_t kRecordHead = 12, kRecordTail = 4;

// The first whole record of `bytes`, checksums verified; nothing when there is none.
std::optional<std::string_view> first_record(std::string_view bytes) {
  if (bytes.size() < kRecordHead + kRecordTail) return {};
  const uint64_t length = get_fixed<uint64_t>(bytes);
  if (masked_crc(bytes.substr(0, 8)) != get_fixed<uint32_t>(bytes.substr(8))) return {};
  if (length > bytes.size() - kRecordHead - kRecordTail) return {};
  const std::string_view event = bytes.substr(kRecordHead, length);
  if (masked_crc(event) != get_fixed<uint32_t>(bytes.substr(kRecordHead + length))) return {};
  return bytes.substr(0, kRecordHead + length + kRecordTail);
}

// The step of a record that event_header() began, or nothing.
std::optional<int64_t> step_of(std::string_view whole_record) {
  const std::string_view event = whole_record.substr(kRecordHead);
  constexpr size_t kStepKey = 1 + 8;  // after wall_time's key and value
  if (event.size() < kStepKey + 2 + kRecordTail || event[kStepKey] != (2 << 3 | kVarint)) return {};
  uint64_t step = 0;
  for (size_t i = kStepKey + 1, shift = 0; i < event.size() - kRecordTail && shift < 63; ++i, shift += 7) {
    step |= static_cast<uint64_t>(event[i] & 0x7f) << shift;
    if (!(event[i] & 0x80)) return static_cast<int64_t>(step);
  }
  return {};
}

std::string records_up_to(std::string_view bytes, int64_t last_step) {
  std::string kept;
  while (const auto next = first_record(bytes)) {
    const auto step = step_of(*next);
    if (!step || *step > last_step) break;
    kept += *next;
    bytes.remove_prefix(next->size());
  }
  return kept;
}

constexpr auto kCrcTable = [] {
  constexpr uint32_t kReversedPolynomial = 0x82f63b78u;
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < table.size(); ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? kReversedPolynomial : 0);
    table[i] = crc;
  }
  return table;
}();

// The path of a run's event file, which then begins with a version record and ends at `resumed_step`.
fs::path prepared_event_file(const fs::path& run_folder, int64_t resumed_step) {
  const fs::path path = run_folder / "tensorboard" / "events.out.tfevents.0.moray";
  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  if (error) fail("{}: cannot create the folder: {}", path.parent_path().string(), error.message());
  std::string kept;
  if (resumed_step > 0 && fs::exists(path)) kept = records_up_to(read_file(path, kAnySize), resumed_step);
  if (kept.empty()) {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    std::string event = event_header(std::chrono::duration<double>(now).count(), 0);
    put_bytes(event, 3, "brain.Event:2");
    kept = record(event);
  }
  write_file_atomically(path, kept);
  return path;
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t crc = 0xffffffffu;
  for (char c : bytes) crc = (crc >> 8) ^ kCrcTable[(crc ^ static_cast<uint8_t>(c)) & 0xff];
  return ~crc;
}

NamedScalars tensorboard_scalars(const StepMetrics& m) {
  NamedScalars scalars = {{"loss/train", m.loss}};
  for (size_t d = 0; d < m.mtp_loss.size(); ++d)
    scalars.emplace_back(fmt::format("loss/mtp_{}", d + 1), m.mtp_loss[d]);
  if (m.validation_loss) scalars.emplace_back("loss/validation", *m.validation_loss);
  scalars.emplace_back("loss/balance", m.balance_loss);
  for (size_t l = 0; l < m.balance.size(); ++l)
    scalars.emplace_back(fmt::format("balance/layer_{}", l), m.balance[l]);
  scalars.emplace_back("optimizer/grad_norm", m.grad_norm);
  scalars.emplace_back("optimizer/learning_rate", m.learning_rate);
  scalars.emplace_back("optimizer/skipped_steps", static_cast<double>(m.skipped_steps));
  scalars.emplace_back("speed/tokens_per_second", m.tokens_per_second);
  scalars.emplace_back("speed/peak_memory_gb", static_cast<double>(m.peak_memory_bytes) / 1e9);
  return scalars;
}

TensorBoardWriter::TensorBoardWriter(const fs::path& run_folder, int64_t resumed_step)
    : file_(prepared_event_file(run_folder, resumed_step)) {}

void TensorBoardWriter::write(int64_t step, double wall_seconds, const NamedScalars& scalars) {
  std::string summary;
  for (const auto& [tag, scalar] : scalars) put_bytes(summary, 1, scalar_value(tag, scalar));
  std::string event = event_header(wall_seconds, step);
  put_bytes(event, 5, summary);
  file_.append(record(event));
}

}  // namespace moray
