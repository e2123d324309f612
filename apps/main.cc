// The command `moray`: its subcommands and their options. What each does is in its own file.
#include <CLI/CLI.hpp>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <iostream>

#include "apps/bench_command.h"
#include "apps/bench_serve_command.h"
#include "apps/chat_command.h"
#include "apps/data_command.h"
#include "apps/eval_command.h"
#include "apps/generate_command.h"
#include "apps/inspect_command.h"
#include "apps/numerics_command.h"
#include "apps/plan_calibrate_command.h"
#include "apps/plan_command.h"
#include "apps/plan_schedule_command.h"
#include "apps/plan_serve_command.h"
#include "apps/pull_command.h"
#include "apps/quantize_command.h"
#include "apps/report_command.h"
#include "apps/tokenizer_command.h"
#include "apps/train_command.h"
#include "apps/verify_command.h"
#include "base/error.h"

namespace {

using moray::Error;

// Runs once CLI11 has read the command line; its result is the exit status.
using Action = std::function<int()>;

// CLI::PositiveNumber prints the largest double there is.
CLI::Validator at_least_one() {
  return CLI::Validator(
      [](const std::string& value) {
        return value.starts_with('-') || value.find_first_not_of("0") == std::string::npos
                   ? value + " is less than 1"
                   : std::string();
      },
      "");
}

void add_threads(CLI::App* command, int& threads) {
  command->add_option("--threads", threads, "threads to use (default: MORAY_THREADS, else all cores)")
      ->check(at_least_one());
}

void add_json(CLI::App* command, bool& json) {
  command->add_flag("--json", json, "one JSON object on stdout; everything else goes to stderr");
}

CLI::App* add_command(CLI::App& parent, const std::string& name, const std::string& about,
                      const std::string& examples) {
  CLI::App* command = parent.add_subcommand(name, about);
  command->footer("Examples:\n" + examples);
  return command;
}

void add_corpora(CLI::App* command, std::vector<std::string>& corpora) {
  command
      ->add_option(
          "--corpus", corpora,
          "folder, .txt or .jsonl, also .gz or .zst; PATH, NAME=PATH or NAME=PATH:WEIGHT; may be repeated")
      ->required();
}

void add_held_out(CLI::App* command, moray::HeldOutOptions& held_out) {
  command->add_option("--held-out", held_out.fraction, "share of documents held out, chosen by content")
      ->capture_default_str();
  command->add_option("--seed", held_out.seed, "seed of the held-out choice, FIM and splits")
      ->capture_default_str();
}

void add_tokenizer_choice(CLI::App* command, moray::TokenizerChoice& choice) {
  auto* tokenizer = command->add_option(
      "--tokenizer", choice.tokenizer,
      "tokenizer.json, a .tiktoken, tiktoken.model or .gguf file, or the folder that holds one");
  command->add_option("--model", choice.model, "model folder, checkpoint, run, or .gguf file")
      ->excludes(tokenizer);
}

void add_tokenizer(CLI::App& app, Action& action) {
  CLI::App* tokenizer =
      app.add_subcommand("tokenizer", "train a byte-level BPE tokenizer, encode and decode");
  tokenizer->require_subcommand(1);

  auto* train = add_command(*tokenizer, "train", "learn a vocabulary from text",
                            "  moray tokenizer train --corpus src/ --vocab-size 8192 --output tokenizer/\n");
  auto train_options = std::make_shared<moray::TokenizerTrainOptions>();
  auto corpora = std::make_shared<std::vector<std::string>>();
  add_corpora(train, *corpora);
  train
      ->add_option("--vocab-size", train_options->vocabulary_size,
                   "tokens in all: bytes, merges and special ones")
      ->capture_default_str();
  train->add_option("--output", train_options->output, "folder for tokenizer.json")->required();
  train->add_option("--max-text-bytes", train_options->max_text_bytes, "text beyond this is not read")
      ->capture_default_str();
  add_held_out(train, train_options->held_out);
  add_json(train, train_options->json);
  train->callback([=, &action] {
    action = [=] {
      for (const std::string& corpus : *corpora)
        train_options->corpora.push_back(moray::parse_corpus(corpus));
      return moray::run_tokenizer_train(*train_options);
    };
  });

  auto* encode =
      add_command(*tokenizer, "encode", "text, or a conversation, to token ids",
                  "  moray tokenizer encode --tokenizer tokenizer/ --text 'def f(x):'\n"
                  "  moray tokenizer encode --model DeepSeek-V3/ --prompt < file.py\n"
                  "  moray tokenizer encode --model vocabulary.gguf --text hello\n"
                  "  moray tokenizer encode --model DeepSeek-V3.1/ --chat messages.json --thinking on\n"
                  "  echo '[{\"role\": \"user\", \"content\": \"Hi\"}]' | moray tokenizer encode --model "
                  "Kimi-K2/ --chat -\n");
  auto encode_options = std::make_shared<moray::TokenizerEncodeOptions>();
  add_tokenizer_choice(encode, encode_options->choice);
  auto* text = encode->add_option("--text", encode_options->text, "the text itself");
  encode->add_option("--input", encode_options->input, "a file (default: standard input)")->excludes(text);
  encode->add_flag("--special-tokens", encode_options->special_tokens,
                   "special tokens written in the text become those tokens");
  encode->add_flag("--prompt", encode_options->prompt,
                   "begin with the begin-of-sentence token, where this tokenizer's prompts do");
  encode->add_option(
      "--chat", encode_options->chat,
      "a JSON file (- for standard input) with a list of messages, or an object with messages and "
      "tools; prints the prompt for the next answer, then its ids");
  encode->add_option("--chat-template", encode_options->chat_template,
                     "v2, v3, r1, v3.1, moonlight or kimi-k2 (default: the model's own)");
  encode->add_option("--thinking", encode_options->thinking, "whether the answer is to begin with reasoning")
      ->check(CLI::IsMember({"on", "off"}));
  add_json(encode, encode_options->json);
  encode->callback([=, &action] { action = [=] { return moray::run_tokenizer_encode(*encode_options); }; });

  auto* decode =
      add_command(*tokenizer, "decode", "token ids to text",
                  "  moray tokenizer decode --tokenizer tokenizer/ 318 257\n"
                  "  moray tokenizer encode --model M --text hi | moray tokenizer decode --model M\n");
  auto decode_options = std::make_shared<moray::TokenizerDecodeOptions>();
  add_tokenizer_choice(decode, decode_options->choice);
  decode->add_option("ids", decode_options->ids, "token ids (default: from standard input)");
  decode->add_flag("--skip-special", decode_options->skip_special, "leave control tokens out");
  add_json(decode, decode_options->json);
  decode->callback([=, &action] { action = [=] { return moray::run_tokenizer_decode(*decode_options); }; });
}

void add_data(CLI::App& app, Action& action) {
  CLI::App* data = app.add_subcommand("data", "turn corpora into datasets");
  data->require_subcommand(1);
  auto* build = add_command(*data, "build",
                            "tokenize, remove duplicates, hold out, FIM, pack into memory-mapped shards",
                            "  moray data build --corpus src/ --tokenizer tokenizer/ --output dataset/\n"
                            "  moray data build --corpus code=src/:0.7 --corpus prose=books.jsonl.zst:0.3 "
                            "--tokenizer T --output D\n");
  auto options = std::make_shared<moray::DataBuildOptions>();
  auto corpora = std::make_shared<std::vector<std::string>>();
  add_corpora(build, *corpora);
  build->add_option("--tokenizer", options->tokenizer, "tokenizer.json or the folder that holds it")
      ->required();
  build->add_option("--output", options->output, "the dataset's folder")->required();
  add_held_out(build, options->build.held_out);
  build
      ->add_option("--fim-rate", options->build.documents.fim_rate,
                   "share of documents in fill-in-the-middle form")
      ->capture_default_str();
  build
      ->add_option("--newline-split-rate", options->build.documents.split_rate,
                   "share of joined punctuation-and-line-break tokens that are split")
      ->capture_default_str();
  build->add_flag("--replace", options->build.replace, "replace an existing dataset");
  add_threads(build, options->build.threads);
  add_json(build, options->json);
  build->callback([=, &action] {
    action = [=] {
      for (const std::string& corpus : *corpora)
        options->build.corpora.push_back(moray::parse_corpus(corpus));
      return moray::run_data_build(*options);
    };
  });
}

void add_train(CLI::App& app, Action& action) {
  auto* train = add_command(
      app, "train", "train a model as a recipe says",
      "  moray train recipes/tiny.toml --set data.dataset=dataset\n"
      "  moray train recipes/tiny.toml --resume\n"
      "  moray train recipes/small.toml --run runs/b --set train.seed=2 --set train.micro_batch=8\n");
  auto options = std::make_shared<moray::TrainOptions>();
  train->add_option("recipe", options->recipe, "RECIPE.toml")->required();
  train->add_option("--set", options->assignments,
                    "KEY=VALUE, overrides a key of the recipe; may be repeated");
  train->add_option("--run", options->run, "the run's folder (default: runs/RECIPE)");
  auto* resume_option =
      train
          ->add_option("--resume", options->resume_from,
                       "go on from the newest checkpoint of the run, or start if there is none")
          ->expected(0, 1)
          ->type_name("[auto]")
          ->check(CLI::IsMember({"auto"}));
  train->add_option("--init", options->init, "Hugging Face folder to take the first weights from");
  train->add_option(
      "--trace", options->trace,
      "file for a Chrome trace of a few steps (Perfetto opens it); prints a table of where the time went");
  train->add_option("--trace-steps", options->trace_steps, "steps to trace, after two of warm-up")
      ->capture_default_str()
      ->check(at_least_one());
  add_threads(train, options->threads);
  add_json(train, options->json);
  train->callback([=, &action] {
    options->resume = resume_option->count() > 0;
    action = [=] { return moray::run_train(*options); };
  });
}

void add_model_options(CLI::App* command, std::string& model, std::string& weights) {
  command->add_option("--model", model, "model folder, checkpoint or run")->required();
  command->add_option("--weights", weights, "model, or ema: the moving average of a checkpoint")
      ->capture_default_str();
}

void add_serving_options(CLI::App* command, moray::ServingOptions& serving) {
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
  command->add_flag("--packed", serving.packed,
                    "keep the weights as they are served in a file in the model folder (or the user's cache), "
                    "from which later starts take less time");
  add_threads(command, serving.threads);
}

void add_sampling_options(CLI::App* command, moray::SamplingOptions& sampling) {
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

void add_generate(CLI::App& app, Action& action) {
  auto* generate = add_command(app, "generate", "continue a text, or fill in a middle",
                               "  moray generate --model runs/tiny --prompt 'def read(path):'\n"
                               "  moray generate --model DeepSeek-V2-Lite/ --prompt 'Once' --max-tokens 50\n"
                               "  moray generate --model runs/tiny --prefix 'def add(a, b):' --suffix '    "
                               "return c' --temperature 0\n");
  auto options = std::make_shared<moray::GenerateCommandOptions>();
  add_serving_options(generate, options->serving);
  auto* prompt = generate->add_option("--prompt", options->prompt, "text to continue");
  auto* prefix =
      generate->add_option("--prefix", options->prefix, "text before the middle")->excludes(prompt);
  auto* suffix = generate->add_option("--suffix", options->suffix, "text after the middle")->excludes(prompt);
  generate->add_option("--max-tokens", options->max_tokens, "most tokens to generate")
      ->capture_default_str()
      ->check(at_least_one());
  add_sampling_options(generate, options->sampling);
  generate->add_option("--logit-bias", options->logit_bias,
                       "TOKEN=BIAS, added to its logit; may be repeated");
  generate->add_option("--stop", options->stop, "a string that ends the text; may be repeated");
  generate->add_flag("--ignore-end", options->ignore_end, "go on after end-of-sentence");
  generate
      ->add_option("--logprobs", options->logprobs,
                   "with --json: each token's log probability and that many likeliest ones")
      ->check(CLI::NonNegativeNumber);
  add_json(generate, options->json);
  generate->callback([=, &action] {
    options->fill_in = prefix->count() > 0 || suffix->count() > 0;
    action = [=] { return moray::run_generate(*options); };
  });
}

void add_chat(CLI::App& app, Action& action) {
  auto* chat =
      add_command(app, "chat", "a conversation with a model",
                  "  moray chat --model DeepSeek-V2-Lite-Chat/\n"
                  "  moray chat --model DeepSeek-V3.1/ --thinking on --context 8192\n"
                  "  moray chat --model Moonlight-16B-A3B-Instruct/ --message 'Who are you?' --json\n");
  auto options = std::make_shared<moray::ChatOptions>();
  add_serving_options(chat, options->serving);
  chat->add_option("--system", options->system, "system message");
  chat->add_option("--message", options->message, "answer this message and end");
  chat->add_option("--chat-template", options->chat_template,
                   "v2, v3, r1, v3.1, moonlight or kimi-k2 (default: the model's own)");
  chat->add_option("--thinking", options->thinking, "whether answers are to begin with reasoning")
      ->check(CLI::IsMember({"on", "off"}));
  chat->add_option("--max-tokens", options->max_tokens, "most tokens of an answer")
      ->capture_default_str()
      ->check(at_least_one());
  add_sampling_options(chat, options->sampling);
  add_json(chat, options->json);
  chat->callback([=, &action] { action = [=] { return moray::run_chat(*options); }; });
}

void add_eval(CLI::App& app, Action& action) {
  auto* eval = add_command(app, "eval", "loss, perplexity and bits per byte",
                           "  moray eval --model runs/tiny --data dataset\n"
                           "  moray eval --model runs/tiny --text README.md --json\n"
                           "  moray eval --model tiny-4bit --against runs/tiny --text README.md\n");
  auto options = std::make_shared<moray::EvalOptions>();
  add_serving_options(eval, options->serving);
  auto* data = eval->add_option("--data", options->data, "dataset folder: its held-out documents");
  eval->add_option("--text", options->text, "a text file")->excludes(data);
  eval->add_option("--sequence-length", options->sequence_length,
                   "window (default: the model's positions, at most 1024)")
      ->check(at_least_one());
  eval->add_option("--against", options->against,
                   "another folder of the same model, as before quantization: how far predictions are from its");
  add_json(eval, options->json);
  eval->callback([=, &action] { action = [=] { return moray::run_eval(*options); }; });
}

void add_inspect(CLI::App& app, Action& action) {
  auto* inspect =
      add_command(app, "inspect", "what a recipe, model, checkpoint, run, dataset or tokenizer holds",
                  "  moray inspect recipes/v3.toml\n  moray inspect runs/tiny --tensors\n  moray inspect "
                  "dataset --json\n");
  auto options = std::make_shared<moray::InspectOptions>();
  inspect->add_option("path", options->path, "file or folder")->required();
  inspect->add_flag("--tensors", options->tensors, "list every tensor");
  inspect->add_flag("--memory", options->memory,
                    "of a recipe: bytes a token that each kind of layer keeps for its backward pass");
  add_json(inspect, options->json);
  inspect->callback([=, &action] { action = [=] { return moray::run_inspect(*options); }; });
}

void add_verify(CLI::App& app, Action& action) {
  auto* verify = add_command(
      app, "verify", "hold a model folder against reference outputs of the same weights",
      "  moray verify DeepSeek-V2-Lite/ --reference v2-lite.json\n"
      "  moray verify Moonlight-16B-A3B/ --json     # with reference.json in the folder\n");
  auto options = std::make_shared<moray::VerifyOptions>();
  verify->add_option("model", options->serving.model, "model folder, checkpoint or run")->required();
  verify->add_option("--reference", options->reference,
                     "file of scripts/write_reference.py (default: reference.json in the folder)");
  verify->add_option("--cache", options->serving.cache, "the latent cache: f32, bf16 or fp8")->capture_default_str();
  add_threads(verify, options->serving.threads);
  add_json(verify, options->json);
  verify->callback([=, &action] { action = [=] { return moray::run_verify(*options); }; });
}

void add_quantize(CLI::App& app, Action& action) {
  auto* quantize = add_command(
      app, "quantize", "make a folder of 8-bit or 4-bit weights; goes on where it was interrupted",
      "  moray quantize DeepSeek-V2-Lite-Chat/ DeepSeek-V2-Lite-Chat-4bit --format 4bit\n"
      "  moray quantize DeepSeek-V3.1/ /fast/DeepSeek-V3.1-8bit --format 8bit\n"
      "  moray eval --model DeepSeek-V2-Lite-Chat-4bit --against DeepSeek-V2-Lite-Chat/ --text book.txt\n");
  auto options = std::make_shared<moray::QuantizeOptions>();
  quantize->add_option("model", options->model, "a model folder, checkpoint or run: F32, BF16 or block-FP8 weights")
      ->required();
  quantize->add_option("output", options->output, "the folder to make")->required();
  quantize->add_option("--format", options->format, "8bit (8.25 bits a weight) or 4bit (4.5)")
      ->check(CLI::IsMember({"8bit", "4bit"}))
      ->capture_default_str();
  add_threads(quantize, options->threads);
  add_json(quantize, options->json);
  quantize->callback([=, &action] { action = [=] { return moray::run_quantize(*options); }; });
}

void add_pull(CLI::App& app, Action& action) {
  auto* pull = add_command(
      app, "pull", "download a model folder from a hub; goes on where it was interrupted",
      "  moray pull deepseek-ai/DeepSeek-V2-Lite\n"
      "  moray pull deepseek-ai/DeepSeek-V3.1 --quantize 4bit --output /fast/V3.1-4bit\n"
      "  HF_TOKEN=hf_... moray pull ORG/GATED --revision v1.0 --output models/gated\n"
      "  HF_ENDPOINT=https://mirror.example moray pull moonshotai/Moonlight-16B-A3B --include README.md\n");
  auto options = std::make_shared<moray::PullCommandOptions>();
  pull->add_option("repository", options->pull.repository, "ORG/NAME")->required();
  pull->add_option("--output", options->output, "the folder to make (default: NAME)");
  pull->add_option("--revision", options->pull.revision, "branch, tag or commit")->capture_default_str();
  pull->add_option("--quantize", options->quantize,
                   "make 8-bit or 4-bit weights of each file as it comes; the whole is never on disk")
      ->check(CLI::IsMember({"8bit", "4bit"}));
  pull->add_flag("--all", options->pull.all,
                 "every file (default: safetensors, config, tokenizer, chat template, license)");
  pull->add_option("--include", options->pull.include, "further files, as a shell pattern; may be repeated");
  pull->add_option("--connections", options->pull.connections, "files fetched at a time")
      ->capture_default_str();
  add_json(pull, options->json);
  pull->callback([=, &action] { action = [=] { return moray::run_pull(*options); }; });
}

void add_report(CLI::App& app, Action& action) {
  auto* report =
      add_command(app, "report", "one HTML page of a run, or of several side by side",
                  "  moray report runs/tiny\n  moray report runs/a runs/b --output compare.html\n");
  auto options = std::make_shared<moray::ReportOptions>();
  report->add_option("runs", options->runs, "run folders")->required();
  report->add_option("--output", options->output, "the page (default: report.html in the only run's folder)");
  add_json(report, options->json);
  report->callback([=, &action] { action = [=] { return moray::run_report(*options); }; });
}

void add_bench_serve(CLI::App& bench, Action& action) {
  const auto add = [&](const char* name, const char* about, const std::string& examples,
                       int (*run)(const moray::BenchServeOptions&)) {
    auto* command = add_command(bench, name, about, examples);
    auto options = std::make_shared<moray::BenchServeOptions>();
    command->add_option("recipe", options->recipe, "RECIPE.toml, whose [model] is taken")->required();
    command->add_option("--set", options->assignments,
                        "KEY=VALUE, overrides a key of the recipe; may be repeated");
    command->add_option("--format", options->format, "of the weights: f32, bf16, fp8, 8bit or 4bit")
        ->capture_default_str();
    add_threads(command, options->threads);
    add_json(command, options->json);
    command->callback([=, &action] { action = [=] { return run(*options); }; });
    return std::pair{command, options};
  };
  const auto [decode, decode_options] =
      add("decode", "tokens one by one on random weights, against memory's read bandwidth",
          "  moray bench decode recipes/v2-lite.toml --set model.num_hidden_layers=7 --context 128 8192\n",
          moray::run_bench_decode);
  decode
      ->add_option("--context", decode_options->contexts,
                   "tokens before the first; several are measured in turn")
      ->check(at_least_one());
  decode->add_option("--tokens", decode_options->tokens, "to decode")
      ->capture_default_str()
      ->check(at_least_one());
  const auto [prefill, prefill_options] =
      add("prefill", "a prompt on random weights, against the multiply-add peak",
          "  moray bench prefill recipes/v2-lite.toml --set model.num_hidden_layers=7 --format fp8\n",
          moray::run_bench_prefill);
  prefill->add_option("--tokens", prefill_options->prompt_tokens, "of the prompt")
      ->capture_default_str()
      ->check(at_least_one());
}

void add_bench_folders(CLI::App& bench, Action& action) {
  auto* make = add_command(
      bench, "make-model", "write a model folder of random weights, of any shape",
      "  moray bench make-model recipes/v2-lite.toml /tmp/v2-lite-8bit --format 8bit --set model.num_hidden_layers=7\n"
      "  moray bench make-model DeepSeek-V3/config.json /fast/v3-4bit --format 4bit\n");
  auto options = std::make_shared<moray::BenchMakeModelOptions>();
  make->add_option("shape", options->shape, "RECIPE.toml, config.json or a model folder")->required();
  make->add_option("output", options->output, "the folder to make")->required();
  make->add_option("--set", options->assignments, "KEY=VALUE, overrides a key of the recipe; may be repeated");
  make->add_option("--format", options->format, "f32, bf16, fp8, 8bit or 4bit")->capture_default_str();
  add_threads(make, options->threads);
  make->callback([=, &action] { action = [=] { return moray::run_bench_make_model(*options); }; });

  auto* load = add_command(bench, "load", "from a folder to the first token, the folder in the page cache",
                           "  moray bench load /tmp/v2-lite-8bit --packed\n");
  auto load_options = std::make_shared<moray::BenchLoadOptions>();
  load->add_option("model", load_options->model, "a model folder")->required();
  load->add_flag("--packed", load_options->packed, "also from the packed file, which is written if need be");
  load->add_option("--rounds", load_options->rounds, "the first fills the page cache and does not count")
      ->capture_default_str()
      ->check(CLI::Range(2, 1000));
  add_threads(load, load_options->threads);
  add_json(load, load_options->json);
  load->callback([=, &action] { action = [=] { return moray::run_bench_load(*load_options); }; });
}

void add_bench(CLI::App& app, Action& action) {
  CLI::App* bench = app.add_subcommand("bench", "how fast this machine is");
  bench->require_subcommand(1);
  auto* limits = add_command(
      *bench, "limits", "what this machine can do: multiply-adds, caches, memory; and how noisy it is now",
      "  moray bench limits\n  moray bench limits --threads 2 --json\n");
  auto limits_options = std::make_shared<moray::BenchLimitsOptions>();
  add_threads(limits, limits_options->threads);
  add_json(limits, limits_options->json);
  limits->callback([=, &action] { action = [=] { return moray::run_bench_limits(*limits_options); }; });

  add_bench_serve(*bench, action);
  add_bench_folders(*bench, action);
  auto* step = add_command(
      *bench, "step", "whole training steps of a recipe's model, against the multiply-add peak",
      "  moray bench step recipes/small.toml\n  moray bench step recipes/tiny.toml --threads 1\n");
  auto options = std::make_shared<moray::BenchStepOptions>();
  step->add_option("recipe", options->recipe, "RECIPE.toml")->required();
  step->add_option("--set", options->assignments,
                   "KEY=VALUE, overrides a key of the recipe; may be repeated");
  step->add_option("--steps", options->steps, "steps to time")->capture_default_str()->check(at_least_one());
  step->add_flag("--scaling", options->scaling, "also on one thread, in turns");
  step->add_flag("--table", options->table, "where the time of a step goes, by op family");
  add_threads(step, options->threads);
  add_json(step, options->json);
  step->callback([=, &action] { action = [=] { return moray::run_bench_step(*options); }; });
}

void add_plan_inputs(CLI::App* command, moray::PlanOptions& options) {
  command->add_option("--cluster", options.cluster, "clusters/NAME.toml");
  command->add_option("--set", options.assignments,
                      "KEY=VALUE, overrides a key of the plan, as layout.pipeline=8; may be repeated");
  add_json(command, options.json);
}

void add_plan_search(CLI::App& plan, Action& action) {
  auto* search = add_command(
      plan, "search", "layouts that fit, best first, and why the others do not",
      "  moray plan search recipes/plan-v3-2048-h800.toml --cluster clusters/h800.toml --gpus 1024 2048\n");
  auto options = std::make_shared<moray::PlanSearchOptions>();
  search->add_option("recipe", options->plan.recipe, "a plan, a training recipe or a config.json")
      ->required();
  add_plan_inputs(search, options->plan);
  search->add_option("--gpus", options->gpus, "numbers of GPUs to try (default: the plan's)")
      ->check(at_least_one());
  search->add_option("--sequences", options->sequences, "sequences of a step (default: the plan's)")
      ->check(at_least_one());
  search->add_option("--rank-by", options->rank_by, "cost or time")->capture_default_str();
  search->add_option("--top", options->most, "rows to show")->capture_default_str()->check(at_least_one());
  search->callback([=, &action] {
    if (options->plan.cluster.empty()) throw CLI::RequiredError("--cluster");
    action = [=] { return moray::run_plan_search(*options); };
  });
}

void add_plan_shapes(CLI::App& plan, Action& action) {
  auto* shapes = add_command(
      plan, "shapes", "other shapes of the model (experts a token, experts, width) at equal communication",
      "  moray plan shapes recipes/plan-v3-2048-h800.toml --cluster clusters/h800.toml\n");
  auto options = std::make_shared<moray::PlanOptions>();
  shapes->add_option("recipe", options->recipe, "a plan, a training recipe or a config.json")->required();
  add_plan_inputs(shapes, *options);
  shapes->callback([=, &action] {
    if (options->cluster.empty()) throw CLI::RequiredError("--cluster");
    action = [=] { return moray::run_plan_shapes(*options); };
  });
}

void add_plan_schedule(CLI::App& plan, Action& action) {
  auto* schedule = add_command(plan, "schedule", "print a pipeline schedule, checked and timed",
                               "  moray plan schedule dualpipe --ranks 8 --micro-batches 20\n"
                               "  moray plan schedule zb1p --ranks 4 --micro-batches 8 --svg zb1p.svg\n");
  auto options = std::make_shared<moray::PlanScheduleOptions>();
  schedule->add_option("schedule", options->schedule, "1f1b, zb1p, dualpipe or dualpipev")->required();
  schedule->add_option("--ranks", options->ranks, "of the pipeline")->capture_default_str();
  schedule->add_option("--micro-batches", options->micro_batches, "a step, both directions together")
      ->capture_default_str();
  schedule
      ->add_option("--costs", options->costs,
                   "F,B,W,FB: forward, whole backward, weight part, overlapped pair")
      ->capture_default_str();
  schedule->add_option("--hop", options->hop, "time from a rank to the next")->capture_default_str();
  schedule->add_option("--svg", options->svg, "file for the picture");
  schedule->add_flag("--steps", options->steps, "list every step, sends and receives included");
  add_json(schedule, options->json);
  schedule->callback([=, &action] { action = [=] { return moray::run_plan_schedule(*options); }; });
}

void add_plan_calibrate(CLI::App& plan, Action& action) {
  auto* calibrate = add_command(plan, "calibrate", "kernel rates from a PyTorch profiler's trace",
                                "  moray plan calibrate trace.json.gz --cluster clusters/h800.toml\n");
  auto options = std::make_shared<moray::PlanCalibrateOptions>();
  calibrate->add_option("trace", options->trace, "Chrome trace: .json, .gz, .zst or .xz")->required();
  calibrate->add_option("--model", options->model, "recipe or config.json of the traced model")
      ->capture_default_str();
  calibrate->add_option("--cluster", options->cluster, "of the traced GPU")->capture_default_str();
  calibrate->add_option("--output", options->output,
                        "file for the rates (TOML), as a plan's `rates` reads them");
  calibrate->add_option("--layers", options->layers, "MoE layers of a chunk")->capture_default_str();
  calibrate->add_option("--tokens", options->tokens, "of the micro-batch")->capture_default_str();
  calibrate->add_option("--expert-parallel", options->expert_parallel, "ranks of the expert group")
      ->capture_default_str();
  add_json(calibrate, options->json);
  calibrate->callback([=, &action] { action = [=] { return moray::run_plan_calibrate(*options); }; });
}

void add_plan_serve(CLI::App& plan, Action& action) {
  auto* serve =
      add_command(plan, "serve", "what prefill and decode units yield, and a search for better ones",
                  "  moray plan serve recipes/plan-v3-serving.toml\n"
                  "  moray plan serve recipes/plan-v3-serving.toml --search --top 20\n");
  auto options = std::make_shared<moray::PlanServeOptions>();
  serve->add_option("recipe", options->recipe, "a model with [prefill] and [decode] units")->required();
  serve->add_option("--cluster", options->cluster, "clusters/NAME.toml")->capture_default_str();
  serve->add_option("--rates", options->rates, "kernel rates, as calibrate writes them (default: assumed)");
  serve->add_option("--set", options->assignments,
                    "KEY=VALUE, overrides a key of the recipe; may be repeated");
  serve->add_option("--what-if", options->what_ifs, "hardware that is no more than an idea; may be repeated");
  serve->add_flag("--search", options->search, "rank units under the limits of latency");
  serve->add_option("--top", options->shown, "rows of the search to show")
      ->capture_default_str()
      ->check(at_least_one());
  add_json(serve, options->json);
  serve->callback([=, &action] { action = [=] { return moray::run_plan_serve(*options); }; });
}

void add_plan(CLI::App& app, Action& action) {
  auto* plan =
      add_command(app, "plan", "what a training run costs on a cluster: memory, throughput, time, money",
                  "  moray plan recipes/plan-v3-2048-h800.toml --cluster clusters/h800.toml\n"
                  "  moray plan recipes/v3.toml --cluster clusters/h100.toml --set layout.pipeline=8 --set "
                  "layout.data=64\n");
  plan->require_subcommand(0, 1);
  auto options = std::make_shared<moray::PlanOptions>();
  plan->add_option("recipe", options->recipe, "a plan, a training recipe or a config.json");
  add_plan_inputs(plan, *options);
  plan->add_option("--html", options->html, "file for a page with figures and timeline");
  plan->add_option("--trace", options->trace, "file for the timeline as a Chrome trace (Perfetto opens it)");
  add_plan_search(*plan, action);
  add_plan_shapes(*plan, action);
  add_plan_schedule(*plan, action);
  add_plan_calibrate(*plan, action);
  add_plan_serve(*plan, action);
  plan->callback([=, &action] {
    if (!plan->get_subcommands().empty()) return;
    if (options->recipe.empty()) throw CLI::RequiredError("recipe");
    if (options->cluster.empty()) throw CLI::RequiredError("--cluster");
    action = [=] { return moray::run_plan(*options); };
  });
}

void add_numerics_products(CLI::App& numerics, Action& action) {
  auto* products = add_command(
      numerics, "products", "error of FP8 products on a modelled tensor core, K from 128 to 16384",
      "  moray numerics products\n"
      "  moray numerics products --bits 14 --promote-every 0 128 --html products.html\n");
  auto options = std::make_shared<moray::NumericsProductsOptions>();
  products->add_option("--bits", options->study.bits, "bits that the accumulator keeps, 4 to 24")
      ->capture_default_str();
  products
      ->add_option("--promote-every", options->study.promotions,
                   "products after which the sum moves to FP32, a multiple of 32; 0: never")
      ->capture_default_str();
  products->add_flag("--round", options->round, "round to nearest even where Hopper truncates");
  products->add_option("--rows", options->study.rows, "rows of both matrices: rows² outputs")
      ->capture_default_str();
  products->add_option("--seed", options->study.seed, "of the matrices")->capture_default_str();
  products->add_option("--html", options->html, "file for a page with charts");
  add_threads(products, options->threads);
  add_json(products, options->json);
  products->callback([=, &action] { action = [=] { return moray::run_numerics_products(*options); }; });
}

void add_numerics_tensors(CLI::App& numerics, Action& action) {
  auto* tensors = add_command(
      numerics, "tensors",
      "what FP8 loses of a checkpoint's tensors: tile, block and tensor scales, outliers",
      "  moray numerics tensors runs/tiny\n"
      "  moray numerics tensors runs/tiny/checkpoints/step-00000100/state/first_moments.safetensors --all\n");
  auto options = std::make_shared<moray::NumericsTensorsOptions>();
  tensors->add_option("path", options->path, "model folder, checkpoint, run, or a .safetensors file")
      ->required();
  tensors->add_option("--worst", options->worst, "tensors with the farthest outliers to show")
      ->capture_default_str();
  tensors->add_flag("--all", options->all, "list every tensor");
  add_threads(tensors, options->threads);
  add_json(tensors, options->json);
  tensors->callback([=, &action] { action = [=] { return moray::run_numerics_tensors(*options); }; });
}

void add_numerics_quantization(CLI::App& numerics, Action& action) {
  auto* quantization =
      add_command(numerics, "quantization",
                  "what share of each tensor class underflowed and saturated while training in FP8",
                  "  moray train recipes/fp8.toml --set run.quantization_interval_steps=100 --run runs/fp8\n"
                  "  moray numerics quantization runs/fp8\n");
  auto options = std::make_shared<moray::NumericsQuantizationOptions>();
  quantization->add_option("run", options->run, "run folder")->required();
  add_json(quantization, options->json);
  quantization->callback(
      [=, &action] { action = [=] { return moray::run_numerics_quantization(*options); }; });
}

void add_numerics_compare(CLI::App& numerics, Action& action) {
  auto* compare = add_command(
      numerics, "compare", "two runs of one recipe in different precisions, beside the noise floor",
      "  moray numerics compare runs/bf16 runs/fp8 --html compare.html\n"
      "  moray numerics compare runs/bf16 runs/fp8 runs/bf16-perturbed --html compare.html\n"
      "  moray numerics compare runs/bf16 runs/fp8 --gradients\n");
  auto options = std::make_shared<moray::NumericsCompareOptions>();
  compare->add_option("baseline", options->baseline, "run folder, the one in higher precision")->required();
  compare->add_option("run", options->run, "run folder to hold against it")->required();
  compare->add_option("floor", options->floor,
                      "run folder: the baseline again from initial weights one unit in the last place away");
  compare->add_option("--ema", options->comparison.ema_decay, "decay of the smoothing")
      ->capture_default_str();
  compare->add_option("--limit", options->comparison.limit, "relative error to stay within")
      ->capture_default_str();
  compare
      ->add_option(
          "--from-step", options->comparison.from_step,
          "first step that counts (default: the end of warm-up, where the learning rate is greatest)")
      ->check(at_least_one());
  compare->add_flag("--gradients", options->gradients,
                    "also the gradients of one batch at the baseline's newest checkpoint, layer by layer");
  compare->add_option("--samples", options->samples, "of that batch")->capture_default_str();
  compare->add_option("--html", options->html, "file for a page with charts");
  add_threads(compare, options->threads);
  add_json(compare, options->json);
  compare->callback([=, &action] { action = [=] { return moray::run_numerics_compare(*options); }; });
}

void add_numerics(CLI::App& app, Action& action) {
  CLI::App* numerics = app.add_subcommand("numerics", "a laboratory of FP8 arithmetic");
  numerics->require_subcommand(1);
  add_numerics_products(*numerics, action);
  add_numerics_tensors(*numerics, action);
  add_numerics_quantization(*numerics, action);
  add_numerics_compare(*numerics, action);
}

// --help is no error; any other is told in one line.
int report_parse_error(const CLI::App& app, const CLI::ParseError& error) {
  if (error.get_exit_code() == 0) return app.exit(error);
  std::string command = "moray";
  for (const CLI::App* at = &app; !at->get_subcommands().empty();) {
    at = at->get_subcommands().front();
    command += " " + at->get_name();
  }
  std::string what = error.what();
  if (const std::vector<std::string> unknown = app.remaining();
      app.get_subcommands().empty() && !unknown.empty())
    what = "'" + unknown.front() + "' is no command";
  std::replace(what.begin(), what.end(), '\n', ' ');
  std::fprintf(stderr, "moray: %s; see `%s --help`\n", what.c_str(), command.c_str());
  constexpr int kUsage = 2;
  return kUsage;
}

}  // namespace

int main(int argc, char** argv) {
  ::signal(SIGPIPE, SIG_DFL);  // `moray ... | head` ends quietly
  ::signal(SIGXFSZ, SIG_IGN);  // a file-size limit is an error of the write, told in words
  CLI::App app("moray: train and run DeepSeek-V3-class models");
  app.require_subcommand(1);
  app.footer("moray COMMAND --help shows a command's options, with examples.");
  Action action;
  add_tokenizer(app, action);
  add_data(app, action);
  add_train(app, action);
  add_generate(app, action);
  add_chat(app, action);
  add_eval(app, action);
  add_inspect(app, action);
  add_verify(app, action);
  add_quantize(app, action);
  add_pull(app, action);
  add_report(app, action);
  add_bench(app, action);
  add_plan(app, action);
  add_numerics(app, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return report_parse_error(app, error);
  }
  try {
    const int status = action();
    if (std::fflush(stdout) != 0) moray::fail("standard output: cannot write: {}", std::strerror(errno));
    return status;
  } catch (const Error& error) {
    std::fflush(stdout);
    std::fprintf(stderr, "moray: %s\n", error.what());
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "moray: out of memory\n");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "moray: %s\n", error.what());
  }
  return 1;
}
