// Workers, links and time for tests of the dispatcher, on one thread: every reply is an event at a
// time, and the dispatcher's sleep is what makes time pass.
#ifndef OCTET_TRANSPORT_FAKE_WORLD_H_
#define OCTET_TRANSPORT_FAKE_WORLD_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "transport/token_dispatcher.h"

namespace octet {

inline constexpr uint32_t kFakeHidden = 2;

// What expert `expert` makes of row `row` in `layer`: exact in f32.
inline float FakeValue(LayerId layer, ExpertId expert, uint32_t row) {
  return static_cast<float>(layer.value() * 1'000'000 + expert.value() * 1'000 + row);
}

class FakeWorld {
 public:
  // How a worker treats one dispatch.
  struct Behaviour {
    Duration delay;
    absl::Status status;  // refusal
    bool hang = false;    // never answers
    bool wrong_size = false;
  };

  FakeWorld() {
    behave = [](WorkerId, const ExpertDispatch&) {
      Behaviour b;
      b.delay = Duration::Millis(1);
      return b;
    };
  }

  ManualClock clock;
  std::function<Behaviour(WorkerId, const ExpertDispatch&)> behave;
  std::map<WorkerId, int> sent;  // dispatches by worker
  int cancelled = 0;

  LinkFactory links() {
    return [this](const PlacedWorker& worker) { return std::make_shared<Link>(this, worker.id); };
  }
  DispatcherOptions options() {
    DispatcherOptions o;
    o.router = RouterId(1);
    o.wait = [this](Duration max) { Pass(max); };
    return o;
  }
  // Something other than a reply that happens at a time.
  void At(MonotonicTime when, std::function<void()> what) {
    Event event;
    event.what = std::move(what);
    events_.emplace(when, std::move(event));
  }
  bool up(WorkerId id) const { return down_.count(id) == 0; }
  void SetUp(WorkerId id, bool up) {
    if (up) {
      down_.erase(id);
      return;
    }
    down_.insert(id);
    // A broken link fails what is in flight on it at once.
    std::vector<Event> broken;
    for (auto it = events_.begin(); it != events_.end();) {
      if (it->second.link != nullptr && it->second.worker == id) {
        broken.push_back(std::move(it->second));
        it = events_.erase(it);
      } else {
        ++it;
      }
    }
    for (Event& event : broken) Fail(event, absl::UnavailableError("link broke"));
  }
  // Until the next event, or `max`.
  void Pass(Duration max) {
    const auto next = events_.begin();
    if (next == events_.end() || next->first > clock.Now() + max) {
      clock.Advance(max);
      return;
    }
    clock.Advance(std::max(next->first - clock.Now(), Duration{}));
    Event event = std::move(next->second);
    events_.erase(next);
    if (event.what) {
      event.what();
    } else {
      Deliver(event);
    }
  }
  size_t replies_under_way() const {
    return static_cast<size_t>(std::count_if(
        events_.begin(), events_.end(), [](const auto& e) { return e.second.link != nullptr; }));
  }

 private:
  class Link final : public ExpertLink {
   public:
    Link(FakeWorld* world, WorkerId id) : world_(world), id_(id) {}
    ~Link() override { world_->ForgetLink(this); }
    void Send(const ExpertDispatch& dispatch, ReplyFn done) override {
      ++world_->sent[id_];
      Event event;
      event.link = this;
      event.worker = id_;
      event.dispatch = dispatch;
      event.done = std::move(done);
      if (!world_->up(id_)) return Fail(event, absl::UnavailableError("not connected"));
      event.behaviour = world_->behave(id_, dispatch);
      const MonotonicTime when =
          event.behaviour.hang ? kNever : world_->clock.Now() + event.behaviour.delay;
      world_->events_.emplace(when, std::move(event));
    }
    void Cancel(const DispatchKey& key) override {
      ++world_->cancelled;
      for (auto it = world_->events_.begin(); it != world_->events_.end(); ++it) {
        if (it->second.link == this && it->second.dispatch.key == key) {
          world_->events_.erase(it);
          return;
        }
      }
    }
    bool connected() const override { return world_->up(id_); }

   private:
    FakeWorld* world_;
    WorkerId id_;
  };

  struct Event {
    Link* link = nullptr;
    ExpertDispatch dispatch;
    Behaviour behaviour;
    ExpertLink::ReplyFn done;
    std::function<void()> what;
    WorkerId worker;
  };

  static void Fail(Event& event, const absl::Status& status) {
    event.done(FailedReply(event.dispatch.key, status));
  }
  // Reads rows and share only now, as a link may: they must have stayed valid.
  static void Deliver(Event& event) {
    if (!event.behaviour.status.ok()) return Fail(event, event.behaviour.status);
    ExpertReply reply;
    reply.key = event.dispatch.key;
    for (const ExpertGroup& group : event.dispatch.share->groups) {
      for (const uint32_t row : group.rows) {
        EXPECT_EQ(event.dispatch.rows.f32.row(row)[0], static_cast<float>(row));
        reply.rows.insert(reply.rows.end(), kFakeHidden,
                          FakeValue(event.dispatch.key.layer, group.expert, row));
      }
    }
    if (event.behaviour.wrong_size) reply.rows.pop_back();
    event.done(std::move(reply));
  }
  void ForgetLink(const Link* link) {
    for (auto it = events_.begin(); it != events_.end();) {
      it = it->second.link == link ? events_.erase(it) : std::next(it);
    }
  }

  std::multimap<MonotonicTime, Event> events_;
  std::set<WorkerId> down_;
};

// One layer's rows and choice with their memory.
struct FakeStep {
  FakeStep(size_t row_count, size_t k, std::vector<uint32_t> chosen)
      : x(row_count * kFakeHidden), experts(std::move(chosen)), weights(experts.size(), 1.0f) {
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i / kFakeHidden);
    rows.format.hidden = kFakeHidden;
    rows.rows = row_count;
    rows.f32 = ConstTensorF32(x.data(), row_count, kFakeHidden);
    choice = {row_count, k, experts.data(), weights.data()};
  }
  FakeStep(const FakeStep&) = delete;
  FakeStep& operator=(const FakeStep&) = delete;

  // True when every slot has the value of its expert and row.
  bool Fits(LayerId layer, const std::vector<const float*>& replies) const {
    if (replies.size() != experts.size()) return false;
    for (size_t slot = 0; slot < replies.size(); ++slot) {
      const float want =
          FakeValue(layer, ExpertId(experts[slot]), static_cast<uint32_t>(slot / choice.k));
      for (size_t c = 0; c < kFakeHidden; ++c) {
        if (replies[slot] == nullptr || replies[slot][c] != want) return false;
      }
    }
    return true;
  }

  std::vector<float> x;
  std::vector<uint32_t> experts;
  std::vector<float> weights;
  WireRows rows;
  TopK choice;
};

inline std::shared_ptr<Placement> FakePlacement(uint64_t epoch, size_t workers,
                                                std::vector<std::vector<uint64_t>> replicas) {
  auto p = std::make_shared<Placement>();
  p->epoch = Epoch(epoch);
  for (uint64_t w = 1; w <= workers; ++w) p->workers.push_back({WorkerId(w), ""});
  for (const auto& list : replicas) {
    auto& ids = p->expert_replicas.emplace_back();
    for (const uint64_t w : list) ids.emplace_back(w);
  }
  return p;
}

}  // namespace octet

#endif  // OCTET_TRANSPORT_FAKE_WORLD_H_
