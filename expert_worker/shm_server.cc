#include "expert_worker/shm_server.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>
#include <vector>

#include "core/clock.h"
#include "core/limits.h"
#include "core/log.h"
#include "core/mutex.h"
#include "core/shm_limits.h"
#include "core/status_macros.h"
#include "expert_worker/admission.h"
#include "expert_worker/shm_router.h"
#include "transport/doorbell.h"
#include "transport/shm/control_socket.h"

namespace octet {
namespace {

constexpr int kAcceptPauseMs = 100;

// A connection and its router, which the control thread and the loop share.
struct Served {
  Served(OwnedFd socket, std::unique_ptr<ShmRouter> r)
      : control(std::move(socket)), router(std::move(r)) {}
  const OwnedFd control;
  const std::unique_ptr<ShmRouter> router;
  std::atomic<bool> gone{false};  // set by either, seen by the loop
};

// The control thread's view of a peer; `served` is null until it has said hello.
struct Peer {
  OwnedFd fresh;
  std::shared_ptr<Served> served;
  MonotonicTime deadline;

  int fd() const { return served != nullptr ? served->control.get() : fresh.get(); }
};

}  // namespace

struct ShmServer::Impl {
  Impl(const ShmServerOptions& o, const ExpertStore* s, WorkerLoop* l)
      : options(o), store(s), loop(l), shape(ShapeOf(s->model())) {}

  // ---- The control thread ----
  void Run();
  void Accept();
  // False when the peer is to be dropped.
  bool OnReadable(Peer& peer);
  absl::Status Welcome(Peer& peer);
  void WakeLoop() const;

  // ---- The loop's thread ----
  void Poll();

