// The same dispatch over the in-process link, over gRPC and through shared memory gives the same
// bits, and a worker keeps its head whatever a peer sends.
#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <iostream>
#include <thread>

#include "core/crc32c.h"
#include "expert_worker/local_experts.h"
#include "expert_worker/test_util.h"
#include "expert_worker/test_worker.h"
#include "rpc/channel.h"
#include "transport/cluster/cluster_links.h"
#include "transport/token_dispatcher.h"

namespace octet {
namespace {

using ::testing::HasSubstr;

// Where workers of a test listen for shared memory.
class SocketDirectory {
 public:
  SocketDirectory() {
    char name[] = "/tmp/octet-test-XXXXXX";
    EXPECT_NE(mkdtemp(name), nullptr);
    path_ = name;
  }
  ~SocketDirectory() { EXPECT_EQ(rmdir(path_.c_str()), 0) << "a worker left its socket behind"; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::shared_ptr<Placement> PlaceOn(const std::vector<std::string>& addresses, uint32_t experts,
                                   uint32_t replication, uint64_t epoch = 1) {
  auto p = std::make_shared<Placement>();
  p->epoch = Epoch(epoch);
  p->compute_digest = TestDigest();
  p->model_version = "v1";
  for (size_t w = 0; w < addresses.size(); ++w) {
    p->workers.push_back({WorkerId(w + 1), addresses[w]});
  }
  for (uint32_t e = 0; e < experts; ++e) {
    std::vector<WorkerId> replicas;
    for (uint32_t r = 0; r < replication; ++r) {
      replicas.emplace_back((e + r) % addresses.size() + 1);
    }
    p->expert_replicas.push_back(replicas);
  }
  return p;
}

DispatcherOptions TestOptions() {
  DispatcherOptions options;
  options.router = RouterId(5);
  options.incarnation = 99;
  options.compute_digest = TestDigest();
  options.model_version = "v1";
  return options;
}

void WaitReady(const TokenDispatcher& dispatcher) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!dispatcher.Ready() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  ASSERT_TRUE(dispatcher.Ready());
}

// A cluster without coordinator over one kind of transport.
class Wire {
 public:
  explicit Wire(TransportKind kind) : kind_(kind) {}

  std::unique_ptr<TestWorker> NewWorker(const TestModelShape& shape,
                                        const std::string& listen = "127.0.0.1:0") {
    TestWorkerOptions options;
    options.listen = listen;
    if (kind_ != TransportKind::kGrpc) options.shm_directory = directory_.path();
    return std::make_unique<TestWorker>(MakeFullStore(shape), options);
  }
  std::unique_ptr<TokenDispatcher> NewDispatcher(const std::vector<std::string>& addresses,
                                                 uint32_t experts, uint32_t replication) {
    DispatcherOptions options = TestOptions();
    ClusterLinks links =
        MakeClusterLinks({kind_, directory_.path(), options.router, options.incarnation}).value();
    options.doorbell = links.doorbell;
    auto dispatcher = std::make_unique<TokenDispatcher>(options, std::move(links.factory), &clock_);
    dispatcher->SetPlacement(PlaceOn(addresses, experts, replication));
    WaitReady(*dispatcher);
    return dispatcher;
  }

