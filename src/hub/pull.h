// A model folder from a hub: complete or absent, however often it takes.
//
// While it is under way everything lies in OUTPUT.part/, beside a record of what is to come; a later pull
// goes on there. When all files are there and checked, the folder is renamed to OUTPUT. With a conversion,
// what is to be converted lies in OUTPUT.part/.originals meanwhile.
#pragma once

#include <functional>

#include "base/files.h"
#include "hub/conversion.h"
#include "hub/repository.h"

namespace moray::hub {

struct PullOptions {
  std::string repository;         // "ORG/NAME"
  std::string revision = "main";  // branch, tag or commit
  fs::path output;
  int connections = 4;                     // files at a time
  bool all = false;                        // every file of the repository
  std::vector<std::string> include = {};   // further files, as shell patterns over the path
  const Conversion* conversion = nullptr;  // of the shards, one by one
  // Gets the path of config.json when it is there, before the other files come; not called with a conversion,
  // which has its own look, nor where nothing is left to do.
  std::function<void(const fs::path&)> on_config = {};
};

struct PullSummary {
  std::string commit;
  int64_t files = 0;
  uint64_t bytes = 0;
  bool was_complete = false;  // nothing was left to do
};

// What engines need of a model folder: weights in safetensors, config, tokenizer, chat template, license; of
// the top folder alone.
bool is_needed(const std::string& path);

// `progress(bytes, total)` comes from any thread, one at a time. Throws Error as read_repository and download
// do; when the output exists and is no complete folder of this commit; when another pull is at work there;
// and when the disk has less room than is missing, before anything is fetched.
PullSummary pull(const Hub& hub, const PullOptions& options,
                 const std::function<void(uint64_t, uint64_t)>& progress);

}  // namespace moray::hub
