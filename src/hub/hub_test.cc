// Pulling from a hub and a storage host on this machine, faults included.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/file.h>

#include <fcntl.h>

#include <ctime>

#include "base/random.h"
#include "base/test_help.h"
#include "hub/pull.h"
#include "hub/test_hub.h"

namespace moray::hub {
namespace {

using test::error_of;
using test::Reply;
using test::TestHub;

std::string random_bytes(uint64_t seed, size_t count) {
  Random random(seed, 0);
  std::string bytes(count, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random.below(256));
  return bytes;
}

class Pull : public testing::Test {
 protected:
  Pull() {
    remote_.files = {{"config.json", {"{\"model_type\": \"deepseek_v3\"}"}},
                     {"tokenizer.json", {"{}"}},
                     {"model-00001-of-00002.safetensors", {random_bytes(1, 300'000), true}},
                     {"model-00002-of-00002.safetensors", {random_bytes(2, 200'000), true}},
                     {"model.safetensors.index.json", {"{\"weight_map\": {}}"}},
                     {"README.md", {"read me"}},
                     {"figures/benchmark.safetensors", {"no weights"}},
                     {"pytorch_model.bin", {"pickled"}}};
  }

  static constexpr const char* kShard = "model-00001-of-00002.safetensors";

  PullSummary pull_now() {
    const Hub hub{remote_.endpoint(), token_, 0.001, answer_seconds_};
    return pull(hub, options_, [&](uint64_t done, uint64_t total) { progress_ = {done, total}; });
  }
  // Without the endpoint.
  std::string error_of_pull() {
    std::string message = error_of([&] { pull_now(); });
    if (const size_t at = message.find(remote_.endpoint()); at != std::string::npos)
      message.replace(at, remote_.endpoint().size(), "HUB");
    return message;
  }
  void expect_pulled(const std::vector<std::string>& paths) {
    std::vector<std::string> found;
    for (const auto& entry : fs::recursive_directory_iterator(output()))
      if (entry.is_regular_file()) found.push_back(fs::relative(entry.path(), output()));
    std::vector<std::string> expected = paths;
    expected.push_back(".moray-pull.json");
    std::sort(found.begin(), found.end());
    std::sort(expected.begin(), expected.end());
    EXPECT_EQ(found, expected);
    for (const std::string& path : paths)
      EXPECT_TRUE(read_file(output() / path) == remote_.files[path].content) << path;
    EXPECT_FALSE(fs::exists(part()));
  }
  void expect_needed_pulled() {
    expect_pulled({"config.json", "tokenizer.json", kShard, "model-00002-of-00002.safetensors",
                   "model.safetensors.index.json"});
  }
  // What storage was asked for of a path, by Range.
  std::vector<std::string> ranges_of(const std::string& path) {
    std::vector<std::string> ranges;
    for (const test::HttpRequestSeen& request : remote_.storage().seen())
      if (request.target == "/bucket/" + path) ranges.push_back(request.range);
    return ranges;
  }
  fs::path output() const { return options_.output; }
  fs::path part() const { return options_.output.string() + ".part"; }

  test::ScratchFolder folder_;
  TestHub remote_;
  std::string token_;
  double answer_seconds_ = 300;
  PullOptions options_{.repository = "org/name", .output = folder_ / "models" / "name"};
  std::pair<uint64_t, uint64_t> progress_;
};

TEST_F(Pull, BringsWhatAModelFolderNeeds) {
  const PullSummary summary = pull_now();
  expect_needed_pulled();
  EXPECT_EQ(summary.files, 5);
  EXPECT_EQ(summary.commit, remote_.commit);
  EXPECT_EQ(progress_, std::pair(summary.bytes, summary.bytes));
  EXPECT_FALSE(summary.was_complete);

  const size_t requests = remote_.storage().seen().size();
  EXPECT_TRUE(pull_now().was_complete);
  EXPECT_EQ(remote_.storage().seen().size(), requests);
}

TEST_F(Pull, IncludesWhatIsAskedFor) {
  options_.include = {"*.md", "figures/*"};
  pull_now();
  expect_pulled({"config.json", "tokenizer.json", kShard, "model-00002-of-00002.safetensors",
                 "model.safetensors.index.json", "README.md", "figures/benchmark.safetensors"});
  options_.include = {"*.gguf"};
  EXPECT_EQ(error_of_pull(), "org/name: no file matches '*.gguf'");
  options_ = {.repository = "org/name", .output = folder_ / "all", .all = true};
  EXPECT_EQ(pull_now().files, 8);
}

TEST_F(Pull, TheTokenGoesToTheHubAlone) {
  remote_.token = token_ = "hf_secret";
  pull_now();
  expect_needed_pulled();
  for (const test::HttpRequestSeen& request : remote_.hub().seen())
    EXPECT_EQ(request.authorization, "Bearer hf_secret");
  ASSERT_EQ(remote_.storage().seen().size(), 2u);
  for (const test::HttpRequestSeen& request : remote_.storage().seen()) EXPECT_EQ(request.authorization, "");
}

TEST_F(Pull, GoesOnAfterDroppedConnections) {
  for (size_t cut : {100'000, 0, 50'000}) remote_.add_fault(kShard, [cut](Reply& reply) { reply.cut = cut; });
  remote_.add_fault("tree", [](Reply& reply) { reply.cut = 10; });
  pull_now();
  expect_needed_pulled();
  EXPECT_EQ(ranges_of(kShard),
            (std::vector<std::string>{"", "bytes=100000-", "bytes=100000-", "bytes=150000-"}));
}

TEST_F(Pull, AServerWithoutRangesBeginsAnew) {
  remote_.files[kShard].ranges = false;
  remote_.add_fault(kShard, [](Reply& reply) { reply.cut = 250'000; });
  const PullSummary summary = pull_now();
  expect_needed_pulled();
  EXPECT_EQ(ranges_of(kShard).size(), 2u);
  EXPECT_EQ(progress_, std::pair(summary.bytes, summary.bytes));
}

TEST_F(Pull, ALaterPullGoesOnWhereOneEnded) {
  remote_.add_fault(kShard, [](Reply& reply) { reply.cut = 123'456; });
  for (int i = 0; i < kMostAttempts; ++i)
    remote_.add_fault(kShard, [](Reply& reply) { reply = {503, {}, ""}; });
  options_.connections = 1;
  EXPECT_EQ(error_of_pull(), fmt::format("org/name/{}: HTTP status 503, after 6 attempts", kShard));
  EXPECT_FALSE(fs::exists(output()));
  EXPECT_EQ(fs::file_size(part() / (kShard + std::string(".part"))), 123'456u);
  pull_now();
  expect_needed_pulled();
  EXPECT_EQ(ranges_of(kShard).back(), "bytes=123456-");
}

TEST_F(Pull, ASpoiledPartIsFoundAndFetchedAgain) {
  remote_.add_fault(kShard, [](Reply& reply) { reply.cut = 1000; });
  for (int i = 0; i < kMostAttempts; ++i)
    remote_.add_fault(kShard, [](Reply& reply) { reply = {503, {}, ""}; });
  EXPECT_NE(error_of_pull(), "no error");
  write_file_atomically(part() / (kShard + std::string(".part")), random_bytes(9, 1000));
  pull_now();
  expect_needed_pulled();
}

TEST_F(Pull, WrongContentIsFetchedOnceMoreAndThenRefused) {
  const auto spoil = [](Reply& reply) { reply.body[1000] ^= 1; };
  remote_.add_fault(kShard, spoil);
  pull_now();
  expect_needed_pulled();

  options_.output = folder_ / "again";
  remote_.add_fault(kShard, spoil);
  remote_.add_fault(kShard, spoil);
  EXPECT_NE(error_of_pull().find("the content's digest is"), std::string::npos);
  EXPECT_FALSE(fs::exists(output()));
  EXPECT_FALSE(fs::exists(part() / kShard));
  options_.output = folder_ / "third";
  for (int i = 0; i < 2; ++i) remote_.add_fault("config.json", [](Reply& reply) { reply.body[3] = 'M'; });
  EXPECT_NE(error_of_pull().find("org/name/config.json: the content's digest is"), std::string::npos);
}

TEST_F(Pull, WrongSizesAreRefused) {
  const auto error_with = [&](const std::string& output, TestHub::Fault fault) {
    options_.output = folder_ / output;
    remote_.add_fault(kShard, std::move(fault));
    const std::string message = error_of_pull(), prefix = fmt::format("org/name/{}: ", kShard);
    return message.starts_with(prefix) ? message.substr(prefix.size()) : message;
  };
  EXPECT_EQ(error_with("a", [](Reply& reply) { reply.body += "more"; }),
            "it has 300004 bytes, the hub's list says 300000");
  EXPECT_EQ(error_with("b", [](Reply& reply) { reply.body += "more", reply.counted = false; }),
            "more than 300000 bytes come, the hub's list says 300000");
  EXPECT_EQ(error_with("c", [](Reply& reply) { reply.body.resize(1000); }),
            "it has 1000 bytes, the hub's list says 300000");
  EXPECT_EQ(error_with("d", [](Reply& reply) { reply.body.clear(); }),
            "it has 0 bytes, the hub's list says 300000");
  // Without a length an early end may be a dropped connection.
  EXPECT_EQ(error_with("e", [](Reply& reply) { reply.body.resize(1000), reply.counted = false; }),
            "no error");
  expect_needed_pulled();
  EXPECT_EQ(ranges_of(kShard).back(), "bytes=1000-");
}

TEST_F(Pull, AnswersToAnotherRangeAreRefused) {
  remote_.add_fault(kShard, [](Reply& reply) { reply.cut = 1000; });
  remote_.add_fault(kShard, [](Reply& reply) { reply.headers.back().second = "bytes 0-299999/300000"; });
  EXPECT_EQ(error_of_pull(),
            fmt::format("org/name/{}: asked for bytes 1000-, got 'bytes 0-299999/300000'", kShard));
}

TEST_F(Pull, RefusalsInWords) {
  remote_.token = "hf_secret";
  EXPECT_EQ(error_of_pull(),
            "HUB/org/name, revision main: not found, or not without a token: set HF_TOKEN (HTTP status 401)");
  token_ = "hf_other";
  EXPECT_EQ(error_of_pull(),
            "HUB/org/name, revision main: not found, or the token is not accepted (HTTP status 401)");
  token_ = "hf_secret";
  options_.revision = "v2/b";
  EXPECT_EQ(error_of_pull(),
            "HUB/org/name, revision v2/b: there is no such repository, revision or file (HTTP status 404)");
  options_.revision = "main";
  remote_.add_fault("tree", [](Reply& reply) { reply = {403, {}, "gated"}; });
  EXPECT_EQ(error_of_pull(),
            "HUB/org/name: access is refused (HTTP status 403); its terms may have to be accepted at " +
                remote_.endpoint() + "/org/name");
  remote_.add_fault("config.json", [](Reply& reply) { reply = {404, {}, ""}; });
  EXPECT_EQ(error_of_pull(),
            "org/name/config.json: there is no such repository, revision or file (HTTP status 404)");
  for (const std::string name : {"org/name/../x", "name", "/name", "org/"}) {
    options_.repository = name;
    EXPECT_EQ(error_of_pull(),
              "'" + name + "' is no repository: expected ORG/NAME, as in deepseek-ai/DeepSeek-V2-Lite");
  }
}

TEST_F(Pull, PassingTroublesPass) {
  remote_.add_fault(kShard, [](Reply& reply) { reply = {429, {{"Retry-After", "2"}}, "slow down"}; });
  remote_.add_fault(kShard, [](Reply& reply) { reply = {503, {}, ""}; });
  remote_.add_fault(kShard, [](Reply& reply) {
    reply = {403, {}, "the link has expired"};
  });  // storage, not the hub
  remote_.add_fault("tree", [](Reply& reply) { reply = {502, {}, ""}; });
  pull_now();
  expect_needed_pulled();
}

TEST_F(Pull, HostileListsAreRefused) {
  const auto entry = [](const std::string& path, const std::string& size) {
    return fmt::format("{{\"type\": \"file\", \"path\": {}, \"size\": {}, \"oid\": \"{}\"}}",
                       json_quote(path), size, std::string(40, 'c'));
  };
  for (const char* path : {"../evil.safetensors", "/etc/evil.safetensors", "a/../../b", "a//b", "./a", "..",
                           "", "a\nb.safetensors", "a\\b.safetensors", "a\u202eb.safetensors", "\u0085y"}) {
    remote_.list_entry = entry(path, "1");
    EXPECT_NE(error_of_pull().find("HUB/org/name: refused, it lists a file named '"), std::string::npos)
        << path;
  }
  for (const char* size : {"-1", "9000000000000000000"}) {
    remote_.list_entry = entry("a.safetensors", size);
    EXPECT_EQ(error_of_pull(),
              fmt::format("HUB/org/name: refused, 'a.safetensors' is said to have {} bytes", size));
  }
  remote_.list_entry = entry("config.json", "1");
  EXPECT_EQ(error_of_pull(), "HUB/org/name: lists 'config.json' twice");
  remote_.list_entry = entry("x.safetensors.part", "1");
  options_.all = true;
  EXPECT_EQ(error_of_pull(), "org/name: 'x.safetensors.part' is a name that pulling needs for itself");
  options_.all = false;
  remote_.list_entry = entry("huge.safetensors", std::to_string(uint64_t{1} << 50));
  const std::string message = error_of_pull();
  EXPECT_NE(message.find("1125899.9 GB are to come, but the disk has room for "), std::string::npos)
      << message;
  remote_.list_entry.clear();
  for (int i = 0; i < 16384; ++i)  // of 2^50 bytes: 2^64, which is 0 in 64 bits
    remote_.list_entry +=
        (i > 0 ? ", " : "") + entry(fmt::format("{}.safetensors", i), std::to_string(uint64_t{1} << 50));
  EXPECT_EQ(error_of_pull(),
            "the hub's list of files has sizes of more than 9223372036854775807 bytes together");
  remote_.list_entry = "7";
  EXPECT_NE(error_of_pull(), "no error");
  EXPECT_TRUE(remote_.storage().seen().empty()) << "nothing was fetched";
  EXPECT_FALSE(fs::exists(output()));
}

TEST_F(Pull, AnotherCommitKeepsWhatIsTheSame) {
  options_.connections = 1;
  remote_.add_fault("tokenizer.json", [](Reply& reply) {
    reply = {404, {}, ""};
  });  // last but one of the files
  EXPECT_NE(error_of_pull(), "no error");
  ASSERT_TRUE(fs::exists(part() / kShard));
  remote_.commit = std::string(40, 'd');
  remote_.files[kShard].content = random_bytes(3, 100'000);
  pull_now();
  expect_needed_pulled();
  EXPECT_EQ(ranges_of(kShard).size(), 2u);
  EXPECT_EQ(ranges_of("model-00002-of-00002.safetensors").size(), 1u);
}

TEST_F(Pull, DigestsOfTheAnswersServeWhereTheListHasNone) {
  remote_.with_digests = false;
  pull_now();
  expect_needed_pulled();
  options_.output = folder_ / "again";
  for (int i = 0; i < 3; ++i) remote_.add_fault(kShard, [](Reply& reply) { reply.body[7] ^= 1; });
  EXPECT_NE(error_of_pull().find("the content's digest is"), std::string::npos);
}

TEST_F(Pull, ForeignFoldersAreLeftAlone) {
  fs::create_directories(output());
  write_file_atomically(output() / "mine", "mine");
  EXPECT_EQ(error_of_pull(), output().string() +
                                 ": exists and is not the work of a pull; remove it, or choose another "
                                 "folder with --output");
  options_.output = folder_ / "b";
  fs::create_directories(part());
  write_file_atomically(part() / "config.json", "mine");
  EXPECT_EQ(error_of_pull(), part().string() +
                                 ": exists and is not the work of a pull; remove it, or choose another "
                                 "folder with --output");
  EXPECT_EQ(read_file(part() / "config.json"), "mine");
}

TEST_F(Pull, ACompleteFolderOfAnotherCommitStays) {
  pull_now();
  const std::string before = remote_.commit;
  remote_.commit = std::string(40, 'e');
  EXPECT_EQ(error_of_pull(), output().string() +
                                 ": exists and is org/name at commit aaaaaaaaaaaa; remove it, or choose "
                                 "another folder with --output");
  remote_.commit = before;
  fs::resize_file(output() / kShard, 5);
  EXPECT_NE(error_of_pull().find("exists, but lacks model-00001-of-00002.safetensors"), std::string::npos);
}

// What the error says helps.
TEST_F(Pull, AFolderThatLostAFileIsMended) {
  pull_now();
  fs::remove(output() / "tokenizer.json");
  fs::resize_file(output() / kShard, 5);
  const std::string command = fmt::format("`mv {0} {0}.part`", output().string());
  EXPECT_NE(
      error_of_pull().find("exists, but lacks model-00001-of-00002.safetensors, or has another size of it; " +
                           command + " and pulling again"),
      std::string::npos)
      << error_of_pull();
  fs::rename(output(), part());
  pull_now();
  expect_needed_pulled();
  EXPECT_EQ(ranges_of(kShard).size(), 2u);
  EXPECT_EQ(ranges_of("model-00002-of-00002.safetensors").size(), 1u);
}

TEST_F(Pull, ConfigComesBeforeTheRest) {
  remote_.files["LICENSE"] = {"free", true};
  std::string seen;
  options_.on_config = [&](const fs::path& path) {
    seen += read_file(path);
    EXPECT_TRUE(remote_.storage().seen().empty());
  };
  pull_now();
  EXPECT_EQ(seen, remote_.files["config.json"].content);
  EXPECT_TRUE(pull_now().was_complete);
  EXPECT_EQ(seen, remote_.files["config.json"].content);
}

TEST_F(Pull, DigestsInOtherSpellingsAreChecked) {
  remote_.spelled = [](std::string digest) {
    for (char& digit : digest) digit = static_cast<char>(std::toupper(digit));
    return digest.size() == 64 ? "sha256:" + digest : digest;
  };
  pull_now();
  expect_needed_pulled();
  for (const std::string path : {kShard, "config.json"}) {
    options_.output = folder_ / path;
    for (int i = 0; i < 2; ++i) remote_.add_fault(path, [](Reply& reply) { reply.body[7] ^= 1; });
    EXPECT_NE(error_of_pull().find(path + ": the content's digest is"), std::string::npos);
  }
  for (const char* prefix : {"md5:", "sha256:sha256:", "0"}) {
    remote_.spelled = [&](const std::string& digest) { return prefix + digest; };
    EXPECT_NE(
        error_of_pull().find("HUB/org/name: refused, the digest of 'README.md' is '" + std::string(prefix)),
        std::string::npos);
  }
}

TEST_F(Pull, FilesWithoutADigestAreWarnedOf) {
  remote_.with_digests = false;
  const auto warned = [&] {
    ::testing::internal::CaptureStderr();
    pull_now();
    return ::testing::internal::GetCapturedStderr();
  };
  EXPECT_EQ(warned(), "");
  options_.output = folder_ / "again";
  for (const char* path : {"config.json", "tokenizer.json"})
    remote_.add_fault(path, [](Reply& reply) { reply.headers.clear(); });
  const std::string warning = warned();
  EXPECT_NE(warning.find("config.json: the hub gives no digest"), std::string::npos) << warning;
  EXPECT_EQ(std::count(warning.begin(), warning.end(), '\n'), 1) << warning;
}

// A chunk of 64 KB of a body, sent for a long time.
void make_endless(Reply& reply, int status) {
  reply = {status, {{"Transfer-Encoding", "chunked"}}, "", false};
  reply.more = "10000\r\n" + std::string(65536, 'x') + "\r\n";
  reply.times = 1000;
}

constexpr uint64_t kSomeBytes = 16 << 20;  // more than lies in the buffers of a connection

TEST_F(Pull, EndlessRefusalsAreCutShort) {
  remote_.add_fault("config.json", [](Reply& reply) { make_endless(reply, 404); });
  remote_.add_fault(kShard, [](Reply& reply) { make_endless(reply, 503); });
  EXPECT_EQ(error_of_pull(),
            "org/name/config.json: there is no such repository, revision or file (HTTP status 404)");
  pull_now();
  expect_needed_pulled();
  EXPECT_LT(remote_.hub().bytes_sent() + remote_.storage().bytes_sent(), kSomeBytes);
}

TEST_F(Pull, AnswersInDropsRunOutOfTime) {
  answer_seconds_ = 0.3;
  remote_.add_fault("tree", [](Reply& reply) {
    reply.said_length = 1000;
    reply.body.clear();
    reply.more = std::string(1, ' ');
    reply.times = 40;
    reply.pause_seconds = 0.05;
  });
  EXPECT_EQ(error_of_pull(), "HUB/api/models/org/name/tree/" + remote_.commit +
                                 "?recursive=true: the answer takes longer than 0.3 s");
}

TEST_F(Pull, OneAtATime) {
  fs::create_directories(part());
  const int fd = ::open((part() / ".lock").c_str(), O_RDWR | O_CREAT, 0644);
  ASSERT_EQ(::flock(fd, LOCK_EX), 0);
  EXPECT_EQ(error_of_pull(), part().string() + ": another pull is at work in this folder");
  ::close(fd);
  pull_now();
  expect_needed_pulled();
}

TEST(Http, FollowsRedirectsToAnEnd) {
  test::LocalServer server([](const test::HttpRequestSeen& request) -> Reply {
    if (request.target == "/relative") return {307, {{"Location", "here"}}, "not shown"};
    if (request.target == "/here") return {200, {}, "found"};
    return {302, {{"Location", "/loop"}}, ""};
  });
  HttpClient http;
  std::string body;
  const auto keep = [&](const HttpResponse&, std::string_view piece) {
    body += piece;
    return true;
  };
  const HttpResponse response = http.get({server.url() + "/relative", "", "", 0}, keep);
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.url, server.url() + "/here");
  EXPECT_EQ(body, "found");
  EXPECT_EQ(error_of([&] {
              http.get({server.url() + "/loop", "", "", 0}, keep);
            }),
            server.url() + "/loop: more than 10 redirects");
  EXPECT_NE(error_of([&] {
              http.get({"file:///etc/passwd", "", "", 0}, keep);
            }).find("expected an http or https URL"),
            std::string::npos);
  EXPECT_NE(http.get({"http://127.0.0.1:1/", "", "", 0}, keep).trouble, "");
}

TEST(Http, EndlessRedirectsAreFollowed) {
  test::LocalServer server([](const test::HttpRequestSeen& request) -> Reply {
    if (request.target == "/here") return {200, {}, "found"};
    Reply reply;
    make_endless(reply, 302);
    reply.headers.emplace_back("Location", "/here");
    return reply;
  });
  HttpClient http;
  std::string body;
  const HttpResponse response =
      http.get({server.url(), "", "", 0}, [&](const HttpResponse&, std::string_view piece) {
        body += piece;
        return true;
      });
  EXPECT_TRUE(response.whole());
  EXPECT_EQ(body, "found");
  EXPECT_LT(server.bytes_sent(), kSomeBytes);
}

// libcurl keeps every line of a head or trailer in memory.
TEST(Http, HeadersHaveAnEnd) {
  std::string lines, long_lines;
  for (int i = 0; i < 5000; ++i) lines += "x-a: b\r\n";
  for (int i = 0; i < 500; ++i) long_lines += "x-a: " + std::string(1000, 'b') + "\r\n";
  test::LocalServer server([&](const test::HttpRequestSeen& request) -> Reply {
    Reply reply{200, {{"Transfer-Encoding", "chunked"}}, "2\r\n{}\r\n0\r\n", false};
    reply.more = request.target == "/long" ? long_lines : lines;
    reply.times = 1000;
    if (request.target != "/head") return reply;
    reply = {100, {}, "", false, SIZE_MAX, 0, "HTTP/1.1 100 Continue\r\n\r\n", 100'000};
    return reply;
  });
  for (const char* path : {"/trailers", "/long", "/head"}) {
    HttpClient http;
    EXPECT_EQ(error_of([&] {
                http.get({server.url() + path, "", "", 0}, [](auto&, auto) { return true; });
              }),
              server.url() + path + ": the answer's headers are more than 4000 lines or 262144 bytes");
  }
  EXPECT_LT(server.bytes_sent(), kSomeBytes);
}

TEST(Http, RedirectsLeadToWebPagesOnly) {
  test::LocalServer server([](const test::HttpRequestSeen&) -> Reply {
    return {302, {{"Location", "file:///etc/passwd"}}, ""};
  });
  HttpClient http;
  EXPECT_NE(error_of([&] {
              http.get({server.url(), "", "", 0}, [](auto&, auto) { return true; });
            }).find("expected an http or https URL"),
            std::string::npos);
}

TEST(Http, OriginsAndEncoding) {
  EXPECT_EQ(origin_of("https://Hub.Example/a?b"), "https://hub.example:443");
  EXPECT_EQ(origin_of("http://hub.example:8080/"), "http://hub.example:8080");
  EXPECT_NE(origin_of("https://hub.example.evil/"), origin_of("https://hub.example/"));
  EXPECT_NE(origin_of("https://hub.example@evil/"), origin_of("https://hub.example/"));
  EXPECT_EQ(percent_encoded("a b/ü?#%", true), "a%20b/%C3%BC%3F%23%25");
  EXPECT_EQ(percent_encoded("refs/pr/1", false), "refs%2Fpr%2F1");
}

TEST(Retries, WaitAsToldOrLongerAndLonger) {
  const Hub hub;
  const auto after = [&](const std::string& value) {
    return retry_seconds(hub, {.headers = {{"retry-after", value}}}, 0);
  };
  EXPECT_EQ(retry_seconds(hub, {}, 0), 1);
  EXPECT_EQ(retry_seconds(hub, {}, 3), 8);
  EXPECT_EQ(retry_seconds(hub, {}, 9), 30);
  EXPECT_EQ(after("17"), 17);
  EXPECT_EQ(after("99999"), kMostRetryAfter);
  EXPECT_EQ(after("Wed, 21 Oct 2015 07:28:00 GMT"), 0);
  const time_t later = std::time(nullptr) + 60;
  char date[64];
  std::strftime(date, sizeof(date), "%a, %d %b %Y %H:%M:%S GMT", std::gmtime(&later));
  EXPECT_NEAR(after(date), 60, 2);
  EXPECT_EQ(after("soon"), 1);
}

// From FIPS 180, and of git ("echo hello | git hash-object --stdin").
TEST(Digests, KnownOnes) {
  EXPECT_EQ(TestHub::sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(TestHub::blob_sha1("hello\n"), "ce013625030ba8dba906f756967f9e9ca394464a");
  EXPECT_EQ(parse_digest("W/\"" + std::string(64, 'a') + "\"").hex, std::string(64, 'a'));
  EXPECT_EQ(parse_digest("sha256:" + std::string(64, 'A')).hex, std::string(64, 'a'));
  EXPECT_FALSE(parse_digest("sha256:" + std::string(40, 'a')).known());
  EXPECT_FALSE(parse_digest("\"d41d8cd98f00b204e9800998ecf8427e\"").known());  // MD5
  EXPECT_FALSE(parse_digest(std::string(64, 'G')).known());
}

class HubFromEnvironment : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"HF_ENDPOINT", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HOME"}) ::unsetenv(name);
    ::setenv("HOME", folder_.path().c_str(), 1);
  }
  void TearDown() override { SetUp(); }
  test::ScratchFolder folder_;
};

TEST_F(HubFromEnvironment, CustomaryVariables) {
  EXPECT_EQ(Hub::from_environment().endpoint, "https://huggingface.co");
  EXPECT_EQ(Hub::from_environment().token, "");
  fs::create_directories(folder_ / ".cache/huggingface");
  write_file_atomically(folder_ / ".cache/huggingface/token", "hf_home\n");
  EXPECT_EQ(Hub::from_environment().token, "hf_home");
  write_file_atomically(folder_ / "token", "hf_b");
  ::setenv("HF_HOME", folder_.path().c_str(), 1);
  EXPECT_EQ(Hub::from_environment().token, "hf_b");
  write_file_atomically(folder_ / "other", "hf_c");
  ::setenv("HF_TOKEN_PATH", (folder_ / "other").c_str(), 1);
  EXPECT_EQ(Hub::from_environment().token, "hf_c");
  ::setenv("HF_TOKEN", "hf_d", 1);
  ::setenv("HF_ENDPOINT", "https://mirror.example/", 1);
  EXPECT_EQ(Hub::from_environment().token, "hf_d");
  EXPECT_EQ(Hub::from_environment().endpoint, "https://mirror.example");
  ::setenv("HF_TOKEN", "hf_d\r\nX: y", 1);
  EXPECT_NE(error_of([] { Hub::from_environment(); }), "no error");
  ::setenv("HF_TOKEN", "hf_d", 1);
  ::setenv("HF_ENDPOINT", "ftp://mirror", 1);
  EXPECT_NE(error_of([] { Hub::from_environment(); }), "no error");
}

}  // namespace
}  // namespace moray::hub