 private:
  const TransportKind kind_;
  SocketDirectory directory_;
  SystemClock clock_;
};

struct WireCase {
  const char* format;
  ReplyDType reply;
  TransportKind kind;
};

class WireContract : public ::testing::TestWithParam<WireCase> {};

TEST_P(WireContract, LocalAndRemoteGiveTheSameBits) {
  TestModelShape shape;
  shape.hidden = 72;  // not a whole group: rows are padded
  shape.format = GetParam().format;
  shape.reply = GetParam().reply;
  SystemClock clock;
  LocalExpertsOptions local_options;
  local_options.cpu_level = DetectCpuLevel();
  const auto local = MakeLocalExperts(MakeTestModel(shape), local_options);
  ASSERT_TRUE(local.ok()) << local.status();
  TokenDispatcher in_process(TestOptions(), local->links, &clock);
  in_process.SetPlacement(local->placement);

  Wire wire(GetParam().kind);
  const auto a = wire.NewWorker(shape);
  const auto b = wire.NewWorker(shape);
  const auto remote = wire.NewDispatcher({a->address(), b->address()}, shape.experts, 1);

  const WireFormat format = MakeTestModel(shape).formats[0];
  for (uint32_t round = 0; round < 20; ++round) {
    const size_t count = 1 + round * 3;
    const TestRows rows = MakeTestRows(format, count, round);
    const TestChoice choice = MakeTestChoice(count, 2, shape.experts, round);
    const auto want = RunLayer(in_process, rows, choice, LayerId(round % 2));
    const auto got = RunLayer(*remote, rows, choice, LayerId(round % 2));
    ASSERT_EQ(want.size(), count * 2 * shape.hidden);
    ASSERT_EQ(got.size(), want.size());
    EXPECT_EQ(std::memcmp(want.data(), got.data(), want.size() * sizeof(float)), 0);
  }
  EXPECT_EQ(remote->stats().redispatches, 0u);
}

INSTANTIATE_TEST_SUITE_P(
    Formats, WireContract,
    ::testing::Values(WireCase{"f32", ReplyDType::kF32, TransportKind::kGrpc},
                      WireCase{"int8g32", ReplyDType::kF32, TransportKind::kGrpc},
                      WireCase{"int8g32", ReplyDType::kBF16, TransportKind::kGrpc},
                      WireCase{"int4g32", ReplyDType::kBF16, TransportKind::kGrpc},
                      WireCase{"w4xg32", ReplyDType::kF32, TransportKind::kGrpc},
                      WireCase{"f32", ReplyDType::kF32, TransportKind::kShm},
                      WireCase{"int8g32", ReplyDType::kF32, TransportKind::kShm},
                      WireCase{"int8g32", ReplyDType::kBF16, TransportKind::kShm},
                      WireCase{"int4g32", ReplyDType::kBF16, TransportKind::kShm},
                      WireCase{"w4xg32", ReplyDType::kF32, TransportKind::kShm},
                      WireCase{"int8g32", ReplyDType::kBF16, TransportKind::kAuto}));

class WireTest : public ::testing::TestWithParam<TransportKind> {
 protected:
  TestModelShape shape_;
  Wire wire_{GetParam()};
};

TEST_P(WireTest, ADeadWorkersRowsGoToAReplica) {
  const auto a = wire_.NewWorker(shape_);
  auto b = wire_.NewWorker(shape_);
  const auto dispatcher = wire_.NewDispatcher({a->address(), b->address()}, shape_.experts, 2);
  const TestRows rows = MakeTestRows(MakeTestModel(shape_).formats[0], 16, 1);
  const TestChoice choice = MakeTestChoice(16, 2, shape_.experts, 1);
  const auto want = RunLayer(*dispatcher, rows, choice, LayerId(0));
  // Ready with one of two connected; go on until both take part.
  while (b->load().dispatches() == 0)
    EXPECT_EQ(RunLayer(*dispatcher, rows, choice, LayerId(0)), want);
  b.reset();
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(RunLayer(*dispatcher, rows, choice, LayerId(0)), want);
  }
}

TEST_P(WireTest, ARestartedWorkerIsFoundAgainWithoutANewPlacement) {
  auto worker = wire_.NewWorker(shape_);
  const std::string address = worker->address();
  const auto dispatcher = wire_.NewDispatcher({address}, shape_.experts, 1);
  const TestRows rows = MakeTestRows(MakeTestModel(shape_).formats[0], 4, 1);
  const TestChoice choice = MakeTestChoice(4, 2, shape_.experts, 1);
  const auto want = RunLayer(*dispatcher, rows, choice, LayerId(0));
  worker.reset();
  std::thread restart([&] { worker = wire_.NewWorker(shape_, address); });
  EXPECT_EQ(RunLayer(*dispatcher, rows, choice, LayerId(0)), want);
  restart.join();
  EXPECT_GE(dispatcher->stats().waits_without_replica, 1u);
}

TEST_P(WireTest, RoundTripOfADecodeDispatch) {
  shape_.hidden = 512;
  shape_.intermediate = 32;
  SystemClock clock;
  const auto worker = wire_.NewWorker(shape_);
  const auto dispatcher = wire_.NewDispatcher({worker->address()}, shape_.experts, 1);
  const TestRows rows = MakeTestRows(MakeTestModel(shape_).formats[0], 16, 1);
  const TestChoice choice = MakeTestChoice(16, 1, shape_.experts, 1);
  std::vector<double> micros;
  for (int i = 0; i < 2000; ++i) {
    const MonotonicTime start = clock.Now();
    auto handle = dispatcher->Dispatch(StepId(1), 0, LayerId(0), false, rows.view, choice.view);
    std::vector<const float*> replies;
    ASSERT_TRUE(dispatcher->Combine(*handle, kNever, &replies).ok());
    micros.push_back((clock.Now() - start).millis() * 1000);
  }
  std::sort(micros.begin(), micros.end());
  std::cout << "round trip of 16 rows x 512: p50 " << micros[1000] << " us, p99 " << micros[1980]
            << " us; kernels "
            << static_cast<double>(worker->load().compute_ns()) / 1000.0 /
                   static_cast<double>(worker->load().dispatches())
            << " us\n";
  EXPECT_EQ(dispatcher->stats().redispatches, 0u);
}

std::string KindName(const ::testing::TestParamInfo<TransportKind>& info) {
  if (info.param == TransportKind::kAuto) return "Auto";
  return info.param == TransportKind::kGrpc ? "Grpc" : "Shm";
}

INSTANTIATE_TEST_SUITE_P(Kinds, WireTest,
                         ::testing::Values(TransportKind::kGrpc, TransportKind::kShm,
                                           TransportKind::kAuto),
                         KindName);

// ---- A peer that is not a router ----

octet::v1::Dispatch GoodDispatch(const TestModelShape& shape) {
  const WireFormat format = MakeTestModel(shape).formats[0];
  const TestRows rows = MakeTestRows(format, 3, 1);
  octet::v1::Dispatch d;
  d.mutable_key()->set_attempt(7);
  d.set_compute_digest(TestDigest());
  d.set_row_count(3);
  d.mutable_rows()->append(reinterpret_cast<const char*>(rows.q.data()), rows.q.size());
  d.mutable_rows()->append(reinterpret_cast<const char*>(rows.scales.data()),
                           rows.scales.size() * sizeof(float));
  d.set_checksum(Crc32c(d.rows().data(), d.rows().size()));
  auto* first = d.add_experts();
  first->set_expert(0);
  first->add_rows(0);
  first->add_rows(2);
  auto* second = d.add_experts();
  second->set_expert(3);
  second->add_rows(1);
  Seal(&d);
  return d;
}

class BadPeer : public ::testing::Test {
 protected:
  BadPeer() : worker_(MakeStore()) {
    channel_ = CreateChannel(worker_.address()).value();
    stub_ = octet::v1::ExpertWorker::NewStub(channel_);
    stream_ = stub_->Exchange(&context_);
  }
  ~BadPeer() override {
    context_.TryCancel();
    stream_->Finish();
  }
  // Holds experts 0, 1 and 3 of 4.
  std::shared_ptr<ExpertStore> MakeStore() {
    auto store = std::make_shared<ExpertStore>(MakeTestModel(shape_));
    EXPECT_TRUE(store->Prepare(Epoch(1), {ExpertId(0), ExpertId(1), ExpertId(3)}).ok());
    EXPECT_TRUE(store->Activate(Epoch(1)).ok());
    return store;
  }
  octet::v1::DispatchReply Ask(const octet::v1::Dispatch& dispatch) {
    octet::v1::DispatchReply reply;
    EXPECT_TRUE(stream_->Write(dispatch));
    EXPECT_TRUE(stream_->Read(&reply));
    EXPECT_EQ(reply.key().attempt(), dispatch.key().attempt());
    return reply;
  }

