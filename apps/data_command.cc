#include "apps/data_command.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <cstdio>

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "report/progress.h"

namespace moray {

namespace {
std::string summary_table(const DatasetManifest& manifest, const std::string& folder) {
  std::string text =
      fmt::format("{}: vocabulary {}\n{:<20} {:>10} {:>14} {:>14} {:>10} {:>12} {:>10} {:>8}\n", folder,
                  manifest.vocabulary_size, "corpus", "documents", "tokens", "bytes", "held out", "tokens",
                  "duplicates", "binary");
  for (const CorpusManifest& corpus : manifest.corpora)
    text += fmt::format("{:<20} {:>10} {:>14} {:>14} {:>10} {:>12} {:>10} {:>8}\n", corpus.name,
                        corpus.train.documents, corpus.train.tokens, corpus.train.raw_bytes,
                        corpus.held_out.documents, corpus.held_out.tokens, corpus.duplicates,
                        corpus.skipped_binary);
  return text;
}

std::string summary_json(const DatasetManifest& manifest, const std::string& folder) {
  std::string text = fmt::format("{{\"dataset\": {}, \"vocabulary_size\": {}, \"corpora\": [",
                                 json_quote(folder), manifest.vocabulary_size);
  const char* separator = "";
  for (const CorpusManifest& corpus : manifest.corpora) {
    text += fmt::format(
        "{}{{\"name\": {}, \"train_documents\": {}, \"train_tokens\": {}, \"train_bytes\": {}, "
        "\"held_out_documents\": {}, \"held_out_tokens\": {}, \"held_out_bytes\": {}, \"fim_documents\": {}, "
        "\"duplicates\": {}, \"skipped_binary\": {}, \"skipped_empty\": {}}}",
        separator, json_quote(corpus.name), corpus.train.documents, corpus.train.tokens,
        corpus.train.raw_bytes, corpus.held_out.documents, corpus.held_out.tokens, corpus.held_out.raw_bytes,
        corpus.fim_documents, corpus.duplicates, corpus.skipped_binary, corpus.skipped_empty);
    separator = ", ";
  }
  return text + "]}\n";
}
}  // namespace

int run_data_build(const DataBuildOptions& options) {
  if (options.output.empty()) fail("no output folder given for the dataset");
  const Tokenizer tokenizer = Tokenizer::read(options.tokenizer);
  Progress progress("build", 0, "documents");
  BuildOptions build = options.build;
  build.progress = [&](const BuildProgress& done) {
    progress.update(done.documents,
                    fmt::format("{} bytes, {} tokens", short_count(static_cast<double>(done.bytes)),
                                short_count(static_cast<double>(done.tokens))));
  };
  const DatasetManifest manifest = build_dataset(tokenizer, options.output, build);
  const std::string summary =
      options.json ? summary_json(manifest, options.output) : summary_table(manifest, options.output);
  if (std::fputs(summary.c_str(), stdout) < 0 || std::fflush(stdout) != 0)
    fail("standard output: cannot write");
  log::info("what next: moray train RECIPE --set data.dataset={} --set model.vocab_size={}", options.output,
            manifest.vocabulary_size);
  return 0;
}

CorpusSource parse_corpus(const std::string& text) {
  CorpusSource source;
  std::string path = text;
  std::error_code ignored;
  if (const size_t equals = text.find('='); equals != std::string::npos && !fs::exists(text, ignored)) {
    source.name = text.substr(0, equals);
    path = text.substr(equals + 1);
    if (const size_t colon = path.rfind(':'); colon != std::string::npos) {
      const char* begin = path.data() + colon + 1;
      const char* end = path.data() + path.size();
      const auto [stopped, error] = std::from_chars(begin, end, source.weight);
      if (error != std::errc() || stopped != end || !std::isfinite(source.weight) || source.weight <= 0)
        fail("corpus '{}': '{}' is no weight", text, path.substr(colon + 1));
      path.resize(colon);
    }
  }
  if (path.empty()) fail("corpus '{}': no path", text);
  source.path = path;
  if (source.name.empty()) {
    fs::path last = source.path.lexically_normal();
    if (!last.has_filename()) last = last.parent_path();
    source.name = last.filename().string();
    // What a corpus' name, a part of file names, may not hold.
    for (char& c : source.name)
      if (!((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '-' ||
            c == '.'))
        c = '_';
    if (source.name.starts_with('.')) source.name[0] = '_';
    if (source.name.empty()) source.name = "corpus";
  }
  return source;
}

}  // namespace moray
