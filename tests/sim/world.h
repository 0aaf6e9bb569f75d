// Time, chance and the network of a simulated cluster: one queue of events, one generator, one
// thread. What happens is a function of the seed and the plan alone; a hash over the event log
// shows that two runs were the same.
#ifndef OCTET_TESTS_SIM_WORLD_H_
#define OCTET_TESTS_SIM_WORLD_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/clock.h"
#include "tests/sim/coverage.h"

namespace octet::sim {

// A process: an index among the nodes and which run of it.
struct Process {
  uint32_t node = 0;
  uint32_t run = 0;
  friend bool operator==(Process, Process) = default;
};

// What a path from one node to another does to messages while it lasts.
struct PathNoise {
  MonotonicTime until;
  bool delay = false;
  bool duplicate = false;
  bool reorder = false;
  bool corrupt = false;
  bool loss = false;  // a lost packet: the stream waits for its repetition
};

class World;

// A stream between two processes: in order, and whole until it breaks.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  // The side that asked for it is 0.
  Connection(World* world, Process first, Process second) : world_(world), ends_{first, second} {}

  // Runs `deliver` at the other side, unless the connection breaks before. `shuffle`: may be
  // delivered again or out of order where the path is like that, for messages that bring a key.
  void Send(int side, std::function<void()> deliver, bool shuffle = false);
  // Now here; the other side hears of it, if ever, after the network's delay.
  void Close(int side);
  // Both sides are told, each as soon as it can be.
  void Break();
  bool open(int side) const { return open_[side]; }
  Process end(int side) const { return ends_[side]; }
  // Called once on that side when the connection ends from elsewhere.
  std::function<void()> on_broken[2];

 private:
  friend class World;
  void BreakSide(int side, Duration after);

  World* const world_;
  const Process ends_[2];
  bool open_[2] = {true, true};
  MonotonicTime last_[2];  // arrival of the last ordered message sent by a side
};

class World final : public Clock {
 public:
  // `keepalive`: how long a connection to a silent peer lasts.
  World(uint64_t seed, uint32_t nodes, Duration keepalive);

  // ---- Time and chance ----
  MonotonicTime Now() const override { return now_; }
  uint64_t Random();
  uint64_t Below(uint64_t n) { return n == 0 ? 0 : Random() % n; }
  bool OneIn(uint64_t n) { return Below(n) == 0; }
  Duration Between(Duration low, Duration high) {
    return {low.ns + static_cast<int64_t>(Below(static_cast<uint64_t>(high.ns - low.ns) + 1))};
  }

  // ---- Events ----
  void At(MonotonicTime when, std::function<void()> what);  // of the world itself
  // Of a process: not if it ends before, later if it is stopped then.
  void In(Process process, Duration after, std::function<void()> what);
  // Runs the next event. False where there is none at or before `end`; then it is `end`.
  bool Next(MonotonicTime end);

  // ---- Processes ----
  Process process(uint32_t node) const { return {node, nodes_[node].run}; }
  bool up(uint32_t node) const { return nodes_[node].up; }
  bool Lives(Process p) const { return nodes_[p.node].up && nodes_[p.node].run == p.run; }
  bool stopped(uint32_t node) const { return nodes_[node].stopped_until > now_; }
  void Start(uint32_t node);
  void Kill(uint32_t node);  // its connections break
  void Stop(uint32_t node, Duration length);

  // ---- The network ----
  // A single message; `deliver` runs in whatever process is at the node when it arrives. False
  // from a cut that outlasts `patience`: it never arrives.
  void Post(Process from, uint32_t to, Duration patience, std::function<void()> deliver);
  std::shared_ptr<Connection> Connect(Process from, Process to);
  void Cut(uint32_t from, uint32_t to, Duration length);
  bool cut(uint32_t from, uint32_t to) const { return path(from, to).cut_until > now_; }
  void SetNoise(uint32_t from, uint32_t to, const PathNoise& noise) {
    path(from, to).noise = noise;
  }
  // The noise in force on a path now, if any.
  const PathNoise* Noise(uint32_t from, uint32_t to) const;
  void BreakConnections(uint32_t a, uint32_t b);

  // ---- What is told of the run ----
  void Note(absl::string_view what, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0);
  void Cover(Covered what) { ++coverage.counts[static_cast<size_t>(what)]; }
  // The first failure counts; the run then ends.
  void Fail(std::string what);
  bool failed() const { return !failure_.empty(); }
  const std::string& failure() const { return failure_; }
  uint64_t hash() const { return hash_; }
  uint64_t events() const { return events_; }
  void SetTrace(bool trace) { trace_ = trace; }
  Coverage coverage;

 private:
  friend class Connection;
  struct Node {
    uint32_t run = 0;
    bool up = false;
    MonotonicTime stopped_until;
  };
  struct Path {
    MonotonicTime cut_until;
    PathNoise noise;
  };
  struct Event {
    MonotonicTime when;
    uint64_t order = 0;
    Process process;
    bool of_world = false;
    std::function<void()> what;
    bool operator<(const Event& other) const {  // for a heap with the earliest on top
      return when > other.when || (when == other.when && order > other.order);
    }
  };

  Path& path(uint32_t from, uint32_t to) { return paths_[from * nodes_.size() + to]; }
  const Path& path(uint32_t from, uint32_t to) const { return paths_[from * nodes_.size() + to]; }
  void Push(Event event);
  Duration Latency(uint32_t from, uint32_t to);
  // Breaks connections with a peer that will be silent for longer than the keepalive.
  void ExpectSilence(uint32_t node, int64_t peer, Duration length);

  MonotonicTime now_{1'000'000'000};
  const Duration keepalive_;
  uint64_t state_;
  uint64_t next_order_ = 0;
  std::vector<Event> heap_;
  std::vector<Node> nodes_;
  std::vector<Path> paths_;  // [from][to]
  std::vector<std::weak_ptr<Connection>> connections_;
  uint64_t hash_ = 0xcbf29ce484222325ull;
  uint64_t events_ = 0;
  std::string failure_;
  bool trace_ = false;
};

// A good mixer of 64 bits (the finaliser of SplitMix64).
constexpr uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

}  // namespace octet::sim

#endif  // OCTET_TESTS_SIM_WORLD_H_