  const ShmServerOptions options;
  const ExpertStore* const store;
  WorkerLoop* const loop;
  const DispatchShape shape;
  const SystemClock clock{};
  OwnedFd listener;
  OwnedFd stop;
  std::atomic<bool> hidden{false};               // the socket has no name any more
  std::vector<Peer> peers;                       // the control thread's
  std::vector<std::shared_ptr<Served>> serving;  // the loop's
  std::atomic<bool> joined{false};               // `joining` is not empty
  Mutex mu;
  std::vector<std::shared_ptr<Served>> joining OCTET_GUARDED_BY(mu);
  std::thread thread;
};

void ShmServer::Impl::WakeLoop() const {
  Doorbell(reinterpret_cast<DoorbellWords*>(options.doorbell->data())).RingNow();
}

void ShmServer::Impl::Run() {
  for (;;) {
    std::vector<pollfd> fds = {{stop.get(), POLLIN, 0}, {listener.get(), POLLIN, 0}};
    bool waiting = false;
    for (const Peer& peer : peers) {
      fds.push_back({peer.fd(), POLLIN | POLLRDHUP, 0});
      waiting = waiting || peer.served == nullptr;
    }
    if (poll(fds.data(), fds.size(), waiting ? static_cast<int>(kShmHandshakeMs) : -1) < 0)
      continue;
    if (fds[0].revents != 0) return;
    const MonotonicTime now = clock.Now();
    size_t at = 2;
    const auto dropped = [&](Peer& peer) {
      if (fds[at++].revents != 0) return !OnReadable(peer);
      return peer.served == nullptr && now > peer.deadline;
    };
    peers.erase(std::remove_if(peers.begin(), peers.end(), dropped), peers.end());
    if (fds[1].revents != 0) Accept();
  }
}

void ShmServer::Impl::Accept() {
  OwnedFd socket = AcceptControl(listener.get());
  if (!socket.open()) {
    // No file is left: try again a little later.
    pollfd wait{stop.get(), POLLIN, 0};
    (void)poll(&wait, 1, kAcceptPauseMs);
    return;
  }
  if (peers.size() >= kShmRoutersMax) return;
  Peer peer;
  peer.fresh = std::move(socket);
  peer.deadline = clock.Now() + Duration::Millis(kShmHandshakeMs);
  peers.push_back(std::move(peer));
}

bool ShmServer::Impl::OnReadable(Peer& peer) {
  if (peer.served == nullptr) {
    const absl::Status status = Welcome(peer);
    if (!status.ok()) LogWarning("shared memory: ", status.ToString());
    return status.ok();
  }
  // A router says nothing after its hello: this is its end.
  LogDebug("shared memory: a router has gone");
  peer.served->gone = true;
  WakeLoop();
  return false;
}

absl::Status ShmServer::Impl::Welcome(Peer& peer) {
  ShmHello hello{};
  OCTET_ASSIGN_OR_RETURN(
      std::vector<OwnedFd> files,
      ReceiveControl(peer.fresh.get(), &hello, sizeof(hello), 1, Duration::Millis(0)));
  if (hello.magic != kShmMagic || hello.version != kShmVersion) {
    return absl::InvalidArgumentError("a router of another version");
  }
  OCTET_ASSIGN_OR_RETURN(SharedMemory doorbell,
                         SharedMemory::Map(std::move(files[0]), kDoorbellPageBytes));
  const uint64_t arena = ShmArenaBytes(shape);
  OCTET_ASSIGN_OR_RETURN(SharedMemory segment,
                         SharedMemory::Create("octet-expert-wire", SegmentBytes(arena)));
  const ShmWelcome welcome{kShmMagic, kShmVersion, 0, arena};
  OCTET_RETURN_IF_ERROR(SendControl(peer.fresh.get(), &welcome, sizeof(welcome),
                                    {segment.fd(), options.doorbell->fd()}));
  peer.served = std::make_shared<Served>(
      std::move(peer.fresh), std::make_unique<ShmRouter>(std::move(segment), arena,
                                                         std::move(doorbell), store, &shape, loop));
  {
    MutexLock lock(mu);
    joining.push_back(peer.served);
  }
  joined = true;
  WakeLoop();
  return absl::OkStatus();
}

void ShmServer::Impl::Poll() {
  if (joined.exchange(false)) {
    MutexLock lock(mu);
    serving.insert(serving.end(), joining.begin(), joining.end());
    joining.clear();
  }
  bool any_gone = false;
  for (const std::shared_ptr<Served>& served : serving) {
    if (!served->gone && !served->router->Read()) {
      LogError("shared memory: a router's ring is damaged; it is cut off");
      served->gone = true;
      shutdown(served->control.get(), SHUT_RDWR);
    }
    if (served->gone) served->router->Abandon();
    any_gone = any_gone || served->gone;
  }
  if (!any_gone) return;
  const auto over = [](const std::shared_ptr<Served>& s) { return s->gone && s->router->idle(); };
  serving.erase(std::remove_if(serving.begin(), serving.end(), over), serving.end());
}

absl::StatusOr<std::unique_ptr<ShmServer>> ShmServer::Start(const ShmServerOptions& options,
                                                            const ExpertStore* store,
                                                            WorkerLoop* loop) {
  auto impl = std::make_unique<Impl>(options, store, loop);
  OCTET_RETURN_IF_ERROR(PrepareShmDirectory(options.socket.substr(0, options.socket.rfind('/'))));
  OCTET_ASSIGN_OR_RETURN(impl->listener, ListenControl(options.socket));
  impl->stop = OwnedFd(eventfd(0, EFD_CLOEXEC));
  if (!impl->stop.open()) return absl::ResourceExhaustedError("no more files can be opened");
  auto server = std::unique_ptr<ShmServer>(new ShmServer(std::move(impl)));
  loop->SetSource(server.get());
  server->impl_->thread = std::thread([impl = server->impl_.get()] { impl->Run(); });
  return server;
}

ShmServer::ShmServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

ShmServer::~ShmServer() {
  if (!impl_->thread.joinable()) return;
  Hide();
  eventfd_write(impl_->stop.get(), 1);
  impl_->thread.join();
  impl_->loop->SetSource(nullptr);
  for (const std::shared_ptr<Served>& served : impl_->serving) {
    served->router->Abandon();
    shutdown(served->control.get(), SHUT_RDWR);
  }
  for (const std::shared_ptr<Served>& served : impl_->serving) served->router->WaitIdle();
}

void ShmServer::Hide() {
  if (!impl_->hidden.exchange(true)) unlink(impl_->options.socket.c_str());
}

void ShmServer::Poll() { impl_->Poll(); }

}  // namespace octet
