// A worker against routers that do not keep to the protocol over NCCL: the contract of
// wire_test.cc's bad peers, and what only communicators let a peer do.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/crc32c.h"
#include "core/limits.h"
#include "core/nccl_limits.h"
#include "expert_worker/nccl_test_worker.h"
#include "expert_worker/test_util.h"
#include "rpc/channel.h"
#include "transport/nccl/fake_nccl.h"
#include "transport/nccl/nccl_message.h"

namespace octet {
namespace {

using octet::v1::NcclFromRouter;
using octet::v1::NcclFromWorker;
using ::testing::HasSubstr;

// Says whatever it likes on the control stream, and sends what it should over NCCL.
class BadRouter {
 public:
  explicit BadRouter(const std::string& address)
      : device(NcclDeviceThread::Start(&api, {}, &clock).value()),
        channel_(CreateChannel(address).value()),
        stub_(octet::v1::ExpertNccl::NewStub(channel_)),
        stream_(stub_->Control(&context_)) {}
  ~BadRouter() {
    context_.TryCancel();
    if (!finished_) CutOff();
    if (pair_ == nullptr) return;
    device->Fail(pair_, absl::CancelledError("the test ends"));
    gone_.get_future().wait();
  }
  void Hello(uint32_t version = kNcclProtocolVersion, uint32_t nccl = 22809) {
    NcclFromRouter message;
    message.mutable_hello()->set_version(version);
    message.mutable_hello()->set_nccl_version(nccl);
    Say(message);
  }
  void Connect() {
    Hello();
    ASSERT_TRUE(stream_->Read(&answer_));
    terms_ = DecodeWelcome(answer_.welcome()).value();
    NcclPairOptions options;
    options.ids = terms_.ids;
    for (size_t i = 0; i < kNcclLanes; ++i) options.warm_bytes[i] = terms_.sizes[i].bucket;
    pair_ = std::make_shared<NcclPair>(
        &api, options, TakeWarmRows(device->pool(), options.warm_bytes).value(),
        NcclPairEvents{[] {}, [this](const absl::Status&) { gone_.set_value(); }});
    device->Add(pair_);
  }
  void Say(const NcclFromRouter& message) { stream_->Write(message); }
  void SendRows(const std::string& rows, uint64_t transfer_bytes) {
    NcclTransfer transfer;
    transfer.wire_bytes = transfer_bytes;
    transfer.used_bytes = std::min<size_t>(rows.size(), transfer_bytes);
    transfer.memory = device->pool()->Take(transfer.wire_bytes).value();
    std::memcpy(transfer.memory->host, rows.data(), transfer.used_bytes);
    transfer.done = [](const absl::Status&, RowPool::Lease) {};
    device->Submit(pair_, NcclLane::kDispatch, std::move(transfer));
  }
  // Takes the rows of a reply too, where it has some.
  octet::v1::DispatchReply ReadReply() {
    EXPECT_TRUE(stream_->Read(&answer_));
    if (answer_.transfer_bytes() > 0) {
      NcclTransfer transfer;
      transfer.wire_bytes = answer_.transfer_bytes();
      transfer.memory = device->pool()->Take(transfer.wire_bytes).value();
      transfer.done = [](const absl::Status&, RowPool::Lease) {};
      device->Submit(pair_, NcclLane::kReply, std::move(transfer));
    }
    return answer_.reply();
  }
  // The worker has ended the stream; waits for it.
  grpc::Status CutOff() {
    while (stream_->Read(&answer_)) {
    }
    finished_ = true;
    return stream_->Finish();
  }
  const NcclTerms& terms() const { return terms_; }
  const NcclFromWorker& answer() const { return answer_; }  // the last

  SystemClock clock;
  FakeNccl api;
  std::shared_ptr<NcclDeviceThread> device;

