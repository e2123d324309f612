// The commands that read a model: generate, chat, eval, inspect, verify, quantize, pull: options and
// examples.
#include "apps/chat_command.h"
#include "apps/command_line.h"
#include "apps/eval_command.h"
#include "apps/generate_command.h"
#include "apps/input.h"
#include "apps/inspect_command.h"
#include "apps/pull_command.h"
#include "apps/quantize_command.h"
#include "apps/verify_command.h"

namespace moray {

namespace {

void add_model_options(CLI::App* command, std::string& model, std::string& weights) {
  command->add_option("--model", model, "model folder, checkpoint or run")->required();
  command->add_option("--weights", weights, "model, or ema: the moving average of a checkpoint")
      ->capture_default_str();
}

void add_serving_options(CLI::App* command, ServingOptions& serving) {
  add_model_options(command, serving.model, serving.weights);
  command
      ->add_option("--cache", serving.cache,
                   "the latent cache: bf16, fp8, f32, or auto: f32 where all weights are, else bf16")
      ->capture_default_str();
  command
      ->add_option("--context", serving.context_tokens,
                   "most tokens of a sequence (default: the model's positions)")
      ->check(at_least_one());
  command
      ->add_option("--chunk", serving.chunk_tokens,
                   "prompt tokens computed at once; results do not depend on it")
      ->capture_default_str()
      ->check(at_least_one());
  command->add_flag(
      "--packed", serving.packed,
      "keep the weights as they are served in a file in the model folder (or the user's cache), "
      "from which later starts take less time");
  add_threads(command, serving.threads);
}

void add_sampling_options(CLI::App* command, SamplingOptions& sampling) {
  command->add_option("--temperature", sampling.temperature, "0: always the likeliest")
      ->capture_default_str();
  command->add_option("--top-p", sampling.top_p, "draw from the likeliest tokens that reach this probability")
      ->capture_default_str();
  command->add_option("--top-k", sampling.top_k, "draw from that many likeliest tokens; 0: from all")
      ->capture_default_str();
  command
      ->add_option("--min-p", sampling.min_p, "and from those at least this much as likely as the likeliest")
      ->capture_default_str();
  command->add_option("--repetition-penalty", sampling.repetition_penalty, "on tokens of prompt and answer")
      ->capture_default_str();
  command->add_option("--presence-penalty", sampling.presence_penalty, "on tokens of the answer")
      ->capture_default_str();
  command->add_option("--frequency-penalty", sampling.frequency_penalty, "on tokens of the answer, each time")
      ->capture_default_str();
  command->add_option("--seed", sampling.seed, "of the draws")->capture_default_str();
}

void add_answer_options(CLI::App* command, AnswerOptions& answer) {
  command->add_option("--max-tokens", answer.max_tokens, "most tokens to generate")
      ->capture_default_str()
      ->check(at_least_one());
  add_sampling_options(command, answer.sampling);
  one_each(command->add_option("--logit-bias", answer.logit_bias,
                               "TOKEN=BIAS, added to its logit; may be repeated"));
  one_each(command->add_option("--stop", answer.stop, "a string that ends the text; may be repeated"));
  one_each(command->add_option("--stop-token", answer.stop_tokens,
                               "the id of a token that ends it; may be repeated"));
}

}  // namespace

void add_generate(CLI::App& app, Action& action) {
  auto* generate = add_command(app, "generate", "continue a text, or fill in a middle",
                               "  moray generate --model runs/tiny --prompt 'def read(path):'\n"
                               "  moray generate --model DeepSeek-V2-Lite/ --prompt 'Once' --max-tokens 50\n"
                               "  moray generate --model DeepSeek-V2-Lite/ --prompt-file book.txt\n"
                               "  moray generate --model runs/tiny --prefix 'def add(a, b):' --suffix '    "
                               "return c' --temperature 0\n");
  auto options = std::make_shared<GenerateCommandOptions>();
  add_serving_options(generate, options->serving);
  auto* prompt = generate->add_option("--prompt", options->prompt, "text to continue");
  auto* file = generate
                   ->add_option("--prompt-file", options->prompt_file,
                                "a file whose text is continued; -: standard input")
                   ->excludes(prompt);
  auto* prefix = generate->add_option("--prefix", options->prefix, "text before the middle")
                     ->excludes(prompt)
                     ->excludes(file);
  auto* suffix = generate->add_option("--suffix", options->suffix, "text after the middle")
                     ->excludes(prompt)
                     ->excludes(file);
  add_answer_options(generate, options->answer);
  generate->add_flag("--ignore-end", options->ignore_end, "go on after end-of-sentence");
  generate
      ->add_option("--logprobs", options->logprobs,
                   "with --json: each generated token's log probability and that many likeliest ones")
      ->check(CLI::NonNegativeNumber);
  generate->add_flag("--prompt-logprobs", options->prompt_logprobs,
                     "with --json: the log probability of each token of the prompt");
  add_json(generate, options->json);
  generate->callback([=, &action] {
    options->fill_in = prefix->count() > 0 || suffix->count() > 0;
    action = [=] {
      if (file->count() > 0) options->prompt = read_text(options->prompt_file);
      return run_generate(*options);
    };
  });
}

void add_chat(CLI::App& app, Action& action) {
  auto* chat =
      add_command(app, "chat", "a conversation with a model",
                  "  moray chat --model DeepSeek-V2-Lite-Chat/\n"
                  "  moray chat --model DeepSeek-V3.1/ --thinking on --context 8192\n"
                  "  moray chat --model Moonlight-16B-A3B-Instruct/ --message 'Who are you?' --json\n");
  auto options = std::make_shared<ChatOptions>();
  add_serving_options(chat, options->serving);
  chat->add_option("--system", options->system, "system message");
  auto* message = chat->add_option("--message", options->message, "answer this message and end");
  auto* file = chat->add_option("--message-file", options->message_file,
                                "the same with the text of a file; -: standard input")
                   ->excludes(message);
  chat->add_option("--chat-template", options->chat_template,
                   "v2, v3, r1, v3.1, moonlight or kimi-k2 (default: the model's own)");
  chat->add_option("--thinking", options->thinking, "whether answers are to begin with reasoning")
      ->check(CLI::IsMember({"on", "off"}));
  add_answer_options(chat, options->answer);
  add_json(chat, options->json);
  chat->callback([=, &action] {
    action = [=] {
      if (file->count() > 0) options->message = read_text(options->message_file);
      return run_chat(*options);
    };
  });
}

void add_eval(CLI::App& app, Action& action) {
  auto* eval = add_command(app, "eval", "loss, perplexity and bits per byte",
                           "  moray eval --model runs/tiny --data dataset\n"
                           "  moray eval --model runs/tiny --text README.md --json\n"
                           "  moray eval --model tiny-4bit --against runs/tiny --text README.md\n");
  auto options = std::make_shared<EvalOptions>();
  add_serving_options(eval, options->serving);
  auto* data = eval->add_option("--data", options->data, "dataset folder: its held-out documents");
  eval->add_option("--text", options->text, "a text file")->excludes(data);
  eval->add_option("--sequence-length", options->sequence_length,
                   "window (default: the model's positions, at most 1024)")
      ->check(at_least_one());
  eval->add_option(
      "--against", options->against,
      "another folder of the same model, as before quantization: how far predictions are from its");
  add_json(eval, options->json);
  eval->callback([=, &action] { action = [=] { return run_eval(*options); }; });
}

void add_inspect(CLI::App& app, Action& action) {
  auto* inspect =
      add_command(app, "inspect",
                  "what a model, recipe, run, dataset or tokenizer holds; of models the memory to serve them",
                  "  moray inspect DeepSeek-V2-Lite-Chat/        # also a config.json alone\n"
                  "  moray inspect recipes/v3.toml --memory\n"
                  "  moray inspect runs/tiny --tensors\n"
                  "  moray inspect dataset --json\n");
  auto options = std::make_shared<InspectOptions>();
  inspect->add_option("path", options->path, "file or folder")->required();
  inspect->add_flag("--tensors", options->tensors, "list every tensor");
  inspect->add_flag("--memory", options->memory,
                    "of a recipe: bytes a token that each kind of layer keeps for its backward pass");
  add_json(inspect, options->json);
  inspect->callback([=, &action] { action = [=] { return run_inspect(*options); }; });
}

void add_verify(CLI::App& app, Action& action) {
  auto* verify =
      add_command(app, "verify", "hold a model folder against reference outputs of the same weights",
                  "  moray verify DeepSeek-V2-Lite/ --reference v2-lite.json\n"
                  "  moray verify Moonlight-16B-A3B/ --json     # with reference.json in the folder\n");
  auto options = std::make_shared<VerifyOptions>();
  verify->add_option("model", options->serving.model, "model folder, checkpoint or run")->required();
  verify->add_option("--reference", options->reference,
                     "file of scripts/write_reference.py (default: reference.json in the folder)");
  verify->add_option("--cache", options->serving.cache, "the latent cache: f32, bf16 or fp8")
      ->capture_default_str();
  add_threads(verify, options->serving.threads);
  add_json(verify, options->json);
  verify->callback([=, &action] { action = [=] { return run_verify(*options); }; });
}

void add_quantize(CLI::App& app, Action& action) {
  auto* quantize = add_command(
      app, "quantize", "make a folder of 8-bit or 4-bit weights; goes on where it was interrupted",
      "  moray quantize DeepSeek-V2-Lite-Chat/ DeepSeek-V2-Lite-Chat-4bit --format 4bit\n"
      "  moray quantize DeepSeek-V3.1/ /fast/DeepSeek-V3.1-8bit --format 8bit --text book.txt\n"
      "  moray eval --model DeepSeek-V2-Lite-Chat-4bit --against DeepSeek-V2-Lite-Chat/ --text book.txt\n");
  auto options = std::make_shared<QuantizeOptions>();
  quantize
      ->add_option("model", options->model,
                   "a model folder, checkpoint or run: F32, BF16 or block-FP8 weights")
      ->required();
  quantize->add_option("output", options->output, "the folder to make")->required();
  quantize->add_option("--format", options->format, "8bit (8.25 bits a weight) or 4bit (4.5)")
      ->check(CLI::IsMember({"8bit", "4bit"}))
      ->capture_default_str();
  quantize->add_option(
      "--text", options->text,
      "then measure on this file how far predictions are from the original's (as eval --against)");
  add_threads(quantize, options->threads);
  add_json(quantize, options->json);
  quantize->callback([=, &action] { action = [=] { return run_quantize(*options); }; });
}

void add_pull(CLI::App& app, Action& action) {
  auto* pull = add_command(
      app, "pull", "download a model folder from a hub; goes on where it was interrupted",
      "  moray pull deepseek-ai/DeepSeek-V2-Lite\n"
      "  moray pull deepseek-ai/DeepSeek-V3.1 --quantize 4bit --output /fast/V3.1-4bit\n"
      "  HF_TOKEN=hf_... moray pull ORG/GATED --revision v1.0 --output models/gated\n"
      "  HF_ENDPOINT=https://mirror.example moray pull moonshotai/Moonlight-16B-A3B --include README.md\n");
  auto options = std::make_shared<PullCommandOptions>();
  pull->add_option("repository", options->pull.repository, "ORG/NAME")->required();
  pull->add_option("--output", options->output, "the folder to make (default: NAME)");
  pull->add_option("--revision", options->pull.revision, "branch, tag or commit")->capture_default_str();
  pull->add_option("--quantize", options->quantize,
                   "make 8-bit or 4-bit weights of each file as it comes; the whole is never on disk")
      ->check(CLI::IsMember({"8bit", "4bit"}));
  pull->add_flag("--all", options->pull.all,
                 "every file (default: safetensors, config, tokenizer, chat template, license)");
  one_each(pull->add_option("--include", options->pull.include,
                            "further files, as a shell pattern; may be repeated"));
  pull->add_option("--connections", options->pull.connections, "files fetched at a time")
      ->capture_default_str();
  add_json(pull, options->json);
  pull->callback([=, &action] { action = [=] { return run_pull(*options); }; });
}

}  // namespace moray
