// A hub and its storage host on this machine, for tests: Hugging Face's URLs, with faults on demand.
#pragma once

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "hub/digest.h"

namespace moray::test {

struct HttpRequestSeen {
  std::string target, authorization, range;
};

struct Reply {
  int status = 200;
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;
  bool counted = true;       // sends Content-Length
  size_t cut = SIZE_MAX;     // bytes of the body after which the connection is dropped
  uint64_t said_length = 0;  // Content-Length of a liar; 0: the truth
  // After the body, as often, each time after a pause.
  std::string more = {};
  size_t times = 0;
  double pause_seconds = 0;
};

// Answers one request a connection on a port of its own.
class LocalServer {
 public:
  using Handler = std::function<Reply(const HttpRequestSeen&)>;

  explicit LocalServer(Handler handler)
      : handler_(std::move(handler)), socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    MORAY_CHECK(::bind(socket_, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
                ::listen(socket_, 64) == 0 &&
                ::getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size) == 0);
    port_ = ntohs(address.sin_port);
    accepting_ = std::thread([this] { accept_all(); });
  }
  ~LocalServer() {
    ::shutdown(socket_, SHUT_RDWR);
    accepting_.join();
    ::close(socket_);
    for (std::thread& thread : serving_) thread.join();
  }

  std::string url() const { return fmt::format("http://127.0.0.1:{}", port_); }
  uint64_t bytes_sent() const { return bytes_sent_; }
  std::vector<HttpRequestSeen> seen() {
    const std::lock_guard lock(mutex_);
    return seen_;
  }

 private:
  void accept_all() {
    for (int connection; (connection = ::accept(socket_, nullptr, nullptr)) >= 0;)
      serving_.emplace_back([this, connection] {
        serve(connection);
        ::close(connection);
      });
  }

  void serve(int connection) {
    std::string text;
    char buffer[4096];
    while (text.find("\r\n\r\n") == std::string::npos) {
      const ssize_t got = ::recv(connection, buffer, sizeof(buffer), 0);
      if (got <= 0) return;
      text.append(buffer, static_cast<size_t>(got));
    }
    const auto header = [&](const std::string& name) -> std::string {
      const size_t at = text.find("\r\n" + name + ": ");
      return at == std::string::npos
                 ? ""
                 : text.substr(at + name.size() + 4, text.find("\r\n", at + 2) - at - name.size() - 4);
    };
    const size_t space = text.find(' ');
    const HttpRequestSeen request{text.substr(space + 1, text.find(' ', space + 1) - space - 1),
                                  header("Authorization"), header("Range")};
    {
      const std::lock_guard lock(mutex_);
      seen_.push_back(request);
    }
    send_reply(connection, handler_(request));
  }

  void send_reply(int connection, const Reply& reply) {
    std::string out = fmt::format("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    for (const auto& [name, value] : reply.headers) out += fmt::format("{}: {}\r\n", name, value);
    if (reply.counted)
      out += fmt::format("Content-Length: {}\r\n",
                         reply.said_length > 0 ? reply.said_length : reply.body.size());
    bool there = send_all(connection, out + "\r\n" + reply.body.substr(0, reply.cut));
    for (size_t i = 0; i < reply.times && there; ++i) {
      std::this_thread::sleep_for(std::chrono::duration<double>(reply.pause_seconds));
      there = send_all(connection, reply.more);
    }
  }

  // False: nobody listens any more.
  bool send_all(int connection, std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(connection, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(n));
      bytes_sent_ += static_cast<uint64_t>(n);
    }
    return true;
  }

  Handler handler_;
  int socket_;
  uint16_t port_ = 0;
  std::atomic<uint64_t> bytes_sent_ = 0;
  std::mutex mutex_;
  std::vector<HttpRequestSeen> seen_;
  std::thread accepting_;
  std::vector<std::thread> serving_;
};

// Repository "org/name" at one commit. Large files ("lfs") lie on a second host, which the hub redirects to.
class TestHub {
 public:
  struct File {
    std::string content;
    bool lfs = false;
    bool ranges = true;  // the storage honours Range
  };
  using Fault = std::function<void(Reply&)>;  // changes the reply that would be given

  TestHub()
      : storage_([this](const HttpRequestSeen& r) { return stored(r); }),
        hub_([this](const HttpRequestSeen& r) { return answer(r); }) {}

  std::string endpoint() const { return hub_.url(); }
  LocalServer& hub() { return hub_; }
  LocalServer& storage() { return storage_; }