 private:
  grpc::ClientContext context_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<octet::v1::ExpertNccl::Stub> stub_;
  std::unique_ptr<grpc::ClientReaderWriter<NcclFromRouter, NcclFromWorker>> stream_;
  NcclFromWorker answer_;
  bool finished_ = false;
  NcclTerms terms_;
  std::shared_ptr<NcclPair> pair_;
  std::promise<void> gone_;
};

// With and without the rows on the device.
class BadNcclPeer : public ::testing::TestWithParam<bool> {
 protected:
  BadNcclPeer() {
    // Holds experts 0, 1 and 3 of 4.
    auto store = std::make_shared<ExpertStore>(MakeTestModel(shape_));
    EXPECT_TRUE(store->Prepare(Epoch(1), {ExpertId(0), ExpertId(1), ExpertId(3)}).ok());
    EXPECT_TRUE(store->Activate(Epoch(1)).ok());
    NcclTestWorkerOptions options;
    options.deadlines.transfer = Duration::Millis(200);
    options.on_device = GetParam();
    worker_ = std::make_unique<NcclTestWorker>(std::move(store), options);
  }
  // Three rows; expert 0 has the rows 0 and 2, expert 3 the row 1.
  NcclFromRouter MakeDispatch(const NcclTerms& terms) {
    const TestRows rows = MakeTestRows(MakeTestModel(shape_).formats[0], 3, 1);
    bytes_.assign(reinterpret_cast<const char*>(rows.q.data()), rows.q.size());
    bytes_.append(reinterpret_cast<const char*>(rows.scales.data()),
                  rows.scales.size() * sizeof(float));
    NcclFromRouter message;
    octet::v1::Dispatch& d = *message.mutable_dispatch();
    d.mutable_key()->set_attempt(7);
    d.set_compute_digest(TestDigest());
    d.set_row_count(3);
    d.set_checksum(Crc32c(bytes_.data(), bytes_.size()));
    auto* first = d.add_experts();
    first->set_expert(0);
    first->add_rows(0);
    first->add_rows(2);
    auto* second = d.add_experts();
    second->set_expert(3);
    second->add_rows(1);
    message.set_transfer_bytes(terms.sizes[0].bucket);
    return message;
  }
  octet::v1::DispatchReply Ask(BadRouter& router, const NcclFromRouter& message) {
    router.Say(message);
    router.SendRows(bytes_, message.transfer_bytes());
    return router.ReadReply();
  }
  void ExpectServes(BadRouter& router) {
    const octet::v1::DispatchReply reply = Ask(router, MakeDispatch(router.terms()));
    EXPECT_EQ(reply.error(), octet::v1::DISPATCH_OK) << reply.message();
    EXPECT_EQ(reply.key().attempt(), 7u);
    EXPECT_EQ(router.answer().unchecked(), GetParam());
  }

