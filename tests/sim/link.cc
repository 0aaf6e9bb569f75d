#include "tests/sim/link.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "rpc/expert_codec.h"
#include "transport/grpc/dispatch_message.h"

namespace octet::sim {
namespace {

constexpr Duration kReopenMin = Duration::Millis(20);
constexpr Duration kReopenMax = Duration::Millis(1'000);
constexpr Duration kConnectTimeout = Duration::Millis(1'000);

struct Pending {
  DispatchKey key;
  ExpertLink::ReplyFn done;
  WireFormat format;
  size_t reply_rows = 0;
  std::shared_ptr<ReplyPool> pool;
};

// Damages some bits of a message; null where it is no message any more.
template <typename Message>
std::shared_ptr<Message> Damage(World* world, const Message& message) {
  std::string bytes = message.SerializeAsString();
  if (bytes.empty()) return nullptr;
  for (uint64_t i = 0; i < 1 + world->Below(3); ++i) {
    const uint64_t at = world->Below(bytes.size());
    bytes[at] = static_cast<char>(bytes[at] ^ (1u << world->Below(8)));
  }
  auto damaged = std::make_shared<Message>();
  return damaged->ParseFromString(bytes) ? damaged : nullptr;
}

// What arrives of a message. Null: something that ends the stream.
template <typename Message>
std::shared_ptr<Message> Travel(World* world, uint32_t from, uint32_t to,
                                std::shared_ptr<Message> message) {
  const PathNoise* noise = world->Noise(from, to);
  if (noise == nullptr || !noise->corrupt || !world->OneIn(4)) return message;
  world->Cover(Covered::kMessageCorrupted);
  return Damage(world, *message);
}

}  // namespace

struct Link::State : std::enable_shared_from_this<Link::State> {
  State(World* w, Process s, uint32_t n, WorkerAt a, std::function<void()> f, const LinkBug& b)
      : world(w), self(s), node(n), workers(std::move(a)), news(std::move(f)), bug(b) {}

  void Open();
  void Reopen();
  void OnBroken();
  void OnReply(const octet::v1::DispatchReply& message);

  World* const world;
  const Process self;
  const uint32_t node;
  const WorkerAt workers;
  const std::function<void()> news;
  const LinkBug bug;
  bool closed = false;
  Duration pause = kReopenMin;
  std::shared_ptr<Connection> stream;  // null while not connected
  std::vector<Pending> pending;
};

void Link::State::Open() {
  if (closed) return;
  Worker* const worker = workers(node);
  const bool cut = world->cut(self.node, node) || world->cut(node, self.node);
  if (worker == nullptr || cut || world->stopped(node)) {
    // Refused at once, or nothing heard until the attempt is given up.
    const Duration heard = worker == nullptr ? Duration::Millis(1) : kConnectTimeout;
    world->In(self, heard, [state = weak_from_this()] {
      if (const auto s = state.lock()) s->Reopen();
    });
    return;
  }
  const std::shared_ptr<Connection> fresh = world->Connect(self, worker->process());
  fresh->on_broken[0] = [state = weak_from_this()] {
    if (const auto s = state.lock()) s->OnBroken();
  };
  // The worker's greeting makes the link connected.
  fresh->Send(0, [state = weak_from_this(), fresh] {
    fresh->Send(1, [state, fresh] {
      const auto s = state.lock();
      if (s == nullptr || s->closed) return;
      s->stream = fresh;
      s->pause = kReopenMin;
      s->news();
    });
  });
}

void Link::State::Reopen() {
  if (closed) return;
  world->In(self, pause, [state = weak_from_this()] {
    if (const auto s = state.lock()) s->Open();
  });
  pause = std::min(Duration{pause.ns * 2}, kReopenMax);
}

void Link::State::OnBroken() {
  stream.reset();
  std::vector<Pending> failed;
  failed.swap(pending);
  if (bug.forgets_in_flight) failed.clear();
  for (const Pending& p : failed)
    p.done(FailedReply(p.key, absl::UnavailableError("stream broken")));
  news();
  Reopen();
}

void Link::State::OnReply(const octet::v1::DispatchReply& message) {
  const DispatchKey key = DispatchKeyFromProto(message.key());
  const auto it = std::find_if(pending.begin(), pending.end(),
                               [&](const Pending& p) { return p.key == key || bug.any_attempt; });
  if (it == pending.end()) {
    world->Cover(Covered::kLateReplyDropped);
    return;
  }
  const Pending taken = std::move(*it);
  pending.erase(it);
  ExpertReply reply;
  DecodeReply(message, taken.format, taken.reply_rows, taken.pool.get(), &reply);
  if (bug.any_attempt) reply.key = taken.key;
  if (absl::IsDataLoss(reply.status)) world->Cover(Covered::kReplyRefusedDamaged);
  taken.done(std::move(reply));
  news();
}

Link::Link(World* world, Process self, uint32_t node, WorkerAt workers, std::function<void()> news,
           const LinkBug& bug)
    : state_(std::make_shared<State>(world, self, node, std::move(workers), std::move(news), bug)) {
  state_->Open();
}

Link::~Link() {
  state_->closed = true;
  if (state_->stream != nullptr) state_->stream->Close(0);
}

bool Link::connected() const { return state_->stream != nullptr; }

void Link::Cancel(const DispatchKey& key) {
  std::erase_if(state_->pending, [&](const Pending& p) { return p.key == key; });
}

void Link::Send(const ExpertDispatch& dispatch, ReplyFn done) {
  State& s = *state_;
  if (s.stream == nullptr) {
    done(FailedReply(dispatch.key, absl::UnavailableError("not connected")));
    s.news();
    return;
  }
  if (s.pending.size() >= kLinkQueuedDispatchesMax) {
    done(FailedReply(dispatch.key, absl::ResourceExhaustedError("too many unanswered")));
    s.news();
    return;
  }
  auto message = std::make_shared<octet::v1::Dispatch>();
  EncodeDispatch(dispatch, message.get());
  s.pending.push_back(
      {dispatch.key, std::move(done), dispatch.rows.format, ReplyRows(*message), dispatch.pool});
  message = Travel(s.world, s.self.node, s.node, std::move(message));
  const std::shared_ptr<Connection> stream = s.stream;
  if (message == nullptr) return stream->Break();
  const auto reply = [state = s.weak_from_this(), world = s.world, stream, here = s.self.node,
                      there = s.node](std::shared_ptr<octet::v1::DispatchReply> answer) {
    answer = Travel(world, there, here, std::move(answer));
    if (answer == nullptr) return stream->Break();
    const auto deliver = [state, answer, stream] {
      const auto link = state.lock();
      if (link == nullptr) return;
      SealFits(*answer) ? link->OnReply(*answer) : stream->Break();
    };
    stream->Send(1, deliver, /*shuffle=*/true);
  };
  stream->Send(
      0,
      [workers = s.workers, node = s.node, stream, message, reply] {
        Worker* const worker = workers(node);
        // A copy: the path may deliver it twice.
        if (worker != nullptr) {
          worker->OnDispatch(stream, std::make_shared<octet::v1::Dispatch>(*message), reply);
        }
      },
      /*shuffle=*/true);
}

}  // namespace octet::sim