  TestModelShape shape_;
  TestWorker worker_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<octet::v1::ExpertWorker::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<octet::v1::Dispatch, octet::v1::DispatchReply>> stream_;
};

TEST_F(BadPeer, GetsOnePreciseRefusalForEachFault) {
  struct Fault {
    const char* name;
    std::function<void(octet::v1::Dispatch*)> make;
    octet::v1::DispatchError error;
    const char* says;
  };
  using octet::v1::Dispatch;
  const std::vector<Fault> faults = {
      {"digest", [](Dispatch* d) { d->set_compute_digest("zz"); }, octet::v1::DISPATCH_WRONG_DIGEST,
       "compute_digest"},
      {"no digest", [](Dispatch* d) { d->clear_compute_digest(); },
       octet::v1::DISPATCH_WRONG_DIGEST, "compute_digest"},
      {"not held", [](Dispatch* d) { d->mutable_experts(1)->set_expert(2); },
       octet::v1::DISPATCH_NOT_HELD, "expert 2"},
      {"layer", [](Dispatch* d) { d->mutable_key()->set_layer(2); }, octet::v1::DISPATCH_MALFORMED,
       "dispatch.key.layer: 2"},
      {"no rows", [](Dispatch* d) { d->set_row_count(0); }, octet::v1::DISPATCH_MALFORMED,
       "row_count: 0"},
      {"huge row count", [](Dispatch* d) { d->set_row_count(UINT32_MAX); },
       octet::v1::DISPATCH_MALFORMED, "row_count"},
      {"rows missing", [](Dispatch* d) { d->set_row_count(4); }, octet::v1::DISPATCH_MALFORMED,
       "dispatch.rows"},
      {"a byte too much", [](Dispatch* d) { d->mutable_rows()->push_back('x'); },
       octet::v1::DISPATCH_MALFORMED, "dispatch.rows"},
      {"flipped bit", [](Dispatch* d) { (*d->mutable_rows())[5] ^= 4; },
       octet::v1::DISPATCH_MALFORMED, "checksum"},
      {"no experts", [](Dispatch* d) { d->clear_experts(); }, octet::v1::DISPATCH_MALFORMED,
       "dispatch.experts"},
      {"unknown expert", [](Dispatch* d) { d->mutable_experts(1)->set_expert(4); },
       octet::v1::DISPATCH_MALFORMED, "expert 4"},
      {"experts out of order", [](Dispatch* d) { d->mutable_experts()->SwapElements(0, 1); },
       octet::v1::DISPATCH_MALFORMED, "out of order"},
      {"an expert twice", [](Dispatch* d) { d->mutable_experts(1)->set_expert(0); },
       octet::v1::DISPATCH_MALFORMED, "out of order"},
      {"an expert without rows", [](Dispatch* d) { d->mutable_experts(1)->clear_rows(); },
       octet::v1::DISPATCH_MALFORMED, "no rows"},
      {"row index", [](Dispatch* d) { d->mutable_experts(1)->set_rows(0, 3); },
       octet::v1::DISPATCH_MALFORMED, "row 3"},
      {"rows out of order", [](Dispatch* d) { d->mutable_experts(0)->set_rows(1, 0); },
       octet::v1::DISPATCH_MALFORMED, "row 0"},
      {"an unused row", [](Dispatch* d) { d->mutable_experts()->RemoveLast(); },
       octet::v1::DISPATCH_MALFORMED, "no expert uses"},
  };
  for (const Fault& fault : faults) {
    SCOPED_TRACE(fault.name);
    octet::v1::Dispatch dispatch = GoodDispatch(shape_);
    fault.make(&dispatch);
    Seal(&dispatch);
    const octet::v1::DispatchReply reply = Ask(dispatch);
    EXPECT_EQ(reply.error(), fault.error) << reply.message();
    EXPECT_THAT(reply.message(), HasSubstr(fault.says));
    EXPECT_TRUE(reply.rows().empty());
  }
  // The stream still serves.
  const octet::v1::DispatchReply reply = Ask(GoodDispatch(shape_));
  EXPECT_EQ(reply.error(), octet::v1::DISPATCH_OK) << reply.message();
  EXPECT_EQ(reply.rows().size(), 3 * shape_.hidden * sizeof(float));
  EXPECT_EQ(reply.checksum(), Crc32c(reply.rows().data(), reply.rows().size()));
}

// Nothing of it can be believed, not even whom to tell.
TEST_F(BadPeer, ADispatchWhoseSealDoesNotFitEndsOnlyItsOwnStream) {
  using octet::v1::Dispatch;
  const std::vector<std::function<void(Dispatch*)>> damages = {
      [](Dispatch* d) { d->mutable_key()->set_attempt(6); },
      [](Dispatch* d) { d->mutable_key()->set_layer(1); },
      [](Dispatch* d) { d->mutable_experts(0)->set_expert(1); },
      [](Dispatch* d) { d->mutable_experts(0)->set_rows(1, 1); },
      [](Dispatch* d) { (*d->mutable_compute_digest())[7] ^= 1; },
      [](Dispatch* d) { d->set_priority(octet::v1::PRIORITY_PREFILL); },
      [](Dispatch* d) { d->clear_seal(); },
  };
  for (const auto& damage : damages) {
    grpc::ClientContext context;
    const auto stream = stub_->Exchange(&context);
    Dispatch dispatch = GoodDispatch(shape_);
    damage(&dispatch);
    ASSERT_TRUE(stream->Write(dispatch));
    octet::v1::DispatchReply reply;
    EXPECT_FALSE(stream->Read(&reply));
    stream->Finish();
  }
  EXPECT_EQ(Ask(GoodDispatch(shape_)).error(), octet::v1::DISPATCH_OK);
}

TEST_F(BadPeer, BytesThatAreNoMessageEndOnlyTheirOwnStream) {
  std::mt19937 rng(1);
  for (int round = 0; round < 20; ++round) {
    grpc::GenericStub raw(channel_);
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    auto call = raw.PrepareCall(&context, "/octet.v1.ExpertWorker/Exchange", &queue);
    void* tag = nullptr;
    bool ok = false;
    call->StartCall(nullptr);
    ASSERT_TRUE(queue.Next(&tag, &ok));
    std::string bytes(1 + rng() % 300, '\0');
    for (char& c : bytes) c = static_cast<char>(rng());
    const grpc::Slice slice(bytes);
    call->Write(grpc::ByteBuffer(&slice, 1), nullptr);
    ASSERT_TRUE(queue.Next(&tag, &ok));
    call->WritesDone(nullptr);
    queue.Next(&tag, &ok);
    grpc::Status status;
    call->Finish(&status, nullptr);
    ASSERT_TRUE(queue.Next(&tag, &ok));
  }
  EXPECT_EQ(Ask(GoodDispatch(shape_)).error(), octet::v1::DISPATCH_OK);
}

TEST_F(BadPeer, APeerThatDoesNotReadIsNotReadPastItsBound) {
  // Far more than a stream may have unanswered; nothing may grow without bound or block others.
  grpc::ClientContext context;
  auto silent = stub_->Exchange(&context);
  const octet::v1::Dispatch dispatch = GoodDispatch(shape_);
  std::thread writer([&] {
    for (int i = 0; i < 100'000; ++i) {
      if (!silent->Write(dispatch)) break;
    }
  });
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(Ask(GoodDispatch(shape_)).error(), octet::v1::DISPATCH_OK);
  }
  context.TryCancel();
  writer.join();
  silent->Finish();
  EXPECT_EQ(Ask(GoodDispatch(shape_)).error(), octet::v1::DISPATCH_OK);
}

TEST_F(BadPeer, EndsItsSideAndGetsEveryAnswerThenOk) {
  grpc::ClientContext context;
  auto stream = stub_->Exchange(&context);
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(stream->Write(GoodDispatch(shape_)));
  stream->WritesDone();
  octet::v1::DispatchReply reply;
  int answers = 0;
  while (stream->Read(&reply)) ++answers;
  EXPECT_EQ(answers, 10);
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(BadPeer, InfoNamesWhatIsHeld) {
  grpc::ClientContext context;
  octet::v1::GetWorkerInfoResponse info;
  ASSERT_TRUE(stub_->GetWorkerInfo(&context, {}, &info).ok());
  EXPECT_EQ(info.compute_digest(), TestDigest());
  EXPECT_THAT(info.experts(), ::testing::ElementsAre(0, 1, 3));
  EXPECT_EQ(info.state(), "ready");
}

}  // namespace
}  // namespace octet
