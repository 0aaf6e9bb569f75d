// A link against workers that do not keep to the protocol.
#include "transport/grpc/grpc_link.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "core/crc32c.h"
#include "octet/v1/expert.grpc.pb.h"
#include "rpc/channel.h"
#include "rpc/expert_codec.h"
#include "transport/test_asker.h"

namespace octet {
namespace {

using octet::v1::Dispatch;
using octet::v1::DispatchReply;

constexpr uint32_t kHidden = TestAsker::kHidden;

// Answers each dispatch with whatever the test says, on a synchronous stream.
class RogueWorker final : public octet::v1::ExpertWorker::Service {
 public:
  using Script = std::function<std::vector<DispatchReply>(const Dispatch&)>;

  explicit RogueWorker(Script script) : script_(std::move(script)) {
    server_ = RpcServer::Start("127.0.0.1:0", {this}).value();
  }
  ~RogueWorker() override { server_->Shutdown(Duration{}); }
  const std::string& address() const { return server_->address(); }

  grpc::Status Exchange(grpc::ServerContext*,
                        grpc::ServerReaderWriter<DispatchReply, Dispatch>* stream) override {
    stream->SendInitialMetadata();
    Dispatch dispatch;
    while (stream->Read(&dispatch)) {
      std::vector<DispatchReply> replies = script_(dispatch);
      if (replies.empty()) return grpc::Status(grpc::StatusCode::INTERNAL, "gone");
      for (DispatchReply& reply : replies) {
        if (reply.seal() == 0) Seal(&reply);
        stream->Write(reply);
      }
    }
    return grpc::Status::OK;
  }

