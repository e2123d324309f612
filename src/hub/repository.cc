#include "hub/repository.h"

#include <curl/curl.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "base/log.h"
#include "base/utf8.h"

namespace moray::hub {

namespace {

constexpr size_t kMostListBytes = 64 << 20;
constexpr size_t kMostFiles = 100'000, kMostPages = 1000;
constexpr uint64_t kMostFileBytes = uint64_t{1} << 50;
constexpr size_t kMostPathBytes = 1000;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string token_from_environment() {
  if (const std::string token = environment("HF_TOKEN"); !token.empty()) return token;
  fs::path file = environment("HF_TOKEN_PATH");
  if (file.empty()) {
    const std::string home = environment("HF_HOME");
    file = (home.empty() ? fs::path(environment("HOME")) / ".cache/huggingface" : fs::path(home)) / "token";
  }
  std::error_code ignored;
  return fs::is_regular_file(file, ignored) ? read_file(file) : "";
}

// A whole answer in memory, retried while its troubles may pass.
struct Answer {
  HttpResponse response;
  std::string body;
};

Answer get_all(HttpClient& http, const Hub& hub, HttpRequest request, const std::string& what) {
  request.most_seconds = hub.answer_seconds;
  for (int attempt = 0;; ++attempt) {
    Answer answer;
    answer.response = http.get(request, [&](const HttpResponse&, std::string_view piece) {
      answer.body += piece;
      return answer.body.size() <= kMostListBytes;
    });
    if (answer.body.size() > kMostListBytes)
      fail("{}: the hub's answer is longer than {} bytes", what, kMostListBytes);
    if (!is_passing(answer.response)) return answer;
    const std::string why = answer.response.trouble.empty()
                                ? fmt::format("HTTP status {}", answer.response.status)
                                : answer.response.trouble;
    if (attempt + 1 >= kMostAttempts) fail("{}: {}, after {} attempts", request.url, why, kMostAttempts);
    const double seconds = retry_seconds(hub, answer.response, attempt);
    log::warning("{}: {}; again in {:.0f} s", request.url, why, seconds);
    std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  }
}

std::string get_json(HttpClient& http, const Hub& hub, const HttpRequest& request,
                     const std::string& repository, const std::string& what, std::string* next_page) {
  const Answer answer = get_all(http, hub, request, what);
  if (answer.response.status != 200) fail("{}", refusal(answer.response.status, hub, what, repository));
  if (next_page != nullptr) {
    // Link: <https://...>; rel="next"
    const std::string link = answer.response.header("link");
    const size_t begin = link.find('<'), end = link.find('>');
    const bool next = begin != std::string::npos && end != std::string::npos && begin < end &&
                      link.find("rel=\"next\"", end) != std::string::npos;
    *next_page = next ? link.substr(begin + 1, end - begin - 1) : "";
  }
  return answer.body;
}

// None where the hub says none. One that is there but not understood would leave the file unchecked.
ContentDigest listed_digest(const std::string& oid, const std::string& path, const std::string& where) {
  const ContentDigest digest = parse_digest(oid);
  if (!oid.empty() && !digest.known())
    fail("{}: refused, the digest of '{}' is '{}', neither SHA-256 nor git's SHA-1", where, path, oid);
  return digest;
}

RemoteFile file_of(const nlohmann::json& entry, const std::string& where) {
  RemoteFile file;
  file.path = json_string(entry, "path", where);
  if (const std::string why = path_objection(file.path); !why.empty())
    fail("{}: refused, it lists a file named '{}', which {}", where, file.path, why);
  int64_t size = json_integer(entry, "size", where);
  std::string oid = json_string(entry, "oid", where, "");
  if (const nlohmann::json* lfs = json_find(entry, "lfs", where)) {
    oid = json_string(*lfs, "oid", where);
    size = json_integer(*lfs, "size", where, size);
  }
  if (size < 0 || static_cast<uint64_t>(size) > kMostFileBytes)
    fail("{}: refused, '{}' is said to have {} bytes", where, file.path, size);
  file.size = static_cast<uint64_t>(size);
  file.digest = listed_digest(oid, file.path, where);
  return file;
}

void expect_distinct(std::vector<RemoteFile>& files, const std::string& where) {
  std::sort(files.begin(), files.end(),
            [](const RemoteFile& a, const RemoteFile& b) { return a.path < b.path; });
  for (size_t i = 1; i < files.size(); ++i)
    if (files[i].path == files[i - 1].path) fail("{}: lists '{}' twice", where, files[i].path);
}

}  // namespace

Hub Hub::from_environment() {
  Hub hub;
  if (const std::string endpoint = environment("HF_ENDPOINT"); !endpoint.empty()) hub.endpoint = endpoint;
  while (hub.endpoint.ends_with('/')) hub.endpoint.pop_back();
  origin_of(hub.endpoint);
  if (hub.endpoint.find('@') != std::string::npos)
    fail("HF_ENDPOINT holds a user name or a password, which would end up in files; set HF_TOKEN");
  hub.token = token_from_environment();
  while (!hub.token.empty() && std::isspace(static_cast<unsigned char>(hub.token.back())) != 0)
    hub.token.pop_back();
  for (const char c : hub.token)
    if (c <= ' ' || c > '~') fail("the hub's token (HF_TOKEN, or the file in HF_HOME) is not one word");
  return hub;
}

HttpRequest Hub::request(const std::string& path) const {
  return {endpoint + path, token, origin_of(endpoint)};
}

std::string Repository::resolve_path(const RemoteFile& file) const {
  return fmt::format("/{}/resolve/{}/{}", name, commit, percent_encoded(file.path, true));
}

void expect_repository_name(const std::string& name) {
  const auto is_word = [](std::string_view word) {
    return !word.empty() && !word.starts_with('.') &&
           word.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") ==
               std::string_view::npos;
  };
  const std::string_view text = name;
  const size_t slash = text.find('/');
  if (slash == std::string_view::npos || !is_word(text.substr(0, slash)) || !is_word(text.substr(slash + 1)))
    fail("'{}' is no repository: expected ORG/NAME, as in deepseek-ai/DeepSeek-V2-Lite", name);
}

std::string path_objection(const std::string& path) {
  if (path.empty()) return "is empty";
  if (path.size() > kMostPathBytes) return "is too long";
  if (printable(path) != path) return "holds a control character, or one that turns the direction of writing";
  if (path.find('\\') != std::string::npos) return "holds a backslash";
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string part = path.substr(begin, end - begin);
    if (part.empty()) return "is absolute or has an empty part";
    if (part == "." || part == "..") return "leads out of its folder";
    if (part.size() > 255) return "has a part of more than 255 bytes";
    begin = end + 1;
  }
  return "";
}

