// A cluster of real processes: what comes out is what one process gives, whatever happens to
// clients, workers and the coordinator.
#include <arpa/inet.h>
#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core/mutex.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "octet/v1/inference.grpc.pb.h"
#include "rpc/channel.h"
#include "tests/integration/local_cluster.h"

namespace octet {
namespace {

constexpr int64_t kReadyMs = 60'000;
constexpr int64_t kRepairMs = 60'000;
constexpr int64_t kIdleStopMs = 10'000;
constexpr uint32_t kPrompts = 4;

// Tokens of one client thread.
struct Reply {
  absl::Status status;
  std::vector<int32_t> tokens;
};

// Lets a test wait until each of n streams has brought some tokens.
class Progress {
 public:
  explicit Progress(size_t streams) : counts_(streams) {}
  void Set(size_t stream, size_t tokens) {
    const MutexLock lock(mutex_);
    counts_[stream] = tokens;
    changed_.NotifyAll();
  }
  // True while a stream has brought fewer tokens.
  bool AnyBelow(size_t tokens) {
    const MutexLock lock(mutex_);
    return std::any_of(counts_.begin(), counts_.end(), [&](size_t n) { return n < tokens; });
  }
  bool WaitForEach(size_t tokens, int64_t timeout_ms) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
    const MutexLock lock(mutex_);
    while (!std::all_of(counts_.begin(), counts_.end(), [&](size_t n) { return n >= tokens; })) {
      const auto now = std::chrono::steady_clock::now();
      if (now >= deadline) return false;
      changed_.WaitFor(mutex_, deadline - now);
    }
    return true;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::vector<size_t> counts_;
};

class ClusterTest : public ::testing::Test {
 protected:
  // One package for all tests of the binary; expected tokens come from it without a cluster.
  static void SetUpTestSuite() {
    directory_ = std::make_unique<TemporaryDirectory>();
    package_ = PackTestModel(directory_->path(), {"--experts", "int8", "--attention", "int8"});
  }
  static void TearDownTestSuite() { directory_.reset(); }

  void StartCluster(const std::vector<std::string>& flags) {
    cluster_ = std::make_unique<LocalCluster>(package_, flags);
    ASSERT_TRUE(cluster_->WaitReady(kReadyMs)) << cluster_->Log();
  }
  void TearDown() override {
    if (cluster_ == nullptr) return;
    cluster_->process()->Signal(SIGTERM);
    EXPECT_TRUE(cluster_->process()->WaitForExit(kReadyMs, nullptr));
    EXPECT_EQ(cluster_->Log().find("crashed while it stopped"), std::string::npos);
    if (HasFailure()) std::cerr << cluster_->Log();
  }

  // `count` clients at once, client i with prompt i % kPrompts.
  std::vector<std::thread> StartClients(size_t count, uint32_t max_tokens,
                                        std::vector<Reply>* replies, Progress* progress) {
    replies->resize(count);
    std::vector<std::thread> threads;
    for (size_t i = 0; i < count; ++i) {
      threads.emplace_back([this, i, max_tokens, replies, progress] {
        const auto client = cluster_->Connect();
        const auto request = TestRequest(static_cast<uint32_t>(i % kPrompts), max_tokens);
        auto tokens = GenerateTokens(client.get(), request, [&](size_t n) { progress->Set(i, n); });
        (*replies)[i].status = tokens.status();
        if (tokens.ok()) (*replies)[i].tokens = *std::move(tokens);
        progress->Set(i, max_tokens);  // ended, one way or the other
      });
    }
    return threads;
  }

  void ExpectSingleProcessTokens(const std::vector<Reply>& replies, uint32_t max_tokens) {
    std::vector<std::vector<int32_t>> expected;
    for (uint32_t i = 0; i < kPrompts; ++i) {
      expected.push_back(SingleProcessTokens(package_, i, max_tokens));
      ASSERT_EQ(expected.back().size(), max_tokens);
    }
    for (size_t i = 0; i < replies.size(); ++i) {
      EXPECT_TRUE(replies[i].status.ok()) << "client " << i << ": " << replies[i].status;
      EXPECT_EQ(replies[i].tokens, expected[i % kPrompts]) << "client " << i;
    }
  }

