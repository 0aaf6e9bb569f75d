// A link against workers that do not keep to the protocol: the contract of grpc_link_test.cc, and
// what only communicators let a peer do.
#include "transport/nccl/nccl_link.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/limits.h"
#include "octet/v1/expert.grpc.pb.h"
#include "rpc/channel.h"
#include "rpc/expert_codec.h"
#include "transport/nccl/fake_nccl.h"
#include "transport/nccl/nccl_message.h"
#include "transport/test_asker.h"

namespace octet {
namespace {

using octet::v1::Dispatch;
using octet::v1::NcclFromRouter;
using octet::v1::NcclFromWorker;

constexpr uint32_t kHidden = TestAsker::kHidden;

// What a script answers: the message, and what it sends over NCCL after it.
struct Answer {
  NcclFromWorker message;
  std::vector<float> rows;
};

NcclSizes ReplySizes() { return NcclSizesOf({WireFormat{kHidden}})[1]; }

// Rows whose value is the expert, as the dispatch asks for them.
Answer GoodAnswer(const Dispatch& dispatch) {
  Answer answer;
  for (const auto& group : dispatch.experts()) {
    answer.rows.insert(answer.rows.end(), static_cast<size_t>(group.rows_size()) * kHidden,
                       static_cast<float>(group.expert()));
  }
  octet::v1::DispatchReply* const reply = answer.message.mutable_reply();
  *reply->mutable_key() = dispatch.key();
  std::vector<uint8_t> bytes(answer.rows.size() * sizeof(float));
  reply->set_checksum(EncodeReplyRowsTo(answer.rows.data(), answer.rows.size() / kHidden,
                                        WireFormat{kHidden}, bytes.data()));
  answer.message.set_transfer_bytes(ReplySizes().bucket);
  return answer;
}

// Has the whole of the worker's side but its sense.
class RogueWorker final : public octet::v1::ExpertNccl::Service {
 public:
  // No answers end the stream.
  using Script = std::function<std::vector<Answer>(const Dispatch&)>;

  explicit RogueWorker(Script script)
      : device(NcclDeviceThread::Start(&api, {}, &clock).value()), script_(std::move(script)) {
    server_ = RpcServer::Start("127.0.0.1:0", {this}).value();
  }
  ~RogueWorker() override {
    server_->Shutdown(Duration{});
    device.reset();
    EXPECT_EQ(api.counts().violations, 0);
  }
  const std::string& address() const { return server_->address(); }

  grpc::Status Control(grpc::ServerContext* context,
                       grpc::ServerReaderWriter<NcclFromWorker, NcclFromRouter>* stream) override {
    NcclFromRouter message;
    if (!stream->Read(&message)) return grpc::Status::OK;
    EXPECT_EQ(message.hello().version(), kNcclProtocolVersion);
    EXPECT_EQ(message.hello().incarnation(), 7u);
    NcclPairOptions options;
    options.rank = kNcclWorkerRank;
    options.deadlines.transfer = Duration::Millis(200);
    NcclTerms terms;
    terms.sizes = NcclSizesOf({WireFormat{kHidden}});
    for (size_t i = 0; i < kNcclLanes; ++i) options.warm_bytes[i] = terms.sizes[i].bucket;
    std::promise<void> made;
    device->Run([&] {
      for (NcclUniqueId& id : terms.ids) api.GetUniqueId(&id);
      made.set_value();
    });
    made.get_future().wait();
    options.ids = terms.ids;
    std::promise<void> gone;
    const auto pair = std::make_shared<NcclPair>(
        &api, options, TakeWarmRows(device->pool(), options.warm_bytes).value(),
        NcclPairEvents{[] {}, [&](const absl::Status&) { gone.set_value(); }});
    device->Add(pair);
    NcclFromWorker welcome;
    EncodeWelcome(terms, welcome.mutable_welcome());
    if (spoil_welcome) spoil_welcome(welcome.mutable_welcome());
    ++connections;
    stream->Write(welcome);
    Serve(stream, pair);
    device->Fail(pair, absl::UnavailableError("the worker's stream ended"));
    gone.get_future().wait();
    return grpc::Status::OK;
  }

