// What the choice of one token costs after its logits are known, by vocabulary and settings.
//   build/bench/sampler_bench
#include <cstdint>
#include <random>
#include <vector>

#include "benchmark/benchmark.h"
#include "kernels/kernels.h"
#include "router/sampler.h"

namespace octet {
namespace {

// Peaked like those of a language model: a few candidates hold most of the mass.
std::vector<float> Logits(size_t vocab) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> logits(vocab);
  for (float& l : logits) l = normal(random);
  for (int i = 0; i < 8; ++i) logits[random() % vocab] += 9;
  return logits;
}

void Run(benchmark::State& state, const SamplingSettings& settings) {
  const std::vector<float> logits = Logits(static_cast<size_t>(state.range(0)));
  Sampler sampler(logits.size());
  SamplingSettings s = settings;
  SampleInput input;
  input.logits = logits;
  input.settings = &s;
  for (auto _ : state) {
    const LogitScan scan = ScanLogits(logits);
    input.best = scan.best;
    ++s.seed;
    benchmark::DoNotOptimize(sampler.Sample(input));
  }
}

void BM_Greedy(benchmark::State& state) {
  SamplingSettings s;
  s.temperature = 0;
  Run(state, s);
}
void BM_Temperature(benchmark::State& state) { Run(state, SamplingSettings()); }
void BM_TopP(benchmark::State& state) {
  SamplingSettings s;
  s.temperature = 0.8f;
  s.top_p = 0.95f;
  Run(state, s);
}
void BM_TopK(benchmark::State& state) {
  SamplingSettings s;
  s.top_k = 40;
  Run(state, s);
}
void BM_Logprob(benchmark::State& state) {
  const std::vector<float> logits = Logits(static_cast<size_t>(state.range(0)));
  for (auto _ : state) benchmark::DoNotOptimize(ComputeLogprob(logits, 5, 5));
}
BENCHMARK(BM_Greedy)->Arg(32000)->Arg(49152);
BENCHMARK(BM_Temperature)->Arg(32000)->Arg(49152);
BENCHMARK(BM_TopP)->Arg(32000)->Arg(49152);
BENCHMARK(BM_TopK)->Arg(32000)->Arg(49152);
BENCHMARK(BM_Logprob)->Arg(32000)->Arg(49152);

}  // namespace
}  // namespace octet

BENCHMARK_MAIN();
