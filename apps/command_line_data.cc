// `moray tokenizer` and `moray data`: options and examples.
#include "apps/command_line.h"
#include "apps/data_command.h"
#include "apps/tokenizer_command.h"

namespace moray {

namespace {

void add_corpora(CLI::App* command, std::vector<std::string>& corpora) {
  command
      ->add_option(
          "--corpus", corpora,
          "folder, .txt or .jsonl, also .gz or .zst; PATH, NAME=PATH or NAME=PATH:WEIGHT; may be repeated")
      ->required();
}

void add_held_out(CLI::App* command, HeldOutOptions& held_out) {
  command->add_option("--held-out", held_out.fraction, "share of documents held out, chosen by content")
      ->capture_default_str();
  command->add_option("--seed", held_out.seed, "seed of the held-out choice, FIM and splits")
      ->capture_default_str();
}

void add_tokenizer_choice(CLI::App* command, TokenizerChoice& choice) {
  auto* tokenizer = command->add_option(
      "--tokenizer", choice.tokenizer,
      "tokenizer.json, a .tiktoken, tiktoken.model or .gguf file, or the folder that holds one");
  command->add_option("--model", choice.model, "model folder, checkpoint, run, or .gguf file")
      ->excludes(tokenizer);
}

}  // namespace

void add_tokenizer(CLI::App& app, Action& action) {
  CLI::App* tokenizer =
      app.add_subcommand("tokenizer", "train a byte-level BPE tokenizer, encode and decode");
  tokenizer->require_subcommand(1);

  auto* train = add_command(*tokenizer, "train", "learn a vocabulary from text",
                            "  moray tokenizer train --corpus src/ --vocab-size 8192 --output tokenizer/\n");
  auto train_options = std::make_shared<TokenizerTrainOptions>();
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
      for (const std::string& corpus : *corpora) train_options->corpora.push_back(parse_corpus(corpus));
      return run_tokenizer_train(*train_options);
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
  auto encode_options = std::make_shared<TokenizerEncodeOptions>();
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
  encode->callback([=, &action] { action = [=] { return run_tokenizer_encode(*encode_options); }; });

  auto* decode =
      add_command(*tokenizer, "decode", "token ids to text",
                  "  moray tokenizer decode --tokenizer tokenizer/ 318 257\n"
                  "  moray tokenizer encode --model M --text hi | moray tokenizer decode --model M\n");
  auto decode_options = std::make_shared<TokenizerDecodeOptions>();
  add_tokenizer_choice(decode, decode_options->choice);
  decode->add_option("ids", decode_options->ids, "token ids (default: from standard input)");
  decode->add_flag("--skip-special", decode_options->skip_special, "leave control tokens out");
  add_json(decode, decode_options->json);
  decode->callback([=, &action] { action = [=] { return run_tokenizer_decode(*decode_options); }; });
}

void add_data(CLI::App& app, Action& action) {
  CLI::App* data = app.add_subcommand("data", "turn corpora into datasets");
  data->require_subcommand(1);
  auto* build = add_command(*data, "build",
                            "tokenize, remove duplicates, hold out, FIM, pack into memory-mapped shards",
                            "  moray data build --corpus src/ --tokenizer tokenizer/ --output dataset/\n"
                            "  moray data build --corpus code=src/:0.7 --corpus prose=books.jsonl.zst:0.3 "
                            "--tokenizer T --output D\n");
  auto options = std::make_shared<DataBuildOptions>();
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
      for (const std::string& corpus : *corpora) options->build.corpora.push_back(parse_corpus(corpus));
      return run_data_build(*options);
    };
  });
}

}  // namespace moray
