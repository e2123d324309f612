#include "data/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cstdint>

#include "base/error.h"

namespace moray {

namespace {
// PCRE2 starts with 32 KB of stack; patterns with groups need more on long runs.
constexpr size_t kStackStartBytes = size_t{32} << 10;
constexpr size_t kStackLimitBytes = size_t{8} << 20;
// What groups remember of each letter of a run: a run of megabytes gets a stack of its own, of which only
// what is used takes memory.
constexpr size_t kStackBytesPerByte = 64, kMostStackBytes = size_t{1} << 30;

// PCRE2's own default, which stops patterns that backtrack without end; and room for runs as long as the
// text.
constexpr size_t kMatchLimit = 10'000'000, kMatchLimitPerByte = 16;

// Unicode's White_Space as the inside of a character class.
constexpr std::string_view kWhiteSpace = "\\x09-\\x0d\\x{85}\\p{Z}";

pcre2_code_8* compile(std::string_view pattern, uint32_t options, int& error, size_t& position) {
  return pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), options, &error,
                       &position, nullptr);
}

// Writes what tokenizers' patterns mean (Oniguruma, Rust's regex) in PCRE2's words: \s (anywhere) and \S
// (outside classes) are Unicode's White_Space, \p{Han} and other scripts are Script (PCRE2: its extensions),
// [a&&[^b]] is an intersection.
class Speller {
 public:
  explicit Speller(std::string_view pattern) : pattern_(pattern) {}

  std::string spell() {
    std::string result;
    while (at_ < pattern_.size()) {
      if (pattern_[at_] == '\\')
        result += escape(false);
      else if (pattern_[at_] == '[')
        result += character_class(0);
      else
        result += pattern_[at_++];
    }
    return result;
  }

 private:
  // A backslash and what belongs to it.
  std::string escape(bool in_class) {
    const char kind = at_ + 1 < pattern_.size() ? pattern_[at_ + 1] : '\0';
    if (kind == 's' || (kind == 'S' && !in_class)) {
      at_ += 2;
      if (in_class) return std::string(kWhiteSpace);
      return fmt::format("[{}{}]", kind == 'S' ? "^" : "", kWhiteSpace);
    }
    const size_t close = pattern_.substr(at_).find('}');
    if ((kind == 'p' || kind == 'P') && pattern_.substr(at_ + 2, 1) == "{" &&
        close != std::string_view::npos) {
      const std::string_view name = pattern_.substr(at_ + 3, close - 3);
      at_ += close + 1;
      const std::string script = fmt::format("\\{}{{sc:{}}}", kind, name);
      return is_script(name) ? script : fmt::format("\\{}{{{}}}", kind, name);
    }
    const std::string_view plain = pattern_.substr(at_, 2);
    at_ += plain.size();
    return std::string(plain);
  }

  static bool is_script(std::string_view name) {
    if (name.size() < 3) return false;  // general categories
    int error = 0;
    size_t position = 0;
    pcre2_code_8* code = compile(fmt::format("\\p{{sc:{}}}", name), PCRE2_UTF, error, position);
    pcre2_code_free(code);
    return code != nullptr;
  }

  // From '[' to its ']'. An intersection becomes a look-ahead for each operand before the first one's class.
  std::string character_class(int depth) {
    const std::string_view rest = pattern_.substr(at_);
    if (depth > 8) fail("regular expression '{}': classes nested too deeply", pattern_);
    std::string first(1, pattern_[at_++]), conditions;
    const bool negated = peek("^");
    if (negated) first += pattern_[at_++];
    if (peek("]")) first += pattern_[at_++];  // a literal bracket
    while (at_ < pattern_.size() && pattern_[at_] != ']') {
      if (pattern_[at_] == '\\') {
        first += escape(true);
      } else if (peek("[:")) {  // a POSIX class
        first += pattern_.substr(at_, 2);
        at_ += 2;
        while (at_ < pattern_.size() && !peek(":]")) first += pattern_[at_++];
        first += pattern_.substr(at_, 2);
        at_ = std::min(at_ + 2, pattern_.size());
      } else if (peek("&&[")) {
        at_ += 2;
        conditions += fmt::format("(?={})", character_class(depth + 1));
      } else if (peek("&&") || pattern_[at_] == '[') {
        fail("regular expression '{}': the class '{}' is not supported: only [a&&[b]]", pattern_,
             rest.substr(0, rest.find(']') + 1));
      } else {
        if (!conditions.empty())
          fail("regular expression '{}': a class goes on after its intersection", pattern_);
        first += pattern_[at_++];
      }
    }
    if (at_ < pattern_.size()) first += pattern_[at_++];
    if (conditions.empty()) return first;
    if (negated) fail("regular expression '{}': a negated intersection is not supported", pattern_);
    return fmt::format("(?:{}{})", conditions, first);
  }

