#include "transport/token_dispatcher.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <iterator>
#include <map>
#include <thread>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/damaged.h"
#include "core/log.h"
#include "core/mutex.h"
#include "transport/dispatch_plan.h"
#include "transport/reply_mailbox.h"
#include "transport/sent_dispatch.h"
#include "transport/worker_health.h"

namespace octet {
namespace {

// How often a dispatch without a replica looks again by itself (a link may have reconnected).
constexpr Duration kRecheck = Duration::Millis(20);
// A sleep never lasts longer than this.
constexpr Duration kSleepMax = Duration::Millis(1'000);
// Hedges may be a tenth of all dispatches, and this many in a row.
constexpr double kHedgeShare = 0.1;
constexpr double kHedgeBurst = 8;
using View = PlacementLinks;
using Mailbox = ReplyMailbox;

}  // namespace

struct DispatchHandle::Impl {
  Impl(TokenDispatcher::Impl* dispatcher, std::vector<ExpertGroup> g, const AttemptPolicy& policy)
      : owner(dispatcher), groups(std::move(g)), tracker(groups.size(), policy) {}

  TokenDispatcher::Impl* owner;
  ExpertDispatch head;              // all but the share
  std::vector<ExpertGroup> groups;  // sorted; none is divided any further
  AttemptTracker tracker;
  std::deque<SentDispatch> sent;  // index is the tracker's attempt
  std::vector<const float*> replies;
  std::shared_ptr<const View> checked;  // nothing in flight was displaced in it
  absl::Status last_error;
  bool waiting = false;  // counted as waiting without a replica
  bool hedged = false;
};

struct TokenDispatcher::Impl {
  Impl(DispatcherOptions o, LinkFactory l, const Clock* c)
      : options(std::move(o)),
        factory(std::move(l)),
        clock(c),
        mailbox(std::make_shared<Mailbox>(options.doorbell)) {
    MutexLock lock(mailbox->mu);
    mailbox->view = std::make_shared<View>();
  }

  std::shared_ptr<const View> CurrentView() const {
    MutexLock lock(mailbox->mu);
    return mailbox->view;
  }
  void SetPlacement(std::shared_ptr<const Placement> placement);

  // ---- Step thread only, from here ----
  bool Healthy(WorkerId id, Trust trust, MonotonicTime now);
  bool Usable(const DispatchHandle::Impl& h, WorkerId id, Trust trust, MonotonicTime now) {
    return h.tracker.Allows(id, now) && Healthy(id, trust, now);
  }
  ReplicaPolicy Policy(bool may_split) const { return {options.costs, view->workers, may_split}; }
  // Shares for `groups`; those without a usable replica stay there. Workers that were late of late
  // are taken only where there is no other.
  std::vector<WorkerShare> PlanShares(std::vector<ExpertGroup>* groups, LayerId layer,
                                      bool may_split,
                                      absl::FunctionRef<bool(WorkerId, Trust)> usable) const;
  // Divides `groups` as the returned shares do.
  std::vector<WorkerShare> PlanFirst(std::vector<ExpertGroup>* groups, LayerId layer);
  std::vector<ExpertGroup> CopyGroups(const DispatchHandle::Impl& h,
                                      const std::vector<uint32_t>& indices) const;
  void SendWaiting(DispatchHandle::Impl& h);
  void SendShare(DispatchHandle::Impl& h, WorkerShare share, uint32_t hedge_of);
  // Sends elsewhere, where it can, what is with workers that left the placement or are in it behind
  // another link.
  void MoveDisplaced(DispatchHandle::Impl& h);
  // False where nothing is under way but with workers that left and are past hope.
  bool UnderWay(const DispatchHandle::Impl& h, MonotonicTime now) const;
  void Cancel(const SentDispatch& sent);
  void HedgeLate(DispatchHandle::Impl& h);
  void Hedge(DispatchHandle::Impl& h, uint32_t attempt, MonotonicTime now);
  // Gives up what has been silent for too long.
  void DropSilent(DispatchHandle::Impl& h);
  void DrainReplies();
  void OnReply(uint32_t serial, ExpertReply reply);
  void OnSuccess(DispatchHandle::Impl& h, uint32_t attempt, ExpertReply reply, MonotonicTime now);
  void OnFailure(DispatchHandle::Impl& h, uint32_t attempt, const absl::Status& status,
                 MonotonicTime now);
  void CancelLive(DispatchHandle::Impl& h);
  // Until something came or changed after `seen`, or is due.
  void Sleep(DispatchHandle::Impl& h, Doorbell::Seen seen, MonotonicTime now,
             MonotonicTime give_up);
  bool stopped() const {
    MutexLock lock(mailbox->mu);
    return mailbox->stopped;
  }