  TestModelShape shape_;
  std::string bytes_;
  std::unique_ptr<NcclTestWorker> worker_;
};

TEST_P(BadNcclPeer, GetsOnePreciseRefusalForEachFault) {
  struct Fault {
    const char* name;
    std::function<void(NcclFromRouter*)> make;
    octet::v1::DispatchError error;
    const char* says;
  };
  using octet::v1::DISPATCH_MALFORMED;
  const auto dispatch = [](NcclFromRouter* m) { return m->mutable_dispatch(); };
  std::vector<Fault> faults = {
      {"digest", [&](auto* m) { dispatch(m)->set_compute_digest("zz"); },
       octet::v1::DISPATCH_WRONG_DIGEST, "compute_digest"},
      {"not held", [&](auto* m) { dispatch(m)->mutable_experts(1)->set_expert(2); },
       octet::v1::DISPATCH_NOT_HELD, "expert 2"},
      {"layer", [&](auto* m) { dispatch(m)->mutable_key()->set_layer(2); }, DISPATCH_MALFORMED,
       "dispatch.key.layer: 2"},
      {"no rows", [&](auto* m) { dispatch(m)->set_row_count(0); }, DISPATCH_MALFORMED,
       "row_count: 0"},
      {"huge row count", [&](auto* m) { dispatch(m)->set_row_count(UINT32_MAX); },
       DISPATCH_MALFORMED, "row_count"},
      {"rows missing", [&](auto* m) { dispatch(m)->set_row_count(4); }, DISPATCH_MALFORMED,
       "dispatch.rows"},
      {"a transfer of another size", [](auto* m) { m->set_transfer_bytes(17); }, DISPATCH_MALFORMED,
       "dispatch.rows: 0 bytes"},
      {"no bucket for prefill",
       [&](auto* m) { dispatch(m)->set_priority(octet::v1::PRIORITY_PREFILL); }, DISPATCH_MALFORMED,
       "dispatch.rows: 0 bytes"},
      {"no experts", [&](auto* m) { dispatch(m)->clear_experts(); }, DISPATCH_MALFORMED,
       "dispatch.experts"},
      {"unknown expert", [&](auto* m) { dispatch(m)->mutable_experts(1)->set_expert(4); },
       DISPATCH_MALFORMED, "expert 4"},
      {"row index", [&](auto* m) { dispatch(m)->mutable_experts(1)->set_rows(0, 3); },
       DISPATCH_MALFORMED, "row 3"},
      {"an unused row", [&](auto* m) { dispatch(m)->mutable_experts()->RemoveLast(); },
       DISPATCH_MALFORMED, "no expert uses"},
      {"rows in the message", [&](auto* m) { dispatch(m)->set_row_count(1); }, DISPATCH_MALFORMED,
       "dispatch.experts"},
  };
  // The host does not see rows on the device.
  if (!GetParam()) {
    faults.push_back({"flipped bit", [&](auto* m) { dispatch(m)->set_checksum(1); },
                      DISPATCH_MALFORMED, "checksum"});
  }
  BadRouter router(worker_->address());
  router.Connect();
  for (const Fault& fault : faults) {
    SCOPED_TRACE(fault.name);
    NcclFromRouter message = MakeDispatch(router.terms());
    fault.make(&message);
    const octet::v1::DispatchReply reply = Ask(router, message);
    EXPECT_EQ(reply.error(), fault.error) << reply.message();
    EXPECT_THAT(reply.message(), HasSubstr(fault.says));
    EXPECT_EQ(reply.key().attempt(), 7u);
  }
  ExpectServes(router);
}

TEST_P(BadNcclPeer, TransfersThatCannotBeCutOffThatRouterAlone) {
  BadRouter good(worker_->address());
  good.Connect();
  for (const int which : {0, 1, 2}) {
    BadRouter bad(worker_->address());
    bad.Connect();
    ExpectServes(bad);
    NcclFromRouter message = MakeDispatch(bad.terms());
    const uint64_t sizes[] = {0, bad.terms().sizes[0].max + 1, UINT64_MAX};
    message.set_transfer_bytes(sizes[which]);
    bad.Say(message);
    EXPECT_EQ(bad.CutOff().error_code(), grpc::StatusCode::DATA_LOSS);
    ExpectServes(good);
  }
}

TEST_P(BadNcclPeer, WhoAnnouncesRowsAndSendsNoneIsCutOff) {
  BadRouter good(worker_->address());
  good.Connect();
  BadRouter bad(worker_->address());
  bad.Connect();
  bad.Say(MakeDispatch(bad.terms()));
  ExpectServes(good);
  EXPECT_EQ(bad.CutOff().error_code(), grpc::StatusCode::UNAVAILABLE);
  ExpectServes(good);
  EXPECT_EQ(worker_->api().counts().aborted, 2);
}

TEST_P(BadNcclPeer, OtherVersionsAndNonsenseAreRefused) {
  BadRouter old(worker_->address());
  old.Hello(kNcclProtocolVersion + 1);
  EXPECT_EQ(old.CutOff().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  BadRouter other(worker_->address());
  other.Hello(kNcclProtocolVersion, 21900);
  EXPECT_EQ(other.CutOff().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  BadRouter early(worker_->address());
  early.Say(MakeDispatch(NcclTerms{}));
  EXPECT_EQ(early.CutOff().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  BadRouter twice(worker_->address());
  twice.Connect();
  twice.Hello();
  EXPECT_EQ(twice.CutOff().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(worker_->api().counts().violations, 0);
}

TEST_P(BadNcclPeer, ARouterThatTakesNoAnswersIsNotReadPastItsBound) {
  BadRouter silent(worker_->address());
  silent.Connect();
  BadRouter good(worker_->address());
  good.Connect();
  const NcclFromRouter message = MakeDispatch(silent.terms());
  for (uint32_t i = 0; i < kStreamDispatchesMax; ++i) {
    silent.Say(message);
    silent.SendRows(bytes_, message.transfer_bytes());
  }
  for (int i = 0; i < 50; ++i) ExpectServes(good);
  // Its rows are not taken either: that ends it.
  EXPECT_NE(silent.CutOff().error_code(), grpc::StatusCode::OK);
  ExpectServes(good);
}

TEST_P(BadNcclPeer, RoutersAreLimitedInNumber) {
  std::vector<std::unique_ptr<BadRouter>> routers;
  while (routers.size() < kNcclRoutersMax) {
    routers.push_back(std::make_unique<BadRouter>(worker_->address()));
    routers.back()->Connect();
  }
  BadRouter one_more(worker_->address());
  one_more.Hello();
  EXPECT_EQ(one_more.CutOff().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  ExpectServes(*routers.back());
}

INSTANTIATE_TEST_SUITE_P(Rows, BadNcclPeer, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "OnTheDevice" : "OnTheHost"; });

}  // namespace
}  // namespace octet
