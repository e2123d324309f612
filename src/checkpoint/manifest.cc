#include "checkpoint/manifest.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/json.h"

namespace moray {

namespace {

constexpr std::string_view kFormat = "moray checkpoint";
constexpr int64_t kVersion = 1;

std::string hex(uint64_t value) {
  return fmt::format("{:016x}", value);
}

// What follows the protected text; a pure function of it.
std::string tail_of(std::string_view protected_text) {
  return fmt::format("  \"xxh3\": \"{}\"\n}}\n", hex(checksum(std::as_bytes(std::span(protected_text)))));
}

bool is_inside(const std::string& name) {
  const bool in_folder = name.starts_with("model/") || name.starts_with("state/");
  const std::string file = in_folder ? name.substr(6) : "";
  return !file.empty() && file.find('/') == std::string::npos && file != "." && file != "..";
}

WrittenFile parse_entry(const nlohmann::json& entry, const std::string& where) {
  WrittenFile file;
  file.name = json_string(entry, "path", where);
  if (!is_inside(file.name)) fail("{}: '{}' is not a file in model/ or state/", where, file.name);
  const int64_t bytes = json_integer(entry, "bytes", where);
  if (bytes < 0) fail("{}: '{}' has {} bytes", where, file.name, bytes);
  file.bytes = static_cast<uint64_t>(bytes);
  const std::string sum = json_string(entry, "xxh3", where);
  const bool is_hex = sum.size() == 16 && sum.find_first_not_of("0123456789abcdef") == std::string::npos;
  if (!is_hex) fail("{}: '{}' has the malformed checksum '{}'", where, file.name, sum);
  file.checksum = std::stoull(sum, nullptr, 16);
  return file;
}

}  // namespace

const WrittenFile* Manifest::find(std::string_view name) const {
  const auto found =
      std::find_if(files.begin(), files.end(), [&](const auto& file) { return file.name == name; });
  return found == files.end() ? nullptr : &*found;
}

std::string manifest_text(const Manifest& manifest) {
  std::string text =
      fmt::format("{{\n  \"format\": \"{}\",\n  \"version\": {},\n  \"step\": {},\n  \"files\": [", kFormat,
                  kVersion, manifest.step);
  const char* separator = "\n";
  for (const WrittenFile& file : manifest.files) {
    text += fmt::format("{}    {{\"path\": {}, \"bytes\": {}, \"xxh3\": \"{}\"}}", separator,
                        json_quote(file.name), file.bytes, hex(file.checksum));
    separator = ",\n";
  }
  text += "\n  ],\n";
  return text + tail_of(text);
}

Manifest read_manifest(const fs::path& checkpoint) {
  const fs::path path = checkpoint / kManifestFile;
  const std::string where = path.string();
  const std::string text = read_file(path);
  const size_t tail_size = tail_of("").size();
  const std::string_view body =
      std::string_view(text).substr(0, text.size() - std::min(tail_size, text.size()));
  if (text.substr(body.size()) != tail_of(body)) fail("{}: damaged: its own checksum does not match", where);

  const nlohmann::json document = parse_json(text, where);
  if (json_string(document, "format", where) != kFormat) fail("{}: not a checkpoint of moray", where);
  const int64_t version = json_integer(document, "version", where);
  if (version != kVersion) fail("{}: format version {}, this program reads {}", where, version, kVersion);
  Manifest manifest;
  manifest.step = json_integer(document, "step", where);
  std::set<std::string> names;
  for (const nlohmann::json& entry : json_array(document, "files", where)) {
    manifest.files.push_back(parse_entry(entry, where));
    const std::string& name = manifest.files.back().name;
    if (!names.insert(name).second) fail("{}: '{}' is listed twice", where, name);
  }
  return manifest;
}

namespace {

void check_file(const fs::path& path, const WrittenFile& file, bool checksums) {
  std::error_code error;
  const uint64_t bytes = fs::file_size(path, error);
  if (error) fail("{}: missing or unreadable: {}", path.string(), error.message());
  if (bytes != file.bytes) {
    fail("{}: damaged: {} bytes, {} according to the manifest", path.string(), bytes, file.bytes);
  }
  if (!checksums) return;
  const uint64_t sum = file_checksum(path);
  if (sum != file.checksum) {
    fail("{}: damaged: checksum {}, {} according to the manifest", path.string(), hex(sum),
         hex(file.checksum));
  }
}

}  // namespace

void check_files(const fs::path& checkpoint, const Manifest& manifest, bool checksums) {
  // One thread cannot sum as fast as some disks read.
  constexpr unsigned kMostThreads = 4;
  const size_t files = manifest.files.size();
  const size_t threads =
      checksums ? std::min<size_t>({files, kMostThreads, std::max(1u, std::thread::hardware_concurrency())})
                : 1;
  std::vector<std::exception_ptr> errors(files);
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    for (size_t i = next++; i < files; i = next++) try {
        check_file(checkpoint / manifest.files[i].name, manifest.files[i], checksums);
      } catch (...) {
        errors[i] = std::current_exception();
      }
  };
  {
    std::vector<std::jthread> helpers;
    for (size_t thread = 1; thread < threads; ++thread) helpers.emplace_back(work);
    work();
  }
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

}  // namespace moray
