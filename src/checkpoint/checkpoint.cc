#include "checkpoint/checkpoint.h"

#include <fcntl.h>
#include <stdio.h>  // renameat2

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "checkpoint/manifest.h"

namespace moray {

namespace {

constexpr std::string_view kStepPrefix = "step-";
constexpr std::string_view kTemporaryPrefix = ".tmp-";
constexpr std::string_view kTrashPrefix = ".trash-";
constexpr std::string_view kAsidePrefix =
    ".aside-";  // the old checkpoint of a step while its new one moves in
constexpr std::string_view kSafetensors = ".safetensors";

std::string step_folder_name(int64_t step) {
  return fmt::format("{}{:08}", kStepPrefix, step);
}

// The step in a folder's name; nullopt for any other name ("step-12" included: it is not ours).
std::optional<int64_t> step_of(const std::string& name) {
  constexpr size_t kMaxDigits = 18;  // fits an int64_t
  if (!name.starts_with(kStepPrefix)) return std::nullopt;
  const std::string digits = name.substr(kStepPrefix.size());
  if (digits.size() > kMaxDigits || digits.find_first_not_of("0123456789") != std::string::npos)
    return std::nullopt;
  const int64_t step = digits.empty() ? -1 : std::stoll(digits);
  return step_folder_name(step) == name ? std::optional(step) : std::nullopt;
}

std::vector<fs::path> entries_of(const fs::path& folder) {
  std::vector<fs::path> entries;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    entries.push_back(it->path());
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    fail("{}: cannot list: {}", folder.string(), error.message());
  }
  return entries;
}

// A new parent's own name must be durable too.
void create_parent(const fs::path& parent) {
  std::error_code ignored;
  if (fs::exists(parent, ignored)) return;
  create_folder(parent);
  sync_folder((parent / "..").lexically_normal());
}

void rename_folder(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  if (error) fail("{}: cannot rename to {}: {}", from.string(), to.string(), error.message());
}

void remove_folder(const fs::path& folder) {
  std::error_code error;
  fs::remove_all(folder, error);
  if (error) fail("{}: cannot remove: {}", folder.string(), error.message());
}

// A checkpoint that stands aside and whose place is empty: the process died before the new one moved in.
bool is_displaced(const fs::path& entry) {
  const std::string name = entry.filename().string();
  if (!name.starts_with(kAsidePrefix) || !step_of(name.substr(kAsidePrefix.size()))) return false;
  std::error_code ignored;
  return !fs::exists(entry.parent_path() / name.substr(kAsidePrefix.size()), ignored);
}

// Cleans up what a killed process left behind.
void remove_leftovers(const fs::path& parent) {
  for (const fs::path& entry : entries_of(parent)) {
    const std::string name = entry.filename().string();
    if (is_displaced(entry)) {
      rename_folder(entry, parent / name.substr(kAsidePrefix.size()));
      continue;
    }
    for (std::string_view prefix : {kTemporaryPrefix, kTrashPrefix, kAsidePrefix}) {
      if (name.starts_with(prefix) && step_of(name.substr(prefix.size()))) remove_folder(entry);
    }
  }
}

// Out of sight in one step, then deleted at leisure.
void discard(const fs::path& folder) {
  const fs::path trash = folder.parent_path() / fmt::format("{}{}", kTrashPrefix, folder.filename().string());
  remove_folder(trash);
  rename_folder(folder, trash);
  sync_folder(folder.parent_path());
  remove_folder(trash);
}

// A folder that goes away with its holder, also when the disk is full.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(const fs::path& path) : path_(path) { create_folder(path); }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const fs::path& path() const { return path_; }

  // Afterwards `target` is this folder, and this folder is the target's old content or nothing.
  void move_to(const fs::path& target) const {
    std::error_code ignored;
    if (!fs::exists(fs::symlink_status(target, ignored))) return rename_folder(path_, target);
    if (::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) == 0) return;
    if (errno != EINVAL && errno != ENOSYS && errno != ENOTSUP) {
      fail("{}: cannot replace: {}", target.string(), std::strerror(errno));
    }
    // A file system without exchange (some network ones): until the second rename, the old one is found
    // standing aside.
    const fs::path aside =
        target.parent_path() / fmt::format("{}{}", kAsidePrefix, target.filename().string());
    rename_folder(target, aside);
    rename_folder(path_, target);
    sync_folder(target.parent_path());
    remove_folder(aside);
  }

 private:
  fs::path path_;
};

bool is_plain_name(const std::string& name) {
  return !name.empty() && name.find('/') == std::string::npos && name != "." && name != "..";
}

