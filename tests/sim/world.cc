#include "tests/sim/world.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/check.h"

namespace octet::sim {

void Connection::Send(int side, std::function<void()> deliver, bool shuffle) {
  if (!open_[side]) return;
  const uint32_t from = ends_[side].node, to = ends_[1 - side].node;
  const PathNoise* noise = world_->Noise(from, to);
  MonotonicTime start = world_->Now();
  const MonotonicTime cut = world_->path(from, to).cut_until;
  if (cut > start) {
    // Sent again until the cut ends or the connection is given up.
    if (cut - start > world_->keepalive_) {
      BreakSide(side, world_->keepalive_);
      return;
    }
    start = cut;
  }
  MonotonicTime when = start + world_->Latency(from, to);
  const bool out_of_order = shuffle && noise != nullptr && noise->reorder && world_->OneIn(3);
  if (out_of_order) {
    world_->Cover(Covered::kMessageReordered);
    when = when + world_->Between(Duration{}, Duration::Millis(20));
  } else {
    when = std::max(when, last_[side]);
    last_[side] = when;
  }
  const auto arrive = [self = shared_from_this(), side, deliver = std::move(deliver)] {
    if (self->open_[1 - side]) deliver();
  };
  if (shuffle && noise != nullptr && noise->duplicate && world_->OneIn(3)) {
    world_->Cover(Covered::kMessageDuplicated);
    const Duration later = world_->Between(Duration{}, Duration::Millis(30));
    world_->In(ends_[1 - side], when + later - world_->Now(), arrive);
  }
  world_->In(ends_[1 - side], when - world_->Now(), arrive);
}

void Connection::Close(int side) {
  if (!open_[side]) return;
  open_[side] = false;
  on_broken[side] = nullptr;
  BreakSide(1 - side, world_->Latency(ends_[side].node, ends_[1 - side].node));
}

void Connection::Break() {
  for (const int side : {0, 1}) BreakSide(side, world_->Between({}, Duration::Millis(1)));
}

void Connection::BreakSide(int side, Duration after) {
  if (!open_[side]) return;
  world_->In(ends_[side], after, [self = shared_from_this(), side] {
    if (!self->open_[side]) return;
    self->open_[side] = false;
    const std::function<void()> tell = std::exchange(self->on_broken[side], nullptr);
    if (tell) tell();
  });
}

World::World(uint64_t seed, uint32_t nodes, Duration keepalive)
    : keepalive_(keepalive), state_(Mix(seed)), nodes_(nodes), paths_(size_t{nodes} * nodes) {}

uint64_t World::Random() { return Mix(state_ += 0x9e3779b97f4a7c15ull); }

void World::Push(Event event) {
  event.order = next_order_++;
  heap_.push_back(std::move(event));
  std::push_heap(heap_.begin(), heap_.end());
}

void World::At(MonotonicTime when, std::function<void()> what) {
  Push({std::max(when, now_), 0, Process{}, true, std::move(what)});
}

void World::In(Process process, Duration after, std::function<void()> what) {
  Push({now_ + std::max(after, Duration{}), 0, process, false, std::move(what)});
}

bool World::Next(MonotonicTime end) {
  if (heap_.empty() || heap_.front().when > end) {
    now_ = std::max(now_, end);
    return false;
  }
  std::pop_heap(heap_.begin(), heap_.end());
  Event event = std::move(heap_.back());
  heap_.pop_back();
  now_ = std::max(now_, event.when);
  if (!event.of_world) {
    if (!Lives(event.process)) return true;
    const MonotonicTime stopped = nodes_[event.process.node].stopped_until;
    if (stopped > now_) {
      event.when = stopped;
      Push(std::move(event));
      return true;
    }
  }
  ++events_;
  event.what();
  return true;
}

void World::Start(uint32_t node) {
  OCTET_CHECK(!nodes_[node].up);
  ++nodes_[node].run;
  nodes_[node].up = true;
  nodes_[node].stopped_until = MonotonicTime{};
}

void World::Kill(uint32_t node) {
  const Process dead = process(node);
  for (auto& weak : connections_) {
    const std::shared_ptr<Connection> c = weak.lock();
    if (c == nullptr) continue;
    for (const int side : {0, 1}) {
      if (!(c->ends_[side] == dead)) continue;
      const Process peer = c->ends_[1 - side];
      const MonotonicTime cut = path(node, peer.node).cut_until;
      const Duration silence = std::min(std::max(cut - now_, Duration{}), keepalive_);
      c->open_[side] = false;
      c->on_broken[side] = nullptr;
      c->BreakSide(1 - side, Duration{silence.ns + Latency(node, peer.node).ns});
    }
  }
  nodes_[node].up = false;
}

void World::Stop(uint32_t node, Duration length) {
  nodes_[node].stopped_until = std::max(nodes_[node].stopped_until, now_ + length);
  ExpectSilence(node, -1, length);
}

void World::ExpectSilence(uint32_t node, int64_t peer, Duration length) {
  if (length <= keepalive_) return;
  std::erase_if(connections_, [](const auto& weak) { return weak.expired(); });
  for (auto& weak : connections_) {
    const std::shared_ptr<Connection> c = weak.lock();
    for (const int side : {0, 1}) {
      const bool hit = c->ends_[side].node == node &&
                       (peer < 0 || c->ends_[1 - side].node == static_cast<uint32_t>(peer));
      if (!hit) continue;
      c->BreakSide(1 - side, keepalive_);
      c->BreakSide(side, length);  // it hears of that once it can
    }
  }
}

void World::Cut(uint32_t from, uint32_t to, Duration length) {
  path(from, to).cut_until = std::max(path(from, to).cut_until, now_ + length);
  ExpectSilence(from, to, length);
  ExpectSilence(to, from, length);
}

const PathNoise* World::Noise(uint32_t from, uint32_t to) const {
  const PathNoise& noise = path(from, to).noise;
  return noise.until > now_ ? &noise : nullptr;
}

Duration World::Latency(uint32_t from, uint32_t to) {
  Duration latency = Between(Duration::Micros(50), Duration::Micros(400));
  const PathNoise* noise = Noise(from, to);
  if (noise != nullptr && noise->delay && OneIn(2)) {
    Cover(Covered::kMessageDelayed);
    latency.ns += Between(Duration{}, Duration::Millis(120)).ns;
  }
  if (noise != nullptr && noise->loss && OneIn(8)) latency.ns += Duration::Millis(200).ns;
  return latency;
}

void World::Post(Process from, uint32_t to, Duration patience, std::function<void()> deliver) {
  Duration wait{};
  const MonotonicTime cut = path(from.node, to).cut_until;
  if (cut > now_) wait = cut - now_;
  if (wait > patience) return;
  const Duration after{wait.ns + Latency(from.node, to).ns};
  // Whoever listens there then.
  At(now_ + after, [this, to, deliver = std::move(deliver)] {
    if (up(to)) In(process(to), Duration{}, deliver);
  });
}

std::shared_ptr<Connection> World::Connect(Process from, Process to) {
  if (connections_.size() % 64 == 63) {
    std::erase_if(connections_, [](const auto& weak) { return weak.expired(); });
  }
  auto connection = std::make_shared<Connection>(this, from, to);
  connections_.push_back(connection);
  return connection;
}

void World::BreakConnections(uint32_t a, uint32_t b) {
  for (auto& weak : connections_) {
    const std::shared_ptr<Connection> c = weak.lock();
    if (c == nullptr) continue;
    const uint32_t x = c->ends_[0].node, y = c->ends_[1].node;
    if ((x == a && y == b) || (x == b && y == a)) c->Break();
  }
}

void World::Note(absl::string_view what, uint64_t a, uint64_t b, uint64_t c) {
  for (const char ch : what) hash_ = (hash_ ^ static_cast<uint8_t>(ch)) * 0x100000001b3ull;
  hash_ =
      Mix(hash_ ^ Mix(static_cast<uint64_t>(now_.ns)) ^ Mix(a) ^ Mix(Mix(b)) ^ Mix(Mix(Mix(c))));
  if (!trace_) return;
  std::fprintf(stderr, "%12.3f ms  %.*s %llu %llu %llu\n", static_cast<double>(now_.ns) / 1e6,
               static_cast<int>(what.size()), what.data(), static_cast<unsigned long long>(a),
               static_cast<unsigned long long>(b), static_cast<unsigned long long>(c));
}

void World::Fail(std::string what) {
  if (failure_.empty()) {
    failure_ = absl::StrCat("at ", (now_.ns - 1'000'000'000) / 1000, " us: ", what);
  }
}

}  // namespace octet::sim