  const DispatcherOptions options;
  const LinkFactory factory;
  const Clock* const clock;
  const std::shared_ptr<Mailbox> mailbox;
  const std::shared_ptr<ReplyPool> pool = std::make_shared<ReplyPool>();
  Mutex placement_mu;  // one SetPlacement at a time; taken before mailbox->mu

  std::shared_ptr<const View> view;
  std::map<WorkerId, WorkerHealth> health;
  std::vector<DispatchHandle::Impl*> handles;
  struct InFlight {
    DispatchHandle::Impl* handle;
    uint32_t attempt;
  };
  std::unordered_map<uint32_t, InFlight> in_flight;  // by DispatchKey::attempt
  std::vector<std::pair<uint32_t, ExpertReply>> arrived;
  uint32_t next_serial = 1;
  double hedge_budget = kHedgeBurst;
  WorkerUse use;

  mutable Mutex stats_mu;
  DispatcherStats stats OCTET_GUARDED_BY(stats_mu);
};

void TokenDispatcher::Impl::SetPlacement(std::shared_ptr<const Placement> placement) {
  OCTET_CHECK(placement != nullptr);
  MutexLock order(placement_mu);
  const std::shared_ptr<const View> old = CurrentView();
  if (old->placement != nullptr && placement->epoch < old->placement->epoch) return;
  auto next = std::make_shared<View>();
  for (const PlacedWorker& worker : placement->workers) {
    const PlacedWorker* known = old->placement ? old->placement->FindWorker(worker.id) : nullptr;
    const auto it = old->links.find(worker.id);
    const bool keep = known != nullptr && known->address == worker.address &&
                      it != old->links.end() && it->second != nullptr;
    next->links[worker.id] = keep ? it->second : factory(worker);
  }
  next->workers = ReplicaWorkersOf(*placement);
  next->placement = std::move(placement);
  {
    MutexLock lock(mailbox->mu);
    mailbox->view = std::move(next);
  }
  mailbox->bell.RingNow();
}

bool TokenDispatcher::Impl::Healthy(WorkerId id, Trust trust, MonotonicTime now) {
  if (view->Connected(id) == nullptr) return false;
  return health[id].Usable(view->placement->epoch, trust, now);
}

std::vector<WorkerShare> TokenDispatcher::Impl::PlanShares(
    std::vector<ExpertGroup>* groups, LayerId layer, bool may_split,
    absl::FunctionRef<bool(WorkerId, Trust)> usable) const {
  std::vector<WorkerShare> shares;
  for (const Trust trust : {Trust::kSound, Trust::kLateOnce, Trust::kAny}) {
    if (groups->empty()) break;
    DispatchPlan plan =
        BuildDispatchPlan(std::move(*groups), *view->placement, layer, Policy(may_split),
                          [&](WorkerId id) { return usable(id, trust); });
    *groups = std::move(plan.unplaceable);
    shares.insert(shares.end(), std::make_move_iterator(plan.shares.begin()),
                  std::make_move_iterator(plan.shares.end()));
  }
  return shares;
}

std::vector<WorkerShare> TokenDispatcher::Impl::PlanFirst(std::vector<ExpertGroup>* groups,
                                                          LayerId layer) {
  view = CurrentView();
  if (view->placement == nullptr) return {};
  const MonotonicTime now = clock->Now();
  std::vector<WorkerShare> shares =
      PlanShares(groups, layer, /*may_split=*/true,
                 [&](WorkerId id, Trust trust) { return Healthy(id, trust, now); });
  for (const WorkerShare& share : shares) {
    groups->insert(groups->end(), share.groups.begin(), share.groups.end());
  }
  std::sort(groups->begin(), groups->end());
  return shares;
}

std::vector<ExpertGroup> TokenDispatcher::Impl::CopyGroups(
    const DispatchHandle::Impl& h, const std::vector<uint32_t>& indices) const {
  std::vector<ExpertGroup> groups;
  groups.reserve(indices.size());
  for (const uint32_t g : indices) groups.push_back(h.groups[g]);
  return groups;
}

void TokenDispatcher::Impl::SendWaiting(DispatchHandle::Impl& h) {
  view = CurrentView();
  if (view->placement == nullptr) return;
  const std::vector<uint32_t> waiting = h.tracker.Waiting(view->placement->epoch);
  if (waiting.empty()) return;
  const MonotonicTime now = clock->Now();
  std::vector<ExpertGroup> left = CopyGroups(h, waiting);
  std::vector<WorkerShare> shares =
      PlanShares(&left, h.head.key.layer, /*may_split=*/false,
                 [&](WorkerId id, Trust trust) { return Usable(h, id, trust, now); });
  for (WorkerShare& share : shares) SendShare(h, std::move(share), kNotAHedge);
}

void TokenDispatcher::Impl::SendShare(DispatchHandle::Impl& h, WorkerShare share,
                                      uint32_t hedge_of) {
  const MonotonicTime now = clock->Now();
  std::vector<uint32_t> indices;
  for (const ExpertGroup& group : share.groups) {
    const auto it = std::lower_bound(h.groups.begin(), h.groups.end(), group);
    indices.push_back(static_cast<uint32_t>(it - h.groups.begin()));
  }
  const WorkerId worker = share.worker;
  const Duration late_after = health[worker].latency.LateAfter(share.rows.size(), options.hedge);
  const uint32_t attempt =
      h.tracker.Start(worker, std::move(indices), now + late_after, view->placement->epoch);
  OCTET_CHECK_EQ(attempt, h.sent.size());
  SentDispatch& sent = h.sent.emplace_back();
  sent.share = std::move(share);
  sent.link = view->links.find(worker)->second;
  sent.key = h.head.key;
  sent.key.attempt = next_serial++;
  sent.epoch = view->placement->epoch;
  sent.started = now;
  sent.late_after = late_after;
  sent.hedge_of = hedge_of;
  in_flight[sent.key.attempt] = {&h, attempt};
  hedge_budget = std::min(hedge_budget + kHedgeShare, kHedgeBurst);
  {
    MutexLock lock(stats_mu);
    ++stats.dispatches;
    if (hedge_of != kNotAHedge) {
      ++stats.hedges;
    } else if (!h.last_error.ok()) {
      ++stats.redispatches;
    }
  }
  ExpertDispatch dispatch = h.head;
  dispatch.key = sent.key;
  dispatch.epoch = sent.epoch;
  dispatch.share = &sent.share;
  sent.link->Send(dispatch, [box = mailbox, serial = sent.key.attempt](ExpertReply reply) {
    box->Push(serial, std::move(reply));
  });
}

void TokenDispatcher::Impl::MoveDisplaced(DispatchHandle::Impl& h) {
  view = CurrentView();
  if (h.checked == view) return;
  h.checked = view;
  const MonotonicTime now = clock->Now();
  for (const uint32_t attempt : h.tracker.Live()) {
    SentDispatch& sent = h.sent[attempt];
    const WorkerId id = sent.share.worker;
    const auto it = view->links.find(id);
    if (it != view->links.end() && it->second == sent.link) continue;
    sent.left = it == view->links.end();
    h.last_error = absl::UnavailableError(absl::StrCat(
        "worker ", id.value(), sent.left ? " left the placement" : " is at another address now"));
    if (!sent.left) {
      Cancel(sent);
      h.tracker.Withdraw(attempt);
    } else if (h.tracker.Alone(attempt)) {
      // It may be draining, about to answer: its work also goes elsewhere, the first reply wins.
      h.tracker.PostponeHedge(attempt, now);
    }
  }
}

bool TokenDispatcher::Impl::UnderWay(const DispatchHandle::Impl& h, MonotonicTime now) const {
  const std::vector<uint32_t> live = h.tracker.Live();
  return std::any_of(live.begin(), live.end(), [&](uint32_t attempt) {
    const SentDispatch& sent = h.sent[attempt];
    return !sent.left || !sent.Hopeless(now);
  });
}

void TokenDispatcher::Impl::HedgeLate(DispatchHandle::Impl& h) {
  const MonotonicTime now = clock->Now();
  const std::vector<uint32_t> late = h.tracker.Late(now);
  if (late.empty()) return;
  view = CurrentView();
  for (const uint32_t attempt : late) Hedge(h, attempt, now);
}

void TokenDispatcher::Impl::Hedge(DispatchHandle::Impl& h, uint32_t attempt, MonotonicTime now) {
  const SentDispatch& sent = h.sent[attempt];
  const std::vector<uint32_t> open = h.tracker.OpenGroups(attempt);
  if (hedge_budget < 1 && !sent.Hopeless(now) && !sent.left) {
    h.tracker.PostponeHedge(attempt, now + kRecheck);
    return;
  }
  std::vector<ExpertGroup> left = CopyGroups(h, open);
  // One that was late of late may be well again: better than to wait for this one alone.
  std::vector<WorkerShare> shares =
      PlanShares(&left, h.head.key.layer, /*may_split=*/false, [&](WorkerId id, Trust trust) {
        return Usable(h, id, trust, now) && std::none_of(open.begin(), open.end(), [&](uint32_t g) {
                 return h.tracker.Tries(id, g);
               });
      });
  if (left.empty()) {
    h.tracker.Hedged(attempt);
  } else {
    const Duration pause = sent.left ? kRecheck : std::max(sent.late_after, kRecheck);
    h.tracker.PostponeHedge(attempt, now + pause);
  }
  if (shares.empty()) return;
  // Moving work away from a worker that has left is no guess that costs.
  const uint32_t hedge_of = sent.left ? kNotAHedge : attempt;
  if (!sent.left) hedge_budget = std::max(hedge_budget - 1, 0.0);
  h.hedged = true;
  for (WorkerShare& share : shares) SendShare(h, std::move(share), hedge_of);
}

void TokenDispatcher::Impl::DropSilent(DispatchHandle::Impl& h) {
  const MonotonicTime now = clock->Now();
  for (const uint32_t attempt : h.tracker.Live()) {
    const SentDispatch& sent = h.sent[attempt];
    if (!sent.Silent(now)) continue;
    Cancel(sent);
    OnFailure(
        h, attempt,
        absl::UnavailableError(absl::StrCat("silent for ", (now - sent.started).millis(), " ms")),
        now);
  }
}

void TokenDispatcher::Impl::DrainReplies() {
  for (DispatchHandle::Impl* handle : handles) {
    for (SentDispatch& sent : handle->sent) sent.link->Poll();
  }
  {
    MutexLock lock(mailbox->mu);
    std::swap(arrived, mailbox->replies);
  }
  mailbox->own = false;
  for (auto& entry : arrived) OnReply(entry.first, std::move(entry.second));
  arrived.clear();
}

void TokenDispatcher::Impl::OnReply(uint32_t serial, ExpertReply reply) {
  const auto it = in_flight.find(serial);
  if (it == in_flight.end()) {  // late: the rows were computed elsewhere
    pool->Give(std::move(reply.rows));
    return;
  }
  const InFlight where = it->second;
  in_flight.erase(it);
  DispatchHandle::Impl& h = *where.handle;
  const MonotonicTime now = clock->Now();
  size_t expected = 0;
  for (const ExpertGroup& group : h.sent[where.attempt].share.groups) {
    expected += group.rows.size() * h.head.rows.format.hidden;
  }
  const size_t floats = reply.device.rows != nullptr ? reply.device.floats : reply.rows.size();
  if (reply.status.ok() && floats != expected) {
    reply.status = absl::DataLossError(
        absl::StrCat("the reply has ", floats, " values instead of ", expected));
  }
  if (reply.status.ok()) {
    OnSuccess(h, where.attempt, std::move(reply), now);
  } else {
    OnFailure(h, where.attempt, reply.status, now);
  }
}

void TokenDispatcher::Impl::OnSuccess(DispatchHandle::Impl& h, uint32_t attempt, ExpertReply reply,
                                      MonotonicTime now) {
  SentDispatch& sent = h.sent[attempt];
  WorkerHealth& worker = health[sent.share.worker];
  // Not later than now, whatever a worker says, and not before it was asked.
  const MonotonicTime ready =
      reply.ready.ns == 0 ? now : std::clamp(reply.ready, sent.started, now);
  worker.latency.Add(sent.share.rows.size(), ready - sent.started);
  sent.reply = std::move(reply.rows);
  sent.device = std::move(reply.device);
  const std::vector<uint32_t> completed = h.tracker.Succeed(attempt);
  const size_t hidden = h.head.rows.format.hidden;
  const float* row = sent.device.rows != nullptr ? sent.device.rows : sent.reply.data();
  for (const ExpertGroup& group : sent.share.groups) {
    const bool first = std::any_of(completed.begin(), completed.end(), [&](uint32_t g) {
      return h.groups[g].slot_index.front() == group.slot_index.front();
    });
    for (const uint32_t slot : group.slot_index) {
      if (first) h.replies[slot] = row;
      row += hidden;
    }
  }
  if (completed.empty()) return;
  WorkerUse::Add(sent.share.worker, &use.used);
  if (ready - sent.started < sent.late_after) worker.Answered();
  if (sent.hedge_of == kNotAHedge) return;
  const WorkerId loser = h.tracker.worker(sent.hedge_of);
  health[loser].LostToHedge(now);
  LogWarning("worker ", loser.value(), " did not answer in ", sent.late_after.millis(),
             " ms; its rows were computed by worker ", sent.share.worker.value());
  MutexLock lock(stats_mu);
  ++stats.hedges_won;
}

void TokenDispatcher::Impl::OnFailure(DispatchHandle::Impl& h, uint32_t attempt,
                                      const absl::Status& status, MonotonicTime now) {
  const WorkerId id = h.sent[attempt].share.worker;
  h.last_error = status;
  if (absl::IsDataLoss(status)) health[id].Leaves(now);
  if (IsDamaged(status)) WorkerUse::Add(id, &use.damaged);
  h.tracker.Fail(attempt, now, !absl::IsResourceExhausted(status));
  if (absl::IsFailedPrecondition(status)) {
    WorkerHealth& worker = health[id];
    worker.wrong_digest = true;
    worker.wrong_digest_epoch = h.sent[attempt].epoch;
    LogError("worker ", id.value(), " serves another model than this router: ", status.message());
  } else if (!absl::IsCancelled(status)) {
    LogWarning("worker ", id.value(), ": dispatch of layer ", h.head.key.layer.value(),
               " failed, sending it elsewhere: ", status.ToString());
  }
}

void TokenDispatcher::Impl::Cancel(const SentDispatch& sent) {
  if (in_flight.erase(sent.key.attempt) > 0) sent.link->Cancel(sent.key);
}

void TokenDispatcher::Impl::CancelLive(DispatchHandle::Impl& h) {
  for (const uint32_t attempt : h.tracker.Live()) Cancel(h.sent[attempt]);
}

void TokenDispatcher::Impl::Sleep(DispatchHandle::Impl& h, Doorbell::Seen seen, MonotonicTime now,
                                  MonotonicTime give_up) {
  MonotonicTime until = now + kSleepMax;
  for (const DispatchHandle::Impl* handle : handles) {
    until = std::min(until, handle->tracker.NextChange(now));
  }
  if (h.waiting) until = std::min({until, give_up, now + kRecheck});
  const Duration length = std::max(until - now, Duration::Micros(50));
  if (options.wait) {
    options.wait(length);
    return;
  }
  if (mailbox->own) return;  // a link answered at once
  // All replies but the last need wake nobody. Each comes with a ring of its own after `seen`; with
  // a hedge under way one of two may be enough.
  const size_t live = h.tracker.Live().size();
  mailbox->bell.Wait(seen, h.hedged || live == 0 ? 1 : static_cast<uint32_t>(live), length);
}

TokenDispatcher::TokenDispatcher(DispatcherOptions options, LinkFactory links, const Clock* clock)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(links), clock)) {}

