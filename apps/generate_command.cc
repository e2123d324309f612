#include "apps/generate_command.h"

#include <fmt/format.h>

#include <charconv>
#include <nlohmann/json.hpp>
#include <utility>

#include "apps/interrupt.h"
#include "apps/output.h"
#include "base/utf8.h"
#include "serve/stop_strings.h"

namespace moray {

namespace {

void append(std::vector<int32_t>& ids, const std::vector<int32_t>& more) {
  ids.insert(ids.end(), more.begin(), more.end());
}

// FIM in PSM order (facts §2).
std::vector<int32_t> prompt_ids(const Serving& serving, const GenerateCommandOptions& options) {
  const Tokenizer& tokenizer = serving.tokenizer();
  std::vector<int32_t> ids = serving.prompt_start();
  if (!options.fill_in) {
    append(ids, tokenizer.encode(options.prompt));
    return ids;
  }
  ids.push_back(tokenizer.required_id(kFimBegin));
  append(ids, tokenizer.encode(options.prefix));
  ids.push_back(tokenizer.required_id(kFimHole));
  append(ids, tokenizer.encode(options.suffix));
  ids.push_back(tokenizer.required_id(kFimEnd));
  return ids;
}

nlohmann::ordered_json logprob_json(const Tokenizer& tokenizer, const TokenLogprob& of) {
  return {{"token", replace_invalid_utf8(tokenizer.token_bytes(of.token))},
          {"id", of.token},
          {"logprob", of.logprob}};
}

// The first token has none.
nlohmann::ordered_json prompt_logprobs_json(const Tokenizer& tokenizer, std::span<const int32_t> prompt,
                                            const Generation& generation) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (size_t i = 0; i < prompt.size(); ++i) {
    const double logprob = i > 0 ? static_cast<double>(generation.prompt_logprobs.at(i - 1)) : 0;
    list.push_back(logprob_json(tokenizer, {prompt[i], logprob}));
  }
  list[0]["logprob"] = nullptr;
  return list;
}

const char* finish_name(FinishReason reason) {
  return reason == FinishReason::length ? "length" : "stop";
}

}  // namespace

int run_generate(const GenerateCommandOptions& options) {
  if (!options.json && (options.logprobs >= 0 || options.prompt_logprobs))
    fail("generate: --logprobs and --prompt-logprobs go with --json");
  GenerateOptions generate_options{.sampling = sampling_of(options.answer),
                                   .max_tokens = options.answer.max_tokens,
                                   .end_tokens = options.answer.stop_tokens,
                                   .prompt_progress = prompt_progress_line(),
                                   .prompt_logprobs = options.prompt_logprobs,
                                   .top_logprobs = options.logprobs};
  StopStrings stops(options.answer.stop);
  std::vector<int32_t> prompt;
  Serving serving(options.serving, options.answer.max_tokens, [&](const Serving& unloaded) {
    expect_known_tokens(options.answer, generate_options.sampling, unloaded.tokenizer());
    prompt = prompt_ids(unloaded, options);
    expect_within_context(static_cast<int64_t>(prompt.size()), options.answer.max_tokens,
                          unloaded.context_tokens());
    return prompt.size();
  });
  const Tokenizer& tokenizer = serving.tokenizer();
  if (!options.ignore_end) append(generate_options.end_tokens, serving.end_tokens());
  generate_options.sampled_vocabulary = tokenizer.vocabulary_size();
  std::string text;
  nlohmann::ordered_json logprobs = nlohmann::ordered_json::array();
  Utf8Stream characters;  // a terminal never sees half of one
  const auto print = [&](std::string_view bytes) {
    if (!options.json) write_text(bytes);
  };
  bool echoed = false;  // not before the request has passed all checks
  const auto echo_once = [&] {
    if (!std::exchange(echoed, true)) print(options.fill_in ? options.prefix : options.prompt);
  };
  const auto show = [&](const std::string& bytes) {
    text += bytes;
    print(replace_invalid_utf8(characters.push(bytes)));
  };
  const InterruptGuard guard;
  const Generation generation =
      generate(serving.engine(), prompt, generate_options, [&](const GeneratedToken& token) {
        echo_once();
        show(stops.push(tokenizer.token_bytes(token.id)));
        if (options.logprobs >= 0) {
          logprobs.push_back(logprob_json(tokenizer, token.logprobs.chosen));
          for (const TokenLogprob& top : token.logprobs.top)
            logprobs.back()["top"].push_back(logprob_json(tokenizer, top));
        }
        return !stops.stopped() && !interrupted();
      });
  if (interrupted()) {
    print(replace_invalid_utf8(characters.finish()) + "\n");
    return kInterruptedStatus;
  }
  echo_once();
  show(stops.finish());
  if (options.json) {
    nlohmann::ordered_json json{{"prompt_tokens", prompt.size()},
                                {"completion_tokens", generation.tokens.size()}};
    json["text"] = replace_invalid_utf8(text);
    json["finish_reason"] = finish_name(generation.finish);
    json["prompt_seconds"] = generation.prompt_seconds;
    json["seconds"] = generation.seconds;
    if (options.prompt_logprobs)
      json["prompt_logprobs"] = prompt_logprobs_json(tokenizer, prompt, generation);
    if (options.logprobs >= 0) json["logprobs"] = logprobs;
    print_json(json);
    return 0;
  }
  print(replace_invalid_utf8(characters.finish()));
  print(options.fill_in ? options.suffix : "\n");
  return 0;
}

}  // namespace moray