  SystemClock clock;
  FakeNccl api;
  std::shared_ptr<NcclDeviceThread> device;
  // Set before anyone connects.
  std::function<void(octet::v1::NcclWelcome*)> spoil_welcome;
  std::atomic<int> connections{0};
  // Of the last dispatch, when it has been answered.
  std::vector<float> rows;
  bool unchecked = false;

 private:
  void Serve(grpc::ServerReaderWriter<NcclFromWorker, NcclFromRouter>* stream,
             const std::shared_ptr<NcclPair>& pair) {
    NcclFromRouter message;
    while (stream->Read(&message)) {
      if (!ReceiveRows(message, pair)) return;
      const std::vector<Answer> answers = script_(message.dispatch());
      if (answers.empty()) return;
      for (const Answer& answer : answers) {
        stream->Write(answer.message);
        if (!answer.rows.empty()) SendRows(answer, pair);
      }
    }
  }
  bool ReceiveRows(const NcclFromRouter& message, const std::shared_ptr<NcclPair>& pair) {
    const size_t used = message.dispatch().row_count() * kHidden * sizeof(float);
    NcclTransfer transfer;
    transfer.memory = device->pool()->Take(message.transfer_bytes()).value();
    transfer.wire_bytes = message.transfer_bytes();
    transfer.used_bytes = used;
    std::promise<bool> received;
    transfer.done = [&](const absl::Status& status, RowPool::Lease memory) {
      rows.resize(used / sizeof(float));
      std::memcpy(rows.data(), memory->host, used);
      unchecked = message.unchecked();
      received.set_value(status.ok() && rows[0] == 1.5f);
    };
    device->Submit(pair, NcclLane::kDispatch, std::move(transfer));
    return received.get_future().get();
  }
  void SendRows(const Answer& answer, const std::shared_ptr<NcclPair>& pair) {
    const size_t bytes = answer.rows.size() * sizeof(float);
    NcclTransfer transfer;
    transfer.wire_bytes = std::max<size_t>(answer.message.transfer_bytes(), bytes);
    transfer.memory = device->pool()->Take(transfer.wire_bytes).value();
    transfer.used_bytes = bytes;
    std::memcpy(transfer.memory->host, answer.rows.data(), bytes);
    transfer.done = [](const absl::Status&, RowPool::Lease) {};
    device->Submit(pair, NcclLane::kReply, std::move(transfer));
  }

  const Script script_;
  std::unique_ptr<RpcServer> server_;
};

std::vector<Answer> AnswerWell(const Dispatch& d) { return {GoodAnswer(d)}; }

class NcclLinkTest : public ::testing::Test {
 protected:
  NcclLinkTest() {
    NcclDeviceOptions options;
    options.deadlines.transfer = Duration::Millis(200);
    device_ = NcclDeviceThread::Start(&api_, options, &clock_).value();
  }
  ~NcclLinkTest() override {
    link_.reset();
    device_.reset();
    const FakeNcclCounts counts = api_.counts();
    EXPECT_EQ(counts.violations, 0);
    EXPECT_EQ(counts.comms + counts.streams + counts.marks + counts.allocations, 0);
  }
  void Open(const std::string& address) {
    NcclLinkOptions options;
    options.address = address;
    options.router = RouterId(1);
    options.incarnation = 7;
    options.device = device_;
    link_ = NcclLink::Create(std::move(options)).value();
  }
  void Connect(const RogueWorker& worker) {
    Open(worker.address());
    EXPECT_TRUE(WaitConnected(*link_));
  }

