#include "report/progress.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

namespace moray {
namespace {

TEST(ProgressTest, ShortForms) {
  EXPECT_EQ(short_duration(0), "0s");
  EXPECT_EQ(short_duration(59.4), "59s");
  EXPECT_EQ(short_duration(187), "3m 07s");
  EXPECT_EQ(short_duration(7500), "2h 05m");
  EXPECT_EQ(short_duration(3 * 86400 + 4 * 3600), "3d 04h");
  EXPECT_EQ(short_count(950), "950");
  EXPECT_EQ(short_count(999.6), "1.00k");
  EXPECT_EQ(short_count(12345), "12.3k");
  EXPECT_EQ(short_count(4.56e6), "4.56M");
  EXPECT_EQ(short_count(14.8e12), "14.8T");
  EXPECT_EQ(short_count(123456), "123k");
}

TEST(ProgressTest, LineFitsEveryWidth) {
  const ProgressState state{"train", 1'500'000, 3'000'000, "tokens", 0, 60, "loss 3.21  bal 1.12"};
  EXPECT_EQ(progress_line(state, 200),
            "train  50% [##########..........]  loss 3.21  bal 1.12  1.50M/3.00M tokens  25.0k tokens/s  1m "
            "00s left");
  for (int columns = 0; columns < 200; ++columns) {
    EXPECT_LE(progress_line(state, columns).size(), static_cast<size_t>(columns));
  }
  EXPECT_EQ(progress_line(state, 30), "train  50%  1m 00s left");
}

TEST(ProgressTest, ResumedTimeLeftCountsFreshWorkOnly) {
  // 900 of 1000 were there before; 50 took 10 s, so 50 more take 10 s.
  const ProgressState state{"train", 950, 1000, "tokens", 900, 10, ""};
  EXPECT_NE(progress_line(state, 200).find("  10s left"), std::string::npos);
}

TEST(ProgressTest, UnknownTotal) {
  const ProgressState state{"build", 1500, 0, "documents", 0, 3, "2.1 MB"};
  EXPECT_EQ(progress_line(state, 200), "build  2.1 MB  1.50k documents  500 documents/s  after 3s");
}

TEST(ProgressTest, PlainLinesWhenNotATerminal) {
  ::testing::internal::CaptureStderr();
  {
    Progress progress("count", 1000, "files");
    progress.update(1);
    std::this_thread::sleep_for(std::chrono::duration<double>(Progress::kQuietSeconds + 0.05));
    for (int64_t done = 2; done <= 1000; ++done) progress.update(done);
  }
  const std::string text = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2)
      << text;  // the first after the quiet time, and the last
  EXPECT_EQ(text.find('\r'), std::string::npos);
  EXPECT_NE(text.find("count 100%"), std::string::npos);
}

TEST(ProgressTest, ShortWorkIsSilent) {
  ::testing::internal::CaptureStderr();
  {
    Progress progress("count", 10, "files");
    for (int64_t done = 1; done <= 10; ++done) progress.update(done);
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

}  // namespace
}  // namespace moray