  std::map<std::string, File> files;
  std::string commit = std::string(40, 'a'), token, revision = "main";
  bool with_digests = true;                                                                     // in the list
  std::function<std::string(std::string)> spelled = [](std::string digest) { return digest; };  // in the list
  std::string list_entry;  // JSON appended to the list
  // For requests of a path (of the list: "tree"), one each time.
  void add_fault(const std::string& path, Fault fault) {
    const std::lock_guard lock(mutex_);
    faults_[path].push_back(std::move(fault));
  }

  static std::string sha256(const std::string& content) {
    hub::DigestStream stream({std::string(64, '0')}, content.size());
    stream.add(content);
    return stream.finish();
  }
  static std::string blob_sha1(const std::string& content) {
    hub::DigestStream stream({std::string(40, '0')}, content.size());
    stream.add(content);
    return stream.finish();
  }

 private:
  Reply answer(const HttpRequestSeen& request) {
    if (!token.empty() && request.authorization != "Bearer " + token) return {401, {}, "who are you"};
    const std::string about = "/api/models/org/name/revision/" + revision,
                      resolve = "/org/name/resolve/" + commit + "/",
                      tree = "/api/models/org/name/tree/" + commit + "?recursive=true";
    if (request.target == about) return {200, {}, fmt::format("{{\"sha\": \"{}\"}}", commit)};
    if (request.target.starts_with(tree)) return faulted("tree", list(request.target));
    if (!request.target.starts_with(resolve)) return {404, {}, "no"};
    const std::string path = request.target.substr(resolve.size());
    const auto found = files.find(path);
    if (found == files.end()) return {404, {}, "no"};
    if (!found->second.lfs) return faulted(path, content_of(found->second, request));
    return {302,
            {{"Location", storage_.url() + "/bucket/" + path},
             {"X-Linked-Etag", fmt::format("\"{}\"", sha256(found->second.content))},
             {"X-Linked-Size", std::to_string(found->second.content.size())}},
            ""};
  }

  Reply stored(const HttpRequestSeen& request) {
    const std::string path = request.target.substr(std::string("/bucket/").size());
    return faulted(path, content_of(files.at(path), request));
  }

  static Reply content_of(const File& file, const HttpRequestSeen& request) {
    Reply reply{
        200, {{"ETag", fmt::format("\"{}\"", file.lfs ? "0123" : blob_sha1(file.content))}}, file.content};
    if (request.range.empty() || !file.ranges) return reply;
    const size_t begin = std::stoul(request.range.substr(std::string("bytes=").size()));
    if (begin >= file.content.size()) return {416, {}, "out of range"};
    reply.status = 206;
    reply.body = file.content.substr(begin);
    reply.headers.emplace_back(
        "Content-Range", fmt::format("bytes {}-{}/{}", begin, file.content.size() - 1, file.content.size()));
    return reply;
  }

  // Two files a page.
  Reply list(const std::string& target) {
    constexpr size_t kPage = 2;
    const size_t cursor = target.find("&cursor=");
    const size_t begin = cursor == std::string::npos ? 0 : std::stoul(target.substr(cursor + 8));
    std::string json;
    size_t i = 0;
    for (const auto& [path, file] : files) {
      if (i++ < begin || i > begin + kPage) continue;
      json += fmt::format("{}{{\"type\": \"file\", \"path\": {}, \"size\": {}", json.empty() ? "" : ", ",
                          json_quote(path), file.content.size());
      if (with_digests && file.lfs)
        json += fmt::format(", \"oid\": \"{}\", \"lfs\": {{\"oid\": \"{}\", \"size\": {}}}",
                            std::string(40, 'b'), spelled(sha256(file.content)), file.content.size());
      else if (with_digests)
        json += fmt::format(", \"oid\": \"{}\"", spelled(blob_sha1(file.content)));
      json += "}";
    }
    if (!list_entry.empty() && begin == 0) json += ", " + list_entry;
    Reply reply{200, {}, "[" + json + ", {\"type\": \"directory\", \"path\": \"figures\", \"size\": 0}]"};
    if (begin + kPage < files.size())
      reply.headers.emplace_back(
          "Link", fmt::format("<{}/api/models/org/name/tree/{}?recursive=true&cursor={}>; rel=\"next\"",
                              hub_.url(), commit, begin + kPage));
    return reply;
  }

  Reply faulted(const std::string& path, Reply reply) {
    const std::lock_guard lock(mutex_);
    std::deque<Fault>& faults = faults_[path];
    if (faults.empty()) return reply;
    faults.front()(reply);
    faults.pop_front();
    return reply;
  }

  std::mutex mutex_;
  std::map<std::string, std::deque<Fault>> faults_;
  LocalServer storage_, hub_;
};

}  // namespace moray::test
