#include "base/files.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/test_help.h"

namespace moray {
namespace {

using test::error_of;

class Files : public testing::Test {
 protected:
  size_t entries() const {
    return static_cast<size_t>(
        std::distance(fs::directory_iterator(folder_.path()), fs::directory_iterator()));
  }

  test::ScratchFolder folder_;
};

TEST_F(Files, RoundTripOfAnyBytes) {
  std::string content;
  for (int i = 0; i < 3'000'000; ++i) content += static_cast<char>(i * 2654435761u >> 13);
  write_file_atomically(folder_ / "a", content);
  EXPECT_EQ(read_file(folder_ / "a"), content);
  EXPECT_EQ(MappedFile(folder_ / "a").text(), content);
  write_file_atomically(folder_ / "a", "");
  EXPECT_EQ(read_file(folder_ / "a"), "");
  EXPECT_TRUE(MappedFile(folder_ / "a").bytes().empty());
  EXPECT_EQ(entries(), 1u);
}

TEST_F(Files, WriterCountsAndChecksums) {
  FileWriter writer(folder_ / "a");
  const std::string piece(1000, 'x');
  for (int i = 0; i < 3000; ++i) writer.write(piece);
  EXPECT_EQ(writer.bytes_written(), 3'000'000u);
  const uint64_t sum = writer.finish();
  EXPECT_EQ(sum, checksum(MappedFile(folder_ / "a").bytes()));
  // XXH3 of no bytes at all, from the algorithm's own test vectors.
  EXPECT_EQ(checksum({}), 0x2d06800538d394c2u);
}

TEST_F(Files, RoomIsAskedOfTheNearestFolderThatIsThere) {
  expect_room(folder_ / "none/model", 1);
  const std::string path = (folder_ / "none/model").string();
  EXPECT_TRUE(error_of([&] {
                expect_room(path, uint64_t{1} << 60);
              }).starts_with(path + ": 1152921504.6 GB are to come, but the disk has room for "));
}

TEST_F(Files, MapMoves) {
  write_file_atomically(folder_ / "a", "hello");
  MappedFile first(folder_ / "a");
  MappedFile second(std::move(first));
  EXPECT_EQ(second.text(), "hello");
  write_file_atomically(folder_ / "b", "world");
  MappedFile third(folder_ / "b");
  third = std::move(second);
  EXPECT_EQ(third.text(), "hello");
}

TEST_F(Files, MissingAndUnreadable) {
  const std::string missing = (folder_ / "none" / "a").string();
  EXPECT_EQ(error_of([&] { read_file(missing); }), missing + ": cannot open: No such file or directory");
  EXPECT_EQ(error_of([&] { MappedFile{missing}; }), missing + ": cannot open: No such file or directory");
  EXPECT_NE(error_of([&] { write_file_atomically(missing, "x"); }), "no error");
  EXPECT_NE(error_of([&] { sync_folder(folder_ / "none"); }), "no error");
  EXPECT_EQ(error_of([&] { read_file(folder_.path()); }), folder_.path().string() + ": not a regular file");
  EXPECT_EQ(error_of([&] { MappedFile{folder_.path()}; }), folder_.path().string() + ": not a regular file");
  // Whoever opened a pipe to read would wait for a writer.
  const fs::path pipe = folder_.path() / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  for (const fs::path& path : {pipe, fs::path("/dev/zero")}) {
    EXPECT_EQ(error_of([&] { read_file(path); }), path.string() + ": not a regular file");
    EXPECT_EQ(error_of([&] { MappedFile{path}; }), path.string() + ": not a regular file");
  }
  if (::geteuid() != 0) {  // root reads everything
    write_file_atomically(folder_ / "secret", "x");
    ::chmod((folder_ / "secret").c_str(), 0);
    EXPECT_NE(error_of([&] { read_file(folder_ / "secret"); }).find("Permission denied"), std::string::npos);
  }
}

TEST_F(Files, WhatIsSmallMayNotBeLarge) {
  write_file_atomically(folder_ / "config.json", "{}");
  const std::string path = (folder_ / "config.json").string();
  EXPECT_EQ(read_file(path, 2), "{}");
  EXPECT_EQ(error_of([&] { read_file(path, 1); }), path + ": has 2 bytes; at most 1 are read of such a file");
  fs::resize_file(path, uint64_t{1} << 40);  // a hole: it takes no room on the disk
  EXPECT_EQ(error_of([&] { read_file(path); }),
            path + ": has 1099511627776 bytes; at most 100000000 are read of such a file");
  EXPECT_NE(error_of([&] { read_file("/proc/self/maps", 10); }).find("at most 10"), std::string::npos)
      << "the size of such files is not told";
}

TEST_F(Files, FullDisk) {
  FileWriter writer("/dev/full");
  EXPECT_EQ(error_of([&] {
              writer.write("some bytes");
              writer.finish();
            }),
            "/dev/full: cannot write: No space left on device");
}

// A rename onto /dev/null would leave the machine without one.
TEST_F(Files, AtomicWritesReplaceFilesOnly) {
  const fs::path pipe = folder_.path() / "pipe", link = folder_.path() / "link";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  fs::create_symlink("/dev/null", link);
  for (const fs::path& path : {pipe, link, folder_.path()})
    EXPECT_EQ(error_of([&] { write_file_atomically(path, "text"); }), path.string() + ": not a regular file");
  EXPECT_TRUE(fs::is_fifo(pipe) && fs::is_symlink(link));
}

TEST_F(Files, AFailedWriteLeavesTheOldContent) {
  // The temporary beside the file cannot be created: a folder stands in its place.
  write_file_atomically(folder_ / "a", "old");
  fs::create_directory(folder_ / "a.tmp");
  write_file_atomically(folder_ / "a.tmp" / "inside", "x");
  EXPECT_NE(error_of([&] { write_file_atomically(folder_ / "a", "new"); }), "no error");
  EXPECT_EQ(read_file(folder_ / "a"), "old");
  // The target is a folder: the rename fails and the temporary goes away.
  fs::create_directories(folder_ / "b" / "inside");
  EXPECT_NE(error_of([&] { write_file_atomically(folder_ / "b", "new"); }), "no error");
  EXPECT_FALSE(fs::exists(folder_ / "b.tmp"));
}

}  // namespace
}  // namespace moray
