#include "data/document_stream.h"

#include <xxhash.h>

#include <cmath>
#include <set>

#include "base/error.h"
#include "base/random.h"

namespace moray {

namespace {
// Portable file names, however the locale sorts letters.
constexpr std::string_view kNameCharacters =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
constexpr size_t kMaxNameBytes = 64;
}  // namespace

DocumentStream::DocumentStream(std::vector<CorpusSource> sources, HeldOutOptions held_out)
    : sources_(std::move(sources)), held_out_(held_out), counts_(sources_.size()) {
  if (sources_.empty()) fail("no corpus given");
  if (!(held_out_.fraction >= 0 && held_out_.fraction < 1))
    fail("held-out fraction {} is outside [0, 1)", held_out_.fraction);
  std::set<std::string> names;
  for (const CorpusSource& source : sources_) {
    if (source.name.empty() || source.name.size() > kMaxNameBytes || source.name[0] == '.' ||
        source.name.find_first_not_of(kNameCharacters) != std::string::npos)
      fail("corpus name '{}': use up to {} letters, digits, '-', '_' and '.'", source.name, kMaxNameBytes);
    if (!names.insert(source.name).second) fail("two corpora are named '{}'", source.name);
    if (!std::isfinite(source.weight) || source.weight < 0)
      fail("corpus '{}': weight {} is not a positive number", source.name, source.weight);
    std::error_code error;
    if (!fs::exists(source.path, error)) fail("{}: no such file or folder", source.path.string());
  }
}

bool DocumentStream::next(StreamedDocument& streamed) {
  for (; source_ < sources_.size(); ++source_, corpus_.reset()) {
    if (!corpus_) corpus_.emplace(sources_[source_].path, sources_[source_].options);
    DocumentCounts& counts = counts_[source_];
    while (corpus_->next(streamed.document)) {
      ++counts.documents;
      const XXH128_hash_t hash = XXH3_128bits(streamed.document.text.data(), streamed.document.text.size());
      if (!seen_.insert({hash.low64, hash.high64}).second) {
        ++counts.duplicates;
        continue;
      }
      streamed.corpus = source_;
      streamed.key = mix64(held_out_.seed, hash.low64);
      streamed.held_out = Random(streamed.key, name_stream("held out")).uniform() < held_out_.fraction;
      return true;
    }
    counts.skipped = corpus_->skipped();
  }
  return false;
}

}  // namespace moray
