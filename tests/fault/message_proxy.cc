#include "tests/fault/message_proxy.h"

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <map>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/mutex.h"
#include "core/status_macros.h"
#include "rpc/channel.h"

namespace octet {
namespace {

using grpc::ByteBuffer;

constexpr std::chrono::milliseconds kTick{1};

void FlipBit(uint64_t bit, ByteBuffer* message) {
  std::vector<grpc::Slice> slices;
  if (!message->Dump(&slices).ok()) return;
  std::string bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  if (bytes.empty()) return;
  bit %= bytes.size() * 8;
  bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8));
  const grpc::Slice slice(bytes);
  *message = ByteBuffer(&slice, 1);
}

}  // namespace

struct MessageProxy::Impl final : public grpc::CallbackGenericService {
  explicit Impl(uint64_t seed) : random(seed) {}

  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override;
  // A message on its way: what is to be sent instead, and when.
  std::vector<std::pair<MonotonicTime, ByteBuffer>> Treat(ByteBuffer message);
  void Run();

  const SystemClock clock{};
  std::unique_ptr<grpc::Server> server;
  std::string address;
  mutable Mutex mu;
  CondVar changed;
  std::mt19937_64 random OCTET_GUARDED_BY(mu);
  std::shared_ptr<grpc::Channel> upstream OCTET_GUARDED_BY(mu);
  MessageFaults faults OCTET_GUARDED_BY(mu);
  MessageCounts counts OCTET_GUARDED_BY(mu);
  std::vector<std::shared_ptr<Relay>> relays OCTET_GUARDED_BY(mu);
  bool stopping OCTET_GUARDED_BY(mu) = false;
  std::thread thread;
};

// One call: a server's end and a client's, and what is on its way between them. Each end keeps the
// relay until gRPC is done with it.
class Relay : public std::enable_shared_from_this<Relay> {
 public:
  Relay(MessageProxy::Impl* proxy, std::shared_ptr<grpc::Channel> upstream)
      : proxy_(proxy), stub_(std::move(upstream)) {}

  grpc::ServerGenericBidiReactor* Begin(const std::string& method);
  // Sends what is due.
  void Pump();
  std::string Describe() const {
    MutexLock lock(mu_);
    const auto direction = [](const Direction& d) {
      return absl::StrCat(d.waiting.size(), " waiting", d.busy ? ", one being sent" : "",
                          d.ended ? ", ended" : "");
    };
    return absl::StrCat("forth: ", direction(forth_), client_ == nullptr ? " (closed)" : "",
                        "; back: ", direction(back_), server_ == nullptr ? " (closed)" : "",
                        server_gone_ ? "; caller gone" : "", client_gone_ ? "; callee gone" : "");
  }
  bool over() const {
    MutexLock lock(mu_);
    return server_gone_ && client_gone_;
  }

 private:
  struct Direction {
    std::multimap<MonotonicTime, ByteBuffer> waiting;
    ByteBuffer sending;
    bool busy = false;
    bool ended = false;  // nothing more comes

    bool Empty() const { return waiting.empty() && !busy; }
  };
  class ServerEnd;
  class ClientEnd;

  void Take(Direction* direction, ByteBuffer message);
  void PumpLocked() OCTET_REQUIRES(mu_);
  // The caller has said all, or is gone.
  void CallerEnded();
  void CallerGone();
  void CalleeEnded();

  MessageProxy::Impl* const proxy_;
  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  mutable Mutex mu_;
  // Null once no operation may start there any more.
  ServerEnd* server_ OCTET_GUARDED_BY(mu_) = nullptr;
  ClientEnd* client_ OCTET_GUARDED_BY(mu_) = nullptr;
  bool answering_ OCTET_GUARDED_BY(mu_) = false;  // initial metadata has been sent
  bool server_gone_ OCTET_GUARDED_BY(mu_) = false;
  bool client_gone_ OCTET_GUARDED_BY(mu_) = false;
  Direction forth_ OCTET_GUARDED_BY(mu_);
  Direction back_ OCTET_GUARDED_BY(mu_);
  grpc::Status status_ OCTET_GUARDED_BY(mu_);  // once back_ has ended
};

