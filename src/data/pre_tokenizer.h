// The pre-tokenizer: a sequence of splits by regular expressions, each applied to every piece of the one
// before. Merges of the byte-pair encoding never cross a piece's boundary.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/utf8.h"
#include "data/regex.h"

namespace moray {

// What becomes of the matches of a split (Hugging Face's `behavior`).
enum class SplitBehavior { isolated, removed, merged_with_previous, merged_with_next, contiguous };

struct PreTokenizerSplit {
  std::string pattern;
  Regex::Syntax syntax = Regex::Syntax::pattern;
  SplitBehavior behavior = SplitBehavior::isolated;
  bool invert = false;  // what lies between the matches counts as matched instead

  bool operator==(const PreTokenizerSplit&) const = default;
};

// The three splits of the V3 tokenizer: digits by up to three; CJK; words, punctuation with its line breaks,
// space.
std::vector<PreTokenizerSplit> deepseek_v3_splits();

// The splits of DeepSeek-LLM, which V2 and V2-Lite share, and those of DeepSeek-Coder.
std::vector<PreTokenizerSplit> deepseek_llm_splits();
std::vector<PreTokenizerSplit> deepseek_coder_splits();

// The single split of Moonlight and Kimi-K2: Chinese characters apart, words with their case and
// contractions.
PreTokenizerSplit kimi_split();

// GPT-2's single split (Hugging Face's ByteLevel with use_regex).
PreTokenizerSplit gpt2_split();

class PreTokenizer {
 public:
  explicit PreTokenizer(std::vector<PreTokenizerSplit> splits);

  // Calls emit(std::string_view) for the pieces in order. Each byte that is no part of valid UTF-8 is a piece
  // of its own, so that any bytes can be encoded.
  template <class Emit>
  void split(std::string_view text, Matcher& matcher, Emit&& emit) const {
    while (!text.empty()) {
      const size_t valid = valid_utf8_prefix(text);
      if (valid > 0) split_level(0, text.substr(0, valid), matcher, emit);
      if (valid < text.size()) emit(text.substr(valid, 1));
      text.remove_prefix(valid < text.size() ? valid + 1 : valid);
    }
  }

 private:
  struct Level {
    PreTokenizerSplit split;
    Regex regex;
  };

  template <class Emit>
  void split_level(size_t index, std::string_view text, Matcher& matcher, Emit& emit) const {
    if (text.empty()) return;
    if (index == levels_.size()) return emit(text);
    const Level& level = levels_[index];
    if (level.split.behavior != SplitBehavior::isolated) {
      for (std::string_view piece : merged_pieces(level, text, matcher))
        split_level(index + 1, piece, matcher, emit);
      return;
    }
    size_t done = 0, search = 0, begin = 0, end = 0;
    while (search < text.size() && matcher.find(level.regex, text, search, begin, end)) {
      search = end > begin ? end : next_character(text, end + 1);
      if (begin > done) split_level(index + 1, text.substr(done, begin - done), matcher, emit);
      if (end > begin) split_level(index + 1, text.substr(begin, end - begin), matcher, emit);
      done = end;
    }
    split_level(index + 1, text.substr(done), matcher, emit);
  }

  static std::vector<std::string_view> merged_pieces(const Level& level, std::string_view text,
                                                     Matcher& matcher);

  std::vector<Level> levels_;
};

}  // namespace moray
