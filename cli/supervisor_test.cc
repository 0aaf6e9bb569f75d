#include "cli/supervisor.h"

#include <gtest/gtest.h>

#include "cli/ready_report.h"

namespace octet {
namespace {

TEST(RestartBackoffTest, GrowsToABoundAndRecovers) {
  RestartBackoff backoff;
  const Duration soon = Duration::Millis(5);
  EXPECT_EQ(backoff.Next(soon).millis(), 100);
  EXPECT_EQ(backoff.Next(soon).millis(), 200);
  for (int i = 0; i < 20; ++i) backoff.Next(soon);
  EXPECT_EQ(backoff.Next(soon).millis(), 5000);
  EXPECT_EQ(backoff.Next(Duration::Millis(10'000)).millis(), 100);
}

TEST(ReadyStateTest, ReadsLinesInPieces) {
  ReadyState state;
  state.Append("listening 127.0.0.1:");
  EXPECT_EQ(state.address, "");
  state.Append("99\nrea");
  EXPECT_EQ(state.address, "127.0.0.1:99");
  EXPECT_FALSE(state.ready);
  state.Append("dy\nfailed 14 no port: in use\n");
  EXPECT_TRUE(state.ready);
  EXPECT_EQ(state.failure.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(state.failure.message(), "no port: in use");
}

}  // namespace
}  // namespace octet