  static std::unique_ptr<TemporaryDirectory> directory_;
  static std::string package_;
  std::unique_ptr<LocalCluster> cluster_;
};

std::unique_ptr<TemporaryDirectory> ClusterTest::directory_;
std::string ClusterTest::package_;

// A TCP connection to 127.0.0.1; -1 on failure.
int ConnectTcp(uint16_t port) {
  const int file = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(file, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    close(file);
    return -1;
  }
  return file;
}

// Bytes that are no HTTP/2, then some that begin like it.
void SendGarbage(uint16_t port) {
  for (const std::string& start :
       {std::string(), std::string("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")}) {
    const int file = ConnectTcp(port);
    ASSERT_GE(file, 0);
    std::string bytes = start;
    for (uint32_t i = 0; i < 20'000; ++i) bytes.push_back(static_cast<char>(i * 2654435761u >> 24));
    size_t sent = 0;
    while (sent < bytes.size()) {
      const ssize_t n = send(file, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
      if (n <= 0) break;  // the server hung up: as it should
      sent += static_cast<size_t>(n);
    }
    close(file);
  }
}

// How routers reach workers.
class TransportTest : public ClusterTest, public ::testing::WithParamInterface<const char*> {
 protected:
  void StartWith(std::vector<std::string> flags) {
    flags.push_back("--transport");
    flags.push_back(GetParam());
    StartCluster(flags);
  }
  void ExpectReplaced(int signal);
};

INSTANTIATE_TEST_SUITE_P(Kinds, TransportTest, ::testing::Values("grpc", "shm"),
                         [](const auto& param) { return std::string(param.param); });

TEST_P(TransportTest, ManyClientsAmongBadOnesGetSingleProcessTokens) {
  constexpr size_t kClients = 32;
  constexpr uint32_t kTokens = 64;
  StartWith({"--workers", "3", "--replication", "2", "--worker-threads", "1"});
  if (HasFatalFailure()) return;
  const auto parts = ParseHostPort(cluster_->address());
  ASSERT_TRUE(parts.ok());
  const auto channel = CreateChannel(cluster_->address());
  ASSERT_TRUE(channel.ok());
  const auto stub = octet::v1::Inference::NewStub(*channel);

  // Hangs: asks for an answer and does not read it.
  grpc::ClientContext hung_context;
  const auto hung = stub->Generate(&hung_context, TestRequest(1, 400));
  std::vector<Reply> replies;
  Progress progress(kClients);
  auto threads = StartClients(kClients, kTokens, &replies, &progress);
  // Cancels after the first message.
  grpc::ClientContext cancelled_context;
  const auto cancelled = stub->Generate(&cancelled_context, TestRequest(2, 400));
  octet::v1::GenerateResponse first;
  EXPECT_TRUE(cancelled->Read(&first));
  EXPECT_TRUE(first.has_started());
  cancelled_context.TryCancel();
  SendGarbage(parts->port);
  for (std::thread& thread : threads) thread.join();
  ExpectSingleProcessTokens(replies, kTokens);

  while (cancelled->Read(&first)) {
  }
  EXPECT_EQ(cancelled->Finish().error_code(), grpc::StatusCode::CANCELLED);
  hung_context.TryCancel();
  while (hung->Read(&first)) {
  }
  hung->Finish();
  // Neither of them leaves a request behind.
  EXPECT_TRUE(cluster_->WaitStatus(
      [](const auto& status) {
        return status.routers_size() == 1 && status.routers(0).load().requests_running() == 0 &&
               status.routers(0).load().requests_waiting() == 0 &&
               status.routers(0).load().prefix_cache_queries() > 0;
      },
      kRepairMs));
}

// A worker under load gets `signal`.
void TransportTest::ExpectReplaced(int signal) {
  constexpr size_t kClients = 8;
  constexpr uint32_t kTokens = 400;
  StartWith({"--workers", "4", "--replication", "2", "--worker-threads", "1"});
  if (HasFatalFailure()) return;
  const auto before = cluster_->Status();
  ASSERT_EQ(ReadyWorkers(before), 4u);
  const auto victim = static_cast<pid_t>(before.workers(1).pid());
  std::vector<Reply> replies;
  Progress progress(kClients);
  auto threads = StartClients(kClients, kTokens, &replies, &progress);
  EXPECT_TRUE(progress.WaitForEach(5, kReadyMs));
  ASSERT_EQ(kill(victim, signal), 0);
  EXPECT_TRUE(progress.AnyBelow(kTokens)) << "the streams had all ended before the kill";
  for (std::thread& thread : threads) thread.join();
  ExpectSingleProcessTokens(replies, kTokens);

  EXPECT_TRUE(cluster_->WaitStatus(
      [&](const auto& status) {
        const auto& workers = status.workers();
        const bool gone = std::none_of(workers.begin(), workers.end(), [&](const auto& worker) {
          return worker.state() == "ready" && static_cast<pid_t>(worker.pid()) == victim;
        });
        return gone && status.ready() && ReadyWorkers(status) == 4 &&
               status.epoch() > before.epoch();
      },
      kRepairMs))
      << cluster_->Status().DebugString();
  std::vector<Reply> after;
  Progress again(kPrompts);
  for (std::thread& thread : StartClients(kPrompts, 32, &after, &again)) thread.join();
  ExpectSingleProcessTokens(after, 32);
}

TEST_P(TransportTest, KilledWorkerChangesNoTokenAndIsReplaced) { ExpectReplaced(SIGKILL); }

TEST_P(TransportTest, TerminatedWorkerDrainsAndIsReplaced) { ExpectReplaced(SIGTERM); }

TEST_F(ClusterTest, KilledCoordinatorStopsNoStreamAndKeepsTheEpoch) {
  constexpr size_t kClients = 4;
  constexpr uint32_t kTokens = 400;
  StartCluster({"--workers", "3", "--replication", "2", "--worker-threads", "1"});
  if (HasFatalFailure()) return;
  const auto before = cluster_->Status();
  const std::vector<pid_t> coordinators = cluster_->Pids("coordinator");
  ASSERT_EQ(coordinators.size(), 1u);
  std::vector<Reply> replies;
  Progress progress(kClients);
  auto threads = StartClients(kClients, kTokens, &replies, &progress);
  EXPECT_TRUE(progress.WaitForEach(5, kReadyMs));
  ASSERT_EQ(kill(coordinators[0], SIGKILL), 0);
  EXPECT_TRUE(progress.AnyBelow(kTokens)) << "the streams had all ended before the kill";
  for (std::thread& thread : threads) thread.join();
  ExpectSingleProcessTokens(replies, kTokens);

  // `up` prints the line of the new one.
  EXPECT_TRUE(PollUntil([&] { return cluster_->Pids("coordinator").size() == 2; }, kRepairMs));
  EXPECT_TRUE(cluster_->WaitStatus(
      [&](const auto& status) {
        EXPECT_GE(status.epoch(), status.ready() ? before.epoch() : 0u);
        return status.ready() && ReadyWorkers(status) == 3 && status.epoch() >= before.epoch() &&
               status.term() > before.term();
      },
      kRepairMs))
      << cluster_->Status().DebugString();
}

TEST_F(ClusterTest, ChaosKillsWorkersAndStreamsGoOn) {
  constexpr size_t kClients = 4;
  constexpr uint32_t kTokens = 400;
  StartCluster({"--workers", "3", "--worker-threads", "1", "--chaos", "--chaos-ms", "500"});
  if (HasFatalFailure()) return;
  EXPECT_EQ(cluster_->Status().replication(), 2u);
  const auto kills = [&] {
    const std::string text = cluster_->process()->StdoutText();
    size_t count = 0;
    for (size_t at = text.find("chaos: kill"); at != std::string::npos;) {
      ++count;
      at = text.find("chaos: kill", at + 1);
    }
    return count;
  };
  // Answers until two workers have been killed.
  for (int round = 0; round < 200 && kills() < 2; ++round) {
    std::vector<Reply> replies;
    Progress progress(kClients);
    for (std::thread& thread : StartClients(kClients, kTokens, &replies, &progress)) thread.join();
    ExpectSingleProcessTokens(replies, kTokens);
    if (HasFailure()) break;
  }
  EXPECT_GE(kills(), 2u) << cluster_->Log();
}

// A file of weights is cut short under the workers that have it mapped: they end, whatever is put
// in their place refuses it, and streams wait until it is whole again.
TEST_F(ClusterTest, StreamsOutliveAFileOfWeightsCutShort) {
  constexpr size_t kClients = 4;
  constexpr uint32_t kTokens = 400;
  const TemporaryDirectory own;
  const std::string package =
      PackTestModel(own.path(), {"--experts", "int8", "--attention", "int8"});
  cluster_ = std::make_unique<LocalCluster>(
      package,
      std::vector<std::string>{"--workers", "3", "--worker-threads", "1", "--replication", "2"});
  ASSERT_TRUE(cluster_->WaitReady(kReadyMs)) << cluster_->Log();
  // The router's file is another size than the experts', which are many.
  std::map<uintmax_t, std::vector<std::filesystem::path>> by_size;
  for (const auto& file : std::filesystem::directory_iterator(package + "/blobs")) {
    by_size[file.file_size()].push_back(file.path());
  }
  const auto experts = std::find_if(by_size.begin(), by_size.end(),
                                    [](const auto& entry) { return entry.second.size() > 1; });
  ASSERT_NE(experts, by_size.end());
  const std::filesystem::path victim = experts->second.front();
  const std::filesystem::path whole = own.path() + "/whole";
  std::filesystem::copy_file(victim, whole);
  std::vector<Reply> replies;
  Progress progress(kClients);
  std::vector<std::thread> threads = StartClients(kClients, kTokens, &replies, &progress);
  EXPECT_TRUE(progress.WaitForEach(5, kReadyMs));
  std::filesystem::resize_file(victim, 0);
  EXPECT_TRUE(
      cluster_->WaitStatus([](const auto& status) { return ReadyWorkers(status) < 2; }, kRepairMs))
      << cluster_->Log();
  EXPECT_TRUE(progress.AnyBelow(kTokens)) << "they ended too soon to be harmed";
  // As an operator would: another file in its place.
  std::filesystem::rename(whole, victim);
  for (std::thread& thread : threads) thread.join();
  ExpectSingleProcessTokens(replies, kTokens);
  EXPECT_THAT(cluster_->Log(), testing::HasSubstr("manifest.json says"));
  EXPECT_TRUE(
      cluster_->WaitStatus([](const auto& status) { return ReadyWorkers(status) == 3; }, kRepairMs))
      << cluster_->Log();
}

TEST_P(TransportTest, SigtermEndsEveryProcess) {
  StartWith({"--workers", "3", "--worker-threads", "1"});
  if (HasFatalFailure()) return;
  const std::vector<pid_t> pids = cluster_->Pids("");
  ASSERT_EQ(pids.size(), 5u) << cluster_->Log();
  for (pid_t pid : pids) EXPECT_TRUE(ProcessAlive(pid));
  cluster_->process()->Signal(SIGTERM);
  int status = -1;
  // Idle, so there is nothing to wait for: well below the time for draining.
  ASSERT_TRUE(cluster_->process()->WaitForExit(kIdleStopMs, &status)) << cluster_->Log();
  EXPECT_EQ(status, 0) << cluster_->Log();
  for (pid_t pid : pids) EXPECT_FALSE(ProcessAlive(pid)) << pid;
}

TEST_F(ClusterTest, NothingIsLeftWhenUpItselfIsKilled) {
  StartCluster({"--workers", "2", "--worker-threads", "1"});
  if (HasFatalFailure()) return;
  const std::vector<pid_t> pids = cluster_->Pids("");
  ASSERT_EQ(pids.size(), 4u) << cluster_->Log();
  cluster_->process()->Signal(SIGKILL);
  int status = -1;
  ASSERT_TRUE(cluster_->process()->WaitForExit(kReadyMs, &status));
  EXPECT_TRUE(
      PollUntil([&] { return std::none_of(pids.begin(), pids.end(), ProcessAlive); }, kReadyMs));
}

}  // namespace
}  // namespace octet
