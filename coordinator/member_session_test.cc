#include "coordinator/member_session.h"

#include <gtest/gtest.h>

namespace octet {
namespace {

TEST(MemberSessionTest, RegistersThenBeats) {
  MemberSession session(7);
  EXPECT_FALSE(session.registered());
  const auto then = session.Registered(MemberId(3), 9, Duration::Millis(40));
  EXPECT_TRUE(then.start_watch);
  EXPECT_EQ(then.wait, Duration{});
  EXPECT_TRUE(session.registered());
  EXPECT_EQ(session.id(), MemberId(3));
  EXPECT_EQ(session.seen_term(), 9u);
  const auto beaten = session.Beaten(/*known=*/true, /*watch_ended=*/false);
  EXPECT_EQ(beaten.wait, Duration::Millis(40));
  EXPECT_FALSE(beaten.end_watch || beaten.start_watch);
}

TEST(MemberSessionTest, AnUnknownMemberRegistersAgainWithWhatItHasSeen) {
  MemberSession session(7);
  (void)session.Registered(MemberId(3), 9, Duration::Millis(40));
  EXPECT_TRUE(session.Take(PlacementPhase::kActivate, 9, Epoch(5)));
  const auto then = session.Beaten(/*known=*/false, /*watch_ended=*/false);
  EXPECT_TRUE(then.end_watch);
  EXPECT_FALSE(then.start_watch);
  EXPECT_FALSE(session.registered());
  EXPECT_EQ(session.id(), MemberId(3));
  EXPECT_EQ(session.seen_epoch(), Epoch(5));
}

TEST(MemberSessionTest, ABrokenWatchIsOpenedAgainUnderTheSameLease) {
  MemberSession session(7);
  (void)session.Registered(MemberId(3), 9, Duration::Millis(40));
  const auto then = session.Beaten(/*known=*/true, /*watch_ended=*/true);
  EXPECT_TRUE(then.end_watch && then.start_watch);
  EXPECT_GT(then.wait, Duration{});
  EXPECT_TRUE(session.registered());
}

TEST(MemberSessionTest, PausesGrowUpToTheirBoundAndEndWithSuccess) {
  MemberSession session(7);
  for (int i = 0; i < 40; ++i) {
    const Duration full =
        Duration::Millis(std::min(kReconnectMsMin << std::min(i, 10), kReconnectMsMax));
    const Duration wait = session.RegisterFailed().wait;
    EXPECT_LE(wait, full);
    EXPECT_GE(wait, Duration{full.ns / 2});
  }
  (void)session.Registered(MemberId(3), 9, Duration::Millis(40));
  (void)session.Beaten(true, false);
  EXPECT_EQ(session.failures(), 0u);
  EXPECT_LE(session.RegisterFailed().wait, Duration::Millis(kReconnectMsMin));
}

TEST(MemberSessionTest, EpochsNeverGoBack) {
  MemberSession session(7);
  EXPECT_TRUE(session.Take(PlacementPhase::kPrepare, 9, Epoch(5)));
  EXPECT_TRUE(session.Take(PlacementPhase::kActivate, 9, Epoch(5)));
  EXPECT_FALSE(session.Take(PlacementPhase::kActivate, 9, Epoch(5))) << "a repetition";
  EXPECT_FALSE(session.Take(PlacementPhase::kPrepare, 12, Epoch(4))) << "an older epoch";
  EXPECT_FALSE(session.Take(PlacementPhase::kAbort, 8, Epoch(5))) << "an older term";
  EXPECT_TRUE(session.Take(PlacementPhase::kActivate, 10, Epoch(5))) << "a later term's";
  EXPECT_EQ(session.seen_term(), 10u);
  EXPECT_EQ(session.seen_epoch(), Epoch(5));
}

}  // namespace
}  // namespace octet
