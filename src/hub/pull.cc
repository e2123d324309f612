#include "hub/pull.h"

#include <fnmatch.h>

#include <algorithm>
#include <limits>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/error.h"
#include "base/folder_lock.h"
#include "base/json.h"
#include "hub/download.h"

namespace moray::hub {

namespace {

constexpr const char* kRecordFile = ".moray-pull.json";
constexpr const char* kOriginals = ".originals";  // what is to be converted, in OUTPUT.part

bool matches(const std::string& pattern, const std::string& path) {
  return ::fnmatch(pattern.c_str(), path.c_str(), 0) == 0;
}

std::vector<RemoteFile> selected(const Repository& repository, const PullOptions& options) {
  std::vector<RemoteFile> files;
  for (const RemoteFile& file : repository.files) {
    const auto included = [&](const std::string& pattern) { return matches(pattern, file.path); };
    if (options.all || is_needed(file.path) ||
        std::any_of(options.include.begin(), options.include.end(), included))
      files.push_back(file);
  }
  for (const std::string& pattern : options.include)
    if (std::none_of(files.begin(), files.end(),
                     [&](const RemoteFile& file) { return matches(pattern, file.path); }))
      fail("{}: no file matches '{}'", repository.name, pattern);
  const auto is_ours = [](const RemoteFile& file) {
    return file.path == kRecordFile || file.path.starts_with(kOriginals) ||
           file.path.ends_with(kPartSuffix) || file.path == ".lock";
  };
  if (const auto ours = std::find_if(files.begin(), files.end(), is_ours); ours != files.end())
    fail("{}: '{}' is a name that pulling needs for itself", repository.name, ours->path);
  if (files.empty())
    fail("{}: holds no file of a model folder (config.json, *.safetensors, tokenizer.json)", repository.name);
  return files;
}

// Throws Error where it is more than any disk can have, so that nothing computed from it wraps around.
uint64_t total_bytes(const std::vector<RemoteFile>& files) {
  constexpr uint64_t kMost = std::numeric_limits<int64_t>::max();
  uint64_t total = 0;
  for (const RemoteFile& file : files) {
    if (file.size > kMost - total)
      fail("the hub's list of files has sizes of more than {} bytes together", kMost);
    total += file.size;
  }
  return total;
}

// What a folder is to hold.
struct Record {
  std::string repository, commit;
  std::vector<RemoteFile> files;
  std::string conversion = "";  // its name

