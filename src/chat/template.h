// Chat templates of the DeepSeek and Kimi families, written natively: what a conversation looks like as a
// prompt. A folder's Jinja template is only looked at to tell which family it is of, and which variant.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"
#include "chat/message.h"
#include "data/tokenizer.h"

namespace moray {

enum class ChatFamily {
  deepseek_v2,   // V2 and V2-Lite: "User: " and "Assistant:" as text
  deepseek_v3,   // V3, V3-0324
  deepseek_r1,   // R1, R1-0528
  deepseek_v31,  // V3.1: thinking on or off, tool calls without a fence
  kimi           // Moonlight, Kimi-K2
};

struct ChatTemplate {
  ChatFamily family = ChatFamily::deepseek_v3;
  // DeepSeek-R1: the prompt ends in "<think>\n" (R1-0528 leaves it to the model).
  bool opens_thinking = false;
  // DeepSeek-V3 and R1: what stands between two results of tools.
  std::string result_separator = "\n";
  // Kimi: the system message where the conversation has none; whether tools can be declared and how their
  // JSON is written; whether results begin with "## Return of ID"; whether a message's name stands in place
  // of its role.
  std::string default_system = "You are a helpful assistant";
  bool declares_tools = false, compact_json = false, titles_results = false, uses_names = false;
};

// One of v2, v3, r1, v3.1, moonlight, kimi-k2 (its latest template). Throws Error for other names.
ChatTemplate chat_template_named(std::string_view name);

// The family and variant of a Jinja template. Throws Error naming `source` when it is none of those above.
ChatTemplate recognise_chat_template(std::string_view jinja, const std::string& source);

// That of a model's folder, or of the folder of one of its files (chat_template.jinja,
// tokenizer_config.json); of a GGUF file its own.
ChatTemplate read_chat_template(const fs::path& path);

enum class Thinking { by_default, on, off };

// A prompt in pieces: control tokens, and text between them that never becomes control tokens whatever it
// says.
struct ChatPrompt {
  struct Piece {
    std::string text;
    bool control = false;  // one token of the vocabulary
  };
  std::vector<Piece> pieces;     // no two texts in a row
  bool within_thinking = false;  // the answer begins inside the reasoning

  std::string text() const;
  // Throws Error when the tokenizer lacks a control token.
  std::vector<int32_t> encode(const Tokenizer& tokenizer) const;
};

// The prompt for the assistant's next message. Earlier answers lose everything up to "</think>" (R1, V3.1).
// Throws Error for what the template has no form for: tools or tool results, thinking on or off, a last
// message by the assistant. In the first V3 and R1 templates some markers of tool calls were missing; the
// authors' later form is written for them too.
ChatPrompt render_chat(const ChatTemplate& chat_template, const Conversation& conversation,
                       Thinking thinking = Thinking::by_default);

}  // namespace moray