class Relay::ServerEnd final : public grpc::ServerGenericBidiReactor {
 public:
  explicit ServerEnd(std::shared_ptr<Relay> relay) : relay_(std::move(relay)) {}
  void Read() { StartRead(&incoming_); }
  void OnReadDone(bool ok) override {
    if (!ok) return relay_->CallerEnded();
    relay_->Take(&relay_->forth_, std::move(incoming_));
    incoming_.Clear();
    Read();
  }
  void OnWriteDone(bool) override {
    {
      MutexLock lock(relay_->mu_);
      relay_->back_.busy = false;
    }
    relay_->Pump();
  }
  void OnCancel() override { relay_->CallerGone(); }
  void OnDone() override {
    const std::shared_ptr<Relay> relay = relay_;
    delete this;
    MutexLock lock(relay->mu_);
    relay->server_gone_ = true;
  }

 private:
  const std::shared_ptr<Relay> relay_;
  ByteBuffer incoming_;
};

class Relay::ClientEnd final : public grpc::ClientBidiReactor<ByteBuffer, ByteBuffer> {
 public:
  explicit ClientEnd(std::shared_ptr<Relay> relay) : relay_(std::move(relay)) {}
  void Start(const std::string& method) {
    relay_->stub_.PrepareBidiStreamingCall(&relay_->context_, method, grpc::StubOptions(), this);
    AddHold();  // writes start outside of reactions, until End
    StartRead(&incoming_);
    StartCall();
  }
  // No write starts any more.
  void End(bool say_so) {
    if (say_so) StartWritesDone();
    RemoveHold();
  }
  void OnReadInitialMetadataDone(bool ok) override {
    MutexLock lock(relay_->mu_);
    if (!ok || relay_->server_ == nullptr || relay_->answering_) return;
    relay_->answering_ = true;
    relay_->server_->StartSendInitialMetadata();
  }
  void OnReadDone(bool ok) override {
    if (!ok) return relay_->CalleeEnded();
    relay_->Take(&relay_->back_, std::move(incoming_));
    incoming_.Clear();
    StartRead(&incoming_);
  }
  void OnWriteDone(bool) override {
    {
      MutexLock lock(relay_->mu_);
      relay_->forth_.busy = false;
    }
    relay_->Pump();
  }
  void OnDone(const grpc::Status& status) override {
    const std::shared_ptr<Relay> relay = relay_;
    delete this;
    MutexLock lock(relay->mu_);
    relay->client_gone_ = true;
    relay->status_ = status;
    relay->back_.ended = true;
    relay->PumpLocked();
  }

 private:
  const std::shared_ptr<Relay> relay_;
  ByteBuffer incoming_;
};

grpc::ServerGenericBidiReactor* Relay::Begin(const std::string& method) {
  auto* const server = new ServerEnd(shared_from_this());
  auto* const client = new ClientEnd(shared_from_this());
  MutexLock lock(mu_);
  server_ = server;
  client_ = client;
  client->Start(method);
  server->Read();
  return server;
}

void Relay::Take(Direction* direction, ByteBuffer message) {
  auto treated = proxy_->Treat(std::move(message));
  MutexLock lock(mu_);
  for (auto& [due, bytes] : treated) direction->waiting.emplace(due, std::move(bytes));
  PumpLocked();
}

void Relay::Pump() {
  MutexLock lock(mu_);
  PumpLocked();
}

void Relay::PumpLocked() {
  const MonotonicTime now = proxy_->clock.Now();
  const auto next = [now](Direction* direction) {
    auto& waiting = direction->waiting;
    if (direction->busy || waiting.empty() || waiting.begin()->first > now) return false;
    direction->sending = std::move(waiting.begin()->second);
    waiting.erase(waiting.begin());
    direction->busy = true;
    return true;
  };
  if (client_ != nullptr && next(&forth_)) client_->StartWrite(&forth_.sending);
  if (server_ != nullptr && next(&back_)) {
    answering_ = true;
    server_->StartWrite(&back_.sending);
  }
  if (client_ != nullptr && forth_.ended && forth_.Empty()) {
    std::exchange(client_, nullptr)->End(/*say_so=*/true);
  }
  if (server_ != nullptr && back_.ended && back_.Empty()) {
    std::exchange(server_, nullptr)->Finish(status_);
  }
}

void Relay::CallerEnded() {
  MutexLock lock(mu_);
  forth_.ended = true;
  PumpLocked();
}

// Its status follows once no write can start any more.
void Relay::CalleeEnded() {
  MutexLock lock(mu_);
  if (ClientEnd* const client = std::exchange(client_, nullptr)) client->End(/*say_so=*/false);
}

