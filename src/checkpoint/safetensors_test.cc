#include "checkpoint/safetensors.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/random.h"
#include "base/test_help.h"
#include "checkpoint/convert.h"
#include "checkpoint/safetensors_writer.h"

namespace moray {
namespace {

using test::error_of;

fs::path golden() {
  return fs::path(MORAY_SOURCE_DIR) / "tests/golden/safetensors";
}

// Element i of the fixtures (tests/golden/safetensors/make.py).
double ramp(int64_t i) {
  return static_cast<double>(i * 37 % 101 - 50) / 8;
}

void write_bytes(const fs::path& path, std::string_view content) {
  std::ofstream(path, std::ios::binary).write(content.data(), static_cast<std::streamsize>(content.size()));
}

// A file of the given header and data, with the right length in front.
std::string file_of(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file + header + data;
}

class Safetensors : public testing::Test {
 protected:
  std::string load_error(const std::string& content) {
    write_bytes(folder_ / "x.safetensors", content);
    return error_of([&] { SafetensorsFile file(folder_ / "x.safetensors"); });
  }

  template <class T>
  Tensor ramp_tensor(Shape shape) {
    Tensor tensor = Tensor::empty(allocator_, shape, dtype_of<T>::value);
    for (int64_t i = 0; i < tensor.elements(); ++i) {
      if constexpr (std::is_same_v<T, bf16>) {
        tensor.data<T>()[i] = to_bf16(ramp(i));
      } else {
        tensor.data<T>()[i] = static_cast<T>(ramp(i));
      }
    }
    return tensor;
  }