TokenDispatcher::~TokenDispatcher() {
  OCTET_CHECK(impl_->handles.empty()) << "a DispatchHandle outlives its dispatcher";
  // A callback that is about to return may hold the mailbox longest; links must end here, and not
  // on its thread.
  std::shared_ptr<const View> last;
  MutexLock lock(impl_->mailbox->mu);
  last.swap(impl_->mailbox->view);
}

void TokenDispatcher::SetPlacement(std::shared_ptr<const Placement> placement) {
  impl_->SetPlacement(std::move(placement));
}

std::shared_ptr<const Placement> TokenDispatcher::placement() const {
  MutexLock lock(impl_->mailbox->mu);
  return impl_->mailbox->view->placement;
}

bool TokenDispatcher::Ready() const {
  // Under the lock instead of on a copy, which might be the last and end links on this thread.
  MutexLock lock(impl_->mailbox->mu);
  const View* const view = impl_->mailbox->view.get();
  if (view->placement == nullptr || view->placement->expert_replicas.empty()) return false;
  for (const std::vector<WorkerId>& replicas : view->placement->expert_replicas) {
    if (std::none_of(replicas.begin(), replicas.end(),
                     [&](WorkerId id) { return view->Connected(id) != nullptr; })) {
      return false;
    }
  }
  return true;
}

