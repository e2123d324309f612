#include "hub/download.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "base/error.h"
#include "base/log.h"

namespace moray::hub {

namespace {

// The beginning of a file on disk and the digest of what is there.
class Part {
 public:
  Part(const fs::path& path, const RemoteFile& file)
      : path_(path), file_(file), digest_(file.digest, file.size) {
    fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd_ < 0) fail("{}: cannot create: {}", path.string(), std::strerror(errno));
    read_what_is_there();
  }
  ~Part() { ::close(fd_); }
  Part(const Part&) = delete;
  Part& operator=(const Part&) = delete;

  uint64_t bytes() const { return bytes_; }

  void append(std::string_view piece) {
    digest_.add(piece);
    bytes_ += piece.size();
    while (!piece.empty()) {
      const ssize_t written = ::write(fd_, piece.data(), piece.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail("{}: cannot write: {}", path_.string(), std::strerror(errno));
      piece.remove_prefix(static_cast<size_t>(written));
    }
  }

  void clear() {
    if (::ftruncate(fd_, 0) != 0 || ::lseek(fd_, 0, SEEK_SET) != 0)
      fail("{}: cannot empty: {}", path_.string(), std::strerror(errno));
    bytes_ = 0;
    digest_ = DigestStream(file_.digest, file_.size);
  }

  std::string digest() { return digest_.finish(); }

  void sync() const {
    if (::fsync(fd_) != 0) fail("{}: cannot write: {}", path_.string(), std::strerror(errno));
  }

 private:
  void read_what_is_there() {
    std::string buffer(1 << 20, '\0');
    for (;;) {
      const ssize_t got = ::read(fd_, buffer.data(), buffer.size());
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) fail("{}: cannot read: {}", path_.string(), std::strerror(errno));
      if (got == 0) break;
      digest_.add({buffer.data(), static_cast<size_t>(got)});
      bytes_ += static_cast<uint64_t>(got);
    }
    if (bytes_ > file_.size) clear();
  }

  fs::path path_;
  const RemoteFile& file_;
  DigestStream digest_;
  int fd_ = -1;
  uint64_t bytes_ = 0;
};

class Download {
 public:
  Download(HttpClient& http, DownloadContext& context, const RemoteFile& file)
      : http_(http), context_(context), file_(file), target_(context.folder / file.path) {}

  void run() {
    std::error_code error;
    fs::create_directories(target_.parent_path(), error);
    if (error) fail("{}: cannot create the folder: {}", target_.parent_path().string(), error.message());
    const fs::path part_path = target_.string() + kPartSuffix;
    Part part(part_path, file_);
    context_.advanced(static_cast<int64_t>(part.bytes()));
    for (int tries = 1;; ++tries) {
      transfer(part);
      if (context_.stop) return;
      const std::string digest = part.digest();
      if (!file_.digest.known() || digest == file_.digest.hex) break;
      discard(part);
      if (tries == 2)
        fail("{}: the content's digest is {}, the hub's list says {}", what(), digest, file_.digest.hex);
      log::warning("{}: the content's digest is wrong; fetching it again", what());
    }
    part.sync();
    fs::rename(part_path, target_, error);
    if (error) fail("{}: cannot rename: {}", part_path.string(), error.message());
  }

 private:
  std::string what() const { return fmt::format("{}/{}", context_.repository.name, file_.path); }

  void discard(Part& part) {
    context_.advanced(-static_cast<int64_t>(part.bytes()));
    part.clear();
  }

  // Requests until the part has all bytes or the pull is stopped.
  void transfer(Part& part) {
    for (int attempt = 0; part.bytes() < file_.size && !context_.stop;) {
      const uint64_t before = part.bytes();
      const HttpResponse response = request_rest(part);
      if (context_.stop || part.bytes() == file_.size) return;
      if (response.status == 416) discard(part);  // the part is not the beginning of what is there now
      const std::string why =
          !response.trouble.empty() ? response.trouble : fmt::format("HTTP status {}", response.status);
      if (is_short(response)) expect_fitting(response);
      if (!may_pass(response))
        fail("{}", refusal(response.status, context_.hub, what(), context_.repository.name));
      attempt = part.bytes() > before ? 0 : attempt + 1;
      if (attempt >= kMostAttempts) fail("{}: {}, after {} attempts", what(), why, attempt);
      const double seconds = retry_seconds(context_.hub, response, attempt);
      if (seconds >= 2) log::info("{}: {}; again in {:.0f} s", what(), why, seconds);
      wait(seconds);
    }
  }

