#include "data/corpus.h"

#include <simdjson.h>

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "base/utf8.h"
#include "data/byte_stream.h"

namespace moray {

namespace {
constexpr size_t kReadBytes = size_t{1} << 16;
// JSON writes a text longer than it is (escapes); a line beyond this many times the longest document is
// refused.
constexpr uint64_t kMaxLineFactor = 2;

bool is_compressed(const fs::path& path) {
  return path.extension() == ".gz" || path.extension() == ".zst";
}

fs::path without_compression(const fs::path& path) {
  return is_compressed(path) ? path.stem() : path.filename();
}

// The files of a folder by relative path, in byte order.
std::vector<std::string> files_below(const fs::path& folder, const std::vector<std::string>& suffixes) {
  std::vector<std::string> files;
  std::error_code error;
  for (auto it = fs::recursive_directory_iterator(folder, error);
       !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    if (it->path().filename().native().starts_with('.')) {
      std::error_code ignored;
      if (it->is_directory(ignored)) it.disable_recursion_pending();
      continue;
    }
    std::error_code ignored;  // a dangling link is no file
    if (!it->is_regular_file(ignored)) continue;
    const std::string name = without_compression(it->path()).string();
    if (suffixes.empty() ||
        std::any_of(suffixes.begin(), suffixes.end(), [&](auto& s) { return name.ends_with(s); }))
      files.push_back(it->path().lexically_relative(folder).string());
  }
  if (error) fail("{}: cannot list: {}", folder.string(), error.message());
  std::sort(files.begin(), files.end());
  return files;
}

// A stream with a buffer in front of it, taken by lines or by blocks.
class BufferedStream {
 public:
  explicit BufferedStream(const fs::path& path) : stream_(ByteStream::open(path)) {}

  // Reads until the buffer holds `bytes` or the stream ends; false when it holds nothing then.
  bool fill(size_t bytes) {
    while (buffer_.size() < bytes && more()) {
    }
    return !buffer_.empty();
  }

  // The buffer's size after reading up to and including the first line end; at most about `limit`.
  size_t fill_line(size_t limit) {
    size_t searched = 0;
    for (;;) {
      const size_t end = buffer_.find('\n', searched);
      if (end != std::string::npos) return end + 1;
      searched = buffer_.size();
      if (searched > limit || !more()) return buffer_.size();
    }
  }

  std::string take(size_t bytes) {
    std::string front = buffer_.substr(0, bytes);
    buffer_.erase(0, bytes);
    return front;
  }
  const std::string& buffer() const { return buffer_; }

 private:
  bool more() {
    const size_t old = buffer_.size();
    buffer_.resize(old + kReadBytes);
    size_t got = 0;
    got = stream_->read(std::span(buffer_).subspan(old));
    buffer_.resize(old + got);
    return got > 0;
  }

  std::unique_ptr<ByteStream> stream_;
  std::string buffer_;
};
}  // namespace

struct Corpus::Impl {
  enum class Form { whole, cut, lines };

  fs::path root;
  CorpusOptions options;
  bool is_folder = false;
  std::vector<std::string> files;
  size_t next_file = 0;
  SkippedDocuments skipped;

  // The file being read.
  std::optional<BufferedStream> stream;
  Form form = Form::whole;
  std::string name;
  int64_t part = 0;  // documents or lines taken from it
  simdjson::dom::parser parser;

  void open_next() {
    name = is_folder ? files[next_file] : root.filename().string();
    const fs::path path = is_folder ? root / files[next_file] : root;
    ++next_file;
    form = without_compression(path).extension() == ".jsonl" ? Form::lines
           : is_folder                                       ? Form::whole
                                                             : Form::cut;
    part = 0;
    stream.emplace(path);
  }

  // The next document of the open file, skipped ones included; false at its end.
  bool read(Document& document) {
    switch (form) {
      case Form::whole:
        return read_whole(document);
      case Form::cut:
        return read_cut(document);
      case Form::lines:
        return read_line(document);
    }
    return false;
  }

  bool read_whole(Document& document) {
    if (part++ > 0) return false;
    stream->fill(options.max_document_bytes + 1);
    check_length(stream->buffer().size(), name);
    document = {name, stream->take(stream->buffer().size())};
    return true;
  }

  bool read_cut(Document& document) {
    const size_t limit = std::max<size_t>(4, options.text_document_bytes);
    if (!stream->fill(limit + 1) && part > 0) return false;
    size_t end = std::min(limit, stream->buffer().size());
    if (end < stream->buffer().size()) {
      const size_t line_end = stream->buffer().rfind('\n', end - 1);
      if (line_end != std::string::npos)
        end = line_end + 1;
      else
        while (end > limit - 3 && is_utf8_continuation(stream->buffer()[end])) --end;
    }
    document = {fmt::format("{}:{}", name, ++part), stream->take(end)};
    return true;
  }

  bool read_line(Document& document) {
    const uint64_t limit = options.max_document_bytes * kMaxLineFactor;
    const size_t end = stream->fill_line(limit);
    if (end == 0) return false;
    document.name = fmt::format("{}:{}", name, ++part);
    if (end > limit + 1) fail("{}: a line of more than {} bytes", location(document), limit);
    std::string line = stream->take(end);
    document.text.clear();
    if (line.find_first_not_of(" \t\r\n") == std::string::npos) return true;
    simdjson::dom::element root_element;
    std::string_view text;
    if (const auto error = parser.parse(line).get(root_element); error != simdjson::SUCCESS)
      fail("{}: not valid JSON: {}", location(document), simdjson::error_message(error));
    if (!root_element.is_object() || root_element[options.text_key].get(text) != simdjson::SUCCESS)
      fail("{}: no text under the key '{}'", location(document), options.text_key);
    check_length(text.size(), document.name);
    document.text = text;
    return true;
  }

  std::string location(const Document& document) const {
    return (is_folder ? root / document.name : root.parent_path() / document.name).string();
  }

  void check_length(uint64_t bytes, const std::string& document) const {
    if (bytes > options.max_document_bytes)
      fail("{}: a document of more than {} bytes", (is_folder ? root / document : root).string(),
           options.max_document_bytes);
  }
};

Corpus::Corpus(const fs::path& path, CorpusOptions options) : impl_(std::make_unique<Impl>()) {
  impl_->root = path;
  impl_->options = std::move(options);
  std::error_code error;
  const auto status = fs::status(path, error);
  if (!fs::exists(status)) fail("{}: no such file or folder", path.string());
  impl_->is_folder = fs::is_directory(status);
  if (!impl_->is_folder) return;
  impl_->files = files_below(path, impl_->options.suffixes);
  if (impl_->files.empty()) fail("{}: the folder holds no file to read", path.string());
}

Corpus::~Corpus() = default;
Corpus::Corpus(Corpus&&) noexcept = default;
Corpus& Corpus::operator=(Corpus&&) noexcept = default;

bool Corpus::next(Document& document) {
  const size_t file_count = impl_->is_folder ? impl_->files.size() : 1;
  for (;;) {
    if (!impl_->stream) {
      if (impl_->next_file == file_count) return false;
      impl_->open_next();
    }
    if (!impl_->read(document)) {
      impl_->stream.reset();
    } else if (document.text.empty()) {
      ++impl_->skipped.empty;
    } else if (document.text.find('\0') != std::string::npos) {
      ++impl_->skipped.binary;
    } else {
      return true;
    }
  }
}

const SkippedDocuments& Corpus::skipped() const {
  return impl_->skipped;
}

}  // namespace moray