Repository read_repository(HttpClient& http, const Hub& hub, const std::string& name,
                           const std::string& revision) {
  expect_repository_name(name);
  const std::string where = fmt::format("{}/{}", hub.endpoint, name);
  Repository repository{name, "", {}};
  const std::string about =
      get_json(http, hub,
               hub.request(fmt::format("/api/models/{}/revision/{}", name, percent_encoded(revision, false))),
               name, fmt::format("{}, revision {}", where, revision), nullptr);
  const std::string commit = json_string(parse_json(about, where), "sha", where);
  repository.commit = parse_digest(commit).hex;
  if (repository.commit.size() != 40) fail("{}: '{}' is no commit", where, commit);

  HttpRequest request =
      hub.request(fmt::format("/api/models/{}/tree/{}?recursive=true", name, repository.commit));
  for (size_t pages = 0; !request.url.empty(); ++pages) {
    if (pages == kMostPages) fail("{}: its list of files has more than {} pages", where, kMostPages);
    std::string next;
    const nlohmann::json list = parse_json(get_json(http, hub, request, name, where, &next), where);
    if (!list.is_array()) fail("{}: its list of files is no JSON array", where);
    for (const nlohmann::json& entry : list)
      if (json_string(entry, "type", where) == "file") repository.files.push_back(file_of(entry, where));
    if (repository.files.size() > kMostFiles) fail("{}: lists more than {} files", where, kMostFiles);
    request.url = next;
  }
  expect_distinct(repository.files, where);
  return repository;
}

std::string refusal(int status, const Hub& hub, const std::string& what, const std::string& repository) {
  const std::string page = fmt::format("{}/{}", hub.endpoint, repository);
  switch (status) {
    case 401:
      return hub.token.empty()
                 ? fmt::format("{}: not found, or not without a token: set HF_TOKEN (HTTP status 401)", what)
                 : fmt::format("{}: not found, or the token is not accepted (HTTP status 401)", what);
    case 403:
      return fmt::format("{}: access is refused (HTTP status 403); its terms may have to be accepted at {}{}",
                         what, page, hub.token.empty() ? ", and HF_TOKEN set" : "");
    case 404:
      return fmt::format("{}: there is no such repository, revision or file (HTTP status 404)", what);
    default:
      return fmt::format("{}: HTTP status {}", what, status);
  }
}

bool is_passing(const HttpResponse& response) {
  return !response.whole() || response.status == 408 || response.status == 429 || response.status >= 500;
}

double retry_seconds(const Hub& hub, const HttpResponse& response, int attempt) {
  constexpr double kMost = 30;
  double seconds = std::min(kMost, std::exp2(attempt));
  if (const std::string after = response.header("retry-after"); !after.empty()) {
    if (after.find_first_not_of("0123456789") == std::string::npos)
      seconds = std::strtod(after.c_str(), nullptr);
    else if (const time_t at = ::curl_getdate(after.c_str(), nullptr); at >= 0)
      seconds = std::difftime(at, std::time(nullptr));
    seconds = std::clamp(seconds, 0.0, kMostRetryAfter);
  }
  return seconds * hub.retry_scale;
}

}  // namespace moray::hub
