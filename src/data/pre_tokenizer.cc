#include "data/pre_tokenizer.h"

namespace moray {

std::vector<PreTokenizerSplit> deepseek_v3_splits() {
  return {
      {.pattern = R"(\p{N}{1,3})"},
      {.pattern = "[一-龥぀-ゟ゠-ヿ]+"},
      {.pattern = R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+)"
                  R"(| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}};
}

PreTokenizerSplit gpt2_split() {
  return {.pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"};
}

PreTokenizer::PreTokenizer(std::vector<PreTokenizerSplit> splits) {
  for (PreTokenizerSplit& split : splits) {
    Regex regex(split.pattern, split.syntax);
    levels_.push_back({std::move(split), std::move(regex)});
  }
}

std::vector<std::string_view> PreTokenizer::merged_pieces(const Level& level, std::string_view text,
                                                          Matcher& matcher) {
  struct Section {
    std::string_view text;
    bool matched;
  };
  std::vector<Section> sections;
  size_t done = 0, search = 0, begin = 0, end = 0;
  const bool invert = level.split.invert;
  while (search < text.size() && matcher.find(level.regex, text, search, begin, end)) {
    search = end > begin ? end : next_character(text, end + 1);
    if (begin > done) sections.push_back({text.substr(done, begin - done), invert});
    if (end > begin) sections.push_back({text.substr(begin, end - begin), !invert});
    done = end;
  }
  if (done < text.size()) sections.push_back({text.substr(done), invert});

  std::vector<std::string_view> pieces;
  const auto join = [&](std::string_view next) {  // sections are neighbours in one text
    pieces.back() = std::string_view(pieces.back().data(), pieces.back().size() + next.size());
  };
  bool previous_matched = false;
  for (size_t i = 0; i < sections.size(); ++i) {
    const auto& [section, matched] = sections[i];
    switch (level.split.behavior) {
      case SplitBehavior::isolated:
        pieces.push_back(section);
        break;
      case SplitBehavior::removed:
        if (!matched) pieces.push_back(section);
        break;
      case SplitBehavior::merged_with_previous:
        if (matched && !previous_matched && i > 0)
          join(section);
        else
          pieces.push_back(section);
        break;
      case SplitBehavior::merged_with_next:
        if (!matched && previous_matched)
          join(section);
        else
          pieces.push_back(section);
        break;
      case SplitBehavior::contiguous:
        if (i > 0 && matched == previous_matched)
          join(section);
        else
          pieces.push_back(section);
        break;
    }
    previous_matched = matched;
  }
  return pieces;
}

}  // namespace moray
