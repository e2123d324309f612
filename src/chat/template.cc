#include "chat/template.h"

#include "base/error.h"
#include "base/json.h"
#include "data/gguf_vocabulary.h"

namespace moray {

namespace {
constexpr std::string_view kToolCallsBegin = "<｜tool▁calls▁begin｜>", kToolCallsEnd = "<｜tool▁calls▁end｜>";
constexpr std::string_view kToolCallBegin = "<｜tool▁call▁begin｜>", kToolCallEnd = "<｜tool▁call▁end｜>";
constexpr std::string_view kToolSeparator = "<｜tool▁sep｜>";
constexpr std::string_view kResultsBegin = "<｜tool▁outputs▁begin｜>", kResultsEnd = "<｜tool▁outputs▁end｜>";
constexpr std::string_view kResultBegin = "<｜tool▁output▁begin｜>", kResultEnd = "<｜tool▁output▁end｜>";

class PromptWriter {
 public:
  PromptWriter& control(std::string_view token) {
    prompt_.pieces.push_back({std::string(token), true});
    return *this;
  }
  PromptWriter& text(std::string_view text) {
    if (text.empty()) return *this;
    if (prompt_.pieces.empty() || prompt_.pieces.back().control) prompt_.pieces.push_back({});
    prompt_.pieces.back().text += text;
    return *this;
  }
  void within_thinking() { prompt_.within_thinking = true; }
  ChatPrompt finish() { return std::move(prompt_); }

