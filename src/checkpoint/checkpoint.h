// Checkpoints: folders that are complete or absent.
//
//   PARENT/step-00001234/
//     model/    a Hugging Face model folder: config.json, safetensors, tokenizer files
//     state/    trainer.json and one safetensors file a group (master weights, moments, EMA, ...)
//     manifest.json
//
// A checkpoint is written as PARENT/.tmp-step-00001234, every file and folder synced, and renamed. A kill at
// any instant leaves every older checkpoint whole and the new one whole or absent. What a kill leaves behind
// (".tmp-step-*",
// ".trash-step-*") is never read, and removed by the next save. Where a file system cannot exchange two
// folders, a step's old checkpoint stands aside (".aside-step-*") while the new one moves in, and counts as
// its checkpoint until then. One process at a time may save into a parent.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/safetensors_writer.h"

namespace moray {

struct TextFile {
  std::string name;  // without a folder
  std::string content;
};

struct StateGroup {
  std::string name;  // "master" becomes state/master.safetensors
  std::vector<NamedTensor> tensors;
};

struct CheckpointContent {
  std::vector<NamedTensor> model;      // by Hugging Face name; stored_as says each one's dtype on disk
  std::string config_json;             // model/config.json
  std::vector<TextFile> model_files;   // further files of model/: tokenizer.json, generation_config.json, ...
  std::vector<fs::path> copied_files;  // files copied into model/ under their own names
  std::vector<StateGroup> state;
  std::string trainer_json;  // state/trainer.json
  uint64_t max_shard_bytes = kDefaultShardBytes;
};

// Saves PARENT/step-NNNNNNNN and returns its path; the parent is created if absent. An existing checkpoint of
// the same step is replaced, in one exchange where the file system can. Throws Error when anything cannot be
// written (a full disk), having removed what it wrote; other checkpoints stay as they were.
fs::path save_checkpoint(const fs::path& parent, int64_t step, const CheckpointContent& content);

// The complete checkpoints in `parent`, oldest step first: those whose manifest is sound and whose files have
// the right sizes. Empty when the parent does not exist. Contents are not checked; open_checkpoint does.
std::vector<fs::path> list_checkpoints(const fs::path& parent);

// The newest complete checkpoint, if any.
std::optional<fs::path> latest_checkpoint(const fs::path& parent);

// Throws Error naming the first file that is missing, has another size, or whose checksum does not match.
void verify_checkpoint(const fs::path& checkpoint);

// Deletes all complete checkpoints but the `keep_last` (at least 1) newest. Each is renamed out of sight
// before its files go, so that none is ever half there.
void remove_old_checkpoints(const fs::path& parent, int64_t keep_last);

// A checkpoint opened for reading.
class Checkpoint {
 public:
  const fs::path& path() const { return path_; }
  int64_t step() const { return step_; }
  const SafetensorsFolder& model() const { return model_; }
  const SafetensorsFile& state(std::string_view group) const;  // Error when absent
  bool has_state(std::string_view group) const { return state_.find(group) != state_.end(); }
  const std::string& trainer_json() const { return trainer_json_; }
  fs::path model_file(const std::string& name) const { return path_ / "model" / name; }

 private:
  friend Checkpoint open_checkpoint(const fs::path& checkpoint);
  explicit Checkpoint(const fs::path& path) : path_(path), model_(path / "model") {}

  fs::path path_;
  int64_t step_ = 0;
  SafetensorsFolder model_;
  std::map<std::string, SafetensorsFile, std::less<>> state_;
  std::string trainer_json_;
};

// Verifies everything, then opens. Throws Error naming the bad file.
Checkpoint open_checkpoint(const fs::path& checkpoint);

}  // namespace moray
