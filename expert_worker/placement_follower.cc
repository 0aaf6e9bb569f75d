#include "expert_worker/placement_follower.h"

#include <utility>

#include "core/limits.h"

namespace octet {

PlacementFollower::PlacementFollower(ExpertStore* store, std::function<void()> changed)
    : executor_(store), changed_(std::move(changed)), thread_([this] { Run(); }) {}

PlacementFollower::~PlacementFollower() { Stop(); }

void PlacementFollower::Stop() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
  }
  work_.NotifyAll();
  if (thread_.joinable()) thread_.join();
}

void PlacementFollower::Follow(PlacementUpdate update) {
  {
    MutexLock lock(mu_);
    if (updates_.size() >= kPlacementUpdatesMax) updates_.pop_front();
    updates_.push_back(std::move(update));
  }
  work_.NotifyOne();
}

void PlacementFollower::Run() {
  for (;;) {
    PlacementUpdate update;
    {
      MutexLock lock(mu_);
      while (updates_.empty() && !stopping_) work_.Wait(mu_);
      if (stopping_) return;
      update = std::move(updates_.front());
      updates_.pop_front();
    }
    executor_.CarryOut(update);
    changed_();
  }
}

}  // namespace octet