void Relay::CallerGone() {
  MutexLock lock(mu_);
  context_.TryCancel();
  if (ClientEnd* const client = std::exchange(client_, nullptr)) client->End(/*say_so=*/false);
  if (ServerEnd* const server = std::exchange(server_, nullptr)) {
    server->Finish(grpc::Status::CANCELLED);
  }
}

grpc::ServerGenericBidiReactor* MessageProxy::Impl::CreateReactor(
    grpc::GenericCallbackServerContext* context) {
  std::shared_ptr<Relay> relay;
  {
    MutexLock lock(mu);
    if (upstream != nullptr && !stopping) {
      relay = std::make_shared<Relay>(this, upstream);
      relays.push_back(relay);
    }
  }
  if (relay != nullptr) return relay->Begin(context->method());
  class Refused final : public grpc::ServerGenericBidiReactor {
   public:
    Refused() { Finish(grpc::Status(grpc::StatusCode::UNAVAILABLE, "no upstream")); }
    void OnDone() override { delete this; }
  };
  return new Refused;
}

std::vector<std::pair<MonotonicTime, ByteBuffer>> MessageProxy::Impl::Treat(ByteBuffer message) {
  std::vector<std::pair<MonotonicTime, ByteBuffer>> sent;
  MonotonicTime due = clock.Now();
  MutexLock lock(mu);
  ++counts.messages;
  const auto happens = [&](double chance) {
    return std::uniform_real_distribution<double>()(random) < chance;
  };
  if (happens(faults.flip)) {
    FlipBit(random(), &message);
    ++counts.flipped;
  }
  if (happens(faults.lose)) {
    ++counts.lost;
    return sent;
  }
  if (happens(faults.duplicate)) {
    sent.emplace_back(due, message);
    ++counts.duplicated;
  }
  if (happens(faults.delay)) {
    due = due +
          Duration{static_cast<int64_t>(random() % static_cast<uint64_t>(faults.delay_max.ns + 1))};
    ++counts.delayed;
  }
  sent.emplace_back(due, std::move(message));
  return sent;
}

void MessageProxy::Impl::Run() {
  for (;;) {
    std::vector<std::shared_ptr<Relay>> open;
    {
      MutexLock lock(mu);
      std::erase_if(relays, [](const auto& relay) { return relay->over(); });
      if (stopping && relays.empty()) return;
      open = relays;
    }
    for (const auto& relay : open) relay->Pump();
    open.clear();
    MutexLock lock(mu);
    changed.WaitFor(mu, kTick);
  }
}

absl::StatusOr<std::unique_ptr<MessageProxy>> MessageProxy::Start(uint64_t seed) {
  auto impl = std::make_unique<Impl>(seed);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.SetMaxReceiveMessageSize(-1);
  // Clients look whether it lives.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1'000);
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterCallbackGenericService(impl.get());
  impl->server = builder.BuildAndStart();
  if (impl->server == nullptr || port == 0) {
    return absl::UnavailableError("the proxy cannot listen on the loopback interface");
  }
  impl->address = absl::StrCat("127.0.0.1:", port);
  impl->thread = std::thread([raw = impl.get()] { raw->Run(); });
  return std::unique_ptr<MessageProxy>(new MessageProxy(std::move(impl)));
}

MessageProxy::MessageProxy(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

MessageProxy::~MessageProxy() {
  impl_->server->Shutdown(std::chrono::system_clock::now());
  {
    MutexLock lock(impl_->mu);
    impl_->stopping = true;
    impl_->changed.NotifyAll();
  }
  impl_->thread.join();
}

const std::string& MessageProxy::address() const { return impl_->address; }

absl::Status MessageProxy::SetUpstream(const std::string& address) {
  ChannelOptions options;
  options.message_bytes_max = UINT32_MAX >> 1;
  OCTET_ASSIGN_OR_RETURN(auto channel, CreateChannel(address, options));
  MutexLock lock(impl_->mu);
  impl_->upstream = std::move(channel);
  return absl::OkStatus();
}

void MessageProxy::SetFaults(const MessageFaults& faults) {
  MutexLock lock(impl_->mu);
  impl_->faults = faults;
}

std::string MessageProxy::Describe() const {
  MutexLock lock(impl_->mu);
  std::string text;
  for (const auto& relay : impl_->relays) absl::StrAppend(&text, relay->Describe(), "\n");
  return text;
}

MessageCounts MessageProxy::counts() const {
  MutexLock lock(impl_->mu);
  return impl_->counts;
}

}  // namespace octet
