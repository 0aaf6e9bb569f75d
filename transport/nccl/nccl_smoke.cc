// The real NCCL between processes on one device: a pair is made and warmed up, carries rows both
// ways, survives the death of its peer within its deadline, is made anew with another worker, and
// is closed in good order. Says "not run" and succeeds where there is no device or no NCCL.
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/clock.h"
#include "kernels/cuda_library.h"
#include "transport/nccl/device_thread.h"
#include "transport/nccl/nccl_library.h"
#include "transport/nccl/pair.h"

extern char** environ;

namespace octet {
namespace {

constexpr uint32_t kExchanges = 100;
constexpr uint32_t kExchangesAgain = 20;  // with a worker that takes the place of another
constexpr size_t kBucket = 64 * 4224;  // 64 int8 rows of a hidden size of 4096, with their scales
constexpr int kNotRun = 77;            // exit status of a side without a device
constexpr int kSideSeconds = 150;      // after that a side ends itself
// The processes share the device by turns, which is slow.
constexpr Duration kTransfer = Duration::Millis(5'000);
// Between the end of a transfer's time and the last word of its pair: the abort itself.
constexpr Duration kAbortMax = Duration::Millis(5'000);

// Buckets, exact sizes down to one byte, and a prefill of 4096 rows now and then.
size_t SizeOf(uint32_t i) {
  if (i % 50 == 7) return 4096 * 4224;
  if (i % 4 == 1) return i;
  if (i % 4 == 2) return 1'000'003;
  return kBucket;
}
uint8_t ByteOf(uint32_t i, size_t at) { return static_cast<uint8_t>(at * 7 + i); }

// What the worker says over the socket that stands for the control stream.
struct Welcome {
  NcclUniqueId ids[kNcclLanes];
  pid_t pid;
};

[[noreturn]] void Die(const char* side, const std::string& what) {
  std::printf("nccl_smoke: %s: FAILED: %s\n", side, what.c_str());
  std::fflush(stdout);
  _exit(1);
}

// Reads exactly `bytes`; false where the other side has gone.
bool ReadAll(int fd, void* to, size_t bytes) {
  return recv(fd, to, bytes, MSG_WAITALL) == static_cast<ssize_t>(bytes);
}

// The library and the thread of one side, and a pair at a time.
class Side {
 public:
  Side(const char* name, int rank) : name_(name), rank_(rank) {
    const auto cuda = OpenCudaApi();
    if (!cuda.ok()) NotRun(cuda.status());
    auto nccl = OpenNccl(**cuda);
    if (!nccl.ok()) NotRun(nccl.status());
    nccl_ = *std::move(nccl);
    auto thread = NcclDeviceThread::Start(nccl_.get(), {}, &clock_);
    if (!thread.ok()) NotRun(thread.status());
    thread_ = *std::move(thread);
    for (const uint32_t i : {0u, 1u, 2u, 7u}) {
      const absl::Status reserved = thread_->pool()->Reserve(SizeOf(i), kNcclReservedBuffers);
      if (!reserved.ok()) NotRun(reserved);
    }
  }
  void MakeIds(NcclUniqueId* ids) {
    std::promise<NcclResult> made;
    thread_->Run([&] {
      NcclResult result = nccl_->GetUniqueId(&ids[0]);
      if (result == NcclResult::kOk) result = nccl_->GetUniqueId(&ids[1]);
      made.set_value(result);
    });
    if (made.get_future().get() != NcclResult::kOk) Die(name_, "no unique id");
  }
  void Connect(const NcclUniqueId* ids) {
    NcclPairOptions options;
    options.rank = rank_;
    options.ids = {ids[0], ids[1]};
    options.warm_bytes = {kBucket, kBucket};
    options.deadlines.transfer = kTransfer;
    std::promise<bool> ready;
    gone_ = {};
    connected_ = false;
    NcclPairEvents events;
    events.ready = [&ready, this] {
      connected_ = true;
      ready.set_value(true);
    };
    events.gone = [&ready, this](const absl::Status& why) {
      if (!connected_) ready.set_value(false);
      gone_.set_value(why);
    };
    const MonotonicTime start = clock_.Now();
    auto warm = TakeWarmRows(thread_->pool(), options.warm_bytes);
    if (!warm.ok()) Die(name_, warm.status().ToString());
    pair_ = std::make_shared<NcclPair>(nccl_.get(), options, *std::move(warm), std::move(events));
    thread_->Add(pair_);
    if (!ready.get_future().get()) {
      Die(name_, "cannot connect: " + gone_.get_future().get().ToString());
    }
    std::printf("nccl_smoke: %s: connected and warm after %.0f ms\n", name_,
                (clock_.Now() - start).millis());
  }
  struct Moved {
    absl::Status status;
    RowPool::Lease memory;
  };
  // Sends `memory`, or receives where it is null.
  std::future<Moved> Move(NcclLane lane, size_t bytes, RowPool::Lease memory = {}) {
    NcclTransfer transfer;
    transfer.memory = memory != nullptr ? std::move(memory) : Take(bytes);
    transfer.wire_bytes = transfer.used_bytes = bytes;
    auto moved = std::make_shared<std::promise<Moved>>();
    std::future<Moved> future = moved->get_future();
    transfer.done = [moved](const absl::Status& status, RowPool::Lease rows) {
      moved->set_value({status, std::move(rows)});
    };
    thread_->Submit(pair_, lane, std::move(transfer));
    return future;
  }
  RowPool::Lease Take(size_t bytes) {
    auto memory = thread_->pool()->Take(bytes);
    if (!memory.ok()) Die(name_, memory.status().ToString());
    return *std::move(memory);
  }
  // Waits until the pair is gone, and says why.
  absl::Status WaitGone() {
    absl::Status why = gone_.get_future().get();
    pair_.reset();
    return why;
  }
  void Close() { thread_->Close(pair_); }
  const Clock& clock() const { return clock_; }

 private:
  [[noreturn]] void NotRun(const absl::Status& why) {
    std::printf("nccl_smoke: %s: not run: %s\n", name_, why.ToString().c_str());
    std::fflush(stdout);
    _exit(kNotRun);
  }

  const char* const name_;
  const int rank_;
  SystemClock clock_;
  std::unique_ptr<NcclApi> nccl_;
  std::shared_ptr<NcclDeviceThread> thread_;
  std::shared_ptr<NcclPair> pair_;
  std::atomic<bool> connected_{false};
  std::promise<absl::Status> gone_;
};

// ---- The worker: sends back what it gets, each byte plus one ----

int RunWorker(int control) {
  uint32_t exchanges = 0;
  if (!ReadAll(control, &exchanges, sizeof(exchanges))) return 0;  // never asked
  Side side("worker", kNcclWorkerRank);
  Welcome welcome{};
  side.MakeIds(welcome.ids);
  welcome.pid = getpid();
  if (send(control, &welcome, sizeof(welcome), MSG_NOSIGNAL) != sizeof(welcome)) return 1;
  side.Connect(welcome.ids);
  for (uint32_t i = 0; i < exchanges; ++i) {
    const size_t bytes = SizeOf(i);
    Side::Moved moved = side.Move(NcclLane::kDispatch, bytes).get();
    if (!moved.status.ok()) Die("worker", "receiving: " + moved.status.ToString());
    for (size_t at = 0; at < bytes; ++at) ++moved.memory->host[at];
    moved = side.Move(NcclLane::kReply, bytes, std::move(moved.memory)).get();
    if (!moved.status.ok()) Die("worker", "sending: " + moved.status.ToString());
  }
  // Here it is killed or stopped, or told to close.
  char close = 0;
  if (!ReadAll(control, &close, 1)) return 0;
  side.Close();
  const absl::Status why = side.WaitGone();
  if (!absl::IsCancelled(why)) Die("worker", "closing: " + why.ToString());
  return 0;
}

// ---- The router ----

// Of worker `control`.
pid_t Open(Side& side, int control, uint32_t exchanges) {
  Welcome welcome{};
  if (send(control, &exchanges, sizeof(exchanges), MSG_NOSIGNAL) != sizeof(exchanges) ||
      !ReadAll(control, &welcome, sizeof(welcome))) {
    Die("router", "the worker says nothing");
  }
  side.Connect(welcome.ids);
  return welcome.pid;
}

void Check(uint32_t i, std::future<Side::Moved> sent, std::future<Side::Moved> received) {
  const absl::Status status = sent.get().status;
  if (!status.ok()) Die("router", "sending: " + status.ToString());
  const Side::Moved moved = received.get();
  if (!moved.status.ok()) Die("router", "receiving: " + moved.status.ToString());
  for (size_t at = 0; at < SizeOf(i); ++at) {
    if (moved.memory->host[at] == static_cast<uint8_t>(ByteOf(i, at) + 1)) continue;
    Die("router", "exchange " + std::to_string(i) + " differs at byte " + std::to_string(at));
  }
}

// With several exchanges under way at a time.
void Exchange(Side& side, uint32_t exchanges) {
  constexpr uint32_t kAhead = 4;
  std::vector<std::future<Side::Moved>> sent(exchanges);
  std::vector<std::future<Side::Moved>> received(exchanges);
  for (uint32_t i = 0; i < exchanges + kAhead; ++i) {
    if (i < exchanges) {
      RowPool::Lease memory = side.Take(SizeOf(i));
      for (size_t at = 0; at < SizeOf(i); ++at) memory->host[at] = ByteOf(i, at);
      sent[i] = side.Move(NcclLane::kDispatch, SizeOf(i), std::move(memory));
      received[i] = side.Move(NcclLane::kReply, SizeOf(i));
    }
    if (i >= kAhead) {
      Check(i - kAhead, std::move(sent[i - kAhead]), std::move(received[i - kAhead]));
    }
  }
  std::printf("nccl_smoke: router: %u exchanges are right\n", exchanges);
}

// The worker dies or stops while rows are awaited from it.
void LoseWorker(Side& side, pid_t worker, int with_signal) {
  auto awaited = side.Move(NcclLane::kReply, kBucket);
  kill(worker, with_signal);
  const MonotonicTime start = side.clock().Now();
  const std::chrono::nanoseconds most(kTransfer.ns + kAbortMax.ns);
  if (awaited.wait_for(most) != std::future_status::ready) {
    Die("router", "a lost worker was not noticed");
  }
  const absl::Status status = awaited.get().status;
  if (!absl::IsUnavailable(status)) Die("router", "a lost worker: " + status.ToString());
  const std::string why(side.WaitGone().message());
  std::printf("nccl_smoke: router: signal %d: aborted after %.0f ms: %s\n", with_signal,
              (side.clock().Now() - start).millis(), why.c_str());
}

int RunRouter(const std::vector<int>& controls) {
  Side side("router", kNcclRouterRank);
  const pid_t killed = Open(side, controls[0], kExchanges);
  Exchange(side, kExchanges);
  LoseWorker(side, killed, SIGKILL);

  const pid_t stopped = Open(side, controls[1], kExchangesAgain);
  Exchange(side, kExchangesAgain);
  LoseWorker(side, stopped, SIGSTOP);
  kill(stopped, SIGKILL);

  (void)Open(side, controls[2], kExchangesAgain);
  Exchange(side, kExchangesAgain);
  const char close = 'c';
  (void)send(controls[2], &close, 1, MSG_NOSIGNAL);
  side.Close();
  const absl::Status why = side.WaitGone();
  if (!absl::IsCancelled(why)) Die("router", "closing: " + why.ToString());
  std::printf("nccl_smoke: router: closed in good order\n");
  return 0;
}

// ---- The process that starts them ----

constexpr size_t kWorkers = 3;
constexpr int kFirstControl = 10;  // of a side's control sockets

void SetDefault(const char* name, const char* value) { setenv(name, value, 0); }

// A side of its own host, as NCCL sees it, with `controls` as its files.
pid_t Spawn(char* program, const char* role, const std::string& host,
            const std::vector<int>& controls) {
  setenv("NCCL_HOSTID", host.c_str(), 1);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  for (size_t i = 0; i < controls.size(); ++i) {
    posix_spawn_file_actions_adddup2(&files, controls[i], kFirstControl + static_cast<int>(i));
  }
  std::string role_text = role;
  char* const arguments[] = {program, role_text.data(), nullptr};
  pid_t pid = -1;
  const int error = posix_spawn(&pid, "/proc/self/exe", &files, nullptr, arguments, environ);
  posix_spawn_file_actions_destroy(&files);
  if (error != 0) Die(role, std::string("cannot be started: ") + strerror(error));
  return pid;
}

int RunAll(char* program) {
  SetDefault("NCCL_SOCKET_IFNAME", "lo");
  SetDefault("NCCL_IB_DISABLE", "1");
  SetDefault("NCCL_NVLS_ENABLE", "0");
  SetDefault("NCCL_MAX_NCHANNELS", "2");
  SetDefault("NCCL_RAS_ENABLE", "0");
  std::vector<int> routers_ends;
  std::vector<pid_t> workers;
  for (size_t i = 0; i < kWorkers; ++i) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) Die("start", "no sockets");
    workers.push_back(Spawn(program, "worker", "octet-worker-" + std::to_string(i), {ends[1]}));
    close(ends[1]);
    // Out of the way of the places that the sides expect theirs at.
    routers_ends.push_back(fcntl(ends[0], F_DUPFD_CLOEXEC, kFirstControl + 10));
    close(ends[0]);
  }
  const pid_t router = Spawn(program, "router", "octet-router", routers_ends);
  for (const int end : routers_ends) close(end);
  int status = 0;
  waitpid(router, &status, 0);
  const bool failed = !WIFEXITED(status) || WEXITSTATUS(status) != 0;
  int last = 0;
  for (const pid_t worker : workers) {
    // Else it leaves by itself, as its control socket has ended.
    if (failed) kill(worker, SIGKILL);
    waitpid(worker, &last, 0);
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == kNotRun) return 0;
  const bool good = !failed && WIFEXITED(last) && WEXITSTATUS(last) == 0;
  std::printf("nccl_smoke: %s\n", good ? "PASSED" : "FAILED");
  return good ? 0 : 1;
}

}  // namespace
}  // namespace octet

int main(int argc, char** argv) {
  if (argc == 1) return octet::RunAll(argv[0]);
  alarm(octet::kSideSeconds);
  const std::string role = argv[1];
  std::vector<int> controls;
  for (size_t i = 0; i < octet::kWorkers; ++i) {
    controls.push_back(octet::kFirstControl + static_cast<int>(i));
  }
  const int status =
      role == "router" ? octet::RunRouter(controls) : octet::RunWorker(octet::kFirstControl);
  std::fflush(stdout);
  // Without the ends of libraries, which may wait for a peer that is not there any more.
  _exit(status);
}
