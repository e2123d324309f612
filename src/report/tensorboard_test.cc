#include "report/tensorboard.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <map>

#include "base/error.h"

namespace moray {
namespace {

// A decoder of its own, written from the format's description: bitwise crc, and a walk over any protobuf
// field order.
uint32_t bitwise_crc32c(const std::string& bytes) {
  uint32_t crc = ~0u;
  for (unsigned char byte : bytes) {
    for (int bit = 0; bit < 8; ++bit) {
      const bool odd = (crc ^ (byte >> bit)) & 1;
      crc >>= 1;
      if (odd) crc ^= 0x82f63b78u;
    }
  }
  return ~crc;
}

uint32_t unmask(uint32_t masked) {
  const uint32_t rotated = masked - 0xa282ead8u;
  return (rotated >> 17) | (rotated << 15);
}

struct Field {
  uint64_t number;
  uint64_t varint = 0;
  std::string bytes;  // length-delimited or fixed
};

std::vector<Field> decode(const std::string& message) {
  std::vector<Field> fields;
  size_t at = 0;
  const auto varint = [&] {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = static_cast<unsigned char>(message.at(at++));
      value |= uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return value;
    }
  };
  const auto take = [&](size_t count) {
    std::string out = message.substr(at, count);
    EXPECT_EQ(out.size(), count);
    at += count;
    return out;
  };
  while (at < message.size()) {
    const uint64_t key = varint();
    Field field{key >> 3, 0, {}};
    switch (key & 7) {
      case 0:
        field.varint = varint();
        break;
      case 1:
        field.bytes = take(8);
        break;
      case 2:
        field.bytes = take(varint());
        break;
      case 5:
        field.bytes = take(4);
        break;
      default:
        ADD_FAILURE() << "wire type " << (key & 7);
        return fields;
    }
    fields.push_back(field);
  }
  return fields;
}

template <class T>
T as(const std::string& bytes) {
  T value{};
  EXPECT_EQ(bytes.size(), sizeof value);
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

struct Event {
  double wall_seconds = 0;
  int64_t step = 0;
  std::string version;
  std::map<std::string, float> scalars;
};

std::vector<Event> read_events(const fs::path& run) {
  const std::string file = read_file(run / "tensorboard" / "events.out.tfevents.0.moray");
  std::vector<Event> events;
  for (size_t at = 0; at < file.size();) {
    const std::string head = file.substr(at, 8);
    const auto length = as<uint64_t>(head);
    EXPECT_EQ(unmask(as<uint32_t>(file.substr(at + 8, 4))), bitwise_crc32c(head));
    const std::string message = file.substr(at + 12, length);
    EXPECT_EQ(unmask(as<uint32_t>(file.substr(at + 12 + length, 4))), bitwise_crc32c(message));
    at += 16 + length;
    Event event;
    for (const Field& field : decode(message)) {
      if (field.number == 1) event.wall_seconds = as<double>(field.bytes);
      if (field.number == 2) event.step = static_cast<int64_t>(field.varint);
      if (field.number == 3) event.version = field.bytes;
      if (field.number != 5) continue;
      for (const Field& value : decode(field.bytes)) {
        const auto parts = decode(value.bytes);
        EXPECT_EQ(parts.size(), 2u);
        event.scalars[parts[0].bytes] = as<float>(parts[1].bytes);
      }
    }
    events.push_back(event);
  }
  return events;
}

class TensorBoardTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(::testing::TempDir()) / ("moray_tensorboard_" + std::to_string(::getpid()));
  }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path folder_;
};

TEST(Crc32cTest, PublishedVectors) {  // RFC 3720, B.4
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
}

TEST_F(TensorBoardTest, AnIndependentDecoderReadsTheEvents) {
  StepMetrics metrics;
  metrics.step = 300;
  metrics.loss = 2.5;
  metrics.mtp_loss = {3.5};
  metrics.validation_loss = 2.25;
  metrics.balance = {1.25, 1.5};
  {
    TensorBoardWriter writer(folder_, 0);
    writer.write(1, 1.7e9, {{"loss/train", 9.0}});
    writer.write(metrics.step, 1.7e9 + 0.5, tensorboard_scalars(metrics));
  }
  const auto events = read_events(folder_);
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0].version, "brain.Event:2");
  EXPECT_EQ(events[1].step, 1);
  EXPECT_EQ(events[2].step, 300);
  EXPECT_EQ(events[2].wall_seconds, 1.7e9 + 0.5);
  EXPECT_EQ(events[2].scalars.at("loss/train"), 2.5f);
  EXPECT_EQ(events[2].scalars.at("loss/mtp_1"), 3.5f);
  EXPECT_EQ(events[2].scalars.at("loss/validation"), 2.25f);
  EXPECT_EQ(events[2].scalars.at("balance/layer_1"), 1.5f);
}

TEST_F(TensorBoardTest, ResumeCutsLaterAndHalfWrittenEvents) {
  {
    TensorBoardWriter writer(folder_, 0);
    for (int64_t step = 1; step <= 200; ++step) writer.write(step, 0, {{"x", 1.0}});
  }
  const fs::path file = folder_ / "tensorboard" / "events.out.tfevents.0.moray";
  fs::resize_file(file, fs::file_size(file) - 3);
  { TensorBoardWriter(folder_, 199).write(200, 0, {{"x", 2.0}}); }
  EXPECT_EQ(read_events(folder_).size(), 201u);
  { TensorBoardWriter(folder_, 150).write(151, 0, {{"x", 2.0}}); }
  auto events = read_events(folder_);
  ASSERT_EQ(events.size(), 152u);
  EXPECT_EQ(events.back().scalars.at("x"), 2.0f);
  { TensorBoardWriter fresh(folder_, 0); }
  EXPECT_EQ(read_events(folder_).size(), 1u);
  std::ofstream(file, std::ios::binary) << "no event file";
  { TensorBoardWriter writer(folder_, 10); }
  EXPECT_EQ(read_events(folder_).size(), 1u);
}

}  // namespace
}  // namespace moray
