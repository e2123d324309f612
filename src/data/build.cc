#include "data/build.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>

#include "base/error.h"
#include "data/shard.h"

namespace moray {

namespace {
// Text held at a time: enough documents to share among threads, little beside the rest.
constexpr size_t kBatchBytes = size_t{8} << 20;

// A folder beside the final one, removed unless it was put in place.
class PendingFolder {
 public:
  PendingFolder(const fs::path& target, bool replace) : target_(fs::absolute(target).lexically_normal()) {
    if (!target_.has_filename()) target_ = target_.parent_path();
    std::error_code error;
    if (fs::exists(target_, error)) {
      if (!replace) fail("{}: exists already; remove it or ask to replace it", target.string());
      if (!fs::exists(target_ / "dataset.json", error))
        fail("{}: not replaced: it is no dataset", target.string());
    }
    fs::create_directories(target_.parent_path(), error);
    const std::string prefix = fmt::format(".{}.building-", target_.filename().string());
    remove_abandoned(target_.parent_path(), prefix);
    pending_ = target_.parent_path() / (prefix + std::to_string(::getpid()));
    fs::remove_all(pending_, error);
    if (!fs::create_directory(pending_, error))
      fail("{}: cannot create the folder: {}", pending_.string(), error.message());
  }
  ~PendingFolder() {
    std::error_code ignored;
    fs::remove_all(pending_, ignored);
  }
  PendingFolder(const PendingFolder&) = delete;
  PendingFolder& operator=(const PendingFolder&) = delete;

  const fs::path& path() const { return pending_; }

  void put_in_place() {
    sync_folder(pending_);
    std::error_code error;
    const bool exists = fs::exists(target_, error);
    const unsigned flags = exists ? RENAME_EXCHANGE : RENAME_NOREPLACE;  // either way one atomic step
    if (::renameat2(AT_FDCWD, pending_.c_str(), AT_FDCWD, target_.c_str(), flags) != 0)
      fail("{}: cannot rename into place: {}", target_.string(), std::strerror(errno));
    sync_folder(target_.parent_path());
  }

 private:
  // What builds that were killed left: their process is no more.
  static void remove_abandoned(const fs::path& parent, const std::string& prefix) {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(parent, error)) {
      const std::string name = entry.path().filename().string();
      if (!name.starts_with(prefix)) continue;
      int process = 0;
      const char* end = name.data() + name.size();
      const auto [stopped, wrong] = std::from_chars(name.data() + prefix.size(), end, process);
      if (wrong == std::errc() && stopped == end && process > 0 && ::kill(process, 0) != 0 && errno == ESRCH)
        fs::remove_all(entry.path(), error);
    }
  }

  fs::path target_, pending_;
};

// Documents of a batch with their tokens.
struct EncodedDocument {
  StreamedDocument source;
  std::vector<int32_t> tokens;
  bool fim = false;
};

// One encoder a thread; which thread takes a document has no influence on its tokens.
class ParallelEncoder {
 public:
  ParallelEncoder(const Tokenizer& tokenizer, const BuildOptions& options) {
    const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
    if (options.threads < 0) fail("threads {} is negative", options.threads);
    const unsigned threads = options.threads == 0 ? cores : static_cast<unsigned>(options.threads);
    encoders_.reserve(threads);
    for (unsigned t = 0; t < threads; ++t) encoders_.emplace_back(tokenizer, options.documents);
  }

  void encode(std::vector<EncodedDocument>& batch) {
    std::atomic<size_t> next{0};
    std::exception_ptr error;
    std::mutex error_mutex;
    const auto work = [&](DocumentEncoder& encoder) {
      try {
        for (size_t i; (i = next.fetch_add(1)) < batch.size();) {
          EncodedDocument& document = batch[i];
          const std::string& text = document.source.document.text;
          if (document.source.held_out)
            encoder.encode_held_out(text, document.tokens);
          else
            document.fim = encoder.encode_training(text, document.source.key, document.tokens);
        }
      } catch (...) {
        const std::lock_guard lock(error_mutex);
        error = std::current_exception();
      }
    };
    {
      std::vector<std::jthread> threads;
      for (size_t t = 1; t < encoders_.size() && t < batch.size(); ++t)
        threads.emplace_back(work, std::ref(encoders_[t]));
      work(encoders_[0]);
    }
    if (error) std::rethrow_exception(error);
  }

 private:
  std::vector<DocumentEncoder> encoders_;
};

// The shards of one corpus in one split.
class SplitWriter {
 public:
  SplitWriter(fs::path folder, std::string stem, int64_t vocabulary_size)
      : folder_(std::move(folder)), stem_(std::move(stem)), shard_(vocabulary_size) {}

  void add(const EncodedDocument& document, uint64_t shard_tokens) {
    const uint64_t bytes = document.source.document.text.size();
    shard_.add_document(document.tokens, bytes);
    ++manifest_.documents;
    manifest_.tokens += document.tokens.size();
    manifest_.raw_bytes += bytes;
    if (shard_.tokens() >= shard_tokens) close_shard();
  }

  SplitManifest finish() {
    if (shard_.tokens() > 0) close_shard();
    return std::move(manifest_);
  }

