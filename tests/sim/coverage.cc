#include "tests/sim/coverage.h"

namespace octet::sim {
namespace {

constexpr const char* kNames[kCoveredCount] = {
    "worker crash",
    "worker stopped and continued",
    "worker slow",
    "worker drained",
    "router crash",
    "router stopped and continued",
    "coordinator crash",
    "coordinator crash between two actions",
    "coordinator disk emptied",
    "coordinator clock behind after its disk was emptied",
    "coordinator stopped and continued",
    "coordinator outage of ten minutes",
    "two coordinators at once",
    "coordinator disk full",
    "partition one way",
    "partition both ways",
    "connection broken",
    "message delayed",
    "message duplicated",
    "message reordered",
    "message corrupted",
    "expert load failed",
    "memory too small for the replication",
    "hedge sent",
    "hedge won",
    "rows sent again after a failure",
    "step waited without a replica",
    "worker refused: not held",
    "worker refused: overloaded",
    "worker refused: malformed",
    "worker refused: draining",
    "damaged dispatch ended its stream",
    "damaged reply refused",
    "late reply dropped",
    "rollout activated",
    "rollout aborted",
    "shrink epoch",
    "stale placement refused",
    "epoch learnt from a member",
    "write refused by a newer store",
    "registered again with experts in memory",
    "lease lost",
    "stream resumed",
    "stream resumed at another router",
    "request preempted",
    "prefix cache hit",
    "request ended at its deadline",
    "request refused: overload",
    "two workers down at once",
};

}  // namespace

const char* CoveredName(Covered what) { return kNames[static_cast<size_t>(what)]; }

void Coverage::AddSchedule(const Coverage& one) {
  for (size_t i = 0; i < kCoveredCount; ++i) {
    counts[i] += one.counts[i];
    schedules[i] += one.counts[i] > 0 ? 1 : 0;
  }
}

void Coverage::Add(const Coverage& sum) {
  for (size_t i = 0; i < kCoveredCount; ++i) {
    counts[i] += sum.counts[i];
    schedules[i] += sum.schedules[i];
  }
}

}  // namespace octet::sim
