// A link against workers that do not keep to the protocol: the contract of grpc_link_test.cc, and
// what only shared memory lets a peer do.
#include "transport/shm/shm_link.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "core/crc32c.h"
#include "core/limits.h"
#include "octet/v1/expert.pb.h"
#include "transport/shm/control_socket.h"
#include "transport/shm/segment.h"
#include "transport/test_asker.h"

namespace octet {
namespace {

constexpr uint32_t kHidden = TestAsker::kHidden;
constexpr uint64_t kArena = 1 << 16;

class RogueWorker {
 public:
  // Answers a dispatch in whatever way; false ends the connection.
  using Script = std::function<bool(RogueWorker&, const ShmRequest&)>;

  explicit RogueWorker(Script script) : script_(std::move(script)) {
    char name[] = "/tmp/octet-test-XXXXXX";
    EXPECT_NE(mkdtemp(name), nullptr);
    directory_ = name;
    doorbell_ = SharedMemory::Create("test-worker", kDoorbellPageBytes).value();
    listener_ = ListenControl(socket()).value();
    thread_ = std::thread([this] { Run(); });
  }
  ~RogueWorker() {
    stopping_ = true;
    thread_.join();
    unlink(socket().c_str());
    rmdir(directory_.c_str());
  }
  std::string socket() const { return directory_ + "/worker.sock"; }

  // ---- For scripts ----
  ShmSegment& segment() { return *reinterpret_cast<ShmSegment*>(memory_.data()); }
  // Rows whose value is the expert, as the request asks for them.
  ShmReply MakeGoodReply(const ShmRequest& request) {
    std::vector<ShmGroup> groups(request.group_count);
    uint8_t* const arena = ArenaOf(memory_.data());
    std::memcpy(groups.data(), arena + request.offset, groups.size() * sizeof(ShmGroup));
    auto* out = reinterpret_cast<float*>(arena + request.reply_offset);
    for (const ShmGroup& group : groups) {
      for (size_t i = 0; i < size_t{group.rows} * kHidden; ++i) {
        *out++ = static_cast<float>(group.expert);
      }
    }
    ShmReply reply{};
    reply.key = request.key;
    reply.checksum =
        Crc32c(arena + request.reply_offset, size_t{request.index_count} * kHidden * sizeof(float));
    return reply;
  }
  float* ReplyRows(const ShmRequest& request) {
    return reinterpret_cast<float*>(ArenaOf(memory_.data()) + request.reply_offset);
  }
  bool Publish(const ShmReply& reply) {
    segment().replies[replies_ % kShmRingEntries] = reply;
    segment().reply_head.value.store(++replies_, std::memory_order_release);
    return true;
  }

  // How it welcomes a router; set before anyone connects.
  ShmWelcome welcome{kShmMagic, kShmVersion, 0, kArena};
  size_t segment_bytes = SegmentBytes(kArena);
  std::atomic<int> connections{0};

 private:
  void Run() {
    while (!stopping_) {
      control_ = AcceptControl(listener_.get());
      if (control_.open()) Serve();
      std::this_thread::yield();
    }
  }
  void Serve() {
    ShmHello hello{};
    auto files =
        ReceiveControl(control_.get(), &hello, sizeof(hello), 1, Duration::Millis(kShmHandshakeMs));
    ASSERT_TRUE(files.ok()) << files.status();
    EXPECT_EQ(hello.magic, kShmMagic);
    memory_ = SharedMemory::Create("test-wire", segment_bytes).value();
    replies_ = 0;
    ++connections;
    ASSERT_TRUE(
        SendControl(control_.get(), &welcome, sizeof(welcome), {memory_.fd(), doorbell_.fd()})
            .ok());
    uint32_t taken = 0;
    char byte;
    while (!stopping_) {
      if (recv(control_.get(), &byte, 1, MSG_DONTWAIT) == 0) break;  // the router has gone
      if (segment().request_head.value.load(std::memory_order_acquire) == taken) {
        std::this_thread::yield();
        continue;
      }
      const ShmRequest request = segment().requests[taken++ % kShmRingEntries];
      if (!script_(*this, request)) break;
    }
    control_ = OwnedFd();
  }

