// Regular expressions over UTF-8 (PCRE2 with Unicode properties and JIT).
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

struct pcre2_real_code_8;
struct pcre2_real_match_data_8;
struct pcre2_real_match_context_8;
struct pcre2_real_jit_stack_8;

namespace moray {

// A compiled pattern: immutable, shared by threads.
class Regex {
 public:
  enum class Syntax { pattern, literal };

  // Throws Error naming the pattern and the position in it when it does not compile. Patterns mean what they
  // mean in Hugging Face tokenizers and tiktoken: `\s` and `\S` are Unicode's White_Space (PCRE2 adds
  // U+180E), `\p{Han}` is Script=Han, `[a&&[^b]]` an intersection, `$` the end of a line.
  explicit Regex(std::string_view pattern, Syntax syntax = Syntax::pattern);

 private:
  friend class Matcher;
  std::shared_ptr<pcre2_real_code_8> code_;
  std::string pattern_;
  bool compiled_to_machine_code_ = false;
};

// What one thread needs to search: the result of a match and the JIT's stack.
class Matcher {
 public:
  Matcher();

  // The first match in `subject` (valid UTF-8) at or after byte `begin`; false when there is none. Throws
  // Error when the pattern's search exceeds PCRE2's limits, or a word is of hundreds of megabytes.
  bool find(const Regex& regex, std::string_view subject, size_t begin, size_t& match_begin,
            size_t& match_end);

 private:
  int search(const Regex& regex, std::string_view subject, size_t begin);
  int search_with_more_stack(const Regex& regex, std::string_view subject, size_t begin);

  struct Free {
    void operator()(pcre2_real_match_data_8* data) const;
    void operator()(pcre2_real_match_context_8* context) const;
    void operator()(pcre2_real_jit_stack_8* stack) const;
  };
  std::unique_ptr<pcre2_real_jit_stack_8, Free> stack_;
  std::unique_ptr<pcre2_real_match_context_8, Free> context_;
  std::unique_ptr<pcre2_real_match_data_8, Free> data_;
};

}  // namespace moray
