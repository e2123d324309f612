// moray data build. Results go to stdout, everything else to stderr; mistakes throw Error.
#pragma once

#include <string>

#include "data/build.h"

namespace moray {

struct DataBuildOptions {
  std::string tokenizer;  // tokenizer.json or a folder that holds one
  std::string output;     // the dataset folder; must not exist unless build.replace
  BuildOptions
      build;  // corpora, held-out share and seed, rates, threads (see data/build.h); progress is set here
  bool json = false;  // one JSON object on stdout instead of a table
};
int run_data_build(const DataBuildOptions& options);

// A corpus as the command line spells it: "path", "name=path" or "name=path:weight" ("code=src:0.7"). Without
// a name the path's last part is taken; a path that exists is taken whole. Throws Error for an empty path or
// a weight that is no positive number.
CorpusSource parse_corpus(const std::string& text);

}  // namespace moray
