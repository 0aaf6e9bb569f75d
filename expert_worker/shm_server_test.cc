// A worker against routers of this host that do not keep to the protocol: the contract of
// wire_test.cc's bad peers, and what only shared memory lets a peer do.
#include "expert_worker/shm_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "core/crc32c.h"
#include "core/limits.h"
#include "expert_worker/test_util.h"
#include "expert_worker/test_worker.h"
#include "octet/v1/expert.pb.h"

namespace octet {
namespace {

using ::testing::HasSubstr;

// A router by hand: it may write whatever it likes.
class RawRouter {
 public:
  explicit RawRouter(const std::string& socket) {
    doorbell_ = SharedMemory::Create("test-router", kDoorbellPageBytes).value();
    control_ = ConnectControl(socket).value();
    const ShmHello hello{kShmMagic, kShmVersion, 0, 5, 6};
    EXPECT_TRUE(SendControl(control_.get(), &hello, sizeof(hello), {doorbell_.fd()}).ok());
    auto files =
        ReceiveControl(control_.get(), &welcome_, sizeof(welcome_), 2, Duration::Millis(20'000));
    EXPECT_TRUE(files.ok()) << files.status();
    memory_ = SharedMemory::Map(std::move((*files)[0]), SegmentBytes(welcome_.arena_bytes)).value();
    worker_bell_ = SharedMemory::Map(std::move((*files)[1]), kDoorbellPageBytes).value();
  }
  ShmSegment& segment() { return *reinterpret_cast<ShmSegment*>(memory_.data()); }
  uint8_t* arena() { return ArenaOf(memory_.data()); }
  uint64_t arena_bytes() const { return welcome_.arena_bytes; }

  void Ring() { Doorbell(reinterpret_cast<DoorbellWords*>(worker_bell_.data())).Ring(); }
  void Publish(const ShmRequest& request) {
    segment().requests[sent_ % kShmRingEntries] = request;
    segment().request_head.value.store(++sent_, std::memory_order_release);
    Ring();
  }
  // The next answer; waits for it.
  ShmReply TakeReply() {
    while (segment().reply_head.value.load(std::memory_order_acquire) == taken_) {
      std::this_thread::yield();
    }
    const ShmReply reply = segment().replies[taken_ % kShmRingEntries];
    segment().reply_tail.value.store(++taken_, std::memory_order_release);
    return reply;
  }
  ShmReply Ask(const ShmRequest& request) {
    Publish(request);
    return TakeReply();
  }
  // The worker has closed the connection; waits for it.
  bool CutOff() {
    char byte;
    while (recv(control_.get(), &byte, 1, MSG_DONTWAIT) != 0) {
      Ring();
      std::this_thread::yield();
    }
    return true;
  }
  int control() const { return control_.get(); }

 private:
  SharedMemory doorbell_;
  SharedMemory memory_;
  SharedMemory worker_bell_;
  OwnedFd control_;
  ShmWelcome welcome_{};
  uint32_t sent_ = 0;
  uint32_t taken_ = 0;
};

class ShmServerTest : public ::testing::Test {
 protected:
  ShmServerTest() {
    char name[] = "/tmp/octet-test-XXXXXX";
    EXPECT_NE(mkdtemp(name), nullptr);
    directory_ = name;
    // Holds experts 0, 1 and 3 of 4.
    auto store = std::make_shared<ExpertStore>(MakeTestModel(shape_));
    EXPECT_TRUE(store->Prepare(Epoch(1), {ExpertId(0), ExpertId(1), ExpertId(3)}).ok());
    EXPECT_TRUE(store->Activate(Epoch(1)).ok());
    TestWorkerOptions options;
    options.shm_directory = directory_;
    options.before_compute = [this] {
      if (before_compute_) before_compute_();
    };
    worker_ = std::make_unique<TestWorker>(std::move(store), options);
    router_ = std::make_unique<RawRouter>(socket());
  }
  ~ShmServerTest() override {
    router_.reset();
    worker_.reset();
    EXPECT_EQ(rmdir(directory_.c_str()), 0);
  }
  std::string socket() const { return ShmSocketPath(directory_, worker_->address()).value(); }

  // Three rows; expert 0 has the rows 0 and 2, expert 3 the row 1. At the start of the arena, its
  // reply after it.
  ShmRequest MakeRequest(RawRouter& router) {
    const WireFormat format = MakeTestModel(shape_).formats[0];
    const ShmBlock layout = BlockOf(2, 3, 3, format);
    const TestRows rows = MakeTestRows(format, 3, 1);
    const ShmGroup groups[] = {{0, 2}, {3, 1}};
    const uint32_t indices[] = {0, 2, 1};
    std::memcpy(router.arena(), groups, sizeof(groups));
    std::memcpy(router.arena() + layout.indices, indices, sizeof(indices));
    uint8_t* const to = router.arena() + layout.rows;
    std::memcpy(to, rows.q.data(), rows.q.size());
    std::memcpy(to + rows.q.size(), rows.scales.data(), rows.scales.size() * sizeof(float));
    ShmRequest request{};
    request.key.attempt = 7;
    request.row_count = 3;
    request.group_count = 2;
    request.index_count = 3;
    request.reply_offset = layout.bytes;
    request.checksum = Crc32c(to, 3 * format.RowBytes());
    std::memcpy(request.compute_digest, TestDigest().data(), sizeof(request.compute_digest));
    return request;
  }
  ShmGroup* groups() { return reinterpret_cast<ShmGroup*>(router_->arena()); }
  uint32_t* indices() {
    return reinterpret_cast<uint32_t*>(router_->arena() + 2 * sizeof(ShmGroup));
  }
  void ExpectServes(RawRouter& router) {
    const ShmRequest request = MakeRequest(router);
    const ShmReply reply = router.Ask(request);
    EXPECT_EQ(reply.error, static_cast<uint32_t>(octet::v1::DISPATCH_OK)) << reply.message;
    EXPECT_EQ(reply.key.attempt, 7u);
    EXPECT_EQ(reply.checksum,
              Crc32c(router.arena() + request.reply_offset, 3 * shape_.hidden * sizeof(float)));
  }

  TestModelShape shape_;
  std::string directory_;
  std::function<void()> before_compute_;  // set while nothing is computed
  std::unique_ptr<TestWorker> worker_;
  std::unique_ptr<RawRouter> router_;
};

TEST_F(ShmServerTest, GivesOnePreciseRefusalForEachFault) {
  struct Fault {
    const char* name;
    std::function<void(ShmRequest*)> make;
    octet::v1::DispatchError error;
    const char* says;
  };
  using octet::v1::DISPATCH_MALFORMED;
  const uint64_t arena = router_->arena_bytes();
  const std::vector<Fault> faults = {
      {"digest", [](ShmRequest* r) { r->compute_digest[0] = 'z'; },
       octet::v1::DISPATCH_WRONG_DIGEST, "compute_digest"},
      {"no digest", [](ShmRequest* r) { r->compute_digest[0] = 0; },
       octet::v1::DISPATCH_WRONG_DIGEST, "compute_digest"},
      {"not held", [&](ShmRequest*) { groups()[1].expert = 2; }, octet::v1::DISPATCH_NOT_HELD,
       "expert 2"},
      {"layer", [](ShmRequest* r) { r->key.layer = 2; }, DISPATCH_MALFORMED,
       "dispatch.key.layer: 2"},
      {"no rows", [](ShmRequest* r) { r->row_count = 0; }, DISPATCH_MALFORMED, "row_count: 0"},
      {"huge row count", [](ShmRequest* r) { r->row_count = UINT32_MAX; }, DISPATCH_MALFORMED,
       "row_count"},
      {"one row more", [](ShmRequest* r) { ++r->row_count; }, DISPATCH_MALFORMED, "no expert uses"},
      {"flipped bit", [](ShmRequest* r) { r->checksum ^= 1; }, DISPATCH_MALFORMED, "checksum"},
      {"no experts", [](ShmRequest* r) { r->group_count = r->index_count = 0; }, DISPATCH_MALFORMED,
       "dispatch.experts"},
      {"huge group count", [](ShmRequest* r) { r->group_count = UINT32_MAX; }, DISPATCH_MALFORMED,
       "dispatch.experts"},
      {"huge index count", [](ShmRequest* r) { r->index_count = UINT32_MAX; }, DISPATCH_MALFORMED,
       "dispatch.experts"},
      {"an index too much", [](ShmRequest* r) { ++r->index_count; }, DISPATCH_MALFORMED,
       "dispatch.experts"},
      {"unknown expert", [&](ShmRequest*) { groups()[1].expert = 4; }, DISPATCH_MALFORMED,
       "expert 4"},
      {"an expert twice", [&](ShmRequest*) { groups()[1].expert = 0; }, DISPATCH_MALFORMED,
       "out of order"},
      {"an expert without rows", [&](ShmRequest*) { groups()[0].rows = 3, groups()[1].rows = 0; },
       DISPATCH_MALFORMED, "dispatch.experts"},
      {"huge rows of an expert", [&](ShmRequest*) { groups()[1].rows = UINT32_MAX; },
       DISPATCH_MALFORMED, "dispatch.experts"},
      {"row index", [&](ShmRequest*) { indices()[2] = 3; }, DISPATCH_MALFORMED, "row 3"},
      {"rows out of order", [&](ShmRequest*) { indices()[1] = 0; }, DISPATCH_MALFORMED, "row 0"},
      {"past the end", [&](ShmRequest* r) { r->offset = arena; }, DISPATCH_MALFORMED,
       "not in the shared memory"},
      {"across the end", [&](ShmRequest* r) { r->offset = arena - 64; }, DISPATCH_MALFORMED,
       "not in the shared memory"},
      {"far outside", [](ShmRequest* r) { r->offset = UINT64_MAX - 63; }, DISPATCH_MALFORMED,
       "not in the shared memory"},
      {"not aligned", [](ShmRequest* r) { r->offset = 8; }, DISPATCH_MALFORMED,
       "not in the shared memory"},
      {"reply outside", [&](ShmRequest* r) { r->reply_offset = arena - 64; }, DISPATCH_MALFORMED,
       "not in the shared memory"},
  };
  for (const Fault& fault : faults) {
    SCOPED_TRACE(fault.name);
    ShmRequest request = MakeRequest(*router_);
    fault.make(&request);
    const ShmReply reply = router_->Ask(request);
    EXPECT_EQ(reply.error, static_cast<uint32_t>(fault.error)) << reply.message;
    EXPECT_THAT(std::string(reply.message, strnlen(reply.message, sizeof(reply.message))),
                HasSubstr(fault.says));
  }
  ExpectServes(*router_);
}

TEST_F(ShmServerTest, RowsThatChangeWhileTheyAreComputedHarmNobody) {
  // The reply lies where the rows do; what comes out is the peer's own loss.
  ShmRequest request = MakeRequest(*router_);
  request.reply_offset = 0;
  router_->Ask(request);
  ExpectServes(*router_);
}

TEST_F(ShmServerTest, ARingThatCannotBeCutsOffThatRouterAlone) {
  for (const uint32_t head : {kShmRingEntries + 1, 0x80000000u, UINT32_MAX}) {
    RawRouter bad(socket());
    bad.segment().request_head.value = head;
    EXPECT_TRUE(bad.CutOff());
    ExpectServes(*router_);
  }
  RawRouter bad(socket());
  bad.segment().reply_tail.value = 1;  // more than there were
  bad.Publish(MakeRequest(bad));
  EXPECT_TRUE(bad.CutOff());
  ExpectServes(*router_);
}

TEST_F(ShmServerTest, AnswersTheWorkerHasWrittenCanBeOverwritten) {
  RawRouter bad(socket());
  ExpectServes(bad);
  bad.segment().reply_head.value = 77;
  std::memset(static_cast<void*>(bad.segment().replies), 0xff, sizeof(bad.segment().replies));
  bad.Publish(MakeRequest(bad));
  ExpectServes(*router_);
}

TEST_F(ShmServerTest, ARouterThatTakesNoAnswersIsNotReadPastItsBound) {
  RawRouter silent(socket());
  const ShmRequest request = MakeRequest(silent);
  for (uint32_t i = 0; i < kShmRingEntries; ++i) silent.Publish(request);
  for (int i = 0; i < 50; ++i) ExpectServes(*router_);
  const auto answered = [&] { return silent.segment().reply_head.value.load(); };
  while (answered() < kStreamDispatchesMax) std::this_thread::yield();
  for (int i = 0; i < 50; ++i) ExpectServes(*router_);
  EXPECT_EQ(answered(), kStreamDispatchesMax);
  // Once it takes them the rest is read.
  for (uint32_t i = 0; i < kShmRingEntries; ++i) silent.TakeReply();
  ExpectServes(silent);
}

TEST_F(ShmServerTest, RoutersThatComeAndGoLeaveNothingBehind) {
  for (int i = 0; i < 200; ++i) {
    RawRouter guest(socket());
    const ShmRequest request = MakeRequest(guest);
    for (int k = 0; k < i % 8; ++k) guest.Publish(request);
  }
  ExpectServes(*router_);
  while (worker_->loop().queued() > 0) std::this_thread::yield();
}

TEST_F(ShmServerTest, APeerThatSaysNothingOrNonsenseHoldsUpNobody) {
  const OwnedFd silent = ConnectControl(socket()).value();
  const OwnedFd nonsense = ConnectControl(socket()).value();
  ASSERT_TRUE(SendControl(nonsense.get(), "hello", 5, {}).ok());
  const OwnedFd no_memory = ConnectControl(socket()).value();
  const ShmHello hello{kShmMagic, kShmVersion, 0, 5, 6};
  ASSERT_TRUE(SendControl(no_memory.get(), &hello, sizeof(hello), {0}).ok());
  const OwnedFd old = ConnectControl(socket()).value();
  const ShmHello other{kShmMagic, kShmVersion + 1, 0, 5, 6};
  const SharedMemory bell = SharedMemory::Create("test", kDoorbellPageBytes).value();
  ASSERT_TRUE(SendControl(old.get(), &other, sizeof(other), {bell.fd()}).ok());
  RawRouter good(socket());
  ExpectServes(good);
  for (const OwnedFd* refused : {&nonsense, &no_memory, &old}) {
    char byte;
    while (recv(refused->get(), &byte, 1, MSG_DONTWAIT) != 0) std::this_thread::yield();
  }
  ExpectServes(good);
}

TEST_F(ShmServerTest, RoutersAreLimitedInNumber) {
  std::vector<std::unique_ptr<RawRouter>> routers;
  while (routers.size() + 1 < kShmRoutersMax) {  // beside router_
    routers.push_back(std::make_unique<RawRouter>(socket()));
  }
  const OwnedFd one_more = ConnectControl(socket()).value();
  char byte;
  while (recv(one_more.get(), &byte, 1, MSG_DONTWAIT) != 0) std::this_thread::yield();
  ExpectServes(*routers.back());
}

TEST_F(ShmServerTest, SayingMoreThanHelloEndsTheConnection) {
  const char more = 'x';
  ASSERT_TRUE(SendControl(router_->control(), &more, 1, {}).ok());
  EXPECT_TRUE(router_->CutOff());
}

TEST_F(ShmServerTest, ADrainingWorkerRefuses) {
  EXPECT_TRUE(worker_->loop().Drain(SystemClock().Now() + Duration::Millis(20'000)));
  const ShmReply reply = router_->Ask(MakeRequest(*router_));
  EXPECT_EQ(reply.error, static_cast<uint32_t>(octet::v1::DISPATCH_DRAINING));
}

TEST_F(ShmServerTest, AWorkerThatStopsNeverAnswersWithWhatItDidNotCompute) {
  // Held at the first of the dispatch's two experts until the worker has cut the router off.
  std::promise<void> cut_off;
  before_compute_ = [gone = cut_off.get_future().share()] { gone.wait(); };
  const ShmRequest request = MakeRequest(*router_);
  router_->Publish(request);
  while (worker_->loop().queued() == 0) std::this_thread::yield();
  std::thread stop([&] { worker_.reset(); });
  EXPECT_TRUE(router_->CutOff());
  cut_off.set_value();
  const ShmReply reply = router_->TakeReply();
  stop.join();
  EXPECT_EQ(reply.key.attempt, 7u);
  EXPECT_EQ(reply.error, static_cast<uint32_t>(octet::v1::DISPATCH_DRAINING)) << reply.message;
}

TEST_F(ShmServerTest, ADirectoryOfOthersIsRefused) {
  ShmServerOptions options;
  options.socket = "/tmp/worker.sock";  // anybody may write there
  const SharedMemory bell = SharedMemory::Create("test", kDoorbellPageBytes).value();
  options.doorbell = &bell;
  const auto store = MakeFullStore(shape_);
  EXPECT_TRUE(
      absl::IsPermissionDenied(ShmServer::Start(options, store.get(), &worker_->loop()).status()));
}

}  // namespace
}  // namespace octet
