#include "tests/sim/member.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/limits.h"

namespace octet::sim {

Member::Member(World* world, uint32_t node, const MemberRecord& record, const ModelSummary& model,
               CoordinatorAt coordinators, Callbacks callbacks)
    : world_(world),
      process_(world->process(node)),
      record_(record),
      model_(model),
      coordinators_(std::move(coordinators)),
      callbacks_(std::move(callbacks)),
      session_(record.incarnation),
      slot_(static_cast<uint32_t>(world->Below(2))) {}

Member::~Member() { EndWatch(); }

void Member::Continue() { session_.registered() ? Beat() : Register(); }

void Member::Call(std::function<void(Coordinator*, Reply)> at, void (Member::*failed)()) {
  const uint64_t call = call_ = ++calls_;
  const std::weak_ptr<Member> weak = weak_from_this();
  const auto fail = [weak, call, failed] {
    const std::shared_ptr<Member> self = weak.lock();
    if (self == nullptr || self->call_ != call) return;
    self->call_ = 0;
    // The next call may find another coordinator.
    if (self->coordinators_(self->slot_) == nullptr || self->world_->OneIn(2)) {
      self->slot_ = 1 - self->slot_;
    }
    (self.get()->*failed)();
  };
  const Duration patience = Duration::Millis(kCoordinatorCallMs);
  if (coordinators_(slot_) == nullptr) {
    world_->In(process_, Duration::Millis(1), fail);  // nobody listens there
    return;
  }
  world_->In(process_, patience, fail);
  World* const world = world_;
  const Process here = process_;
  world_->Post(here, slot_, patience, [=, slot = slot_, coordinators = coordinators_] {
    Coordinator* const coordinator = coordinators(slot);
    if (coordinator == nullptr) return;
    at(coordinator, [=](Answer answer) {
      if (!world->up(slot)) return;
      world->Post(world->process(slot), here.node, patience, [weak, call, answer] {
        const std::shared_ptr<Member> self = weak.lock();
        if (self == nullptr || self->call_ != call) return;
        self->call_ = 0;
        answer(self.get());
      });
    });
  });
}

void Member::Register() {
  RegisterEvent event;
  event.member = record_;
  event.member.id = session_.id();
  event.model = model_;
  event.seen_term = session_.seen_term();
  event.seen_epoch = session_.seen_epoch();
  event.held = callbacks_.report().held;
  Call(
      [event](Coordinator* c, const Reply& reply) {
        const Duration heartbeat = c->settings().heartbeat;
        c->Register(event, [reply, heartbeat](const absl::StatusOr<RegisterGrant>& grant) {
          reply([grant, heartbeat](Member* self) {
            if (!grant.ok()) {
              self->world_->Fail(
                  absl::StrCat("a coordinator refuses a member: ", grant.status().ToString()));
              return;
            }
            self->Done(self->session_.Registered(grant->id, grant->term, heartbeat));
          });
        });
      },
      &Member::RegisterFailed);
}

void Member::Beat() {
  const MemberReport report = callbacks_.report();
  HeartbeatEvent event;
  event.id = session_.id();
  event.term = session_.term();
  event.incarnation = record_.incarnation;
  event.state = report.state;
  event.prepared_epoch = report.prepared_epoch;
  event.active_epoch = report.active_epoch;
  event.held = report.held;
  event.prepare_error = report.prepare_error;
  event.prepare_error_epoch = report.prepare_error_epoch;
  event.expert_rows = report.load.expert_rows;
  Call(
      [event](Coordinator* c, const Reply& reply) {
        c->Heartbeat(event, [reply](bool known) {
          reply([known](Member* self) {
            self->Done(self->session_.Beaten(known, self->watch_ended_));
          });
        });
      },
      &Member::BeatFailed);
}

// CoordinatorClient::Run, cut where it would sleep.
void Member::Done(const MemberSession::Then& then) {
  if (then.end_watch) EndWatch();
  start_watch_ = then.start_watch;
  sleep_ = ++sleeps_;
  if (poked_ || watch_ended_ || then.wait.ns == 0) {
    Wake();
    return;
  }
  world_->In(process_, then.wait, [weak = weak_from_this(), sleep = sleep_] {
    const std::shared_ptr<Member> self = weak.lock();
    if (self != nullptr && self->sleep_ == sleep) self->Wake();
  });
}

void Member::Wake() {
  sleep_ = 0;
  poked_ = false;
  if (start_watch_) StartWatch();
  start_watch_ = false;
  Continue();
}

void Member::ReportNow() {
  poked_ = true;
  if (sleep_ == 0) return;
  // Not from within what may be the placement's own delivery.
  world_->In(process_, Duration{}, [weak = weak_from_this(), sleep = sleep_] {
    const std::shared_ptr<Member> self = weak.lock();
    if (self != nullptr && self->sleep_ == sleep) self->Wake();
  });
}

void Member::StartWatch() {
  watch_ended_ = false;
  Coordinator* const coordinator = coordinators_(slot_);
  if (coordinator == nullptr || world_->cut(process_.node, slot_)) {
    watch_ended_ = true;
    return;
  }
  watch_ = world_->Connect(process_, coordinator->process());
  const std::weak_ptr<Member> weak = weak_from_this();
  watch_->on_broken[0] = [weak] {
    const std::shared_ptr<Member> self = weak.lock();
    if (self == nullptr) return;
    self->watch_ended_ = true;
    if (self->sleep_ != 0) self->Wake();
  };
  const MemberId id = session_.id();
  const uint64_t term = session_.term();
  const std::shared_ptr<Connection> stream = watch_;
  watch_->Send(0, [=, slot = slot_, coordinators = coordinators_] {
    Coordinator* const listener = coordinators(slot);
    if (listener == nullptr) return;
    listener->Watch(id, term, stream, [weak, id](const SendPlacementAction& send) {
      const std::shared_ptr<Member> self = weak.lock();
      if (self != nullptr) self->Deliver(send, id);
    });
  });
}

void Member::EndWatch() {
  if (watch_ != nullptr) watch_->Close(0);
  watch_.reset();
  watch_ended_ = false;
}

void Member::Deliver(const SendPlacementAction& send, MemberId self) {
  const Epoch epoch = send.placement->epoch;
  if (!session_.Take(send.phase, send.term, epoch)) {
    world_->Cover(Covered::kStaleEpochRefused);
    return;
  }
  world_->Note(send.phase == PlacementPhase::kPrepare    ? "told to prepare"
               : send.phase == PlacementPhase::kActivate ? "told to activate"
                                                         : "told to abort",
               process_.node, send.term, epoch.value());
  if (send.phase == PlacementPhase::kActivate) {
    if (epoch < taken_epoch_ || (epoch == taken_epoch_ && send.term <= taken_term_)) {
      world_->Fail(absl::StrCat("node ", process_.node, " went back from epoch ",
                                taken_epoch_.value(), " of term ", taken_term_, " to ",
                                epoch.value(), " of ", send.term));
    }
    taken_epoch_ = epoch;
    taken_term_ = send.term;
  }
  callbacks_.on_placement({self, send.term, send.phase, send.placement});
}

}  // namespace octet::sim
