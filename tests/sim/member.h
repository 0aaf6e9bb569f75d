// A member's line to the coordinators: the real MemberSession over simulated calls and streams, as
// CoordinatorClient drives it. One call at a time; a coordinator is changed only when a call to it
// has failed.
#ifndef OCTET_TESTS_SIM_MEMBER_H_
#define OCTET_TESTS_SIM_MEMBER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "coordinator/client.h"
#include "coordinator/member_session.h"
#include "tests/sim/coordinator.h"
#include "tests/sim/world.h"

namespace octet::sim {

// Where coordinators can be reached: null for a slot whose process is down.
using CoordinatorAt = std::function<Coordinator*(uint32_t slot)>;

class Member : public std::enable_shared_from_this<Member> {
 public:
  struct Callbacks {
    std::function<MemberReport()> report;
    std::function<void(const PlacementUpdate&)> on_placement;
  };
  // Of the process that runs at `node` now. Dropped with it.
  Member(World* world, uint32_t node, const MemberRecord& record, const ModelSummary& model,
         CoordinatorAt coordinators, Callbacks callbacks);
  ~Member();

  void Start() { Continue(); }
  void ReportNow();
  bool connected() const { return session_.registered(); }
  const MemberSession& session() const { return session_; }
  uint32_t slot() const { return slot_; }

 private:
  void Continue();
  void Register();
  void Beat();
  void Done(const MemberSession::Then& then);
  void Wake();
  void StartWatch();
  void EndWatch();
  void Deliver(const SendPlacementAction& send, MemberId self);
  // `at` runs in the coordinator's process and answers, at any time, with what is to run here.
  // `failed` runs here where no answer comes in time.
  using Answer = std::function<void(Member*)>;
  using Reply = std::function<void(Answer)>;
  void Call(std::function<void(Coordinator*, Reply)> at, void (Member::*failed)());
  void RegisterFailed() { Done(session_.RegisterFailed()); }
  void BeatFailed() { Done(session_.Beaten(false, watch_ended_)); }

  World* const world_;
  const Process process_;
  MemberRecord record_;
  const ModelSummary model_;
  const CoordinatorAt coordinators_;
  const Callbacks callbacks_;
  MemberSession session_;
  uint32_t slot_ = 0;
  uint64_t call_ = 0;  // the one under way; 0: none
  uint64_t calls_ = 0;
  uint64_t sleep_ = 0;  // the sleep under way, so that an earlier one's end does nothing; 0: none
  uint64_t sleeps_ = 0;
  bool poked_ = false;
  bool watch_ended_ = false;
  bool start_watch_ = false;  // after the sleep
  std::shared_ptr<Connection> watch_;
  uint64_t taken_term_ = 0;  // of the last ACTIVATE
  Epoch taken_epoch_;
};

}  // namespace octet::sim

#endif  // OCTET_TESTS_SIM_MEMBER_H_