std::unique_ptr<DispatchHandle> TokenDispatcher::Dispatch(StepId step, uint32_t micro_batch,
                                                          LayerId layer, bool prefill,
                                                          const WireRows& rows,
                                                          const TopK& choice) {
  OCTET_CHECK_EQ(rows.rows, choice.rows);
  impl_->mailbox->step_thread = std::this_thread::get_id();
  std::vector<ExpertGroup> groups = GroupByExpert(choice);
  std::vector<WorkerShare> shares = impl_->PlanFirst(&groups, layer);
  auto state = std::make_unique<DispatchHandle::Impl>(impl_.get(), std::move(groups),
                                                      impl_->options.attempts);
  DispatchHandle::Impl& h = *state;
  h.head.key.router = impl_->options.router;
  h.head.key.incarnation = impl_->options.incarnation;
  h.head.key.step = step;
  h.head.key.micro_batch = micro_batch;
  h.head.key.layer = layer;
  h.head.compute_digest = &impl_->options.compute_digest;
  h.head.model_version = &impl_->options.model_version;
  h.head.prefill = prefill;
  h.head.rows = rows;
  h.head.pool = impl_->pool;
  h.replies.assign(choice.rows * choice.k, nullptr);
  {
    MutexLock lock(impl_->stats_mu);
    std::vector<uint64_t>& tokens = impl_->stats.tokens_per_expert;
    if (!h.groups.empty() && tokens.size() <= h.groups.back().expert.value()) {
      tokens.resize(h.groups.back().expert.value() + 1);
    }
    for (const ExpertGroup& group : h.groups) tokens[group.expert.value()] += group.rows.size();
  }
  impl_->handles.push_back(&h);
  for (WorkerShare& share : shares) impl_->SendShare(h, std::move(share), kNotAHedge);
  return std::unique_ptr<DispatchHandle>(new DispatchHandle(std::move(state)));
}