  bool peek(std::string_view text) const { return pattern_.substr(at_, text.size()) == text; }

  std::string_view pattern_;
  size_t at_ = 0;
};
}  // namespace

Regex::Regex(std::string_view pattern, Syntax syntax) : pattern_(pattern) {
  const std::string spelled = syntax == Syntax::literal ? pattern_ : Speller(pattern).spell();
  // In Oniguruma's default syntax ^ and $ hold at every line.
  const uint32_t options =
      PCRE2_UTF | (syntax == Syntax::literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE);
  int error = 0;
  size_t position = 0;
  pcre2_code_8* code = compile(spelled, options, error, position);
  if (code == nullptr) {
    unsigned char message[256] = {};
    pcre2_get_error_message(error, message, sizeof message);
    fail("regular expression '{}': {} (at byte {})", pattern, reinterpret_cast<const char*>(message),
         position);
  }
  code_ = std::shared_ptr<pcre2_code_8>(code, pcre2_code_free_8);
  compiled_to_machine_code_ = pcre2_jit_compile(code, PCRE2_JIT_COMPLETE) == 0;
}

void Matcher::Free::operator()(pcre2_match_data_8* data) const {
  pcre2_match_data_free(data);
}
void Matcher::Free::operator()(pcre2_match_context_8* context) const {
  pcre2_match_context_free(context);
}
void Matcher::Free::operator()(pcre2_jit_stack_8* stack) const {
  pcre2_jit_stack_free(stack);
}

Matcher::Matcher()
    : stack_(pcre2_jit_stack_create(kStackStartBytes, kStackLimitBytes, nullptr)),
      context_(pcre2_match_context_create(nullptr)),
      data_(pcre2_match_data_create(1, nullptr)) {
  MORAY_CHECK(stack_ && context_ && data_, "out of memory");
  pcre2_jit_stack_assign(context_.get(), nullptr, stack_.get());
}

int Matcher::search(const Regex& regex, std::string_view subject, size_t begin) {
  const auto* text = reinterpret_cast<PCRE2_SPTR>(subject.data());
  return regex.compiled_to_machine_code_
             ? pcre2_jit_match(regex.code_.get(), text, subject.size(), begin, 0, data_.get(), context_.get())
             : pcre2_match(regex.code_.get(), text, subject.size(), begin, PCRE2_NO_UTF_CHECK, data_.get(),
                           context_.get());
}

int Matcher::search_with_more_stack(const Regex& regex, std::string_view subject, size_t begin) {
  const size_t rest = std::min(subject.size() - begin, kMostStackBytes / kStackBytesPerByte);
  const std::unique_ptr<pcre2_jit_stack_8, Free> stack(pcre2_jit_stack_create(
      kStackStartBytes, std::max(rest * kStackBytesPerByte, kStackLimitBytes), nullptr));
  if (!stack) return PCRE2_ERROR_JIT_STACKLIMIT;
  pcre2_jit_stack_assign(context_.get(), nullptr, stack.get());
  const int result = search(regex, subject, begin);
  pcre2_jit_stack_assign(context_.get(), nullptr, stack_.get());
  return result;
}

bool Matcher::find(const Regex& regex, std::string_view subject, size_t begin, size_t& match_begin,
                   size_t& match_end) {
  const size_t limit = kMatchLimit + std::min(subject.size(), size_t{UINT32_MAX} / 32) * kMatchLimitPerByte;
  pcre2_set_match_limit(context_.get(), static_cast<uint32_t>(limit));
  int result = search(regex, subject, begin);
  if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = search_with_more_stack(regex, subject, begin);
  if (result == PCRE2_ERROR_NOMATCH) return false;
  if (result == PCRE2_ERROR_JIT_STACKLIMIT)
    fail(
        "the text has a word too long to split, at byte {} of {}; break it by spaces or lines (regular "
        "expression '{}')",
        begin, subject.size(), regex.pattern_);
  if (result < 0)
    fail("regular expression '{}': search gave up at byte {} of {} (PCRE2 error {})", regex.pattern_, begin,
         subject.size(), result);
  const size_t* bounds = pcre2_get_ovector_pointer(data_.get());
  match_begin = bounds[0];
  match_end = bounds[1];
  return true;
}

}  // namespace moray
