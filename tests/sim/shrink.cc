#include "tests/sim/shrink.h"

#include <algorithm>
#include <string>
#include <vector>

namespace octet::sim {
namespace {

std::string WithoutNumbers(std::string text) {
  std::erase_if(text, [](char c) { return c >= '0' && c <= '9'; });
  return text;
}

class Shrinker {
 public:
  Shrinker(const Plan& failing, const RunFn& run, int runs_max)
      : best_(failing), run_(run), left_(runs_max), failure_(WithoutNumbers(run(failing))) {}

  Plan Run() {
    bool smaller = true;
    while (smaller && left_ > 0) {
      smaller = Drop(&Plan::faults);
      smaller = Drop(&Plan::requests) || smaller;
      smaller = Numbers() || smaller;
    }
    return best_;
  }

 private:
  bool Try(const Plan& candidate) {
    if (left_-- <= 0 || WithoutNumbers(run_(candidate)) != failure_) return false;
    best_ = candidate;
    return true;
  }

  // Leaves runs of half the list out, then of a quarter, ..., then single ones.
  template <typename Item>
  bool Drop(std::vector<Item> Plan::*list) {
    bool smaller = false;
    for (size_t run = std::max<size_t>(1, (best_.*list).size() / 2); run > 0; run /= 2) {
      for (size_t at = 0; at < (best_.*list).size();) {
        Plan candidate = best_;
        auto& items = candidate.*list;
        items.erase(items.begin() + static_cast<ptrdiff_t>(at),
                    items.begin() + static_cast<ptrdiff_t>(std::min(at + run, items.size())));
        if (Try(candidate)) {
          smaller = true;
        } else {
          at += run;
        }
      }
    }
    return smaller;
  }

  template <typename Change>
  bool TryChange(Change change) {
    Plan candidate = best_;
    if (!change(&candidate)) return false;
    return Try(candidate);
  }

  bool Numbers() {
    bool smaller = false;
    for (size_t i = 0; i < best_.requests.size(); ++i) {
      smaller = TryChange([i](Plan* p) {
                  PlannedRequest& r = p->requests[i];
                  if (r.tokens <= 1) return false;
                  r.tokens /= 2;
                  return true;
                }) ||
                smaller;
      smaller = TryChange([i](Plan* p) {
                  PlannedRequest& r = p->requests[i];
                  if (r.prompt <= 1) return false;
                  r.prompt /= 2;
                  return true;
                }) ||
                smaller;
    }
    const auto plain = [&](uint32_t Plan::*field, uint32_t value) {
      smaller = TryChange([field, value](Plan* p) {
                  if (p->*field == value) return false;
                  p->*field = value;
                  return true;
                }) ||
                smaller;
    };
    plain(&Plan::layers, 1);
    plain(&Plan::micro_batches, 1);
    plain(&Plan::kv_blocks, 64);
    plain(&Plan::memory, 0);
    plain(&Plan::speeds, 1);
    plain(&Plan::worker_queue, 4096);
    plain(&Plan::waiting_max, 64);
    plain(&Plan::running_max, 8);
    return smaller;
  }

  Plan best_;
  const RunFn& run_;
  int left_;
  const std::string failure_;
};

}  // namespace

Plan Shrink(const Plan& failing, const RunFn& run, int runs_max) {
  return Shrinker(failing, run, runs_max).Run();
}

}  // namespace octet::sim
