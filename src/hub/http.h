// GET requests over libcurl: bodies in pieces, redirects followed by hand so that a token stays with its
// host.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

namespace moray::hub {

struct HttpRequest {
  std::string url;
  std::string token;         // sent as "Authorization: Bearer" to `token_origin` alone; empty: none
  std::string token_origin;  // scheme, host and port, as origin_of says them
  uint64_t from_byte = 0;    // asks for the rest from there on
  double most_seconds = 0;   // for the whole answer, redirects included; 0: no limit
};

struct HttpResponse {
  int status = 0;            // of the last of all redirects; 0: none came
  std::string trouble = {};  // what cut the transfer short; empty: the whole body came, where it is wanted
  std::string url = {};      // that answered
  // By lower-case name; what a redirect said in "x-..." ("x-linked-etag") stays.
  std::map<std::string, std::string> headers = {};

  bool whole() const { return status != 0 && trouble.empty(); }
  std::string header(const std::string& name) const;  // "" when absent
};

// One connection at a time, reused between requests; for one thread.
class HttpClient {
 public:
  HttpClient();
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  // Gets a piece of the body at a time, the first with all headers known; false ends the transfer. Bodies of
  // other answers than 200 and 206 are not shown, nor read beyond 64 KB or ten seconds.
  using Body = std::function<bool(const HttpResponse&, std::string_view piece)>;

  // Transfers that end early, connections that fail or stall for kStallSeconds are the response's `trouble`.
  // Throws Error for a URL that cannot be meant (no http(s), a redirect from https to http, more than ten
  // redirects), for headers without end, and when the request's time is up.
  HttpResponse get(const HttpRequest& request, const Body& body);

  static constexpr long kStallSeconds = 30;

 private:
  struct Curl;
  std::unique_ptr<Curl> curl_;
};

// "https://host:port", the port always written, the host in lower case. Throws Error for no http or https
// URL.
std::string origin_of(const std::string& url);

// With all but letters, digits and "-._~" as %XX; `keep_slashes` leaves "/".
std::string percent_encoded(std::string_view text, bool keep_slashes);

}  // namespace moray::hub
