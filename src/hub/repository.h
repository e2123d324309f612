// A model repository on a hub with Hugging Face's URLs: which files it has at a revision, and what they must
// be.
//
//   ENDPOINT/api/models/REPO/revision/REVISION          {"sha": commit}
//   ENDPOINT/api/models/REPO/tree/COMMIT?recursive=true  [{"type", "path", "size", "oid", "lfs": {"oid",
//   "size"}}] ENDPOINT/REPO/resolve/COMMIT/PATH                    the content, mostly by a redirect to
//   another host
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "hub/digest.h"
#include "hub/http.h"

namespace moray::hub {

struct Hub {
  std::string endpoint = "https://huggingface.co";
  std::string token;            // empty: none
  double retry_scale = 1;       // of the seconds waited before trying again; tests have no time
  double answer_seconds = 300;  // for an answer in JSON, however it drips

  // HF_ENDPOINT; HF_TOKEN, else the file HF_TOKEN_PATH, else HF_HOME/token, else ~/.cache/huggingface/token.
  // Throws Error for an endpoint that is no URL and a token that is more than one word.
  static Hub from_environment();

  HttpRequest request(const std::string& path) const;  // path from the endpoint on, beginning with "/"
};

struct RemoteFile {
  std::string path;  // inside the repository, checked: relative, no "..", no odd characters
  uint64_t size = 0;
  ContentDigest digest;
};

struct Repository {
  std::string name;    // "ORG/NAME"
  std::string commit;  // 40 hexadecimal digits
  std::vector<RemoteFile> files;

  std::string resolve_path(const RemoteFile& file) const;
};

// Throws Error unless it is NAME or ORG/NAME in letters, digits, "-", "_" and ".".
void expect_repository_name(const std::string& name);

// Why `path` cannot be the name of a file in a repository; "" when it can.
std::string path_objection(const std::string& path);

// Asks the hub. Throws Error in words for 401, 403 and 404, for answers that are no such JSON, and for
// hostile file names, sizes and digests. Passing troubles (429, 5xx, dropped connections) are retried.
Repository read_repository(HttpClient& http, const Hub& hub, const std::string& name,
                           const std::string& revision);

// What a person is to be told of a refusal; `what` is the repository or file.
std::string refusal(int status, const Hub& hub, const std::string& what, const std::string& repository);

// Whether it may be better later.
bool is_passing(const HttpResponse& response);

// Seconds to wait before the attempt-th retry (0, 1, ...): what Retry-After says, at most kMostRetryAfter,
// else 1, 2, 4 ... up to 30; times Hub::retry_scale.
double retry_seconds(const Hub& hub, const HttpResponse& response, int attempt);
inline constexpr int kMostAttempts = 6;  // in a row without any progress
inline constexpr double kMostRetryAfter = 300;

}  // namespace moray::hub