  SystemClock clock_;
  FakeNccl api_;
  std::shared_ptr<NcclDeviceThread> device_;
  TestAsker asker_;
  std::shared_ptr<NcclLink> link_;
};

TEST_F(NcclLinkTest, DeliversRowsInTheOrderOfTheShare) {
  RogueWorker worker(AnswerWell);
  Connect(worker);
  for (uint32_t attempt = 1; attempt <= 300; ++attempt) {
    const ExpertReply reply = asker_.Ask(*link_, attempt);
    ASSERT_TRUE(reply.status.ok()) << reply.status;
    EXPECT_EQ(reply.key.attempt, attempt);
    ASSERT_EQ(reply.rows.size(), 3 * kHidden);
    EXPECT_EQ(reply.rows[0], 1.0f);
    EXPECT_EQ(reply.rows[2 * kHidden], 3.0f);
  }
  link_.reset();
  EXPECT_EQ(api_.counts().destroyed, 2) << "not closed in good order";
}

// Of rows on the device those of the share travel, and the reply stays there.
TEST_F(NcclLinkTest, RowsOnTheDeviceAreGatheredThereAndRepliesStayThere) {
  RogueWorker worker(AnswerWell);
  Connect(worker);
  const size_t row_bytes = kHidden * sizeof(float);
  auto* const rows = static_cast<float*>(api_.Allocate(6 * row_bytes).value());
  for (size_t i = 0; i < 6 * kHidden; ++i) rows[i] = static_cast<float>(i / kHidden);
  std::fill_n(rows + 5 * kHidden, kHidden, 1.5f);
  WorkerShare share;
  share.rows = {5, 0, 3};
  share.groups = {{ExpertId(1), {5, 0, 3}, {0, 1, 2}}};
  share.local_rows = {{0, 1, 2}};
  for (uint32_t attempt = 1; attempt <= 50; ++attempt) {
    ExpertDispatch dispatch = asker_.Make(attempt);
    dispatch.share = &share;
    dispatch.rows.rows = 6;
    dispatch.rows.device = {DeviceKind::kCuda, 0};
    dispatch.rows.f32 = ConstTensorF32(rows, 6, kHidden, kHidden);
    const ExpertReply reply = asker_.Ask(*link_, dispatch);
    ASSERT_TRUE(reply.status.ok()) << reply.status;
    EXPECT_TRUE(worker.unchecked);
    EXPECT_EQ(worker.rows, (std::vector<float>{1.5f, 1.5f, 1.5f, 1.5f, 0, 0, 0, 0, 3, 3, 3, 3}));
    EXPECT_TRUE(reply.rows.empty());
    ASSERT_EQ(reply.device.floats, 3 * kHidden);
    EXPECT_EQ(std::vector<float>(reply.device.rows, reply.device.rows + 3 * kHidden),
              std::vector<float>(3 * kHidden, 1.0f));
  }
  // Both kinds on one connection.
  const ExpertReply reply = asker_.Ask(*link_, 51);
  EXPECT_TRUE(reply.status.ok()) << reply.status;
  EXPECT_FALSE(worker.unchecked);
  EXPECT_EQ(reply.rows.size(), 3 * kHidden);
  EXPECT_EQ(worker.connections, 1);
  api_.Release(rows);
}

TEST_F(NcclLinkTest, ManyInFlightAreAnsweredOnceEach) {
  RogueWorker worker(AnswerWell);
  Connect(worker);
  for (uint32_t i = 0; i < kLinkQueuedDispatchesMax; ++i) asker_.Send(*link_, i);
  for (uint32_t i = 0; i < kLinkQueuedDispatchesMax; ++i) {
    const ExpertReply reply = asker_.Wait(link_.get());
    EXPECT_TRUE(reply.status.ok()) << reply.status;
    EXPECT_EQ(reply.key.attempt, i);
  }
  link_->Poll();
  EXPECT_EQ(asker_.replies(), 0u);
}

TEST_F(NcclLinkTest, DuplicateAndUnaskedRepliesAreDropped) {
  RogueWorker worker([](const Dispatch& d) {
    Answer stranger = GoodAnswer(d);
    stranger.message.mutable_reply()->mutable_key()->set_router(99);
    Answer no_key = GoodAnswer(d);
    no_key.message.mutable_reply()->clear_key();
    return std::vector{stranger, no_key, GoodAnswer(d), GoodAnswer(d), GoodAnswer(d)};
  });
  Connect(worker);
  for (uint32_t attempt = 1; attempt <= 20; ++attempt) {
    const ExpertReply reply = asker_.Ask(*link_, attempt);
    EXPECT_TRUE(reply.status.ok()) << reply.status;
    EXPECT_EQ(reply.key.attempt, attempt);
  }
  EXPECT_EQ(asker_.replies(), 0u);
}

TEST_F(NcclLinkTest, DamagedRepliesAreDataLossAndTheLinkGoesOn) {
  RogueWorker worker([](const Dispatch& d) {
    Answer answer = GoodAnswer(d);
    const uint32_t attempt = d.key().attempt();
    if (attempt == 1) answer.rows[5] += 1;
    if (attempt == 2) answer.message.mutable_reply()->set_checksum(7);
    if (attempt == 3) answer.message.set_transfer_bytes(ReplySizes().bucket + 4);
    if (attempt == 4) answer.message.set_transfer_bytes(answer.rows.size() * sizeof(float));
    return std::vector{answer};
  });
  Connect(worker);
  for (uint32_t attempt = 1; attempt <= 4; ++attempt) {
    const absl::Status status = asker_.Ask(*link_, attempt).status;
    EXPECT_TRUE(absl::IsDataLoss(status)) << attempt << ": " << status;
  }
  EXPECT_TRUE(asker_.Ask(*link_, 5).status.ok());
  EXPECT_EQ(worker.connections, 1);
}

TEST_F(NcclLinkTest, AReplyThatCameBeforeItsDispatchIsNotItsReply) {
  RogueWorker worker([](const Dispatch& d) {
    Answer early = GoodAnswer(d);
    early.message.mutable_reply()->mutable_key()->set_attempt(d.key().attempt() + 1);
    early.message.set_transfer_bytes(early.rows.size() * sizeof(float));
    return std::vector{early, GoodAnswer(d)};
  });
  Connect(worker);
  asker_.Send(*link_, 1);
  while (api_.counts().transfers < 5) std::this_thread::yield();  // two first ones, one dispatch
  asker_.Send(*link_, 2);
  const ExpertReply early = asker_.Wait(link_.get());
  const ExpertReply good = asker_.Wait(link_.get());
  EXPECT_EQ(early.key.attempt, 2u);
  EXPECT_TRUE(absl::IsDataLoss(early.status)) << early.status;
  EXPECT_EQ(good.key.attempt, 1u);
  EXPECT_TRUE(good.status.ok());
}

TEST_F(NcclLinkTest, ATransferThatCannotBeEndsTheConnection) {
  for (const uint64_t bytes : {uint64_t{0}, ReplySizes().max + 1, UINT64_MAX}) {
    SCOPED_TRACE(bytes);
    RogueWorker worker([&](const Dispatch& d) {
      Answer answer = GoodAnswer(d);
      if (d.key().attempt() != 1) return std::vector{answer};
      answer.message.set_transfer_bytes(bytes);
      answer.rows.clear();
      return std::vector{answer};
    });
    Connect(worker);
    EXPECT_TRUE(absl::IsUnavailable(asker_.Ask(*link_, 1).status));
    EXPECT_TRUE(WaitConnected(*link_));
    EXPECT_TRUE(asker_.Ask(*link_, 2).status.ok());
    EXPECT_EQ(worker.connections, 2);
    link_.reset();
  }
}

TEST_F(NcclLinkTest, RefusalsKeepTheirMeaning) {
  const std::vector<std::pair<int, absl::StatusCode>> cases = {
      {octet::v1::DISPATCH_NOT_HELD, absl::StatusCode::kNotFound},
      {octet::v1::DISPATCH_WRONG_DIGEST, absl::StatusCode::kFailedPrecondition},
      {octet::v1::DISPATCH_MALFORMED, absl::StatusCode::kInvalidArgument},
      {octet::v1::DISPATCH_OVERLOADED, absl::StatusCode::kResourceExhausted},
      {octet::v1::DISPATCH_DRAINING, absl::StatusCode::kUnavailable},
      {octet::v1::DISPATCH_DATA_LOSS, absl::StatusCode::kDataLoss},
      {77, absl::StatusCode::kInvalidArgument},
  };
  RogueWorker worker([&](const Dispatch& d) {
    Answer answer = GoodAnswer(d);
    answer.rows.clear();
    answer.message.mutable_reply()->set_error(
        static_cast<octet::v1::DispatchError>(cases[d.key().attempt()].first));
    return std::vector{answer};
  });
  Connect(worker);
  for (uint32_t i = 0; i < cases.size(); ++i) {
    EXPECT_EQ(asker_.Ask(*link_, i).status.code(), cases[i].second);
  }
}

TEST_F(NcclLinkTest, ABreakFailsWhatIsInFlightAndTheLinkComesBack) {
  RogueWorker worker([](const Dispatch& d) {
    return d.key().attempt() == 1 ? std::vector<Answer>{} : AnswerWell(d);
  });
  Connect(worker);
  EXPECT_TRUE(absl::IsUnavailable(asker_.Ask(*link_, 1).status));
  EXPECT_TRUE(WaitConnected(*link_));
  EXPECT_TRUE(asker_.Ask(*link_, 2).status.ok());
  EXPECT_EQ(worker.connections, 2);
}

TEST_F(NcclLinkTest, WithoutAPeerItRefusesAtOnce) {
  Open("127.0.0.1:1");
  EXPECT_FALSE(link_->connected());
  EXPECT_TRUE(absl::IsUnavailable(asker_.Ask(*link_, 1).status));
}

TEST_F(NcclLinkTest, CancelledDispatchesAreNeverDelivered) {
  std::promise<void> open;
  RogueWorker worker([&, opened = open.get_future().share()](const Dispatch& d) {
    opened.wait();
    return AnswerWell(d);
  });
  Connect(worker);
  asker_.Send(*link_, 1);
  asker_.Send(*link_, 2);
  link_->Cancel(asker_.Make(1).key);
  open.set_value();
  EXPECT_EQ(asker_.Wait(link_.get()).key.attempt, 2u);
  EXPECT_EQ(asker_.Ask(*link_, 3).key.attempt, 3u);
  EXPECT_EQ(asker_.replies(), 0u);
}

TEST_F(NcclLinkTest, DispatchesInFlightAreBoundedAndFailWhenTheLinkGoes) {
  std::promise<void> open;
  RogueWorker worker([&, opened = open.get_future().share()](const Dispatch& d) {
    opened.wait();
    return AnswerWell(d);
  });
  Connect(worker);
  for (uint32_t i = 0; i < kLinkQueuedDispatchesMax; ++i) asker_.Send(*link_, i);
  EXPECT_EQ(asker_.replies(), 0u);
  EXPECT_TRUE(absl::IsResourceExhausted(asker_.Ask(*link_, 1000).status));
  open.set_value();
  link_.reset();
  for (uint32_t i = 0; i < kLinkQueuedDispatchesMax; ++i) {
    const absl::Status status = asker_.Wait(nullptr).status;
    EXPECT_TRUE(absl::IsCancelled(status)) << status;
  }
}

TEST_F(NcclLinkTest, ADispatchLargerThanTheWorkerTakesIsRefused) {
  RogueWorker worker(AnswerWell);
  worker.spoil_welcome = [](octet::v1::NcclWelcome* w) {
    w->set_dispatch_bytes_max(16);
    w->set_dispatch_bucket_bytes(16);
  };
  Open(worker.address());
  // The first transfers of the two sides differ in size as well.
  EXPECT_FALSE(link_->connected());
}

// ---- What only communicators let a peer do ----

TEST_F(NcclLinkTest, AWorkerThatHangsIsAbortedWithinTheDeadlineAndComesBack) {
  RogueWorker worker(AnswerWell);
  Connect(worker);
  EXPECT_TRUE(asker_.Ask(*link_, 1).status.ok());
  FakeNcclFaults faults;
  faults.transfers_hang = true;
  api_.SetFaults(faults);
  const MonotonicTime start = clock_.Now();
  EXPECT_TRUE(absl::IsUnavailable(asker_.Ask(*link_, 2).status));
  EXPECT_LT(clock_.Now() - start, Duration::Millis(kNcclTransferMs));
  api_.SetFaults({});
  EXPECT_TRUE(WaitConnected(*link_));
  EXPECT_TRUE(asker_.Ask(*link_, 3).status.ok());
  EXPECT_GE(api_.counts().aborted, 2);
}

TEST_F(NcclLinkTest, AWorkerThatAnnouncesRowsAndNeverSendsThemIsAborted) {
  RogueWorker worker([](const Dispatch& d) {
    Answer answer = GoodAnswer(d);
    if (d.key().attempt() == 1) answer.rows.clear();
    return std::vector{answer};
  });
  Connect(worker);
  EXPECT_TRUE(absl::IsUnavailable(asker_.Ask(*link_, 1).status));
  EXPECT_TRUE(WaitConnected(*link_));
  EXPECT_TRUE(asker_.Ask(*link_, 2).status.ok());
}

TEST_F(NcclLinkTest, AnErrorOfTheLibraryEndsTheConnectionAtRest) {
  RogueWorker worker(AnswerWell);
  Connect(worker);
  FakeNcclFaults faults;
  faults.async_error = NcclResult::kRemoteError;
  api_.SetFaults(faults);
  while (link_->connected()) std::this_thread::yield();
  EXPECT_TRUE(absl::IsUnavailable(asker_.Ask(*link_, 1).status));
  api_.SetFaults({});
  EXPECT_TRUE(WaitConnected(*link_));
  EXPECT_TRUE(asker_.Ask(*link_, 2).status.ok());
}

TEST_F(NcclLinkTest, WelcomesThatDoNotFitAreRefused) {
  const std::vector<std::function<void(octet::v1::NcclWelcome*)>> faults = {
      [](octet::v1::NcclWelcome* w) { w->clear_dispatch_id(); },
      [](octet::v1::NcclWelcome* w) { w->set_reply_bytes_max(UINT64_MAX); },
      [](octet::v1::NcclWelcome* w) { w->set_reply_bucket_bytes(0); },
      [](octet::v1::NcclWelcome* w) { *w->mutable_reply_id() = std::string(128, 'x'); },
  };
  for (const auto& fault : faults) {
    RogueWorker worker(AnswerWell);
    worker.spoil_welcome = fault;
    Open(worker.address());
    while (worker.connections < 2) std::this_thread::yield();  // it tries again
    EXPECT_FALSE(link_->connected());
    link_.reset();
  }
}

TEST_F(NcclLinkTest, AWorkerWhoseCommunicatorsHangHoldsUpNeitherSendNorTheEnd) {
  RogueWorker worker(AnswerWell);
  FakeNcclFaults faults;
  faults.init_hangs = true;
  worker.api.SetFaults(faults);
  Open(worker.address());
  while (worker.connections < 1) std::this_thread::yield();
  EXPECT_TRUE(absl::IsUnavailable(asker_.Ask(*link_, 1).status));
  const MonotonicTime start = clock_.Now();
  link_.reset();
  EXPECT_LT(clock_.Now() - start, Duration::Millis(2 * kNcclCloseMs));
}

}  // namespace
}  // namespace octet
