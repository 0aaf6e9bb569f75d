// The placement algorithm that DeepSeek published as EPLB, its policy without groups and nodes, for
// comparison: written from its description. Replicas go one by one to the expert with the most load
// per replica; then, the heaviest first, each replica goes to the least loaded worker that has a
// slot left. Workers have equal numbers of slots. Nothing keeps the replicas of an expert apart,
// and no former placement is looked at.
#ifndef OCTET_BENCH_EPLB_H_
#define OCTET_BENCH_EPLB_H_

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

namespace octet {

// [expert] → workers, one entry a replica, so that a worker may appear twice. `replicas` is a
// multiple of `workers`, at least load.size().
inline std::vector<std::vector<uint32_t>> PlaceLikeEplb(const std::vector<double>& load,
                                                        uint32_t workers, uint32_t replicas) {
  std::vector<uint32_t> count(load.size(), 1);
  const auto heaviness = [&](uint32_t e) { return load[e] / count[e]; };
  for (size_t i = load.size(); i < replicas; ++i) {
    uint32_t best = 0;
    for (uint32_t e = 1; e < load.size(); ++e) {
      if (heaviness(e) > heaviness(best)) best = e;
    }
    ++count[best];
  }
  std::vector<uint32_t> items;
  for (uint32_t e = 0; e < load.size(); ++e) items.insert(items.end(), count[e], e);
  std::stable_sort(items.begin(), items.end(),
                   [&](uint32_t a, uint32_t b) { return heaviness(a) > heaviness(b); });
  std::vector<double> weight(workers, 0);
  std::vector<uint32_t> used(workers, 0);
  std::vector<std::vector<uint32_t>> placed(load.size());
  for (const uint32_t e : items) {
    uint32_t best = UINT32_MAX;
    for (uint32_t w = 0; w < workers; ++w) {
      if (used[w] == replicas / workers) continue;
      if (best == UINT32_MAX || weight[w] < weight[best]) best = w;
    }
    ++used[best];
    weight[best] += heaviness(e);
    placed[e].push_back(best);
  }
  return placed;
}

}  // namespace octet

#endif  // OCTET_BENCH_EPLB_H_