  const RemoteFile* find(const std::string& path) const {
    const auto found =
        std::find_if(files.begin(), files.end(), [&](const RemoteFile& f) { return f.path == path; });
    return found == files.end() ? nullptr : &*found;
  }
};

void write_record(const fs::path& folder, const Hub& hub, const Record& record) {
  nlohmann::ordered_json json{
      {"endpoint", hub.endpoint}, {"repository", record.repository}, {"commit", record.commit}};
  if (!record.conversion.empty()) json["conversion"] = record.conversion;
  json["files"] = nlohmann::ordered_json::array();
  for (const RemoteFile& file : record.files)
    json["files"].push_back({{"path", file.path}, {"size", file.size}, {"digest", file.digest.hex}});
  write_file_atomically(folder / kRecordFile, json.dump(2) + "\n");
}

// Empty when there is none, or none that can be read.
Record read_record(const fs::path& folder) {
  const fs::path path = folder / kRecordFile;
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) return {};
  try {
    const nlohmann::json json = parse_json(read_file(path), path.string());
    Record record{
        json_string(json, "repository", path.string()), json_string(json, "commit", path.string()), {}};
    for (const nlohmann::json& entry : json_array(json, "files", path.string()))
      record.files.push_back({json_string(entry, "path", path.string()),
                              static_cast<uint64_t>(json_integer(entry, "size", path.string())),
                              {json_string(entry, "digest", path.string())}});
    record.conversion = json_string(json, "conversion", path.string(), "");
    for (const RemoteFile& file : record.files)
      if (!path_objection(file.path).empty()) return {};
    return record;
  } catch (const Error&) {
    return {};
  }
}

bool has_file(const fs::path& folder, const RemoteFile& file) {
  const fs::path path = folder / file.path;
  std::error_code error;
  return fs::is_regular_file(fs::symlink_status(path, error)) && fs::file_size(path, error) == file.size &&
         !error;
}

// Makes the folder of a pull under way hold nothing but what is wanted: files and parts of an earlier pull
// stay where their digest is the same in both records. Nothing is touched that no pull has put there.
void keep_what_is_wanted(const fs::path& folder, const Record& now) {
  const Record before = read_record(folder);
  for (const fs::directory_entry& entry : fs::directory_iterator(folder))
    if (before.commit.empty() && entry.path().filename() != ".lock")
      fail("{}: exists and is not the work of a pull; remove it, or choose another folder with --output",
           folder.string());
  if (!before.commit.empty() && before.conversion != now.conversion)
    fail("{}: is the beginning of a pull {}; remove it, or choose another folder with --output",
         folder.string(),
         before.conversion.empty() ? "as it is on the hub" : "with --quantize " + before.conversion);
  // What was made of other originals is of no use, nor are they.
  if (!now.conversion.empty() && !before.commit.empty() && before.commit != now.commit) {
    fs::remove_all(folder / kOriginals);
    for (const RemoteFile& old : before.files) fs::remove(folder / old.path);
  }
  for (const RemoteFile& old : before.files) {
    const RemoteFile* wanted = now.find(old.path);
    if (wanted != nullptr && wanted->size == old.size && wanted->digest.hex == old.digest.hex) continue;
    for (const fs::path& path : {folder / old.path, folder / (old.path + kPartSuffix)}) {
      std::error_code error;
      if (!fs::remove(path, error) && error) fail("{}: cannot remove: {}", path.string(), error.message());
    }
  }
}

uint64_t bytes_to_fetch(const fs::path& folder, const std::vector<RemoteFile>& missing) {
  uint64_t bytes = total_bytes(missing);
  for (const RemoteFile& file : missing) {
    std::error_code error;
    const uintmax_t there = fs::file_size(folder / (file.path + kPartSuffix), error);
    if (!error && there <= file.size) bytes -= there;
  }
  return bytes;
}

// Of originals: those that nothing has been made of, and that are not there as they are.
uint64_t bytes_to_convert(const fs::path& folder, const std::vector<RemoteFile>& originals) {
  uint64_t bytes = 0;
  std::error_code ignored;
  for (const RemoteFile& file : originals)
    if (!has_file(folder / kOriginals, file) &&
        !(is_shard(file.path) && fs::exists(folder / file.path, ignored)))
      bytes += file.size;
  return bytes;
}

// Fetches the files, several at a time; the first error of any ends all.
void fetch(const Hub& hub, const Repository& repository, const fs::path& folder,
           const std::vector<RemoteFile>& missing, int connections,
           const std::function<void(int64_t)>& advanced) {
  DownloadContext context{hub, repository, folder, advanced};
  std::atomic<size_t> next = 0;
  std::mutex mutex;
  std::exception_ptr failure;
  const auto work = [&] {
    try {
      HttpClient http;
      for (size_t i = next++; i < missing.size() && !context.stop; i = next++)
        download(http, context, missing[i]);
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
      context.stop = true;
    }
  };
  std::vector<std::thread> workers;
  const size_t count = std::min(static_cast<size_t>(connections), missing.size());
  for (size_t i = 0; i < count; ++i) workers.emplace_back(work);
  for (std::thread& worker : workers) worker.join();
  if (failure) std::rethrow_exception(failure);
}

// Whether the output is there already, whole. Throws Error when something else is in its place.
bool is_complete(const fs::path& output, const Record& wanted) {
  std::error_code ignored;
  if (!fs::exists(fs::symlink_status(output, ignored))) return false;
  const Record record = read_record(output);
  if (record.repository != wanted.repository || record.commit != wanted.commit)
    fail("{}: exists and is {}; remove it, or choose another folder with --output", output.string(),
         record.commit.empty()
             ? "not the work of a pull"
             : fmt::format("{} at commit {}", record.repository, record.commit.substr(0, 12)));
  if (record.conversion != wanted.conversion)
    fail("{}: exists and is {}; remove it, or choose another folder with --output", output.string(),
         record.conversion.empty() ? "not quantized" : "quantized to " + record.conversion);
  const auto is_there = [&](const RemoteFile& file) {
    return wanted.conversion.empty() || !is_original(file.path) ? has_file(output, file)
                                                                : fs::exists(output / file.path, ignored);
  };
  for (const RemoteFile& file : wanted.files)
    if (!is_there(file))
      fail(
          "{0}: exists, but lacks {1}, or has another size of it; `mv {0} {0}{2}` and pulling again fetches "
          "what is wrong; or remove it, or choose another folder with --output",
          whole_path(output).string(), file.path, kPartSuffix);
  return true;
}

// The files that are converted: those that are not shards first.
void fetch_converted(const Hub& hub, const Repository& repository, const fs::path& folder,
                     const std::vector<RemoteFile>& files, const PullOptions& options,
                     const std::function<void(int64_t)>& advanced) {
  const fs::path originals = folder / kOriginals;
  create_folder(originals);
  std::vector<RemoteFile> shards, others;
  for (const RemoteFile& file : files) (is_shard(file.path) ? shards : others).push_back(file);
  std::erase_if(others, [&](const RemoteFile& file) { return has_file(originals, file); });
  fetch(hub, repository, originals, others, options.connections, advanced);
  options.conversion->check(originals);
  DownloadContext context{hub, repository, originals, advanced};
  fetch_and_convert(context, folder, shards, *options.conversion, options.connections);
  std::vector<std::string> names;
  for (const RemoteFile& shard : shards) names.push_back(shard.path);
  options.conversion->finish(originals, folder, names);
  fs::remove_all(originals);
}

}  // namespace

