#include "hub/http.h"

#include <curl/curl.h>

#include <algorithm>
#include <chrono>
#include <exception>

#include "base/error.h"

namespace moray::hub {

namespace {

constexpr int kMostRedirects = 10;
constexpr long kConnectSeconds = 20;
// Of one request with all its redirects, trailers included: libcurl keeps every line of them in memory.
constexpr size_t kMostHeaderBytes = 256 << 10, kMostHeaderLines = 4000;
// Of the body of a redirect or refusal; so much is read that a short one does not cost the connection.
constexpr size_t kMostUnwantedBytes = 64 << 10;
constexpr double kMostUnwantedSeconds = 10;

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : static_cast<char>(c);
  });
  return out;
}

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  return begin == std::string_view::npos ? ""
                                         : text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
}

// A URL taken apart by libcurl, which also makes the requests: both read it in the same way.
class Url {
 public:
  explicit Url(const std::string& text) : handle_(::curl_url(), &::curl_url_cleanup) {
    MORAY_CHECK(handle_ != nullptr);
    set(text);
  }

  // A relative one counts from this.
  void set(const std::string& text) {
    if (::curl_url_set(handle_.get(), CURLUPART_URL, text.c_str(), 0) != CURLUE_OK)
      fail("'{}' is not a URL", text);
    if (const std::string scheme = part(CURLUPART_SCHEME); scheme != "http" && scheme != "https")
      fail("{}: expected an http or https URL", text);
  }
  std::string part(CURLUPart which) const {
    char* text = nullptr;
    if (::curl_url_get(handle_.get(), which, &text, CURLU_DEFAULT_PORT) != CURLUE_OK) return "";
    const std::string copy = text;
    ::curl_free(text);
    return copy;
  }
  std::string origin() const {
    return fmt::format("{}://{}:{}", part(CURLUPART_SCHEME), lower(part(CURLUPART_HOST)),
                       part(CURLUPART_PORT));
  }

 private:
  std::unique_ptr<CURLU, decltype(&::curl_url_cleanup)> handle_;  // freed also where a constructor throws
};

bool is_redirect(int status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

bool has_content(int status) {
  return status == 200 || status == 206;
}

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// What libcurl's callbacks need of the request at work.
struct Transfer {
  const HttpRequest& request;
  HttpResponse& response;
  const HttpClient::Body& body;
  bool stopped = false;
  std::exception_ptr failure = nullptr;  // thrown by the body, or for a limit; C code must not see it
  const Clock::time_point begin = Clock::now();
  size_t header_bytes = 0, header_lines = 0;
  // Of this answer's body, where it is of no use.
  size_t unwanted_bytes = 0;
  Clock::time_point unwanted_since = {};
  bool has_enough = false;
};

// Called now and then, at least once a second.
int watch_time(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  auto& transfer = *static_cast<Transfer*>(user);
  const double most = transfer.request.most_seconds;
  if (most <= 0 || seconds_since(transfer.begin) <= most) return 0;
  transfer.failure = std::make_exception_ptr(
      Error(fmt::format("{}: the answer takes longer than {:.4g} s", transfer.request.url, most)));
  return 1;
}

// Whether there are not too many headers by now.
bool count_header(Transfer& transfer, size_t bytes) {
  transfer.header_bytes += bytes;
  ++transfer.header_lines;
  if (transfer.header_bytes <= kMostHeaderBytes && transfer.header_lines <= kMostHeaderLines) return true;
  transfer.failure =
      std::make_exception_ptr(Error(fmt::format("{}: the answer's headers are more than {} lines or {} bytes",
                                                transfer.response.url, kMostHeaderLines, kMostHeaderBytes)));
  return false;
}

// A header line; a status line begins the next answer.
size_t take_header(char* data, size_t size, size_t count, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  const std::string_view line(data, size * count);
  if (!count_header(transfer, line.size())) return 0;
  if (line.starts_with("HTTP/")) {
    const size_t space = line.find(' ');
    transfer.response.status = space == std::string_view::npos ? 0 : std::atoi(line.data() + space + 1);
    std::erase_if(transfer.response.headers,
                  [](const auto& header) { return !header.first.starts_with("x-"); });
  } else if (const size_t colon = line.find(':'); colon != std::string_view::npos) {
    transfer.response.headers[lower(trimmed(line.substr(0, colon)))] = trimmed(line.substr(colon + 1));
  }
  return size * count;
}

size_t take_body(char* data, size_t size, size_t count, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  if (!has_content(transfer.response.status)) {
    if (transfer.unwanted_bytes == 0) transfer.unwanted_since = Clock::now();
    transfer.unwanted_bytes += size * count;
    transfer.has_enough = transfer.unwanted_bytes > kMostUnwantedBytes ||
                          seconds_since(transfer.unwanted_since) > kMostUnwantedSeconds;
    return transfer.has_enough ? 0 : size * count;
  }
  try {
    if (transfer.body(transfer.response, {data, size * count})) return size * count;
  } catch (...) {
    transfer.failure = std::current_exception();
  }
  transfer.stopped = true;
  return 0;
}

}  // namespace

