// Both ends of a pair on one thread, by hand and by a clock of the test's own: every way in which
// a peer or a library can fail.
#include "transport/nccl/pair.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "transport/nccl/fake_nccl.h"

namespace octet {
namespace {

using ::testing::HasSubstr;

constexpr size_t kBucket = 4096;

// One end: a library, memory, the pair, and what it has said.
struct End {
  explicit End(int rank) : rank(rank), pool(RowPool::Create(&api, 0)) {}
  ~End() {
    if (pair != nullptr && pair->state() != NcclPairState::kGone) {
      pair->Fail(absl::CancelledError("the test ends"));
      AbortPairs(&api, {pair.get()});
    }
    pair.reset();
    pool.reset();
    const FakeNcclCounts counts = api.counts();
    EXPECT_EQ(counts.violations, 0);
    EXPECT_EQ(counts.comms + counts.streams + counts.marks + counts.allocations, 0);
  }

  void Open(const NcclPairOptions& base) {
    NcclPairOptions options = base;
    options.rank = rank;
    NcclPairEvents events;
    events.ready = [this] { ready = true; };
    events.gone = [this](const absl::Status& why) {
      EXPECT_FALSE(gone);
      gone = true;
      status = why;
    };
    ready = gone = false;
    auto warm = TakeWarmRows(pool.get(), options.warm_bytes);
    pair = std::make_unique<NcclPair>(&api, options, *std::move(warm), std::move(events));
  }
  // Rows whose bytes count up from `seed`, or room for them. `ended` gets their place in `results`.
  size_t Submit(NcclLane lane, size_t bytes, uint8_t seed, size_t wire = 0) {
    NcclTransfer transfer;
    transfer.memory = pool->Take(std::max(bytes, wire)).value();
    std::iota(transfer.memory->host, transfer.memory->host + bytes, seed);
    transfer.wire_bytes = std::max(bytes, wire);
    transfer.used_bytes = bytes;
    return Add(lane, std::move(transfer));
  }
  size_t Expect(NcclLane lane, size_t bytes, size_t wire = 0) {
    NcclTransfer transfer;
    transfer.memory = pool->Take(std::max(bytes, wire)).value();
    transfer.wire_bytes = std::max(bytes, wire);
    transfer.used_bytes = bytes;
    return Add(lane, std::move(transfer));
  }
  size_t Add(NcclLane lane, NcclTransfer transfer) {
    const size_t at = results.size();
    const size_t bytes = transfer.used_bytes;
    results.emplace_back();
    transfer.done = [this, at, bytes](absl::Status s, RowPool::Lease memory) {
      EXPECT_FALSE(results[at].ended);
      results[at].ended = true;
      results[at].status = std::move(s);
      results[at].bytes.assign(memory->host, memory->host + bytes);
      order.push_back(at);
    };
    pair->Submit(lane, std::move(transfer));
    return at;
  }
  void Turn(MonotonicTime now) {
    if (pair == nullptr) return;
    pair->Poll(now);
    AbortPairs(&api, {pair.get()});
  }

