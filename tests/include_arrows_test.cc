// Who may include whom (docs/architecture.md): every #include of src/ and apps/ is held against the arrows.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "base/files.h"

namespace moray {
namespace {

// What a folder sees besides itself. apps see everything but the insides of the backends.
const std::map<std::string, std::set<std::string>> kSees = {
    {"base", {}},
    {"report", {"base"}},
    {"hub", {"base"}},
    {"data", {"base"}},
    {"chat", {"base", "data"}},
    {"parallel", {"base"}},
    {"plan", {"base", "parallel", "report", "data"}},
    {"tensor", {"base"}},
    {"checkpoint", {"base", "tensor"}},
    {"runtime", {"base", "tensor"}},
    {"ops", {"base", "tensor", "runtime"}},
    {"backend", {"base", "tensor", "runtime", "ops"}},
    {"nn", {"base", "tensor", "runtime", "ops"}},
    {"models", {"base", "tensor", "runtime", "ops", "nn"}},
    {"train", {"base", "tensor", "runtime", "ops", "nn", "models", "data", "checkpoint", "report"}},
    {"serve", {"base", "tensor", "runtime", "ops", "nn", "models", "data", "checkpoint"}},
    {"numerics",
     {"base", "tensor", "runtime", "ops", "nn", "models", "data", "checkpoint", "report", "train"}},
    {"apps",
     {"base", "tensor", "runtime", "ops", "nn", "models", "data", "chat", "checkpoint", "report", "train",
      "serve", "parallel", "plan", "numerics", "hub", "backend"}},
};

std::string first_folder(const std::string& path) {
  return path.substr(0, path.find('/'));
}

bool starts_with(const std::string& text, const char* prefix) {
  return text.rfind(prefix, 0) == 0;
}

// Why `file` ("nn/mla.cc", "apps/moray.cc") may not include `included` ("ops/rope.h"), or "" if it may.
std::string objection(const std::string& file, const std::string& included) {
  const std::string from = first_folder(file), to = first_folder(included);
  const bool is_test = file.ends_with("_test.cc");
  if (to == "hwy") return starts_with(file, "backend/cpu/") ? "" : "only backend/cpu sees Highway";
  if (to == "tests") return is_test ? "" : "only tests see tests";
  if (to == "bench") return from == "apps" ? "" : "only programs measure";
  if (kSees.count(to) == 0) return "includes are written as paths from src/";
  if (to == "backend" && from != "backend") {
    // Tests compare instruction sets, which cpu/register.h lets them choose.
    if (is_test && included == "backend/cpu/register.h") return "";
    if (std::count(included.begin(), included.end(), '/') > 1) return "the insides of a backend are its own";
    return from == "apps" || is_test ? "" : "only programs know of backends";
  }
  if (from == "plan" && included == "models/deepseek/config.h") return "";  // shapes, no tensors
  if (is_test && from == to) return "";
  const auto backend_part = [](const std::string& path) { return std::filesystem::path(path).parent_path(); };
  if (from == "backend" && to == "backend" && !is_test && backend_part(file) != "backend" &&
      backend_part(file) != backend_part(included))
    return "backends do not see each other";
  if (kSees.count(from) == 0) return "a folder without arrows: say in kSees what it sees";
  if (from == to || kSees.at(from).count(to) > 0) return "";
  return from + " does not see " + to;
}

// "file:line: #include "x": why" for each include against the arrows.
std::vector<std::string> objections(const std::string& file, const std::string& text) {
  static const std::regex kInclude(R"(^\s*#\s*include\s*(?:"([^"]+)\"|<(hwy/[^>]+)>).*)");
  std::vector<std::string> found;
  std::istringstream lines(text);
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    std::smatch match;
    if (!std::regex_match(line, match, kInclude)) continue;
    const std::string included = match[1].matched ? match[1] : match[2];
    if (const std::string why = objection(file, included); !why.empty())
      found.push_back(fmt::format("{}:{}: #include \"{}\": {}", file, number, included, why));
  }
  return found;
}

TEST(IncludeArrows, HoldEverywhere) {
  namespace fs = std::filesystem;
  const fs::path root = MORAY_SOURCE_DIR;
  int files = 0;
  for (const char* folder : {"src", "apps"})
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root / folder)) {
      const std::string extension = entry.path().extension();
      if (extension != ".h" && extension != ".cc") continue;
      ++files;
      const fs::path base = std::string(folder) == "src" ? root / "src" : root;
      for (const std::string& why : objections(fs::relative(entry.path(), base), read_file(entry.path())))
        ADD_FAILURE() << why;
    }
  EXPECT_GT(files, 50);
}

TEST(IncludeArrows, FindsAPlantedInclude) {
  const std::string text = "#pragma once\n\n#include \"base/error.h\"\n  #  include \"train/trainer.h\"\n";
  ASSERT_EQ(objections("nn/linear.h", text).size(), 1u);
  EXPECT_EQ(objections("nn/linear.h", text)[0],
            "nn/linear.h:4: #include \"train/trainer.h\": nn does not see train");
  EXPECT_TRUE(objections("train/step.h", text).empty());
}

TEST(IncludeArrows, Rules) {
  const std::vector<std::pair<const char*, const char*>> allowed = {
      {"models/deepseek/model.cc", "nn/mla.h"},        {"backend/register.cc", "backend/cpu/register.h"},
      {"backend/cpu/matmul.cc", "ops/matmul.h"},       {"backend/cpu/matmul.cc", "hwy/highway.h"},
      {"apps/moray.cc", "backend/register.h"},         {"apps/bench_command.cc", "bench/peak.h"},
      {"apps/bench_command.cc", "backend/simd.h"},     {"train/bits_test.cc", "backend/cpu/register.h"},
      {"nn/mla_test.cc", "backend/register.h"},        {"nn/mla_test.cc", "tests/support/workbench.h"},
      {"plan/model.cc", "models/deepseek/config.h"},   {"plan/step.cc", "parallel/schedule.h"},
      {"checkpoint/safetensors.cc", "tensor/tensor.h"}};
  for (const auto& [file, included] : allowed)
    EXPECT_EQ(objection(file, included), "") << file << " " << included;
  const std::vector<std::pair<const char*, const char*>> forbidden = {
      {"base/error.h", "tensor/tensor.h"},
      {"data/corpus.cc", "tensor/tensor.h"},
      {"data/tokenizer.cc", "chat/message.h"},
      {"report/metrics.cc", "data/corpus.h"},
      {"parallel/schedule.cc", "tensor/tensor.h"},
      {"plan/model.cc", "models/deepseek/block.h"},
      {"plan/model.cc", "tensor/tensor.h"},
      {"checkpoint/safetensors.cc", "runtime/exec.h"},
      {"ops/matmul.cc", "backend/cpu/matmul.h"},
      {"nn/mla_test.cc", "models/deepseek/model.h"},
      {"train/trainer.cc", "backend/register.h"},
      {"train/trainer.cc", "backend/simd.h"},
      {"train/bits_test.cc", "backend/cpu/matmul.h"},
      {"train/trainer.cc", "bench/peak.h"},
      {"apps/moray.cc", "backend/cpu/register.h"},
      {"backend/cpu/matmul.cc", "nn/linear.h"},
      {"backend/cpu/matmul.cc", "backend/reference/sums.h"},
      {"nn/mla.cc", "hwy/highway.h"},
      {"nn/mla.cc", "tests/support/workbench.h"},
      {"nn/mla.cc", "linear.h"}};
  for (const auto& [file, included] : forbidden)
    EXPECT_NE(objection(file, included), "") << file << " " << included;
}

TEST(IncludeArrows, SeesHighwayInAngleBrackets) {
  EXPECT_EQ(objections("nn/mla.cc", "#include <hwy/highway.h>\n#include <vector>\n").size(), 1u);
}

}  // namespace
}  // namespace moray