 private:
  void close_shard() {
    const std::string name = fmt::format("{}-{:05}.bin", stem_, manifest_.shards.size());
    const uint64_t tokens = shard_.tokens();
    const uint64_t sum = shard_.write(folder_ / name);
    manifest_.shards.push_back({name, tokens, sum});
  }

  fs::path folder_;
  std::string stem_;
  ShardBuilder shard_;
  SplitManifest manifest_;
};

// Everything written into the pending folder, corpus after corpus.
class Builder {
 public:
  Builder(const Tokenizer& tokenizer, const fs::path& folder, const BuildOptions& options)
      : tokenizer_(tokenizer),
        folder_(folder),
        options_(options),
        documents_(options.corpora, options.held_out),
        encoder_(tokenizer, options),
        held_out_text_(folder / "held_out.txt") {
    if (options.shard_tokens <= 0) fail("shard_tokens {} is not positive", options.shard_tokens);
    for (const CorpusSource& source : options.corpora) {
      CorpusManifest& corpus = manifest_.corpora.emplace_back();
      corpus.name = source.name;
      corpus.path = source.path.string();
      corpus.weight = source.weight;
    }
  }

  DatasetManifest run() {
    std::vector<EncodedDocument> batch;
    for (bool more = true; more;) {
      more = read(batch);
      encoder_.encode(batch);
      for (EncodedDocument& document : batch) write(document);
      if (options_.progress) options_.progress(progress_);
    }
    close_corpus();
    finish_manifest();
    return std::move(manifest_);
  }

 private:
  bool read(std::vector<EncodedDocument>& batch) {
    batch.clear();
    size_t bytes = 0;
    while (bytes < kBatchBytes) {
      EncodedDocument document;
      if (!documents_.next(document.source)) return false;
      bytes += document.source.document.text.size();
      batch.push_back(std::move(document));
    }
    return true;
  }

  void write(EncodedDocument& document) {
    if (!train_ || document.source.corpus != corpus_) open_corpus(document.source.corpus);
    const uint64_t limit = static_cast<uint64_t>(options_.shard_tokens);
    const std::string& text = document.source.document.text;
    if (document.source.held_out) {
      held_out_->add(document, limit);
      held_out_text_.write(text);
    } else {
      train_->add(document, limit);
      manifest_.corpora[corpus_].fim_documents += document.fim;
    }
    ++progress_.documents;
    progress_.bytes += text.size();
    progress_.tokens += document.tokens.size();
  }

  void open_corpus(size_t corpus) {
    close_corpus();
    corpus_ = corpus;
    const std::string& name = manifest_.corpora[corpus].name;
    train_.emplace(folder_, "train-" + name, tokenizer_.vocabulary_size());
    held_out_.emplace(folder_, "held_out-" + name, tokenizer_.vocabulary_size());
  }

  void close_corpus() {
    if (!train_) return;
    manifest_.corpora[corpus_].train = train_->finish();
    manifest_.corpora[corpus_].held_out = held_out_->finish();
    train_.reset();
    held_out_.reset();
  }

  void finish_manifest() {
    for (size_t i = 0; i < manifest_.corpora.size(); ++i) {
      CorpusManifest& corpus = manifest_.corpora[i];
      const DocumentCounts& counts = documents_.counts()[i];
      corpus.documents_read = counts.documents;
      corpus.duplicates = counts.duplicates;
      corpus.skipped_binary = counts.skipped.binary;
      corpus.skipped_empty = counts.skipped.empty;
      if (corpus.train.documents == 0)
        fail(
            "corpus '{}' ({}): no document for training (read {}, duplicates {}, held out {}, binary {}, "
            "empty {})",
            corpus.name, corpus.path, counts.documents, counts.duplicates, corpus.held_out.documents,
            counts.skipped.binary, counts.skipped.empty);
    }
    manifest_.seed = options_.held_out.seed;
    manifest_.held_out_fraction = options_.held_out.fraction;
    manifest_.fim_rate = options_.documents.fim_rate;
    manifest_.split_rate = options_.documents.split_rate;
    manifest_.end_token = options_.documents.end_token;
    manifest_.vocabulary_size = tokenizer_.vocabulary_size();
    manifest_.tokenizer_checksum = tokenizer_.checksum();
    manifest_.held_out_checksum = held_out_text_.finish();
  }

  const Tokenizer& tokenizer_;
  fs::path folder_;
  const BuildOptions& options_;
  DocumentStream documents_;
  ParallelEncoder encoder_;
  FileWriter held_out_text_;
  DatasetManifest manifest_;
  BuildProgress progress_;
  size_t corpus_ = 0;
  std::optional<SplitWriter> train_, held_out_;
};
}  // namespace

DatasetManifest build_dataset(const Tokenizer& tokenizer, const fs::path& folder,
                              const BuildOptions& options) {
  PendingFolder pending(folder, options.replace);
  DatasetManifest manifest = Builder(tokenizer, pending.path(), options).run();
  tokenizer.write(pending.path());
  write_file_atomically(pending.path() / "dataset.json", write_dataset_manifest(manifest));
  pending.put_in_place();
  return manifest;
}

}  // namespace moray