  test::ScratchFolder folder_;
  Allocator allocator_;
};

TEST_F(Safetensors, Fp8CodesKeepTheirBytesAndWiden) {
  const Tensor codes = Tensor::empty(allocator_, {256}, DType::f8_e4m3);
  const Tensor wide = Tensor::empty(allocator_, {256}, DType::f8_e5m2);
  const Tensor packed = Tensor::empty(allocator_, {256}, DType::u8);
  for (const Tensor& tensor : {codes, wide, packed})
    for (size_t i = 0; i < 256; ++i) tensor.raw()[i] = static_cast<std::byte>(i);
  const std::vector<NamedTensor> tensors = {{"e4m3", codes}, {"e5m2", wide}, {"u8", packed}};
  write_safetensors(folder_ / "f8.safetensors", tensors);
  const SafetensorsFile file(folder_ / "f8.safetensors");
  for (const NamedTensor& named : tensors)
    EXPECT_EQ(
        std::memcmp(file.read(named.name, allocator_, named.tensor.dtype()).raw(), named.tensor.raw(), 256),
        0);
  const Tensor values = file.read("e4m3", allocator_, DType::bf16);
  EXPECT_EQ(to_float(values.data<bf16>()[0x7e]), 448);
  EXPECT_EQ(to_float(values.data<bf16>()[0x81]), -0x1p-9f);
  EXPECT_EQ(file.read("e5m2", allocator_, DType::f32).data<float>()[0x7b], 57344);
  EXPECT_NE(error_of([&] { file.read("u8", allocator_, DType::f32); }).find("U8"), std::string::npos);
  EXPECT_NE(error_of([&] { file.read("e4m3", allocator_, DType::f8_e5m2); }).find("F8_E4M3"),
            std::string::npos);
}

TEST_F(Safetensors, ReadsWhatPythonWrote) {
  const SafetensorsFile file(golden() / "python.safetensors");
  EXPECT_EQ(file.names().size(), 11u);
  EXPECT_EQ(file.metadata().at("who"), "python");
  EXPECT_EQ(file.tensor("f8").dtype, "F8_E4M3");
  EXPECT_EQ(file.tensor("f16").dtype, "F16");
  EXPECT_EQ(file.tensor("i64").dtype, "I64");
  EXPECT_EQ(file.tensor("u8").shape, (std::vector<int64_t>{9}));
  EXPECT_EQ(file.bytes(file.tensor("u8"))[8], std::byte{8});
  for (const auto& [name, dtype] : std::map<std::string, DType>{
           {"f32", DType::f32}, {"f64", DType::f64}, {"bf16", DType::bf16}, {"ünï.weight", DType::f32}}) {
    for (DType into : {DType::f32, DType::f64, DType::bf16}) {
      const Tensor tensor = file.read(name, allocator_, into);
      const Tensor wide = Tensor::empty(allocator_, tensor.shape(), DType::f64);
      ASSERT_TRUE(
          convert_elements(stored_dtype_name(into), tensor.raw(), tensor.elements(), DType::f64, wide.raw()));
      for (int64_t i = 0; i < tensor.elements(); ++i) EXPECT_EQ(wide.data<double>()[i], ramp(i)) << name << i;
    }
    EXPECT_EQ(file.tensor(name).dtype, stored_dtype_name(dtype));
  }
  EXPECT_EQ(file.read("scalar", allocator_, DType::f32).data<float>()[0], 2.5f);
  EXPECT_EQ(file.read("empty", allocator_, DType::f32).shape(), (Shape{0, 4}));
  EXPECT_EQ(file.read("i32", allocator_, DType::i32).data<int32_t>()[0], -3);
}

TEST_F(Safetensors, SaysWhatCannotBeRead) {
  const fs::path path = golden() / "python.safetensors";
  const SafetensorsFile file(path);
  const std::string where = path.string();
  EXPECT_EQ(error_of([&] { file.read("f16", allocator_, DType::f32); }),
            where + ": the tensor 'f16' is F16, which cannot be read as f32");
  EXPECT_EQ(error_of([&] { file.read("i32", allocator_, DType::f32); }),
            where + ": the tensor 'i32' is I32, which cannot be read as f32");
  EXPECT_EQ(error_of([&] { file.read("none", allocator_, DType::f32); }),
            where + ": there is no tensor 'none'");
  const Tensor small = Tensor::zeros(allocator_, {5, 3}, DType::f32);
  EXPECT_EQ(error_of([&] { file.read("f32", small); }),
            where + ": the tensor 'f32' has shape [3, 5], [5, 3] expected");
}

TEST_F(Safetensors, ReadsAShardedFolder) {
  const SafetensorsFolder folder(golden() / "sharded");
  EXPECT_EQ(folder.names(), (std::vector<std::string>{"a", "b", "c"}));
  for (const std::string& name : folder.names()) {
    const Tensor tensor = folder.read(name, allocator_, DType::f32);
    for (int64_t i = 0; i < tensor.elements(); ++i) EXPECT_EQ(tensor.data<float>()[i], ramp(i)) << name;
  }
  EXPECT_EQ(folder.tensor("c").dtype, "BF16");
  EXPECT_EQ(folder.find("d"), nullptr);
}

// MORAY_KEEP=FOLDER keeps the file, for `make.py check FOLDER` to read it with the Python package.
TEST_F(Safetensors, WritesWhatItReads) {
  std::vector<NamedTensor> tensors{{"f32", ramp_tensor<float>({3, 5})},
                                   {"f64", ramp_tensor<double>({7})},
                                   {"bf16", ramp_tensor<bf16>({2, 3, 4})},
                                   {"i32", Tensor::empty(allocator_, {6}, DType::i32)},
                                   {"narrowed", Tensor::empty(allocator_, {1000}, DType::f32), DType::bf16},
                                   {"scalar", Tensor::empty(allocator_, {}, DType::f32)},
                                   {"empty", Tensor::empty(allocator_, {0, 4}, DType::f32)}};
  for (int32_t i = 0; i < 6; ++i) tensors[3].tensor.data<int32_t>()[i] = i - 3;
  for (int64_t i = 0; i < 1000; ++i)
    tensors[4].tensor.data<float>()[i] = static_cast<float>(static_cast<double>(i) / 7);
  tensors[5].tensor.data<float>()[0] = 2.5f;
  const char* keep = std::getenv("MORAY_KEEP");
  const fs::path path = (keep != nullptr ? fs::path(keep) : folder_.path()) / "written.safetensors";
  const WrittenFile written = write_safetensors(path, tensors);

  EXPECT_EQ(written.bytes, fs::file_size(path));
  EXPECT_EQ(written.checksum, checksum(MappedFile(path).bytes()));
  EXPECT_EQ(written.checksum, file_checksum(path));
  const SafetensorsFile file(path);
  EXPECT_EQ(file.names(),
            (std::vector<std::string>{"f32", "f64", "bf16", "i32", "narrowed", "scalar", "empty"}));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(file.bytes(file.tensors()[0]).data()) % 64, 0u);
  for (const NamedTensor& named : tensors) {
    const Tensor back = file.read(named.name, allocator_, named.tensor.dtype());
    ASSERT_EQ(back.shape(), named.tensor.shape());
    if (named.stored_as) continue;
    EXPECT_EQ(std::memcmp(back.raw(), named.tensor.raw(), back.bytes()), 0) << named.name;
  }
  const Tensor narrowed = file.read("narrowed", allocator_, DType::f32);
  for (int64_t i = 0; i < 1000; ++i) {
    EXPECT_EQ(narrowed.data<float>()[i], to_float(to_bf16(tensors[4].tensor.data<float>()[i])));
  }
}

TEST_F(Safetensors, ShardsAtTheSizeGiven) {
  std::vector<NamedTensor> tensors;
  for (int i = 0; i < 10; ++i)
    tensors.push_back({fmt::format("t{}", 9 - i), ramp_tensor<float>({10, i == 4 ? 100 : 10})});
  const auto files =
      write_safetensors_folder(folder_.path(), tensors, 1000);  // two of 400 bytes a shard; t5 alone
  EXPECT_EQ(files.size(), 7u);
  EXPECT_EQ(files[0].name, "model-00001-of-00006.safetensors");
  const SafetensorsFolder folder(folder_.path());
  EXPECT_EQ(folder.names().size(), 10u);
  EXPECT_EQ(folder.files().size(), 6u);
  EXPECT_EQ(folder.read("t5", allocator_, DType::f32).shape(), (Shape{10, 100}));
  const auto index = nlohmann::json::parse(read_file(folder_ / "model.safetensors.index.json"));
  EXPECT_EQ(index["metadata"]["total_size"], 9 * 400 + 4000);
  for (const WrittenFile& file : files)
    EXPECT_EQ(file.checksum, checksum(MappedFile(folder_ / file.name).bytes()));
}

TEST_F(Safetensors, NarrowingRoundsOnce) {
  // Just above the tie between two BF16 neighbours: FP32 would round onto the tie, and then to even,
  // downwards.
  EXPECT_EQ(to_float(to_bf16(1.0 + 0x1p-8 + 0x1p-40)), 1.0f + 0x1p-7f);
  EXPECT_EQ(to_float(to_bf16(-1.0 - 0x1p-8 - 0x1p-40)), -1.0f - 0x1p-7f);
  EXPECT_EQ(to_float(to_bf16(1.0 + 0x1p-8)), 1.0f);
  EXPECT_EQ(to_float(to_bf16(1.0 + 0x1p-8 - 0x1p-40)), 1.0f);
  EXPECT_EQ(to_float(to_bf16(1.0 + 3 * 0x1p-8 - 0x1p-40)), 1.0f + 0x1p-7f);
  EXPECT_EQ(to_float(to_bf16(1e300)), std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::signbit(to_float(to_bf16(-1e-300))));
  EXPECT_TRUE(std::isnan(to_float(to_bf16(std::nan("")))));
  // Against a search among neighbours, in wider arithmetic.
  Random random(1, 2);
  for (int i = 0; i < 20'000; ++i) {
    const double value = std::ldexp(random.uniform() + 0.5, static_cast<int>(random.below(200)) - 100);
    const bf16 got = to_bf16(value);
    const auto error_at = [&](uint16_t bits) {
      return std::abs(static_cast<double>(to_float(bf16{bits})) - value);
    };
    EXPECT_LE(error_at(got.bits), error_at(static_cast<uint16_t>(got.bits + 1)));
    EXPECT_LE(error_at(got.bits), error_at(static_cast<uint16_t>(got.bits - 1)));
  }
}

std::string entry(const std::string& shape, const std::string& offsets, const std::string& dtype = "F32") {
  return fmt::format(R"({{"dtype":"{}","shape":{},"data_offsets":{}}})", dtype, shape, offsets);
}

TEST_F(Safetensors, RefusesHostileHeaders) {
  const std::string data(16, 'x');
  const std::string good = R"({"a":)" + entry("[4]", "[0,16]") + "}";
  ASSERT_EQ(load_error(file_of(good, data)), "no error");
  EXPECT_EQ(load_error(file_of("{}", "")), "no error");
  EXPECT_EQ(load_error(file_of(
                R"({"e":)" + entry("[0]", "[0,0]") + R"(,"a":)" + entry("[4]", "[0,16]") + "}  ", data)),
            "no error");
  const auto file_with = [&](const std::string& body) { return file_of("{" + body + "}", data); };
  const std::vector<std::string> bad{
      "",
      "1234567",
      std::string(8, '\xff'),
      std::string(8, '\0'),
      file_of(good, data + "y"),
      file_of(good, data.substr(1)),
      file_of(" " + good, data),
      file_of("\xef\xbb\xbf" + good, data),
      file_of(good + std::string(1, '\0') + "junk", data),
      file_of(good + "{}", data),
      file_of("[]", ""),
      file_of("{", ""),
      file_of("{\"\xff\":1}", ""),
      file_of(std::string(1 << 20, '['), ""),
      file_with(R"("a":3)"),
      file_with(R"("a":{})"),
      file_with(R"("a":[])"),
      file_with(R"("a":null)"),
      file_with(R"("a":)" + entry("[4]", "[0,16]") + R"(,"a":)" + entry("[0]", "[16,16]")),  // twice
      file_with(R"("a":)" + entry("[4]", "[0,16]", "F31")),
      file_with(R"("a":)" + entry("[5]", "[0,16]")),
      file_with(R"("a":)" + entry("[4]", "[16,0]")),
      file_with(R"("a":)" + entry("[4]", "[0,16,16]")),
      file_with(R"("a":)" + entry("[4]", "[0]")),
      file_with(R"("a":)" + entry("[-4]", "[0,16]")),
      file_with(R"("a":)" + entry("[4.0]", "[0,16]")),
      file_with(R"("a":)" + entry("[[4]]", "[0,16]")),
      file_with(R"("a":)" + entry("[4611686018427387904,4]", "[0,16]")),   // 2^64 elements: wraps to 0
      file_with(R"("a":)" + entry("[4294967296,4294967296]", "[0,0]")),    // likewise
      file_with(R"("a":)" + entry("[0,4294967296,4294967296]", "[0,0]")),  // beside a zero
      file_with(R"("a":)" + entry("[4]", "[18446744073709551600,18446744073709551616]")),
      file_with(R"("a":)" + entry("[4]", "[32,48]")),
      file_with(R"("a":)" + entry("[2]", "[0,8]")),
      file_with(R"("a":)" + entry("[3]", "[0,12]") + R"(,"b":)" + entry("[2]", "[8,16]")),  // overlap
      file_with(R"("a":)" + entry("[1]", "[0,4]") + R"(,"b":)" + entry("[2]", "[8,16]")),   // hole
      file_with(R"("a":)" + entry("[4]", "[0,16]") + R"(,"__metadata__":{"x":1})"),
      file_with(R"("a":)" + entry("[4]", "[0,16]") + R"(,"__metadata__":{"x":"","x":""})"),
      file_with(R"("a":{"dtype":"F32","dtype":"F32","shape":[4],"data_offsets":[0,16]})"),
      file_with(R"("a":{"dtype":"F32","shape":[4],"data_offsets":[0,16],"more":1})")};
  for (const std::string& content : bad) {
    const std::string message = load_error(content);
    EXPECT_TRUE(message.find("x.safetensors: ") != std::string::npos) << content.substr(0, 200) << "\n"
                                                                      << message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
    EXPECT_LT(message.size(), 500u);
  }
}

// Deterministic damage of every kind: the file must load (and then be readable everywhere) or throw Error.
std::string mutated(std::string content, Random& random) {
  static const std::vector<std::string> kTokens{"0",
                                                "-1",
                                                "18446744073709551615",
                                                "9223372036854775807",
                                                "1e9",
                                                "null",
                                                "{",
                                                "}",
                                                "[",
                                                "]",
                                                ",",
                                                ":",
                                                "\"",
                                                "F64",
                                                "U8",
                                                "__metadata__",
                                                std::string(1, '\0'),
                                                "\xff",
                                                "\\u0000",
                                                "data_offsets",
                                                "shape"};
  for (uint64_t edits = 1 + random.below(3); edits > 0; --edits) {
    const size_t at = random.below(content.size() + 1);
    switch (random.below(5)) {
      case 0:
        if (at < content.size()) content[at] = static_cast<char>(random.below(256));
        break;
      case 1:
        content.insert(at, kTokens[random.below(kTokens.size())]);
        break;
      case 2:
        content.erase(at, random.below(12));
        break;
      case 3:
        content.resize(at);
        break;
      case 4:
        content.insert(at, content.substr(random.below(content.size() + 1), random.below(60)));
        break;
    }
  }
  // Half of the time the length in front is repaired, so that the damage reaches the parser.
  const size_t end = content.rfind('}');
  if (random.below(2) == 0 && end != std::string::npos && end >= 8) {
    const uint64_t length = end + 1 - 8;
    std::memcpy(content.data(), &length, 8);
  }
  return content;
}

TEST_F(Safetensors, SurvivesMutations) {
  const std::string original = read_file(golden() / "python.safetensors");
  Random random(7, name_stream("mutations"));
  int loaded = 0;
  for (int i = 0; i < 6000; ++i) {
    const fs::path path = folder_ / "m.safetensors";
    fs::remove(path);  // a new file is faster than a truncated one, which ext4 flushes to disk
    write_bytes(path, mutated(original, random));
    try {
      const SafetensorsFile file(path);
      ++loaded;
      for (const StoredTensor& tensor : file.tensors()) {
        unsigned sum = 0;
        for (std::byte b : file.bytes(tensor)) sum += static_cast<unsigned>(b);
        EXPECT_LE(sum, 255 * tensor.bytes());
        error_of([&] { file.read(tensor.name, allocator_, DType::f64); });
      }
    } catch (const Error&) {
    }
  }
  EXPECT_GT(loaded, 10) << "some damage (to data, to names) is no damage to the format";
  EXPECT_LT(loaded, 3000);
}

class SafetensorsShards : public Safetensors {
 protected:
  SafetensorsShards() { fs::copy(golden() / "sharded", folder_.path()); }