  struct Result {
    bool ended = false;
    absl::Status status;
    std::vector<uint8_t> bytes;
  };
  const int rank;
  FakeNccl api;
  std::shared_ptr<RowPool> pool;
  std::unique_ptr<NcclPair> pair;
  bool ready = false;
  bool gone = false;
  absl::Status status;
  std::vector<Result> results;
  std::vector<size_t> order;
};

std::vector<uint8_t> Counting(size_t bytes, uint8_t seed) {
  std::vector<uint8_t> all(bytes);
  std::iota(all.begin(), all.end(), seed);
  return all;
}

class NcclPairTest : public ::testing::Test {
 protected:
  NcclPairTest() : router_(kNcclRouterRank), worker_(kNcclWorkerRank) {
    options_.warm_bytes = {kBucket, kBucket};
  }
  void Open() {
    for (NcclUniqueId& id : options_.ids) EXPECT_EQ(worker_.api.GetUniqueId(&id), NcclResult::kOk);
    router_.Open(options_);
    worker_.Open(options_);
  }
  // Turns both ends until `met`, time standing still; false when it is never met.
  bool Until(const std::function<bool()>& met) {
    for (int i = 0; i < 100'000; ++i) {
      if (met()) return true;
      router_.Turn(clock_.Now());
      worker_.Turn(clock_.Now());
    }
    return met();
  }
  void Connect() {
    Open();
    ASSERT_TRUE(Until([&] { return router_.ready && worker_.ready; }));
  }
  void AdvancePast(Duration time) {
    clock_.Advance(time);
    clock_.Advance(Duration::Millis(1));
  }
  // Enough turns for whatever can happen at this time.
  void Settle() {
    Until([n = 0]() mutable { return ++n > 200; });
  }
  // The router's transfer `at` and its pair end with UNAVAILABLE.
  void ExpectBroken(End& end, size_t at, const std::string& says) {
    EXPECT_TRUE(end.gone);
    ASSERT_TRUE(end.results[at].ended);
    EXPECT_TRUE(absl::IsUnavailable(end.results[at].status)) << end.results[at].status;
    EXPECT_THAT(std::string(end.status.message()), HasSubstr(says));
  }

