// sparse_model CONFIG.json FOLDER: a folder with the tensors of that model, whose data is a hole.
#include <cstdio>

#include "base/error.h"
#include "sparse_folder.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: sparse_model CONFIG.json FOLDER\n");
    return 2;
  }
  try {
    moray::test::write_sparse_folder(argv[2], moray::read_file(argv[1]));
  } catch (const moray::Error& error) {
    std::fprintf(stderr, "sparse_model: %s\n", error.what());
    return 1;
  }
}