 private:
  ChatPrompt prompt_;
};

bool has(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

// System messages stand at the head, whatever their places.
std::string joined_system(const Conversation& conversation) {
  std::string text;
  bool first = true;
  for (const ChatMessage& message : conversation.messages) {
    if (message.role != Role::system) continue;
    if (!first) text += "\n\n";
    first = false;
    text += message.content;
  }
  return text;
}

ChatPrompt render_v2(const Conversation& conversation) {
  PromptWriter prompt;
  prompt.control(kBeginOfSentence);
  for (const ChatMessage& message : conversation.messages) {
    switch (message.role) {
      case Role::system:
        prompt.text(message.content).text("\n\n");
        break;
      case Role::user:
        prompt.text("User: ").text(message.content).text("\n\n");
        break;
      case Role::assistant:
        if (!message.tool_calls.empty()) fail("the chat template of DeepSeek-V2 has no tool calls");
        prompt.text("Assistant: ").text(message.content).control(kEndOfSentence);
        break;
      case Role::tool:
        fail("the chat template of DeepSeek-V2 has no results of tools");
    }
  }
  prompt.text("Assistant:");
  return prompt.finish();
}

// The declaration of tools that DeepSeek-V3.1's model card gives.
void declare_v31_tools(const nlohmann::json& tools, PromptWriter& prompt) {
  prompt.text("\n\n## Tools\nYou have access to the following tools:\n");
  for (const nlohmann::json& tool : tools) {
    if (!tool.is_object()) fail("tools: a tool is not an object");
    const nlohmann::json& function = json_object(tool, "function", "tools");
    const nlohmann::json* parameters = json_find(function, "parameters", "tools");
    prompt.text(fmt::format("\n### {}\nDescription: {}\n\nParameters: {}\n",
                            json_string(function, "name", "tools"),
                            json_string(function, "description", "tools", ""),
                            parameters == nullptr ? "{}" : python_json(*parameters)));
  }
  prompt.text("\nIMPORTANT: ALWAYS adhere to this exact format for tool use:\n")
      .control(kToolCallsBegin)
      .control(kToolCallBegin)
      .text("tool_call_name")
      .control(kToolSeparator)
      .text("tool_call_arguments")
      .control(kToolCallEnd)
      .text("{additional_tool_calls}")
      .control(kToolCallsEnd)
      .text(
          "\n\nWhere:\n- `tool_call_name` must be an exact match to one of the available tools\n- "
          "`tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema\n- "
          "For "
          "multiple tool calls, chain them directly without separators or spaces");
}

// V3, R1 and V3.1.
class DeepseekRenderer {
 public:
  DeepseekRenderer(const ChatTemplate& chat_template, Thinking thinking)
      : template_(chat_template),
        v31_(chat_template.family == ChatFamily::deepseek_v31),
        thinking_(thinking) {}

  ChatPrompt render(const Conversation& conversation) {
    prompt_.control(kBeginOfSentence).text(joined_system(conversation));
    if (!conversation.tools.is_null()) {
      if (!v31_)
        fail("the chat templates of DeepSeek-V3 and R1 declare no tools: describe them in a system message");
      declare_v31_tools(conversation.tools, prompt_);
    }
    for (const ChatMessage& message : conversation.messages) {
      if (message.role == Role::system) continue;
      if (message.role == Role::user) prompt_.control(kUser).text(message.content);
      if (message.role == Role::assistant) assistant(message);
      if (message.role == Role::tool) result(message);
      last_ = message.role;
    }
    end_results();
    if (last_ == Role::user) answer_begins();
    return prompt_.finish();
  }

 private:
  void assistant(const ChatMessage& message) {
    end_results();
    if (last_ == Role::user) {
      prompt_.control(kAssistant);
      if (v31_) prompt_.control(kThinkEnd);
    }
    prompt_.text(without_reasoning(message.content));
    for (size_t i = 0; i < message.tool_calls.size(); ++i) {
      const ToolCall& call = message.tool_calls[i];
      if (i == 0)
        prompt_.control(kToolCallsBegin);
      else if (!v31_)
        prompt_.text("\n");
      prompt_.control(kToolCallBegin);
      if (v31_)
        prompt_.text(call.name).control(kToolSeparator).text(call.arguments);
      else
        prompt_.text("function")
            .control(kToolSeparator)
            .text(call.name)
            .text("\n```json\n")
            .text(call.arguments)
            .text("\n```");
      prompt_.control(kToolCallEnd);
    }
    if (!message.tool_calls.empty()) prompt_.control(kToolCallsEnd);
    prompt_.control(kEndOfSentence);
  }

  std::string_view without_reasoning(std::string_view content) const {
    if (template_.family == ChatFamily::deepseek_v3) return content;
    const size_t end = v31_ ? content.find(kThinkEnd) : content.rfind(kThinkEnd);
    return end == std::string_view::npos ? content : content.substr(end + kThinkEnd.size());
  }

  void result(const ChatMessage& message) {
    if (!v31_) {
      if (last_ != Role::tool)
        prompt_.control(kResultsBegin);
      else
        prompt_.text(template_.result_separator);
    }
    prompt_.control(kResultBegin).text(message.content).control(kResultEnd);
  }

  void end_results() {
    if (last_ == Role::tool && !v31_) prompt_.control(kResultsEnd);
  }

  void answer_begins() {
    prompt_.control(kAssistant);
    if (v31_) prompt_.control(thinking_ == Thinking::on ? kThinkBegin : kThinkEnd);
    if (template_.opens_thinking) prompt_.control(kThinkBegin).text("\n");
    if (template_.opens_thinking || (v31_ && thinking_ == Thinking::on)) prompt_.within_thinking();
  }

  const ChatTemplate& template_;
  const bool v31_;
  const Thinking thinking_;
  PromptWriter prompt_;
  Role last_ = Role::system;
};

void kimi_message(const ChatTemplate& chat_template, const ChatMessage& message, size_t& calls,
                  PromptWriter& prompt) {
  const auto head = [&](std::string_view token, std::string_view role) {
    const bool named = chat_template.uses_names && !message.name.empty();
    prompt.control(token).text(named ? message.name : role).control("<|im_middle|>");
  };
  switch (message.role) {
    case Role::system:
      head("<|im_system|>", "system");
      break;
    case Role::user:
      head("<|im_user|>", "user");
      break;
    case Role::assistant:
      head("<|im_assistant|>", "assistant");
      break;
    case Role::tool:
      if (!chat_template.declares_tools) fail("the chat template of Moonlight has no results of tools");
      head("<|im_system|>", "tool");
      if (!chat_template.titles_results) break;
      if (message.tool_call_id.empty()) fail("a tool's result without tool_call_id");
      prompt.text("## Return of ").text(message.tool_call_id).text("\n");
  }
  prompt.text(message.content);
  if (!message.tool_calls.empty()) {
    if (!chat_template.declares_tools) fail("the chat template of Moonlight has no tool calls");
    prompt.control("<|tool_calls_section_begin|>");
    for (const ToolCall& call : message.tool_calls) {
      const std::string id = call.id.empty() ? fmt::format("functions.{}:{}", call.name, calls) : call.id;
      ++calls;
      prompt.control("<|tool_call_begin|>").text(id).control("<|tool_call_argument_begin|>");
      prompt.text(call.arguments).control("<|tool_call_end|>");
    }
    prompt.control("<|tool_calls_section_end|>");
  }
  prompt.control("<|im_end|>");
}

ChatPrompt render_kimi(const ChatTemplate& chat_template, const Conversation& conversation) {
  PromptWriter prompt;
  if (!conversation.tools.is_null()) {
    if (!chat_template.declares_tools)
      fail("the chat template of Moonlight declares no tools: describe them in a system message");
    prompt.control("<|im_system|>").text("tool_declare").control("<|im_middle|>");
    prompt.text(chat_template.compact_json ? python_json(conversation.tools, ",", ":")
                                           : python_json(conversation.tools));
    prompt.control("<|im_end|>");
  }
  size_t calls = 0;
  if (conversation.messages[0].role != Role::system)
    kimi_message(chat_template, {.role = Role::system, .content = chat_template.default_system}, calls,
                 prompt);
  for (const ChatMessage& message : conversation.messages)
    kimi_message(chat_template, message, calls, prompt);
  prompt.control("<|im_assistant|>").text("assistant").control("<|im_middle|>");
  return prompt.finish();
}

ChatTemplate recognise_kimi(std::string_view jinja, const std::string& source) {
  if (has(jinja, "<think>")) fail("{}: the chat template of Kimi-K2-Thinking is not supported", source);
  ChatTemplate result{.family = ChatFamily::kimi};
  constexpr std::string_view kSystem = "<|im_system|>system<|im_middle|>", kEnd = "<|im_end|>";
  if (const size_t system = jinja.find(kSystem); system != std::string_view::npos) {
    const std::string_view rest = jinja.substr(system + kSystem.size());
    const std::string_view text = rest.substr(0, rest.find(kEnd));
    if (text.size() == rest.size() || text.find_first_of("{}'\n") != std::string_view::npos)
      fail("{}: a Kimi chat template, but its default system message is not readable", source);
    result.default_system = text;
  }
  result.declares_tools = has(jinja, "tool_declare");
  result.compact_json = has(jinja, "separators=");
  result.titles_results = has(jinja, "## Return of");
  result.uses_names = has(jinja, "get('name')") || has(jinja, "role_name");
  return result;
}
}  // namespace

ChatTemplate chat_template_named(std::string_view name) {
  if (name == "v2") return {.family = ChatFamily::deepseek_v2};
  if (name == "v3") return {.family = ChatFamily::deepseek_v3};
  if (name == "r1") return {.family = ChatFamily::deepseek_r1, .opens_thinking = true};
  if (name == "v3.1") return {.family = ChatFamily::deepseek_v31};
  if (name == "moonlight") return {.family = ChatFamily::kimi};
  if (name == "kimi-k2")
    return {.family = ChatFamily::kimi,
            .default_system = "You are Kimi, an AI assistant created by Moonshot AI.",
            .declares_tools = true,
            .titles_results = true,
            .uses_names = true};
  fail("no chat template is named '{}': expected v2, v3, r1, v3.1, moonlight or kimi-k2", name);
}

ChatTemplate recognise_chat_template(std::string_view jinja, const std::string& source) {
  if (has(jinja, "<|im_middle|>")) return recognise_kimi(jinja, source);
  if (has(jinja, "｜DSML｜")) fail("{}: the chat template of DeepSeek-V3.2 is not supported", source);
  if (has(jinja, kUser) && has(jinja, kAssistant) && has(jinja, kResultBegin)) {
    if (!has(jinja, kResultsBegin)) return {.family = ChatFamily::deepseek_v31};
    const auto before_result = [&](std::string_view newline) {
      return has(jinja, std::string(newline).append(kResultBegin));
    };
    ChatTemplate result;
    if (!before_result("\\n") && !before_result("\n")) result.result_separator = "";
    if (has(jinja, kThinkEnd)) result.family = ChatFamily::deepseek_r1;
    result.opens_thinking = has(jinja, "<think>\\n") || has(jinja, "<think>\n");
    return result;
  }
  if (has(jinja, "'User: '") && has(jinja, "'Assistant:'")) return {.family = ChatFamily::deepseek_v2};
  fail(
      "{}: its chat template is of no family known here (DeepSeek V2, V3, R1, V3.1, Moonlight, Kimi-K2); "
      "choose "
      "one by name if the model was trained with it",
      source);
}

ChatTemplate read_chat_template(const fs::path& path) {
  const std::string source = path.string();
  if (path.extension() == ".gguf") {
    const auto jinja = read_gguf_chat_template(path);
    if (!jinja) fail("{}: no chat template (tokenizer.chat_template)", source);
    return recognise_chat_template(*jinja, source);
  }
  std::error_code error;
  const fs::path folder = fs::is_regular_file(path, error) ? path.parent_path() : path;
  const fs::path jinja = folder / "chat_template.jinja", config = folder / "tokenizer_config.json";
  if (fs::exists(jinja)) return recognise_chat_template(read_file(jinja), jinja.string());
  if (!fs::exists(config))
    fail(
        "{}: no chat template: neither chat_template.jinja nor tokenizer_config.json; --chat-template takes "
        "one by its name",
        source);
  const nlohmann::json json = parse_json(read_file(config), config.string());
  if (!json.is_object()) fail("{}: not a JSON object", config.string());
  const nlohmann::json* value = json_find(json, "chat_template", config.string());
  if (value == nullptr)
    fail("{}: no chat template (is this a base model?); --chat-template takes one by its name",
         config.string());
  if (value->is_array()) {  // several, by name
    for (const nlohmann::json& entry : *value)
      if (entry.is_object() && json_string(entry, "name", config.string()) == "default")
        return recognise_chat_template(json_string(entry, "template", config.string()), config.string());
    fail("{}: none of its chat templates is named 'default'", config.string());
  }
  return recognise_chat_template(json_string(json, "chat_template", config.string()), config.string());
}

std::string ChatPrompt::text() const {
  std::string joined;
  for (const Piece& piece : pieces) joined += piece.text;
  return joined;
}

std::vector<int32_t> ChatPrompt::encode(const Tokenizer& tokenizer) const {
  constexpr size_t kCacheEntries = 1024;  // a prompt is short
  Encoder encoder(tokenizer, kCacheEntries);
  std::vector<int32_t> ids;
  for (const Piece& piece : pieces) {
    if (piece.control)
      ids.push_back(tokenizer.required_id(piece.text));
    else
      encoder.encode(piece.text, SpecialTokens::ignore, ids);
  }
  return ids;
}

ChatPrompt render_chat(const ChatTemplate& chat_template, const Conversation& conversation,
                       Thinking thinking) {
  if (conversation.messages.empty()) fail("a conversation without messages");
  if (conversation.messages.back().role == Role::assistant)
    fail("the last message is the assistant's: there is nothing to answer");
  const bool always = chat_template.family == ChatFamily::deepseek_r1;
  if (always && thinking == Thinking::off) fail("the chat template of DeepSeek-R1 cannot turn thinking off");
  if (!always && chat_template.family != ChatFamily::deepseek_v31 && thinking == Thinking::on)
    fail("this model's chat template has no thinking");
  if (chat_template.family == ChatFamily::deepseek_v2) {
    if (!conversation.tools.is_null())
      fail("the chat template of DeepSeek-V2 declares no tools: describe them in a system message");
    return render_v2(conversation);
  }
  if (chat_template.family == ChatFamily::kimi) return render_kimi(chat_template, conversation);
  return DeepseekRenderer(chat_template, thinking).render(conversation);
}

}  // namespace moray