struct HttpClient::Curl {
  CURL* handle = nullptr;
};

std::string HttpResponse::header(const std::string& name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? "" : found->second;
}

HttpClient::HttpClient() : curl_(std::make_unique<Curl>()) {
  static const CURLcode global = ::curl_global_init(CURL_GLOBAL_DEFAULT);
  MORAY_CHECK(global == CURLE_OK);
  curl_->handle = ::curl_easy_init();
  if (curl_->handle == nullptr) fail("libcurl cannot start");
}

HttpClient::~HttpClient() {
  ::curl_easy_cleanup(curl_->handle);
}

HttpResponse HttpClient::get(const HttpRequest& request, const Body& body) {
  CURL* curl = curl_->handle;
  HttpResponse response;
  Transfer transfer{request, response, body};
  Url url(request.url);
  for (int redirects = 0;; ++redirects) {
    if (redirects > kMostRedirects) fail("{}: more than {} redirects", request.url, kMostRedirects);
    response.status = 0;
    transfer.unwanted_bytes = 0;
    transfer.has_enough = false;
    response.url = url.part(CURLUPART_URL);
    ::curl_easy_reset(curl);  // keeps connections
    ::curl_easy_setopt(curl, CURLOPT_URL, response.url.c_str());
    ::curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    ::curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    ::curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, kConnectSeconds);
    ::curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    ::curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, kStallSeconds);
    ::curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    ::curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, watch_time);
    ::curl_easy_setopt(curl, CURLOPT_XFERINFODATA, &transfer);
    ::curl_easy_setopt(curl, CURLOPT_USERAGENT, "moray");
    ::curl_easy_setopt(curl, CURLOPT_BUFFERSIZE, 512L * 1024);
    ::curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, take_header);
    ::curl_easy_setopt(curl, CURLOPT_HEADERDATA, &transfer);
    ::curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_body);
    ::curl_easy_setopt(curl, CURLOPT_WRITEDATA, &transfer);
    if (request.from_byte > 0)
      ::curl_easy_setopt(curl, CURLOPT_RANGE, fmt::format("{}-", request.from_byte).c_str());
    curl_slist* lines = nullptr;
    if (!request.token.empty() && url.origin() == request.token_origin)
      lines = ::curl_slist_append(lines, ("Authorization: Bearer " + request.token).c_str());
    ::curl_easy_setopt(curl, CURLOPT_HTTPHEADER, lines);
    const CURLcode code = ::curl_easy_perform(curl);
    ::curl_slist_free_all(lines);
    if (transfer.failure) std::rethrow_exception(transfer.failure);
    if (code != CURLE_OK && !transfer.has_enough) {
      response.trouble = transfer.stopped ? "stopped" : ::curl_easy_strerror(code);
      return response;
    }
    const std::string location = response.header("location");
    if (!is_redirect(response.status) || location.empty()) return response;
    const bool was_secure = url.part(CURLUPART_SCHEME) == "https";
    url.set(location);
    if (was_secure && url.part(CURLUPART_SCHEME) == "http")
      fail("{}: redirects to {}, which is not encrypted", response.url, url.part(CURLUPART_URL));
  }
}

std::string origin_of(const std::string& url) {
  return Url(url).origin();
}

std::string percent_encoded(std::string_view text, bool keep_slashes) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       std::string_view("-._~").find(c) != std::string_view::npos ||
                       (keep_slashes && c == '/');
    out += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

}  // namespace moray::hub