  // Without a length in its head an answer cut short looks whole.
  static bool is_short(const HttpResponse& response) {
    return response.whole() && (response.status == 200 || response.status == 206);
  }

  // A refusal by another host than the hub means that a link has expired: the hub gives a new one.
  bool may_pass(const HttpResponse& response) const {
    return is_passing(response) || is_short(response) || response.status == 416 ||
           ((response.status == 401 || response.status == 403) &&
            origin_of(response.url) != origin_of(context_.hub.endpoint));
  }

  HttpResponse request_rest(Part& part) {
    HttpRequest request = context_.hub.request(context_.repository.resolve_path(file_));
    request.from_byte = part.bytes();
    bool begun = false;
    return http_.get(request, [&](const HttpResponse& response, std::string_view piece) {
      if (context_.stop) return false;
      if (!begun) begin(response, part);
      begun = true;
      if (piece.size() > file_.size - part.bytes())
        fail_size(fmt::format("more than {} bytes come", file_.size));
      part.append(piece);
      context_.advanced(static_cast<int64_t>(piece.size()));
      return true;
    });
  }

  // The first bytes of an answer: is it what was asked for?
  void begin(const HttpResponse& response, Part& part) {
    expect_fitting(response);
    if (response.status == 200 && part.bytes() > 0) discard(part);  // a server without ranges begins anew
    // Content-Range: bytes 100-199/200
    const std::string wanted = fmt::format("bytes {}-", part.bytes()),
                      range = response.header("content-range");
    if (response.status == 206 && !range.starts_with(wanted))
      fail("{}: asked for {}, got '{}'", what(), wanted, range);
  }

  // The size that the answer's head speaks of must be the list's.
  void expect_fitting(const HttpResponse& response) const {
    const std::string range = response.header("content-range");
    const size_t slash = range.find('/');
    const std::string size = response.status == 200       ? response.header("content-length")
                             : slash == std::string::npos ? ""
                                                          : range.substr(slash + 1);
    if (!size.empty() && size != "*" && size != std::to_string(file_.size))
      fail_size(fmt::format("it has {} bytes", size));
  }

  [[noreturn]] void fail_size(const std::string& found) const {
    fail("{}: {}, the hub's list says {}", what(), found, file_.size);
  }

  void wait(double seconds) const {
    using Clock = std::chrono::steady_clock;
    const auto end = Clock::now() + std::chrono::duration<double>(seconds);
    while (Clock::now() < end && !context_.stop) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }

  HttpClient& http_;
  DownloadContext& context_;
  const RemoteFile& file_;
  fs::path target_;
};

// For hubs whose list has no digests.
ContentDigest digest_from_headers(HttpClient& http, const DownloadContext& context, const RemoteFile& file) {
  const HttpResponse response = http.get(context.hub.request(context.repository.resolve_path(file)),
                                         [](const HttpResponse&, std::string_view) { return false; });
  const ContentDigest linked = parse_digest(response.header("x-linked-etag"));
  return linked.known() ? linked : parse_digest(response.header("etag"));
}

void warn_of_no_digest(DownloadContext& context, const RemoteFile& file) {
  if (!context.warned_of_no_digest.exchange(true))
    log::warning("{}/{}: the hub gives no digest that is understood; of such files only the size is checked",
                 context.repository.name, file.path);
}

}  // namespace

void download(HttpClient& http, DownloadContext& context, const RemoteFile& file) {
  RemoteFile known = file;
  if (!known.digest.known()) known.digest = digest_from_headers(http, context, file);
  if (!known.digest.known()) warn_of_no_digest(context, file);
  Download(http, context, known).run();
}

}  // namespace moray::hub