 private:
  Script script_;
  std::unique_ptr<RpcServer> server_;
};

// One row of kHidden values for each (row, expert): the value is the expert.
DispatchReply GoodReply(const Dispatch& dispatch) {
  DispatchReply reply;
  *reply.mutable_key() = dispatch.key();
  std::vector<float> rows;
  for (const auto& group : dispatch.experts()) {
    rows.insert(rows.end(), static_cast<size_t>(group.rows_size()) * kHidden,
                static_cast<float>(group.expert()));
  }
  reply.set_rows(rows.data(), rows.size() * sizeof(float));
  reply.set_checksum(Crc32c(reply.rows().data(), reply.rows().size()));
  return reply;
}

std::shared_ptr<GrpcLink> Connect(const std::string& address) {
  auto link = GrpcLink::Create(address).value();
  EXPECT_TRUE(WaitConnected(*link));
  return link;
}

TEST(GrpcLink, DeliversRowsInTheOrderOfTheShare) {
  RogueWorker worker([](const Dispatch& d) { return std::vector{GoodReply(d)}; });
  const auto link = Connect(worker.address());
  TestAsker asker;
  const ExpertReply reply = asker.Ask(*link, 1);
  ASSERT_TRUE(reply.status.ok()) << reply.status;
  EXPECT_EQ(reply.key.attempt, 1u);
  ASSERT_EQ(reply.rows.size(), 3 * kHidden);
  EXPECT_EQ(reply.rows[0], 1.0f);
  EXPECT_EQ(reply.rows[2 * kHidden], 3.0f);
}

TEST(GrpcLink, DuplicateAndUnaskedRepliesAreDropped) {
  RogueWorker worker([](const Dispatch& d) {
    DispatchReply stranger = GoodReply(d);
    stranger.mutable_key()->set_router(99);
    DispatchReply no_key = GoodReply(d);
    no_key.clear_key();
    return std::vector{stranger, no_key, GoodReply(d), GoodReply(d), GoodReply(d)};
  });
  const auto link = Connect(worker.address());
  TestAsker asker;
  for (uint32_t attempt = 1; attempt <= 20; ++attempt) {
    const ExpertReply reply = asker.Ask(*link, attempt);
    EXPECT_TRUE(reply.status.ok());
    EXPECT_EQ(reply.key.attempt, attempt);
  }
  EXPECT_EQ(asker.replies(), 0u);
}

TEST(GrpcLink, DamagedRepliesAreDataLoss) {
  struct Case {
    const char* name;
    std::function<void(DispatchReply*)> damage;
  };
  const std::vector<Case> cases = {
      {"flipped bit", [](DispatchReply* r) { (*r->mutable_rows())[3] ^= 1; }},
      {"too short", [](DispatchReply* r) { r->mutable_rows()->pop_back(); }},
      {"too long", [](DispatchReply* r) { r->mutable_rows()->append(16, 'x'); }},
      {"empty", [](DispatchReply* r) { r->clear_rows(); }},
      {"checksum", [](DispatchReply* r) { r->set_checksum(r->checksum() + 1); }},
  };
  size_t now = 0;
  RogueWorker worker([&](const Dispatch& d) {
    DispatchReply reply = GoodReply(d);
    cases[now].damage(&reply);
    return std::vector{reply};
  });
  const auto link = Connect(worker.address());
  TestAsker asker;
  for (now = 0; now < cases.size(); ++now) {
    SCOPED_TRACE(cases[now].name);
    EXPECT_TRUE(absl::IsDataLoss(asker.Ask(*link, static_cast<uint32_t>(now)).status));
  }
}

// A reply that names another attempt by accident must not count for it.
TEST(GrpcLink, AReplyWhoseSealDoesNotFitEndsTheStream) {
  int asked = 0;
  RogueWorker worker([&](const Dispatch& d) {
    DispatchReply reply = GoodReply(d);
    if (++asked == 1) {
      Seal(&reply);
      reply.mutable_key()->set_attempt(reply.key().attempt() ^ 3);
    }
    return std::vector{reply};
  });
  const auto link = Connect(worker.address());
  TestAsker asker;
  asker.Send(*link, 1);
  EXPECT_TRUE(absl::IsUnavailable(asker.Wait(link.get()).status));
  EXPECT_TRUE(WaitConnected(*link));
  EXPECT_TRUE(asker.Ask(*link, 2).status.ok());
}

TEST(GrpcLink, RefusalsKeepTheirMeaning) {
  const std::vector<std::pair<int, absl::StatusCode>> cases = {
      {octet::v1::DISPATCH_NOT_HELD, absl::StatusCode::kNotFound},
      {octet::v1::DISPATCH_WRONG_DIGEST, absl::StatusCode::kFailedPrecondition},
      {octet::v1::DISPATCH_MALFORMED, absl::StatusCode::kInvalidArgument},
      {octet::v1::DISPATCH_OVERLOADED, absl::StatusCode::kResourceExhausted},
      {octet::v1::DISPATCH_DRAINING, absl::StatusCode::kUnavailable},
      {octet::v1::DISPATCH_DATA_LOSS, absl::StatusCode::kDataLoss},
      {77, absl::StatusCode::kInvalidArgument},
  };
  size_t now = 0;
  RogueWorker worker([&](const Dispatch& d) {
    DispatchReply reply = GoodReply(d);
    reply.set_error(static_cast<octet::v1::DispatchError>(cases[now].first));
    reply.set_message("no");
    return std::vector{reply};
  });
  const auto link = Connect(worker.address());
  TestAsker asker;
  for (now = 0; now < cases.size(); ++now) {
    EXPECT_EQ(asker.Ask(*link, static_cast<uint32_t>(now)).status.code(), cases[now].second);
  }
}

TEST(GrpcLink, ABreakFailsWhatIsInFlightAndTheLinkComesBack) {
  int asked = 0;
  RogueWorker worker([&](const Dispatch& d) {
    if (++asked == 1) return std::vector<DispatchReply>{};  // ends the stream
    return std::vector{GoodReply(d)};
  });
  const auto link = Connect(worker.address());
  TestAsker asker;
  EXPECT_TRUE(absl::IsUnavailable(asker.Ask(*link, 1).status));
  EXPECT_TRUE(WaitConnected(*link));
  EXPECT_TRUE(asker.Ask(*link, 2).status.ok());
}

TEST(GrpcLink, WithoutAPeerItRefusesAtOnce) {
  const auto link = GrpcLink::Create("127.0.0.1:1").value();
  EXPECT_FALSE(link->connected());
  TestAsker asker;
  EXPECT_TRUE(absl::IsUnavailable(asker.Ask(*link, 1).status));
  EXPECT_TRUE(absl::IsInvalidArgument(GrpcLink::Create("nonsense").status()));
}

TEST(GrpcLink, CancelledDispatchesAreNeverDelivered) {
  Mutex mu;
  CondVar changed;
  bool open = false;
  RogueWorker worker([&](const Dispatch& d) {
    MutexLock lock(mu);
    while (!open) changed.Wait(mu);
    return std::vector{GoodReply(d)};
  });
  const auto link = Connect(worker.address());
  TestAsker asker;
  asker.Send(*link, 1);
  asker.Send(*link, 2);
  link->Cancel(asker.Make(1).key);
  {
    MutexLock lock(mu);
    open = true;
    changed.NotifyAll();
  }
  EXPECT_EQ(asker.Wait(link.get()).key.attempt, 2u);
  EXPECT_EQ(asker.Ask(*link, 3).key.attempt, 3u);
  EXPECT_EQ(asker.replies(), 0u);
}

TEST(GrpcLink, DispatchesInFlightAreBoundedAndFailWhenTheLinkGoes) {
  Mutex mu;
  CondVar changed;
  bool open = false;
  RogueWorker worker([&](const Dispatch& d) {
    MutexLock lock(mu);
    while (!open) changed.Wait(mu);
    return std::vector{GoodReply(d)};
  });
  auto link = Connect(worker.address());
  TestAsker asker;
  for (uint32_t i = 0; i < kLinkQueuedDispatchesMax; ++i) asker.Send(*link, i);
  EXPECT_EQ(asker.replies(), 0u);
  EXPECT_TRUE(absl::IsResourceExhausted(asker.Ask(*link, 1000).status));
  link.reset();
  for (uint32_t i = 0; i < kLinkQueuedDispatchesMax; ++i) {
    EXPECT_TRUE(absl::IsCancelled(asker.Wait(link.get()).status));
  }
  MutexLock lock(mu);
  open = true;
  changed.NotifyAll();
}

}  // namespace
}  // namespace octet
