// moray chat: a conversation at the terminal.
#pragma once

#include <optional>
#include <string>

#include "apps/serving.h"

namespace moray {

struct ChatOptions {
  ServingOptions serving;
  std::string system;                  // system message
  std::optional<std::string> message;  // answer this one and end; none: read messages line by line
  std::string message_file;            // read into `message`
  std::string chat_template;           // empty: the model's own
  std::string thinking;                // "on", "off", or empty: as the template has it
  AnswerOptions answer{.max_tokens = 4096, .sampling = {.temperature = 0.6, .top_p = 0.95}};
  bool json = false;  // with `message`
};
int run_chat(const ChatOptions&);

}  // namespace moray