absl::Status TokenDispatcher::Combine(DispatchHandle& handle, MonotonicTime give_up,
                                      std::vector<const float*>* replies) {
  DispatchHandle::Impl& h = *handle.impl_;
  impl_->mailbox->step_thread = std::this_thread::get_id();
  for (;;) {
    const Doorbell::Seen seen = impl_->mailbox->bell.seen();
    impl_->DrainReplies();
    if (h.tracker.done()) break;
    if (impl_->stopped()) return absl::CancelledError("the dispatcher was stopped");
    for (DispatchHandle::Impl* each : impl_->handles) {
      impl_->DropSilent(*each);
      impl_->MoveDisplaced(*each);
      impl_->SendWaiting(*each);
      impl_->HedgeLate(*each);
    }
    const MonotonicTime now = impl_->clock->Now();
    const bool waiting = !impl_->UnderWay(h, now);
    if (waiting && !h.waiting) {
      MutexLock lock(impl_->stats_mu);
      ++impl_->stats.waits_without_replica;
    }
    h.waiting = waiting;
    // Work that is under way is waited for: hedges and broken links bound that, not `give_up`.
    if (waiting && now >= give_up) {
      return absl::UnavailableError(absl::StrCat(
          "layer ", h.head.key.layer.value(), ": no replica of an expert answered in time",
          h.last_error.ok() ? "" : "; last failure: ", h.last_error.message()));
    }
    impl_->Sleep(h, seen, now, give_up);
  }
  impl_->CancelLive(h);
  *replies = h.replies;
  return absl::OkStatus();
}

WorkerUse TokenDispatcher::TakeUse() { return std::exchange(impl_->use, {}); }

void TokenDispatcher::Stop() {
  {
    MutexLock lock(impl_->mailbox->mu);
    impl_->mailbox->stopped = true;
  }
  impl_->mailbox->bell.RingNow();
}

DispatcherStats TokenDispatcher::stats() const {
  MutexLock lock(impl_->stats_mu);
  return impl_->stats;
}

DispatchHandle::DispatchHandle(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

std::vector<DeviceReply> DispatchHandle::device_replies() const {
  std::vector<DeviceReply> replies;
  for (const SentDispatch& sent : impl_->sent) {
    if (sent.device.rows != nullptr) replies.push_back(sent.device);
  }
  return replies;
}

DispatchHandle::~DispatchHandle() {
  TokenDispatcher::Impl& owner = *impl_->owner;
  owner.CancelLive(*impl_);
  for (SentDispatch& sent : impl_->sent) owner.pool->Give(std::move(sent.reply));
  owner.handles.erase(std::find(owner.handles.begin(), owner.handles.end(), impl_.get()));
}

}  // namespace octet