void write_model(const fs::path& folder, const CheckpointContent& content, std::vector<WrittenFile>& files) {
  std::vector<WrittenFile> written = write_safetensors_folder(folder, content.model, content.max_shard_bytes);
  written.push_back(write_text_file(folder / "config.json", content.config_json));
  for (const TextFile& file : content.model_files) {
    MORAY_CHECK(is_plain_name(file.name), "'{}'", file.name);
    written.push_back(write_text_file(folder / file.name, file.content));
  }
  for (const fs::path& path : content.copied_files) {
    written.push_back(write_text_file(folder / path.filename(), MappedFile(path).text()));
  }
  for (WrittenFile& file : written) {
    file.name = "model/" + file.name;
    files.push_back(std::move(file));
  }
}

void write_state(const fs::path& folder, const CheckpointContent& content, std::vector<WrittenFile>& files) {
  for (const StateGroup& group : content.state) {
    MORAY_CHECK(is_plain_name(group.name), "'{}'", group.name);
    files.push_back(write_safetensors(folder / fmt::format("{}{}", group.name, kSafetensors), group.tensors));
    files.back().name = "state/" + files.back().name;
  }
  files.push_back(write_text_file(folder / "trainer.json", content.trainer_json));
  files.back().name = "state/trainer.json";
}

}  // namespace

fs::path save_checkpoint(const fs::path& parent, int64_t step, const CheckpointContent& content) {
  MORAY_CHECK(step >= 0, "step {}", step);
  create_parent(parent);
  remove_leftovers(parent);
  const std::string name = step_folder_name(step);
  const fs::path target = parent / name;
  const TemporaryFolder temporary(parent / fmt::format("{}{}", kTemporaryPrefix, name));

  create_folder(temporary.path() / "model");
  create_folder(temporary.path() / "state");
  Manifest manifest{step, {}};
  write_model(temporary.path() / "model", content, manifest.files);
  write_state(temporary.path() / "state", content, manifest.files);
  sync_folder(temporary.path() / "model");
  sync_folder(temporary.path() / "state");
  write_text_file(temporary.path() / kManifestFile, manifest_text(manifest));
  sync_folder(temporary.path());

  temporary.move_to(target);
  sync_folder(parent);
  return target;
}

std::vector<fs::path> list_checkpoints(const fs::path& parent) {
  std::vector<std::pair<int64_t, fs::path>> found;
  for (const fs::path& entry : entries_of(parent)) {
    const std::string name = entry.filename().string();
    const std::optional<int64_t> step =
        step_of(is_displaced(entry) ? name.substr(kAsidePrefix.size()) : name);
    if (!step) continue;
    try {
      const Manifest manifest = read_manifest(entry);
      check_files(entry, manifest, false);
      if (manifest.step == *step) found.emplace_back(*step, entry);
    } catch (const Error&) {  // damaged: not complete
    }
  }
  std::sort(found.begin(), found.end());
  std::vector<fs::path> paths;
  for (auto& [step, path] : found) paths.push_back(std::move(path));
  return paths;
}

std::optional<fs::path> latest_checkpoint(const fs::path& parent) {
  const std::vector<fs::path> all = list_checkpoints(parent);
  return all.empty() ? std::nullopt : std::optional(all.back());
}

void verify_checkpoint(const fs::path& checkpoint) {
  check_files(checkpoint, read_manifest(checkpoint), true);
}

void remove_old_checkpoints(const fs::path& parent, int64_t keep_last) {
  MORAY_CHECK(keep_last >= 1, "keep_last {}", keep_last);
  remove_leftovers(parent);
  const std::vector<fs::path> all = list_checkpoints(parent);
  for (size_t i = 0; i + static_cast<size_t>(keep_last) < all.size(); ++i) discard(all[i]);
}

const SafetensorsFile& Checkpoint::state(std::string_view group) const {
  const auto found = state_.find(group);
  if (found == state_.end()) fail("{}: there is no state/{}{}", path_.string(), group, kSafetensors);
  return found->second;
}

Checkpoint open_checkpoint(const fs::path& path) {
  const Manifest manifest = read_manifest(path);
  check_files(path, manifest, true);
  for (const char* required : {"model/config.json", "state/trainer.json"}) {
    if (manifest.find(required) == nullptr) fail("{}: the manifest lacks {}", path.string(), required);
  }
  Checkpoint checkpoint(path);
  checkpoint.step_ = manifest.step;
  for (const SafetensorsFile& file : checkpoint.model_.files()) {
    const std::string name = "model/" + file.path().filename().string();
    if (manifest.find(name) == nullptr) fail("{}: {} is not in the manifest", path.string(), name);
  }
  for (const WrittenFile& file : manifest.files) {
    if (!file.name.starts_with("state/") || !file.name.ends_with(kSafetensors)) continue;
    const fs::path state_path = path / file.name;
    checkpoint.state_.emplace(state_path.stem().string(), SafetensorsFile(state_path));
  }
  checkpoint.trainer_json_ = read_file(path / "state/trainer.json");
  return checkpoint;
}

}  // namespace moray