  const Script script_;
  std::string directory_;
  SharedMemory doorbell_;
  SharedMemory memory_;
  OwnedFd listener_;
  OwnedFd control_;
  uint32_t replies_ = 0;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

bool AnswerWell(RogueWorker& worker, const ShmRequest& request) {
  return worker.Publish(worker.MakeGoodReply(request));
}

std::shared_ptr<ShmLink> MakeLink(const std::string& socket) {
  return ShmLink::Create({socket, RouterId(1), 7, ShmDoorbell::Create().value()}).value();
}
std::shared_ptr<ShmLink> Connect(const RogueWorker& worker) {
  auto link = MakeLink(worker.socket());
  EXPECT_TRUE(WaitConnected(*link));
  return link;
}

TEST(ShmLink, DeliversRowsInTheOrderOfTheShare) {
  RogueWorker worker(AnswerWell);
  TestAsker asker;
  const auto link = Connect(worker);
  for (uint32_t attempt = 1; attempt <= 1000; ++attempt) {
    const ExpertReply reply = asker.Ask(*link, attempt);
    ASSERT_TRUE(reply.status.ok()) << reply.status;
    EXPECT_EQ(reply.key.attempt, attempt);
    ASSERT_EQ(reply.rows.size(), 3 * kHidden);
    EXPECT_EQ(reply.rows[0], 1.0f);
    EXPECT_EQ(reply.rows[2 * kHidden], 3.0f);
  }
}

TEST(ShmLink, UnaskedRepliesAreDropped) {
  RogueWorker worker([](RogueWorker& w, const ShmRequest& r) {
    ShmReply stranger = w.MakeGoodReply(r);
    stranger.key.router = 99;
    // More entries than questions end a connection: the stranger takes the place of one.
    if (r.key.attempt == 1) return w.Publish(stranger);
    return AnswerWell(w, r);
  });
  TestAsker asker;
  const auto link = Connect(worker);
  asker.Send(*link, 1);
  for (uint32_t attempt = 2; attempt <= 20; ++attempt) {
    const ExpertReply reply = asker.Ask(*link, attempt);
    EXPECT_TRUE(reply.status.ok());
    EXPECT_EQ(reply.key.attempt, attempt);
  }
  EXPECT_EQ(asker.replies(), 0u);
}

TEST(ShmLink, DamagedRepliesAreDataLoss) {
  RogueWorker worker([](RogueWorker& w, const ShmRequest& r) {
    ShmReply reply = w.MakeGoodReply(r);
    if (r.key.attempt == 1) w.ReplyRows(r)[5] += 1;
    if (r.key.attempt == 2) reply.checksum ^= 1;
    return w.Publish(reply);
  });
  TestAsker asker;
  const auto link = Connect(worker);
  EXPECT_TRUE(absl::IsDataLoss(asker.Ask(*link, 1).status));
  EXPECT_TRUE(absl::IsDataLoss(asker.Ask(*link, 2).status));
  EXPECT_TRUE(asker.Ask(*link, 3).status.ok());
}

TEST(ShmLink, RefusalsKeepTheirMeaning) {
  const std::vector<std::pair<uint32_t, absl::StatusCode>> cases = {
      {octet::v1::DISPATCH_NOT_HELD, absl::StatusCode::kNotFound},
      {octet::v1::DISPATCH_WRONG_DIGEST, absl::StatusCode::kFailedPrecondition},
      {octet::v1::DISPATCH_MALFORMED, absl::StatusCode::kInvalidArgument},
      {octet::v1::DISPATCH_OVERLOADED, absl::StatusCode::kResourceExhausted},
      {octet::v1::DISPATCH_DRAINING, absl::StatusCode::kUnavailable},
      {octet::v1::DISPATCH_DATA_LOSS, absl::StatusCode::kDataLoss},
      {77, absl::StatusCode::kInvalidArgument},
      {UINT32_MAX, absl::StatusCode::kInvalidArgument},
  };
  RogueWorker worker([&](RogueWorker& w, const ShmRequest& r) {
    ShmReply reply = w.MakeGoodReply(r);
    reply.error = cases[r.key.attempt].first;
    std::memset(reply.message, 'x', sizeof(reply.message));  // without an end
    return w.Publish(reply);
  });
  TestAsker asker;
  const auto link = Connect(worker);
  for (uint32_t i = 0; i < cases.size(); ++i) {
    const absl::Status status = asker.Ask(*link, i).status;
    EXPECT_EQ(status.code(), cases[i].second);
    EXPECT_LE(status.message().size(), sizeof(ShmReply::message) + 64);
  }
}

TEST(ShmLink, ABreakFailsWhatIsInFlightAndTheLinkComesBack) {
  RogueWorker worker(
      [](RogueWorker& w, const ShmRequest& r) { return r.key.attempt != 1 && AnswerWell(w, r); });
  TestAsker asker;
  const auto link = Connect(worker);
  EXPECT_TRUE(absl::IsUnavailable(asker.Ask(*link, 1).status));
  EXPECT_TRUE(WaitConnected(*link));
  EXPECT_TRUE(asker.Ask(*link, 2).status.ok());
  EXPECT_EQ(worker.connections, 2);
}

TEST(ShmLink, WhatWasAnsweredBeforeABreakStillCounts) {
  RogueWorker worker([](RogueWorker& w, const ShmRequest& r) {
    AnswerWell(w, r);
    return false;
  });
  TestAsker asker;
  const auto link = Connect(worker);
  EXPECT_TRUE(asker.Ask(*link, 1).status.ok());
}

TEST(ShmLink, WithoutAPeerItRefusesAtOnce) {
  const auto link = MakeLink("/tmp/octet-no-such-directory/worker.sock");
  EXPECT_FALSE(link->connected());
  TestAsker asker;
  EXPECT_TRUE(absl::IsUnavailable(asker.Ask(*link, 1).status));
}

TEST(ShmLink, CancelledDispatchesAreNeverDelivered) {
  std::atomic<bool> open{false};
  RogueWorker worker([&](RogueWorker& w, const ShmRequest& r) {
    while (!open) std::this_thread::yield();
    return AnswerWell(w, r);
  });
  TestAsker asker;
  const auto link = Connect(worker);
  asker.Send(*link, 1);
  asker.Send(*link, 2);
  link->Cancel(asker.Make(1).key);
  open = true;
  EXPECT_EQ(asker.Wait(link.get()).key.attempt, 2u);
  EXPECT_EQ(asker.Ask(*link, 3).key.attempt, 3u);
  EXPECT_EQ(asker.replies(), 0u);
}

TEST(ShmLink, DispatchesInFlightAreBoundedAndFailWhenTheLinkGoes) {
  RogueWorker worker([](RogueWorker&, const ShmRequest&) { return true; });
  TestAsker asker;
  auto link = Connect(worker);
  for (uint32_t i = 0; i < kLinkQueuedDispatchesMax; ++i) asker.Send(*link, i);
  EXPECT_EQ(asker.replies(), 0u);
  EXPECT_TRUE(absl::IsResourceExhausted(asker.Ask(*link, 1000).status));
  link.reset();
  for (uint32_t i = 0; i < kLinkQueuedDispatchesMax; ++i) {
    EXPECT_TRUE(absl::IsCancelled(asker.Wait(nullptr).status));
  }
}

TEST(ShmLink, AFullArenaRefuses) {
  RogueWorker worker([](RogueWorker&, const ShmRequest&) { return true; });
  worker.welcome.arena_bytes = 4 * kShmAlign;
  worker.segment_bytes = SegmentBytes(4 * kShmAlign);
  TestAsker asker;
  const auto link = Connect(worker);
  asker.Send(*link, 1);
  EXPECT_TRUE(absl::IsResourceExhausted(asker.Ask(*link, 2).status));
}

// With an arena that is full after one dispatch, and with room for all.
TEST(ShmLink, AnswersThatNobodyHasTakenMakeRoom) {
  for (const uint32_t in_flight : {1u, kLinkQueuedDispatchesMax}) {
    std::atomic<uint32_t> answered{0};
    RogueWorker worker([&](RogueWorker& w, const ShmRequest& r) {
      AnswerWell(w, r);
      ++answered;
      return true;
    });
    if (in_flight == 1) {
      worker.welcome.arena_bytes = 4 * kShmAlign;
      worker.segment_bytes = SegmentBytes(4 * kShmAlign);
    }
    TestAsker asker;
    const auto link = Connect(worker);
    for (uint32_t i = 0; i < in_flight; ++i) asker.Send(*link, i);
    while (answered < in_flight) std::this_thread::yield();
    asker.Send(*link, in_flight);
    for (uint32_t i = 0; i <= in_flight; ++i) {
      const ExpertReply reply = asker.Wait(link.get());
      EXPECT_EQ(reply.key.attempt, i);
      EXPECT_TRUE(reply.status.ok()) << reply.status;
    }
  }
}

// ---- What only shared memory lets a peer do ----

TEST(ShmLink, ACountOfRepliesThatCannotBeEndsTheConnection) {
  for (const uint32_t count : {2u, 100u, 129u, 0x80000000u, UINT32_MAX}) {
    RogueWorker worker([&](RogueWorker& w, const ShmRequest& r) {
      if (r.key.attempt != 1) return AnswerWell(w, r);
      w.segment().reply_head.value = count;
      return true;
    });
    TestAsker asker;
    const auto link = Connect(worker);
    EXPECT_TRUE(absl::IsUnavailable(asker.Ask(*link, 1).status)) << count;
    EXPECT_TRUE(WaitConnected(*link));
    EXPECT_TRUE(asker.Ask(*link, 2).status.ok());
  }
}

TEST(ShmLink, ADuplicateReplyIsNotDeliveredTwice) {
  RogueWorker worker([](RogueWorker& w, const ShmRequest& r) {
    if (r.key.attempt == 1) return true;  // leaves room for one more answer
    AnswerWell(w, r);
    return AnswerWell(w, r);
  });
  TestAsker asker;
  const auto link = Connect(worker);
  asker.Send(*link, 1);
  EXPECT_EQ(asker.Ask(*link, 2).key.attempt, 2u);
  link->Poll();
  EXPECT_EQ(asker.replies(), 0u);
}

TEST(ShmLink, ARequestTheWorkerOverwritesHurtsOnlyItself) {
  RogueWorker worker([](RogueWorker& w, const ShmRequest& r) {
    ShmReply reply = w.MakeGoodReply(r);
    // Everything the router has written, its own counters too.
    std::memset(static_cast<void*>(w.segment().requests), 0xff, sizeof(w.segment().requests));
    w.segment().reply_tail.value = 12345;
    return w.Publish(reply);
  });
  TestAsker asker;
  const auto link = Connect(worker);
  const ExpertReply reply = asker.Ask(*link, 1);
  ASSERT_TRUE(reply.status.ok()) << reply.status;
  EXPECT_EQ(reply.rows.size(), 3 * kHidden);
  EXPECT_TRUE(asker.Ask(*link, 2).status.ok());
}

TEST(ShmLink, AWelcomeThatDoesNotFitIsRefused) {
  const auto refused = [](const std::function<void(RogueWorker*)>& spoil) {
    RogueWorker worker(AnswerWell);
    spoil(&worker);
    const auto link = MakeLink(worker.socket());
    while (worker.connections < 2) std::this_thread::yield();  // it tries again
    return !link->connected();
  };
  EXPECT_TRUE(refused([](RogueWorker* w) { w->welcome.magic ^= 1; }));
  EXPECT_TRUE(refused([](RogueWorker* w) { ++w->welcome.version; }));
  EXPECT_TRUE(refused([](RogueWorker* w) { w->welcome.arena_bytes = 2 * kArena; }));
  EXPECT_TRUE(refused([](RogueWorker* w) { w->welcome.arena_bytes = UINT64_MAX; }));
  EXPECT_TRUE(refused([](RogueWorker* w) { w->segment_bytes -= 4096; }));
}

TEST(ShmLink, ASilentWorkerHoldsUpNeitherSendNorTheEnd) {
  char name[] = "/tmp/octet-test-XXXXXX";
  ASSERT_NE(mkdtemp(name), nullptr);
  const std::string socket = std::string(name) + "/worker.sock";
  {
    const OwnedFd listener = ListenControl(socket).value();
    TestAsker asker;
    auto link = MakeLink(socket);
    OwnedFd worker;  // takes the hello and never answers
    while (!worker.open()) worker = AcceptControl(listener.get());
    ShmHello hello{};
    ASSERT_TRUE(
        ReceiveControl(worker.get(), &hello, sizeof(hello), 1, Duration::Millis(20'000)).ok());
    EXPECT_TRUE(absl::IsUnavailable(asker.Ask(*link, 1).status));
    const MonotonicTime start = SystemClock().Now();
    link.reset();
    EXPECT_LT(SystemClock().Now() - start, Duration::Millis(kShmHandshakeMs / 2));
  }
  unlink(socket.c_str());
  rmdir(name);
}

}  // namespace
}  // namespace octet