bool is_needed(const std::string& path) {
  if (path.find('/') != std::string::npos) return false;
  for (const char* pattern :
       {"config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json",
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
        "vocab.json", "merges.txt", "tiktoken.model", "*.tiktoken", "tokenizer.model", "chat_template.*",
        "LICENSE*"})
    if (matches(pattern, path)) return true;
  return false;
}

PullSummary pull(const Hub& hub, const PullOptions& options,
                 const std::function<void(uint64_t, uint64_t)>& progress) {
  HttpClient http;
  const Repository repository = read_repository(http, hub, options.repository, options.revision);
  const Record record{repository.name, repository.commit, selected(repository, options),
                      options.conversion != nullptr ? options.conversion->name : ""};
  PullSummary summary{repository.commit, static_cast<int64_t>(record.files.size()), total_bytes(record.files),
                      false};
  if (is_complete(options.output, record)) {
    summary.was_complete = true;
    return summary;
  }
  const fs::path output = whole_path(options.output);
  const fs::path folder = output.string() + kPartSuffix;
  create_folder(folder);
  const FolderLock lock(folder, "pull");
  keep_what_is_wanted(folder, record);
  write_record(folder, hub, record);
  std::vector<RemoteFile> missing, converted;
  for (const RemoteFile& file : record.files)
    if (options.conversion != nullptr && is_original(file.path))
      converted.push_back(file);
    else if (!has_file(folder, file))
      missing.push_back(file);
  const uint64_t to_convert = bytes_to_convert(folder, converted);
  const double share = options.conversion != nullptr ? options.conversion->least_share : 0;
  expect_room(folder, bytes_to_fetch(folder, missing) +
                          static_cast<uint64_t>(share * static_cast<double>(to_convert)));

  std::mutex mutex;
  uint64_t done = summary.bytes - total_bytes(missing) - to_convert;
  const auto advanced = [&](int64_t bytes) {
    const std::lock_guard guard(mutex);
    done += static_cast<uint64_t>(bytes);
    progress(std::min(done, summary.bytes), summary.bytes);  // a shard may be needed again for the next one
  };
  if (options.on_config && options.conversion == nullptr && record.find("config.json") != nullptr) {
    const auto config = std::ranges::find(missing, "config.json", &RemoteFile::path);
    if (config != missing.end()) {
      fetch(hub, repository, folder, {*config}, 1, advanced);
      missing.erase(config);
    }
    options.on_config(folder / "config.json");
  }
  fetch(hub, repository, folder, missing, options.connections, advanced);
  if (options.conversion != nullptr) fetch_converted(hub, repository, folder, converted, options, advanced);
  lock.remove();
  sync_folder(folder);
  std::error_code error;
  fs::rename(folder, output, error);
  if (error) fail("{}: cannot rename to {}: {}", folder.string(), output.string(), error.message());
  sync_folder(output.parent_path());
  return summary;
}

}  // namespace moray::hub
