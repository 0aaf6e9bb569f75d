// What the device benchmarks share: timing by events over rotating buffers, one line a figure.
#ifndef OCTET_BENCH_CUDA_BENCH_H_
#define OCTET_BENCH_CUDA_BENCH_H_

#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "kernels/cuda/test_util.h"

namespace octet::cuda {

// Median milliseconds of `run(i)` on the default stream, i counting up, after a warm-up: `batches`
// timed pieces of `repeat` calls each.
inline double MedianMs(const std::function<void(int)>& run, int repeat = 10, int batches = 7) {
  const CudaApi& api = test::Api();
  void *begin, *end;
  test::Ok(api.create_event(&begin));
  test::Ok(api.create_event(&end));
  std::vector<double> times;
  int i = 0;
  for (int b = -1; b < batches; ++b) {
    test::Ok(api.record_event(nullptr, begin));
    for (int r = 0; r < repeat; ++r) run(i++);
    test::Ok(api.record_event(nullptr, end));
    float ms = 0;
    test::Ok(api.elapsed_ms(begin, end, &ms));
    if (b >= 0) times.push_back(ms / repeat);
  }
  api.destroy_event(begin);
  api.destroy_event(end);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// Bytes per second that a large device-to-device copy reads and writes together: the roof of all
// that streams.
double CopyBandwidth();

// One JSON object a line, for tables.
inline void Report(const std::string& name, double value, const char* unit, double roof_share) {
  std::printf("{\"name\": \"%s\", \"value\": %.6g, \"unit\": \"%s\", \"share\": %.4f}\n",
              name.c_str(), value, unit, roof_share);
  std::fflush(stdout);
}

void BenchIntExperts(double copy_bandwidth);
// Of int4 alone, for a profiler.
void BenchInt4(double copy_bandwidth);
void BenchBf16Experts(double copy_bandwidth);
void BenchAttention(double copy_bandwidth);
void BenchRowKernels(double copy_bandwidth);
void BenchStep(double copy_bandwidth);
// One step of one sequence, for a profiler.
void BenchSingleStep();

}  // namespace octet::cuda

#endif  // OCTET_BENCH_CUDA_BENCH_H_
