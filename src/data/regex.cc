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

// PCRE2's own default, which stops patterns that backtrack without end; and room for runs as long as the
// text.
constexpr size_t kMatchLimit = 10'000'000, kMatchLimitPerByte = 16;

// Unicode's White_Space as the inside of a character class.
constexpr std::string_view kWhiteSpace = "\\x09-\\x0d\\x{85}\\p{Z}";

// Spells \s (anywhere) and \S (outside classes) out.
std::string spell_out_white_space(std::string_view pattern) {
  std::string result;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char escaped = pattern[++i];
      if (escaped == 's') {
        result += in_class ? std::string(kWhiteSpace) : fmt::format("[{}]", kWhiteSpace);
      } else if (escaped == 'S' && !in_class) {
        result += fmt::format("[^{}]", kWhiteSpace);
      } else {
        result += {c, escaped};
      }
      continue;
    }
    if (c == '[' && !in_class) {
      in_class = true;
      result += c;
      if (i + 1 < pattern.size() && pattern[i + 1] == '^') result += pattern[++i];
      if (i + 1 < pattern.size() && pattern[i + 1] == ']') result += pattern[++i];  // a literal bracket
      continue;
    }
    if (c == ']') in_class = false;
    result += c;
  }
  return result;
}
}  // namespace

Regex::Regex(std::string_view pattern, Syntax syntax) : pattern_(pattern) {
  const std::string spelled = syntax == Syntax::literal ? pattern_ : spell_out_white_space(pattern);
  const uint32_t options = syntax == Syntax::literal ? PCRE2_UTF | PCRE2_LITERAL : PCRE2_UTF | PCRE2_UCP;
  int error = 0;
  size_t position = 0;
  pcre2_code_8* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(spelled.data()), spelled.size(), options,
                                     &error, &position, nullptr);
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

bool Matcher::find(const Regex& regex, std::string_view subject, size_t begin, size_t& match_begin,
                   size_t& match_end) {
  const auto* text = reinterpret_cast<PCRE2_SPTR>(subject.data());
  const size_t limit = kMatchLimit + std::min(subject.size(), size_t{UINT32_MAX} / 32) * kMatchLimitPerByte;
  pcre2_set_match_limit(context_.get(), static_cast<uint32_t>(limit));
  const int result =
      regex.compiled_to_machine_code_
          ? pcre2_jit_match(regex.code_.get(), text, subject.size(), begin, 0, data_.get(), context_.get())
          : pcre2_match(regex.code_.get(), text, subject.size(), begin, PCRE2_NO_UTF_CHECK, data_.get(),
                        context_.get());
  if (result == PCRE2_ERROR_NOMATCH) return false;
  if (result < 0) fail("regular expression '{}': search gave up (PCRE2 error {})", regex.pattern_, result);
  const size_t* bounds = pcre2_get_ovector_pointer(data_.get());
  match_begin = bounds[0];
  match_end = bounds[1];
  return true;
}

}  // namespace moray
