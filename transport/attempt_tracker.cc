#include "transport/attempt_tracker.h"

#include <algorithm>
#include <utility>

#include "core/check.h"

namespace octet {

AttemptTracker::AttemptTracker(size_t groups, const AttemptPolicy& policy)
    : policy_(policy), groups_(groups), open_(groups) {}

uint32_t AttemptTracker::Start(WorkerId worker, std::vector<uint32_t> groups, MonotonicTime late_at,
                               Epoch epoch) {
  for (const uint32_t g : groups) {
    Group& group = groups_[g];
    OCTET_CHECK(!group.done);
    if (group.epoch < epoch) group.tried = 0;
    group.epoch = std::max(group.epoch, epoch);
    ++group.tried;
    ++group.live;
  }
  attempts_.push_back({worker, std::move(groups), late_at, true});
  return static_cast<uint32_t>(attempts_.size() - 1);
}

std::vector<uint32_t> AttemptTracker::Succeed(uint32_t attempt) {
  std::vector<uint32_t> completed;
  Attempt& a = attempts_[attempt];
  if (!a.live) return completed;
  a.live = false;
  for (const uint32_t g : a.groups) {
    Group& group = groups_[g];
    --group.live;
    if (group.done) continue;
    group.done = true;
    --open_;
    completed.push_back(g);
  }
  return completed;
}

bool AttemptTracker::End(uint32_t attempt, bool counts) {
  Attempt& a = attempts_[attempt];
  if (!a.live) return false;
  a.live = false;
  for (const uint32_t g : a.groups) {
    --groups_[g].live;
    if (!counts && groups_[g].tried > 0) --groups_[g].tried;
  }
  return true;
}

void AttemptTracker::Fail(uint32_t attempt, MonotonicTime now, bool counts) {
  if (!End(attempt, counts)) return;
  const WorkerId worker = attempts_[attempt].worker;
  auto it = std::find_if(exclusions_.begin(), exclusions_.end(),
                         [&](const Exclusion& e) { return e.worker == worker; });
  if (it == exclusions_.end()) it = exclusions_.insert(it, {worker, 0, {}});
  const uint32_t doublings = std::min(it->failures++, 16u);
  const Duration backoff{std::min(policy_.backoff_min.ns << doublings, policy_.backoff_max.ns)};
  it->until = now + backoff;
  // One that was sent elsewhere because it was late is alone again.
  for (Attempt& other : attempts_) {
    const bool alone = std::any_of(other.groups.begin(), other.groups.end(), [&](uint32_t g) {
      const std::vector<uint32_t>& failed = attempts_[attempt].groups;
      return !groups_[g].done && groups_[g].live == 1 &&
             std::find(failed.begin(), failed.end(), g) != failed.end();
    });
    if (other.live && other.late_at == kNever && alone) other.late_at = now;
  }
}

std::vector<uint32_t> AttemptTracker::Waiting(Epoch epoch) const {
  std::vector<uint32_t> waiting;
  for (uint32_t g = 0; g < groups_.size(); ++g) {
    const Group& group = groups_[g];
    if (group.done || group.live > 0) continue;
    if (group.tried >= policy_.attempts_max && group.epoch >= epoch) continue;
    waiting.push_back(g);
  }
  return waiting;
}

bool AttemptTracker::Allows(WorkerId worker, MonotonicTime now) const {
  return std::none_of(exclusions_.begin(), exclusions_.end(),
                      [&](const Exclusion& e) { return e.worker == worker && now < e.until; });
}

std::vector<uint32_t> AttemptTracker::OpenGroups(uint32_t attempt) const {
  std::vector<uint32_t> open;
  for (const uint32_t g : attempts_[attempt].groups) {
    if (!groups_[g].done) open.push_back(g);
  }
  return open;
}

bool AttemptTracker::Tries(WorkerId worker, uint32_t group) const {
  return std::any_of(attempts_.begin(), attempts_.end(), [&](const Attempt& a) {
    return a.live && a.worker == worker &&
           std::find(a.groups.begin(), a.groups.end(), group) != a.groups.end();
  });
}

std::vector<uint32_t> AttemptTracker::Late(MonotonicTime now) const {
  std::vector<uint32_t> late;
  for (uint32_t i = 0; i < attempts_.size(); ++i) {
    const Attempt& a = attempts_[i];
    if (a.live && a.late_at <= now && !OpenGroups(i).empty()) late.push_back(i);
  }
  return late;
}

std::vector<uint32_t> AttemptTracker::Live() const {
  std::vector<uint32_t> live;
  for (uint32_t i = 0; i < attempts_.size(); ++i) {
    if (attempts_[i].live) live.push_back(i);
  }
  return live;
}

bool AttemptTracker::Alone(uint32_t attempt) const {
  const std::vector<uint32_t> open = OpenGroups(attempt);
  return std::any_of(open.begin(), open.end(), [&](uint32_t g) { return groups_[g].live == 1; });
}

MonotonicTime AttemptTracker::NextChange(MonotonicTime now) const {
  MonotonicTime next = kNever;
  for (uint32_t i = 0; i < attempts_.size(); ++i) {
    if (attempts_[i].live && !OpenGroups(i).empty()) next = std::min(next, attempts_[i].late_at);
  }
  for (const Exclusion& e : exclusions_) {
    if (e.until > now) next = std::min(next, e.until);
  }
  return next;
}

}  // namespace octet
