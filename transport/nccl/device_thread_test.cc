// Two devices' threads and the pairs between them.
#include "transport/nccl/device_thread.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <future>
#include <memory>
#include <vector>

#include "transport/nccl/fake_nccl.h"

namespace octet {
namespace {

constexpr size_t kBytes = 1000;

struct Side {
  explicit Side(int rank_of_side) : rank(rank_of_side) {
    thread = NcclDeviceThread::Start(&api, {}, &clock).value();
  }
  // After the thread has ended.
  void ExpectNothingLeft() {
    thread.reset();
    const FakeNcclCounts counts = api.counts();
    EXPECT_EQ(counts.violations, 0);
    EXPECT_EQ(counts.comms + counts.streams + counts.marks + counts.allocations, 0);
  }

  const int rank;
  SystemClock clock;
  FakeNccl api;
  std::shared_ptr<NcclDeviceThread> thread;
};

// One end of a pair, as seen by the test's thread.
struct End {
  End(Side* s, const NcclPairOptions& base) : side(s) {
    NcclPairOptions options = base;
    options.rank = side->rank;
    NcclPairEvents events;
    events.ready = [this] { ready.set_value(); };
    events.gone = [this](const absl::Status& why) { gone.set_value(why); };
    auto warm = TakeWarmRows(side->thread->pool(), options.warm_bytes);
    pair = std::make_shared<NcclPair>(&side->api, options, *std::move(warm), std::move(events));
    side->thread->Add(pair);
  }
  std::future<absl::Status> Move(NcclLane lane, uint8_t value, std::vector<uint8_t>* out) {
    NcclTransfer transfer;
    transfer.memory = side->thread->pool()->Take(kBytes).value();
    std::fill_n(transfer.memory->host, kBytes, value);
    transfer.wire_bytes = transfer.used_bytes = kBytes;
    auto promise = std::make_shared<std::promise<absl::Status>>();
    transfer.done = [promise, out](const absl::Status& status, RowPool::Lease memory) {
      if (out != nullptr) out->assign(memory->host, memory->host + kBytes);
      promise->set_value(status);
    };
    side->thread->Submit(pair, lane, std::move(transfer));
    return promise->get_future();
  }

  Side* const side;
  std::shared_ptr<NcclPair> pair;
  std::promise<void> ready;
  std::promise<absl::Status> gone;
};

NcclPairOptions OptionsFor(Side* worker) {
  NcclPairOptions options;
  options.warm_bytes = {4096, 4096};
  std::promise<void> made;
  worker->thread->Run([&] {
    for (NcclUniqueId& id : options.ids) worker->api.GetUniqueId(&id);
    made.set_value();
  });
  made.get_future().wait();
  return options;
}

TEST(NcclDeviceThread, CarriesManyPairsAtOnce) {
  Side router(kNcclRouterRank);
  Side worker(kNcclWorkerRank);
  std::vector<std::unique_ptr<End>> ends;
  for (int i = 0; i < 8; ++i) {
    const NcclPairOptions options = OptionsFor(&worker);
    ends.push_back(std::make_unique<End>(&router, options));
    ends.push_back(std::make_unique<End>(&worker, options));
  }
  for (const auto& end : ends) end->ready.get_future().wait();
  for (uint8_t round = 0; round < 20; ++round) {
    std::vector<std::vector<uint8_t>> got(ends.size());
    std::vector<std::future<absl::Status>> all;
    for (size_t i = 0; i < ends.size(); i += 2) {
      all.push_back(ends[i]->Move(NcclLane::kDispatch, round, nullptr));
      all.push_back(ends[i]->Move(NcclLane::kReply, 0, &got[i]));
      all.push_back(ends[i + 1]->Move(NcclLane::kDispatch, 0, &got[i + 1]));
      all.push_back(ends[i + 1]->Move(NcclLane::kReply, 100 + round, nullptr));
    }
    for (auto& future : all) EXPECT_TRUE(future.get().ok());
    for (size_t i = 0; i < ends.size(); i += 2) {
      EXPECT_EQ(got[i], std::vector<uint8_t>(kBytes, 100 + round));
      EXPECT_EQ(got[i + 1], std::vector<uint8_t>(kBytes, round));
    }
  }
  for (const auto& end : ends) end->side->thread->Close(end->pair);
  for (const auto& end : ends) EXPECT_TRUE(absl::IsCancelled(end->gone.get_future().get()));
  EXPECT_EQ(router.api.counts().destroyed, 16);
  for (const auto& end : ends) end->pair.reset();
  router.ExpectNothingLeft();
  worker.ExpectNothingLeft();
}

TEST(NcclDeviceThread, APairThatHangsCostsTheOthersNothing) {
  Side router(kNcclRouterRank);
  Side worker(kNcclWorkerRank);
  NcclPairOptions options = OptionsFor(&worker);
  End good(&router, options);
  End good_peer(&worker, options);
  options = OptionsFor(&worker);
  options.deadlines.transfer = Duration::Millis(50);
  End bad(&router, options);
  End bad_peer(&worker, options);
  for (End* end : {&good, &good_peer, &bad, &bad_peer}) end->ready.get_future().wait();
  auto hangs = bad.Move(NcclLane::kReply, 0, nullptr);
  bool over = false;
  for (uint8_t i = 0; !over; ++i) {
    std::vector<uint8_t> got;
    auto received = good_peer.Move(NcclLane::kDispatch, 0, &got);
    EXPECT_TRUE(good.Move(NcclLane::kDispatch, i, nullptr).get().ok());
    EXPECT_TRUE(received.get().ok());
    EXPECT_EQ(got, std::vector<uint8_t>(kBytes, i));
    over = hangs.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
  }
  EXPECT_TRUE(absl::IsUnavailable(hangs.get()));
  EXPECT_TRUE(absl::IsUnavailable(bad.gone.get_future().get()));
  EXPECT_EQ(router.api.counts().aborted, 2);
  EXPECT_EQ(router.api.counts().comms, 2);
  // What is left ends with the threads.
  router.thread.reset();
  worker.thread.reset();
  EXPECT_TRUE(absl::IsCancelled(good.gone.get_future().get()));
  for (End* end : {&good, &good_peer, &bad, &bad_peer}) end->pair.reset();
  router.ExpectNothingLeft();
  worker.ExpectNothingLeft();
}

TEST(NcclDeviceThread, WithoutItsDeviceItDoesNotStart) {
  FakeNccl api;
  SystemClock clock;
  NcclDeviceOptions options;
  options.device = 7;
  EXPECT_TRUE(absl::IsNotFound(NcclDeviceThread::Start(&api, options, &clock).status()));
}

}  // namespace
}  // namespace octet