  ManualClock clock_;
  NcclPairOptions options_;
  End router_;
  End worker_;
};

TEST_F(NcclPairTest, MovesRowsBothWaysAtOnce) {
  Connect();
  const size_t there = router_.Submit(NcclLane::kDispatch, 1000, 3);
  const size_t back = router_.Expect(NcclLane::kReply, 5000);
  const size_t got = worker_.Expect(NcclLane::kDispatch, 1000);
  const size_t sent = worker_.Submit(NcclLane::kReply, 5000, 9);
  ASSERT_TRUE(Until([&] {
    return router_.results[there].ended && router_.results[back].ended &&
           worker_.results[got].ended && worker_.results[sent].ended;
  }));
  EXPECT_TRUE(worker_.results[got].status.ok());
  EXPECT_EQ(worker_.results[got].bytes, Counting(1000, 3));
  EXPECT_EQ(router_.results[back].bytes, Counting(5000, 9));
}

TEST_F(NcclPairTest, ManyTransfersKeepTheirOrder) {
  Connect();
  constexpr size_t kMany = 100;
  for (size_t i = 0; i < kMany; ++i) {
    router_.Submit(NcclLane::kDispatch, 100 + i * 37, static_cast<uint8_t>(i), kBucket);
    worker_.Expect(NcclLane::kDispatch, 100 + i * 37, kBucket);
  }
  ASSERT_TRUE(
      Until([&] { return worker_.order.size() == kMany && router_.order.size() == kMany; }));
  for (size_t i = 0; i < kMany; ++i) {
    EXPECT_EQ(worker_.order[i], i);
    EXPECT_EQ(worker_.results[i].bytes, Counting(100 + i * 37, static_cast<uint8_t>(i)));
  }
}

TEST_F(NcclPairTest, ALargeTransferIsLargerThanAnyBufferOnTheWay) {
  Connect();
  router_.Submit(NcclLane::kDispatch, 17u << 20, 1);
  worker_.Expect(NcclLane::kDispatch, 17u << 20);
  ASSERT_TRUE(Until([&] { return worker_.results[0].ended && router_.results[0].ended; }));
  EXPECT_EQ(worker_.results[0].bytes, Counting(17u << 20, 1));
}

TEST_F(NcclPairTest, WhatIsSubmittedBeforeItIsReadyWaits) {
  Open();
  router_.Submit(NcclLane::kDispatch, 64, 5);
  worker_.Expect(NcclLane::kDispatch, 64);
  ASSERT_TRUE(Until([&] { return worker_.results[0].ended; }));
  EXPECT_EQ(worker_.results[0].bytes, Counting(64, 5));
}

TEST_F(NcclPairTest, ClosesInGoodOrder) {
  Connect();
  router_.pair->Close(clock_.Now());
  worker_.pair->Close(clock_.Now());
  ASSERT_TRUE(Until([&] { return router_.gone && worker_.gone; }));
  EXPECT_TRUE(absl::IsCancelled(router_.status));
  EXPECT_EQ(router_.api.counts().destroyed, 2);
  EXPECT_EQ(router_.api.counts().aborted, 0);
}

TEST_F(NcclPairTest, ACloseThatHangsIsAborted) {
  Connect();
  FakeNcclFaults faults;
  faults.finalize_hangs = true;
  router_.api.SetFaults(faults);
  router_.pair->Close(clock_.Now());
  Settle();
  EXPECT_FALSE(router_.gone);
  AdvancePast(options_.deadlines.close);
  ASSERT_TRUE(Until([&] { return router_.gone; }));
  EXPECT_EQ(router_.api.counts().aborted, 2);
}

TEST_F(NcclPairTest, ClosingWhatIsUnderWayFailsIt) {
  Connect();
  router_.Expect(NcclLane::kReply, 64);
  Settle();
  router_.pair->Close(clock_.Now());
  ASSERT_TRUE(Until([&] { return router_.gone; }));
  EXPECT_TRUE(absl::IsUnavailable(router_.results[0].status));
  EXPECT_TRUE(absl::IsCancelled(router_.status));
  EXPECT_EQ(router_.api.counts().aborted, 2);
}

// ---- Failures: nothing is reported before its deadline, all is over right after it ----

TEST_F(NcclPairTest, APeerThatNeverJoinsIsGivenUp) {
  for (const bool silent : {false, true}) {
    SCOPED_TRACE(silent);
    FakeNcclFaults faults;
    faults.init_hangs = true;
    worker_.api.SetFaults(faults);
    Open();
    if (silent) worker_.Turn(clock_.Now());
    Settle();
    EXPECT_FALSE(router_.gone);
    AdvancePast(options_.deadlines.connect);
    ASSERT_TRUE(Until([&] { return router_.gone && worker_.gone; }));
    EXPECT_THAT(std::string(router_.status.message()), HasSubstr("does not join"));
    EXPECT_TRUE(absl::IsUnavailable(router_.status));
  }
}

TEST_F(NcclPairTest, ACommunicatorThatCannotBeMadeFails) {
  FakeNcclFaults faults;
  faults.init_error = NcclResult::kInternalError;
  router_.api.SetFaults(faults);
  Open();
  ASSERT_TRUE(Until([&] { return router_.gone; }));
  EXPECT_TRUE(absl::IsUnavailable(router_.status));
  EXPECT_EQ(router_.api.counts().aborted, 0);
}

TEST_F(NcclPairTest, AFirstTransferThatHangsIsGivenUp) {
  FakeNcclFaults faults;
  faults.transfers_hang = true;
  worker_.api.SetFaults(faults);
  Open();
  Settle();
  EXPECT_FALSE(router_.ready);
  AdvancePast(options_.deadlines.connect);
  ASSERT_TRUE(Until([&] { return router_.gone && worker_.gone; }));
}

TEST_F(NcclPairTest, APeerThatHangsIsAbortedAtTheDeadline) {
  Connect();
  const size_t at = router_.Expect(NcclLane::kReply, 64);
  Settle();
  clock_.Advance(options_.deadlines.transfer);
  Settle();
  EXPECT_FALSE(router_.results[at].ended);
  clock_.Advance(Duration::Millis(1));
  ASSERT_TRUE(Until([&] { return router_.gone; }));
  ExpectBroken(router_, at, "receiving 64 bytes takes too long");
  // Both communicators, in one group.
  EXPECT_EQ(router_.api.counts().aborted, 2);
  EXPECT_EQ(router_.api.counts().abort_groups, 1);
}

TEST_F(NcclPairTest, ALargeTransferHasMoreTime) {
  Connect();
  constexpr size_t kBytes = 64u << 20;
  router_.Expect(NcclLane::kReply, kBytes);
  Settle();
  const int64_t more_ms = static_cast<int64_t>(kBytes / kNcclBytesPerMsMin);
  clock_.Advance(options_.deadlines.transfer);
  clock_.Advance(Duration::Millis(more_ms));
  Settle();
  EXPECT_FALSE(router_.gone);
  clock_.Advance(Duration::Millis(1));
  EXPECT_TRUE(Until([&] { return router_.gone; }));
}

TEST_F(NcclPairTest, TimeInWhichNobodyPolledDoesNotCount) {
  Connect();
  router_.Expect(NcclLane::kReply, 64);
  Settle();
  clock_.Advance({2 * options_.deadlines.transfer.ns});
  router_.pair->Extend({2 * options_.deadlines.transfer.ns});
  worker_.Submit(NcclLane::kReply, 64, 1);
  ASSERT_TRUE(Until([&] { return router_.results[0].ended; }));
  EXPECT_TRUE(router_.results[0].status.ok()) << router_.results[0].status;
}

TEST_F(NcclPairTest, ALaunchThatHangsIsAbortedAtTheDeadline) {
  Connect();
  FakeNcclFaults faults;
  faults.launches_hang = true;
  router_.api.SetFaults(faults);
  const size_t at = router_.Submit(NcclLane::kDispatch, 64, 1);
  Settle();
  EXPECT_FALSE(router_.gone);
  AdvancePast(options_.deadlines.transfer);
  ASSERT_TRUE(Until([&] { return router_.gone; }));
  ExpectBroken(router_, at, "sending 64 bytes takes too long");
}

TEST_F(NcclPairTest, APeerThatDiesBeforeDuringAndAfterASend) {
  constexpr size_t kBytes = 4u << 20;
  for (const int64_t sent : {int64_t{0}, int64_t{100'000}, int64_t{kBytes}}) {
    for (const bool silent : {true, false}) {
      SCOPED_TRACE(sent);
      End router(kNcclRouterRank);
      End worker(kNcclWorkerRank);
      for (NcclUniqueId& id : options_.ids) worker.api.GetUniqueId(&id);
      router.Open(options_);
      worker.Open(options_);
      const auto turn = [&] {
        router.Turn(clock_.Now());
        worker.Turn(clock_.Now());
      };
      while (!router.ready || !worker.ready) turn();
      FakeNcclFaults faults;
      faults.deaths_are_silent = silent;
      router.api.SetFaults(faults);
      faults.die_after_bytes = kBucket + sent;  // the first transfer counts
      worker.api.SetFaults(faults);
      worker.Submit(NcclLane::kReply, kBytes, 1);
      worker.Submit(NcclLane::kReply, 64, 1);
      router.Expect(NcclLane::kReply, kBytes);
      router.Expect(NcclLane::kReply, 64);
      for (int i = 0; i < 2000; ++i) turn();
      EXPECT_EQ(router.gone, !silent);
      // What came whole before the death still counts.
      EXPECT_EQ(router.results[0].ended && router.results[0].status.ok(), sent == kBytes);
      AdvancePast(options_.deadlines.transfer);
      clock_.Advance(Duration::Millis(100));
      for (int i = 0; i < 10; ++i) turn();
      EXPECT_TRUE(router.gone);
      EXPECT_TRUE(absl::IsUnavailable(router.results[1].status));
      EXPECT_TRUE(worker.gone);
    }
  }
}

TEST_F(NcclPairTest, ACountThatDiffersBreaksThePair) {
  Connect();
  FakeNcclFaults faults;
  faults.send_more_bytes = 16;
  worker_.api.SetFaults(faults);
  const size_t at = router_.Expect(NcclLane::kReply, 64);
  worker_.Submit(NcclLane::kReply, 64, 1);
  Settle();
  EXPECT_FALSE(router_.results[at].ended);
  AdvancePast(options_.deadlines.transfer);
  ASSERT_TRUE(Until([&] { return router_.gone; }));
  ExpectBroken(router_, at, "takes too long");
}

TEST_F(NcclPairTest, AnErrorReportedLateEndsAPairAtRest) {
  Connect();
  Settle();
  EXPECT_FALSE(router_.pair->busy());
  FakeNcclFaults faults;
  faults.async_error = NcclResult::kRemoteError;
  router_.api.SetFaults(faults);
  ASSERT_TRUE(Until([&] { return router_.gone; }));
  EXPECT_THAT(std::string(router_.status.message()), HasSubstr("fake error 6"));
  const size_t at = router_.Submit(NcclLane::kDispatch, 64, 1);
  EXPECT_TRUE(absl::IsUnavailable(router_.results[at].status));
}

TEST_F(NcclPairTest, AllThatIsQueuedFailsOnce) {
  Connect();
  for (int i = 0; i < 20; ++i) router_.Expect(NcclLane::kReply, 64);
  Settle();
  router_.pair->Fail(absl::UnavailableError("the stream ended"));
  ASSERT_TRUE(Until([&] { return router_.gone; }));
  ASSERT_EQ(router_.order.size(), 20u);
  for (const End::Result& result : router_.results) EXPECT_TRUE(absl::IsUnavailable(result.status));
}

TEST_F(NcclPairTest, AFreshPairServesAfterABreak) {
  for (int round = 0; round < 5; ++round) {
    Connect();
    const size_t at = worker_.Expect(NcclLane::kDispatch, 64);
    router_.Submit(NcclLane::kDispatch, 64, static_cast<uint8_t>(round));
    ASSERT_TRUE(Until([&] { return worker_.results[at].ended; }));
    EXPECT_EQ(worker_.results[at].bytes, Counting(64, static_cast<uint8_t>(round)));
    router_.pair->Fail(absl::UnavailableError("broken"));
    worker_.pair->Fail(absl::UnavailableError("broken"));
    ASSERT_TRUE(Until([&] { return router_.gone && worker_.gone; }));
  }
}

TEST(AbortPairs, AbortsWhatBrokeInOneGroupAndLeavesTheRest) {
  ManualClock clock;
  FakeNccl api;
  const auto pool = RowPool::Create(&api, 0);
  std::vector<std::unique_ptr<End>> workers;
  std::vector<std::unique_ptr<NcclPair>> pairs;
  std::vector<NcclPair*> all;
  int gone = 0;
  for (int i = 0; i < 3; ++i) {
    workers.push_back(std::make_unique<End>(kNcclWorkerRank));
    NcclPairOptions options;
    options.warm_bytes = {64, 64};
    for (NcclUniqueId& id : options.ids) workers.back()->api.GetUniqueId(&id);
    workers.back()->Open(options);
    NcclPairEvents events{[] {}, [&gone](const absl::Status&) { ++gone; }};
    auto warm = TakeWarmRows(pool.get(), options.warm_bytes);
    pairs.push_back(std::make_unique<NcclPair>(&api, options, *std::move(warm), std::move(events)));
    all.push_back(pairs.back().get());
  }
  for (int i = 0; i < 1000; ++i) {
    for (NcclPair* pair : all) pair->Poll(clock.Now());
    for (const auto& worker : workers) worker->Turn(clock.Now());
  }
  all[0]->Fail(absl::UnavailableError("one"));
  all[2]->Fail(absl::UnavailableError("two"));
  AbortPairs(&api, all);
  EXPECT_EQ(gone, 2);
  EXPECT_EQ(api.counts().aborted, 4);
  EXPECT_EQ(api.counts().abort_groups, 1);
  EXPECT_EQ(all[1]->state(), NcclPairState::kReady);
  all[1]->Fail(absl::CancelledError("the test ends"));
  AbortPairs(&api, all);
  EXPECT_EQ(api.counts().violations, 0);
}

}  // namespace
}  // namespace octet