  std::string error_with_index(const std::string& weight_map) {
    write_bytes(folder_ / "model.safetensors.index.json", R"({"weight_map":)" + weight_map + "}");
    return open_error();
  }
  std::string open_error() {
    return error_of([&] { SafetensorsFolder folder(folder_.path()); });
  }

  static constexpr const char* kFirst = "model-00001-of-00002.safetensors";
  static constexpr const char* kSecond = "model-00002-of-00002.safetensors";
};

TEST_F(SafetensorsShards, AreChecked) {
  EXPECT_EQ(open_error(), "no error");
  const auto map = [&](const std::string& a, const std::string& b, const std::string& c) {
    return fmt::format(R"({{"a":"{}","b":"{}","c":"{}"}})", a, b, c);
  };
  EXPECT_EQ(error_with_index(map(kFirst, kSecond, kFirst)), "no error");
  EXPECT_NE(error_with_index(map(kSecond, kSecond, kFirst)).find("'a' is not in 'model-00002"),
            std::string::npos);
  EXPECT_NE(error_with_index(fmt::format(R"({{"a":"{}","b":"{}"}})", kFirst, kSecond))
                .find("'c' in 'model-00001-of-00002.safetensors' is not in the index"),
            std::string::npos);
  EXPECT_NE(error_with_index(map(kFirst, "model-00003-of-00002.safetensors", kFirst)).find("is missing"),
            std::string::npos);
  for (const char* name : {"../x.safetensors", "/etc/passwd", "config.json", "", "a/b.safetensors"}) {
    EXPECT_NE(error_with_index(map(kFirst, name, kFirst)).find("is not the name of a"), std::string::npos)
        << name;
  }
  for (const char* bad : {"3", "[]", "{\"a\":3}", "null", "{\"a\":\"x\",\"a\":\"y\"}"}) {
    EXPECT_NE(error_with_index(bad), "no error") << bad;
  }
}

TEST_F(SafetensorsShards, ANameInTwoShardsIsRefused) {
  write_safetensors(folder_ / kSecond,
                    std::vector<NamedTensor>{{"a", ramp_tensor<float>({2})}, {"b", ramp_tensor<float>({2})}});
  EXPECT_NE(open_error().find("'a' is in both"), std::string::npos);
}

TEST_F(SafetensorsShards, LinksOutOfTheFolderAreRefused) {
  const test::ScratchFolder outside;
  fs::rename(folder_ / kFirst, outside / "x.safetensors");
  fs::create_symlink(outside / "x.safetensors", folder_ / kFirst);
  EXPECT_NE(open_error().find("link out of the folder"), std::string::npos);
  fs::remove(folder_ / kFirst);
  EXPECT_NE(open_error().find(std::string("'") + kFirst + "' is missing"), std::string::npos);
  fs::remove(folder_ / "model.safetensors.index.json");
  EXPECT_NE(open_error().find("holds neither"), std::string::npos);
}

// The layout of the hub client's cache: snapshots/REVISION/FILE is a link to ../../blobs/HASH.
TEST_F(SafetensorsShards, LinksOfTheHubCacheAreFollowed) {
  const test::ScratchFolder cache;
  const fs::path snapshot = cache / "snapshots/abc";
  fs::create_directories(snapshot);
  fs::create_directories(cache / "blobs");
  for (const auto& entry : fs::directory_iterator(folder_.path())) {
    const std::string name = entry.path().filename().string();
    fs::rename(entry.path(), cache / ("blobs/" + name + "hash"));
    fs::create_symlink("../../blobs/" + name + "hash", snapshot / name);
  }
  EXPECT_FALSE(SafetensorsFolder(snapshot).names().empty());
  const fs::path elsewhere = cache / "elsewhere";
  fs::rename(cache / "blobs", elsewhere);
  fs::create_directories(cache / "blobs");
  for (const auto& entry : fs::directory_iterator(elsewhere))  // a link onward, out of blobs
    fs::create_symlink(entry.path(), cache / "blobs" / entry.path().filename());
  EXPECT_NE(test::error_of([&] { SafetensorsFolder folder(snapshot); }).find("link out of the folder"),
            std::string::npos);
}

TEST_F(SafetensorsShards, OtherFormatsAreNamed) {
  const test::ScratchFolder other;
  write_file_atomically(other / "model-Q4_K.gguf", "GGUF");
  EXPECT_NE(test::error_of([&] { SafetensorsFolder folder(other.path()); }).find("GGUF weights"),
            std::string::npos);
}

}  // namespace
}  // namespace moray
