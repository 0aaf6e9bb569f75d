#include "tests/sim/coordinator.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "core/limits.h"

namespace octet::sim {

absl::Status Disk::Save(const DurableState& state) {
  if (full_) return absl::ResourceExhaustedError("the disk is full");
  if (state_.has_value() && (state_->term > state.term || state_->epoch > state.epoch)) {
    return absl::FailedPreconditionError("the store holds a newer term or epoch");
  }
  state_ = state;
  return absl::OkStatus();
}

Coordinator::Coordinator(World* world, uint32_t node, const ClusterSettings& settings, Disk* disk,
                         uint64_t fresh_term, AnnouncementChecker* checker,
                         const CoordinatorBug& bug)
    : world_(world), node_(node), settings_(settings), disk_(disk), checker_(checker), bug_(bug) {
  world_->Start(node);
  process_ = world_->process(node);
  state_ = std::make_unique<ClusterState>(settings, *disk_->Load(), fresh_term, world_->Now());
  world_->Note("coordinator starts", node, state_->term(), state_->epoch().value());
  Tick();
}

Coordinator::~Coordinator() {
  if (world_->Lives(process_)) world_->Kill(node_);
}

void Coordinator::Tick() {
  Step(TickEvent{});
  const Duration tick{std::max<int64_t>(settings_.settle.ns / 4, 1'000'000)};
  if (!dead_) world_->In(process_, tick, [this] { Tick(); });
}

void Coordinator::Register(RegisterEvent event, RegisterDone done) {
  if (bug_.forget_seen) {
    event.seen_term = 0;
    event.seen_epoch = Epoch();
  }
  if (event.seen_epoch > state_->epoch()) world_->Cover(Covered::kEpochLearntFromMember);
  if (!event.held.empty()) world_->Cover(Covered::kReRegisteredWithExperts);
  event.call = next_number_++;
  registers_[event.call] = std::move(done);
  Step(event);
}

void Coordinator::Heartbeat(HeartbeatEvent event, HeartbeatDone done) {
  event.call = next_number_++;
  if (bug_.activate_unprepared) {
    event.prepared_epoch = Epoch(UINT64_MAX);
    event.held.clear();
    const uint32_t experts = state_->Snapshot(world_->Now()).versions.front().model.experts;
    for (uint32_t e = 0; e < experts; ++e) event.held.emplace_back(e);
  }
  heartbeats_[event.call] = std::move(done);
  Step(event);
}

void Coordinator::Watch(MemberId id, uint64_t term, std::shared_ptr<Connection> stream,
                        PlacementFn on_placement) {
  const uint64_t watch = next_number_++;
  stream->on_broken[1] = [this, watch] {
    watches_.erase(watch);
    Step(WatchClosedEvent{watch});
  };
  watches_[watch] = {std::move(stream), std::move(on_placement), id, {}, false};
  Step(WatchOpenedEvent{watch, id, term});
}

void Coordinator::Step(const ClusterEvent& event) {
  // As the service's queue: a tick need not wait twice.
  if (waiting_for_disk_ && std::holds_alternative<TickEvent>(event)) return;
  if (events_.size() < kCoordinatorQueueMax) events_.push_back(event);
  if (!waiting_for_disk_ && actions_.empty()) Work();
}

void Coordinator::Work() {
  while (!dead_ && (!actions_.empty() || !events_.empty())) {
    if (actions_.empty()) {
      const ClusterEvent event = std::move(events_.front());
      events_.pop_front();
      Actions actions = state_->Step(event, world_->Now());
      NoteEpochs(actions);
      if (bug_.announce_before_persist) {
        std::stable_partition(actions.begin(), actions.end(), [](const ClusterAction& a) {
          return !std::holds_alternative<PersistAction>(a);
        });
      }
      actions_.assign(std::make_move_iterator(actions.begin()),
                      std::make_move_iterator(actions.end()));
      continue;
    }
    if (actions_left_.has_value() && !std::holds_alternative<LogAction>(actions_.front())) {
      if (*actions_left_ == 0) {
        world_->Note("coordinator dies between actions", node_, actions_.front().index());
        world_->Cover(Covered::kCoordinatorCrashBetweenActions);
        dead_ = true;
        world_->Kill(node_);
        return;
      }
      --*actions_left_;
    }
    if (!Perform(actions_.front())) {
      waiting_for_disk_ = true;
      world_->In(process_, Duration::Millis(kStoreRetryMs), [this] {
        waiting_for_disk_ = false;
        Work();
      });
      return;
    }
    actions_.pop_front();
  }
}

void Coordinator::NoteEpochs(const Actions& actions) {
  for (const ClusterAction& action : actions) {
    const auto* log = std::get_if<LogAction>(&action);
    if (log == nullptr) continue;
    world_->Note(log->text, node_);
    if (absl::StrContains(log->text, "will not come")) world_->Cover(Covered::kRolloutAborted);
    if (absl::StrContains(log->text, "lost its lease")) world_->Cover(Covered::kLeaseLost);
    if (absl::StrContains(log->text, "no room")) world_->Cover(Covered::kMemoryTooSmall);
  }
}

bool Coordinator::Perform(const ClusterAction& action) {
  if (const auto* persist = std::get_if<PersistAction>(&action)) {
    const absl::Status saved = disk_->Save(persist->state);
    if (absl::IsFailedPrecondition(saved)) world_->Cover(Covered::kPersistRefusedNewerStore);
    if (saved.ok()) world_->Note("saved", persist->state.term, persist->state.epoch.value());
    return saved.ok();
  }
  if (const auto* send = std::get_if<SendPlacementAction>(&action)) {
    Send(*send);
  } else if (const auto* grant = std::get_if<RegisterReplyAction>(&action)) {
    const RegisterDone done = std::move(registers_.at(grant->call));
    registers_.erase(grant->call);
    if (grant->result.ok()) checker_->OnGrant(*grant->result, *disk_);
    done(grant->result);
  } else if (const auto* beat = std::get_if<HeartbeatReplyAction>(&action)) {
    const HeartbeatDone done = std::move(heartbeats_.at(beat->call));
    heartbeats_.erase(beat->call);
    done(beat->known);
  } else if (const auto* close = std::get_if<CloseWatchAction>(&action)) {
    const auto found = watches_.find(close->watch);
    if (found != watches_.end()) {
      found->second.stream->Close(1);
      watches_.erase(found);
      events_.push_back(WatchClosedEvent{close->watch});
    }
  }
  return true;
}

void Coordinator::Send(const SendPlacementAction& send) {
  const auto found = watches_.find(send.watch);
  if (found == watches_.end()) return;
  checker_->OnSend(send, found->second.member, *disk_);
  // As NewestWinsWriter: what is newer replaces what it outdates.
  std::deque<SendPlacementAction>& queue = found->second.queue;
  std::erase_if(queue, [&](const SendPlacementAction& old) {
    return (old.phase == PlacementPhase::kActivate) == (send.phase == PlacementPhase::kActivate);
  });
  queue.push_back(send);
  Advance(send.watch);
}

void Coordinator::Advance(uint64_t watch) {
  const auto found = watches_.find(watch);
  if (found == watches_.end() || found->second.writing || found->second.queue.empty()) return;
  WatchStream& w = found->second;
  const SendPlacementAction send = std::move(w.queue.front());
  w.queue.pop_front();
  w.writing = true;
  w.stream->Send(1, [deliver = w.on_placement, send] { deliver(send); });
  world_->In(process_, Duration::Micros(200), [this, watch] {
    const auto it = watches_.find(watch);
    if (it == watches_.end()) return;
    it->second.writing = false;
    Advance(watch);
  });
}

}  // namespace octet::sim
