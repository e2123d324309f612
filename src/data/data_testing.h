// What the tests of this folder share.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "base/files.h"
#include "base/random.h"
#include "base/test_help.h"
#include "data/bpe_train.h"

namespace moray {

// A new folder, removed at the end, and files in it.
class TemporaryFolder : public test::ScratchFolder {
 public:
  fs::path write(const std::string& name, std::string_view content) const {
    const fs::path file = *this / name;
    fs::create_directories(file.parent_path());
    write_file_atomically(file, content);
    return file;
  }
};

inline void expect_error(const std::function<void()>& action, const std::string& part) {
  const std::string message = test::error_of(action);
  EXPECT_NE(message.find(part), std::string::npos) << "expected '" << part << "' in: '" << message << "'";
  EXPECT_EQ(message.find('\n'), std::string::npos) << "more than one line: " << message;
}

// Something like code: words, calls, line breaks after punctuation.
inline std::string sample_text(uint64_t seed, int lines) {
  constexpr const char* kWords[] = {"value", "index", "total", "merge", "shard",
                                    "count", "token", "größe", "数字"};
  Random random(seed, name_stream("sample text"));
  std::string text;
  for (int line = 0; line < lines; ++line) {
    const auto word = [&] { return std::string(kWords[random.below(std::size(kWords))]); };
    switch (random.below(4)) {
      case 0:
        text += "def " + word() + "(" + word() + "):\n";
        break;
      case 1:
        text += "    return " + word() + " + " + std::to_string(random.below(10000)) + ";\n";
        break;
      case 2:
        text += "# the " + word() + " of a " + word() + ".\n\n";
        break;
      default:
        text += "    " + word() + "." + word() + "(\"" + word() + "\")\n";
    }
  }
  return text;
}

inline NextDocument documents_of(std::vector<std::string> texts) {
  return [texts = std::move(texts), next = size_t{0}](std::string& document) mutable {
    if (next == texts.size()) return false;
    document = texts[next++];
    return true;
  };
}

inline Tokenizer sample_tokenizer(int64_t vocabulary_size = 400) {
  return train_bpe(documents_of({sample_text(1, 400)}), {.vocabulary_size = vocabulary_size});
}

inline std::string random_bytes(Random& random, size_t length) {
  std::string bytes(length, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random.below(256));
  return bytes;
}

}  // namespace moray
